package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "loadgen/pb"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// cmdPolls has --inflight long polls wait on each of --conns topics, one client a topic, begun evenly over --ramp.
// It reports the server's memory for each, its CPU share while they only wait and end, then - with --n messages, --rate
// a second, each to a topic chosen at random - how long from the send to the answer of one poll.
func cmdPolls(o *Options) (map[string]any, error) {
	procs := parsePids(o.Pids)
	var cs []*Client
	defer func() { closeAll(cs) }()
	for i := 0; i < o.Conns; i++ {
		c, err := newClient(o, fmt.Sprintf("%s-%d", o.Topic, i), o.Group)
		if err != nil {
			return nil, err
		}
		cs = append(cs, c)
	}
	p := newPollers(o, cs)
	defer p.stop()
	// a first poll of each topic makes what the others share: topic, group, subscription
	short := *o
	short.Poll = time.Millisecond // the server may have a longer minimum
	p.each(func(c *Client) {
		if _, err := c.receive(p.ctx, &short, 1); err != nil {
			p.errs.Add(err)
		}
	})
	before := procs.Anon()
	n := o.Conns * o.Inflight
	begun := time.Now()
	for i := 0; i < n; i++ {
		if d := time.Until(begun.Add(time.Duration(float64(o.Ramp) * float64(i) / float64(n)))); d > 0 {
			time.Sleep(d)
		}
		p.wg.Add(1)
		go p.poll(cs[i%len(cs)])
	}
	time.Sleep(500 * time.Millisecond)
	m := map[string]any{"polls": n, "topics": o.Conns}
	m["bytes_a_poll"] = r1((procs.Anon() - before) * (1 << 20) / float64(n))
	w := openWindow(procs)
	ended := p.ended.Load()
	time.Sleep(o.Duration)
	span := time.Since(w.t).Seconds()
	m["polls_ended_per_s"] = r1(float64(p.ended.Load()-ended) / span)
	w.Close(m, p.ended.Load()-ended)
	m["core_pct"] = r3(100 * (procs.CPU() - w.cpu) / span)
	if o.N > 0 {
		if err := p.measure(m); err != nil {
			return m, err
		}
	}
	p.errs.Put(m)
	return m, nil
}

// pollers are the waiting polls, and what came to them.
type pollers struct {
	o      *Options
	cs     []*Client
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ended  atomic.Uint64
	errs   Errors
	mu     sync.Mutex
	late   []time.Duration
}

func newPollers(o *Options, cs []*Client) *pollers {
	p := &pollers{o: o, cs: cs}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

func (p *pollers) each(do func(*Client)) {
	for _, c := range p.cs {
		p.wg.Add(1)
		go func() { defer p.wg.Done(); do(c) }()
	}
	p.wg.Wait()
}

func (p *pollers) stop() { p.cancel(); p.wg.Wait() }

func (p *pollers) poll(c *Client) {
	defer p.wg.Done()
	for p.ctx.Err() == nil {
		ms, err := c.receive(p.ctx, p.o, 1)
		now := time.Now()
		if p.ctx.Err() != nil {
			return
		}
		p.ended.Add(1)
		if err != nil {
			p.errs.Add(err)
			time.Sleep(100 * time.Millisecond)
		}
		for _, x := range ms {
			if b := x.GetBody(); len(b) >= bodyHeader && binary.BigEndian.Uint64(b) == p.o.runID {
				p.mu.Lock()
				p.late = append(p.late, now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(b[16:])))))
				p.mu.Unlock()
			}
		}
		if len(ms) > 0 {
			if _, err := c.ack(p.o, ms); err != nil {
				p.errs.Add(err)
			}
		}
	}
}

// measure sends one message at a time; a producer's own connection serves all topics.
func (p *pollers) measure(m map[string]any) error {
	o := p.o
	producer, err := newClient(o, p.cs[0].topic.Name, "")
	if err != nil {
		return err
	}
	defer producer.Close()
	sent := 0
	begun := time.Now()
	for i := 0; i < o.N; i++ {
		if d := time.Until(begun.Add(time.Duration(float64(i) / o.Rate * 1e9))); d > 0 {
			time.Sleep(d)
		}
		x := producer.message(o, time.Now(), msgSeq.Add(1))
		x.Topic = &pb.Resource{Name: p.cs[rand.Intn(len(p.cs))].topic.Name}
		binary.BigEndian.PutUint64(x.Body[16:], uint64(time.Now().UnixNano()))
		if _, err := producer.send(o, []*pb.Message{x}); err != nil {
			p.errs.Add(err)
			continue
		}
		sent++
	}
	time.Sleep(time.Second)
	p.mu.Lock()
	defer p.mu.Unlock()
	m["sent"], m["e2e_lost"], m["e2e_ms"] = sent, sent-len(p.late), exact(p.late)
	return nil
}

// cmdHold opens --conns connections, --inflight at a time, has each make one Heartbeat call with an SDK's headers, and
// then holds them for --duration. It reports the server's CPU and memory for each, and its CPU share while they idle.
func cmdHold(o *Options) (map[string]any, error) {
	procs := parsePids(o.Pids)
	before, cpu := procs.Anon(), procs.CPU()
	held := make([]net.Conn, o.Conns)
	defer func() {
		for _, c := range held {
			if c != nil {
				c.Close()
			}
		}
	}()
	var errs Errors
	var wg sync.WaitGroup
	slots := make(chan bool, o.Inflight)
	begun := time.Now()
	for i := range held {
		slots <- true
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			c, err := open(o, i)
			if err != nil {
				errs.Add(err)
				return
			}
			held[i] = c
		}()
	}
	wg.Wait()
	m := map[string]any{"conns": o.Conns, "tls": o.TLS, "open_s": r3(time.Since(begun).Seconds())}
	time.Sleep(2 * time.Second) // the server's once-a-second look has been at all of them
	m["cpu_ms_a_conn"] = r3((procs.CPU() - cpu) * 1000 / float64(o.Conns))
	m["bytes_a_conn"] = r1((procs.Anon() - before) * (1 << 20) / float64(o.Conns))
	w := openWindow(procs)
	time.Sleep(o.Duration)
	w.Close(m, 0)
	m["core_pct"] = r3(100 * (procs.CPU() - w.cpu) / time.Since(w.t).Seconds())
	errs.Put(m)
	return m, nil
}

// open makes one connection and one call on it, with no more memory on our side than that takes.
func open(o *Options, i int) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", o.Endpoint, o.Timeout)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(o.Timeout))
	if o.TLS {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	if err = heartbeatOn(c, o, i); err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return c, nil
}

func heartbeatOn(c net.Conn, o *Options, i int) error {
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, c)
	f.WriteSettings()
	e := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", pb.MessagingService_Heartbeat_FullMethodName},
		{":authority", o.Endpoint}, {"content-type", "application/grpc"}, {"user-agent", "grpc-go/1.50.0"}, {"te", "trailers"},
		{"grpc-timeout", "3S"}, {"x-mq-language", "GO"}, {"x-mq-protocol", "v2"}, {"x-mq-client-version", clientVersion},
		{"x-mq-client-id", "hold@" + strconv.Itoa(i)}, {"x-mq-namespace", ""}, {"x-mq-request-id", runID + "-" + strconv.Itoa(i)},
		{"x-mq-date-time", time.Now().UTC().Format("20060102T150405Z")}} {
		e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	body, _ := proto.Marshal(&pb.HeartbeatRequest{ClientType: pb.ClientType_PRODUCER})
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	f.WriteData(1, true, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...))
	if _, err := c.Write(out.Bytes()); err != nil {
		return err
	}
	for ended := false; !ended; {
		got, err := f.ReadFrame()
		if err != nil {
			return err
		}
		ended = got.Header().StreamID == 1 && got.Header().Flags.Has(http2.FlagHeadersEndStream)
		if g, ok := got.(*http2.GoAwayFrame); ok {
			return fmt.Errorf("GOAWAY %v: %s", g.ErrCode, g.DebugData())
		}
	}
	// the acknowledgement of its SETTINGS, which end what the connection's start is
	out.Reset()
	f.WriteSettingsAck()
	if _, err := c.Write(out.Bytes()); err != nil && err != io.EOF {
		return err
	}
	return nil
}

// Anon is the processes' own memory in MiB: no pages of files.
func (p Procs) Anon() (mib float64) {
	for _, pid := range p.pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for _, line := range strings.Split(string(b), "\n") {
			if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
				kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				mib += kib / 1024
			}
		}
	}
	return
}
