package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	pb "loadgen/pb"
)

// Phase tells the workers whether to count: 0 warm-up, 1 measured, 2 stop.
type Phase struct{ v atomic.Int32 }

func newClients(o *Options, n int, topic, group string) ([]*Client, error) {
	var cs []*Client
	for i := 0; i < n; i++ {
		c, err := newClient(o, topic, group)
		if err != nil {
			closeAll(cs)
			return nil, err
		}
		cs = append(cs, c)
	}
	return cs, nil
}

func closeAll(cs []*Client) {
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Add(1)
		go func() { defer wg.Done(); c.Close() }()
	}
	wg.Wait()
}

// runPhases lets the workers warm up, measures, then stops them; counted is sampled once a second.
func runPhases(o *Options, ph *Phase, counted func() uint64, done func() bool) (Window, map[string]any) {
	end := time.Now().Add(o.Warmup)
	for time.Now().Before(end) && !done() {
		time.Sleep(20 * time.Millisecond)
	}
	m := map[string]any{}
	w := openWindow(parsePids(o.Pids))
	ph.v.Store(1)
	var perSec []uint64
	last, next := counted(), time.Now().Add(time.Second)
	for time.Since(w.t) < o.Duration && !done() {
		time.Sleep(10 * time.Millisecond)
		if time.Now().After(next) {
			n := counted()
			perSec, last, next = append(perSec, n-last), n, next.Add(time.Second)
		}
	}
	if len(perSec) > 0 {
		m["per_sec"] = perSec
	}
	return w, m
}

// ---- send ----

type sender struct {
	o    *Options
	ph   *Phase
	n    atomic.Uint64 // messages counted in the measured span
	all  atomic.Uint64 // messages acknowledged at all
	seq  atomic.Uint64
	errs Errors
	mu   sync.Mutex
	lat  Hist
	dead atomic.Bool // too many failures in a row
	row  atomic.Int64
	logM sync.Mutex
	log  []uint64
	wg   sync.WaitGroup
}

func (s *sender) worker(c *Client) {
	defer s.wg.Done()
	o := s.o
	var h Hist
	msgs := make([]*pb.Message, o.Batch)
	for s.ph.v.Load() < 2 && !s.dead.Load() {
		first := s.seq.Add(uint64(o.Batch)) - uint64(o.Batch)
		if o.N > 0 && first >= uint64(o.N) {
			break
		}
		now := time.Now()
		for i := range msgs {
			msgs[i] = c.message(o, now, first+uint64(i))
		}
		r, err := c.send(o, msgs)
		if err == nil && o.Type == "transaction" {
			err = c.commit(o, msgs[0], r.GetEntries()[0])
		}
		if err != nil {
			if s.ph.v.Load() < 2 {
				s.errs.Add(err)
			}
			if s.row.Add(1) > 2000 {
				s.dead.Store(true)
			}
			time.Sleep(time.Millisecond)
			continue
		}
		s.row.Store(0)
		s.all.Add(uint64(o.Batch))
		if o.AckLog != "" {
			s.logM.Lock()
			for i := range msgs {
				s.log = append(s.log, first+uint64(i))
			}
			s.logM.Unlock()
		}
		if s.ph.v.Load() == 1 {
			s.n.Add(uint64(o.Batch))
			h.Add(time.Since(now))
		}
	}
	s.mu.Lock()
	s.lat.Merge(&h)
	s.mu.Unlock()
}

func (s *sender) put(m map[string]any, sec float64) {
	m["sent"], m["sent_total"] = s.n.Load(), s.all.Load()
	m["send_per_s"] = r1(float64(s.n.Load()) / sec)
	m["send_call_ms"] = s.lat.JSON()
	s.errs.Put(m)
}

func cmdSend(o *Options) (map[string]any, error) {
	if o.Type == "transaction" || o.Type == "fifo" || o.Type == "delay" {
		if o.Batch != 1 {
			return nil, fmt.Errorf("--batch must be 1 with --type %s", o.Type)
		}
	}
	cs, err := newClients(o, o.Conns, o.Topic, "")
	if err != nil {
		return nil, err
	}
	defer closeAll(cs)
	ph := &Phase{}
	s := &sender{o: o, ph: ph}
	for _, c := range cs {
		for i := 0; i < o.Inflight; i++ {
			s.wg.Add(1)
			go s.worker(c)
		}
	}
	w, m := runPhases(o, ph, s.n.Load, func() bool { return s.dead.Load() || o.N > 0 && s.seq.Load() >= uint64(o.N) })
	if o.N > 0 {
		s.wg.Wait()
	}
	sec := time.Since(w.t).Seconds()
	ph.v.Store(2)
	n := s.n.Load()
	w.Close(m, n)
	s.wg.Wait()
	m["type"], m["size"], m["conns"], m["inflight"], m["batch"] = o.Type, o.Size, o.Conns, o.Inflight, o.Batch
	s.put(m, sec)
	if o.AckLog != "" {
		b := make([]byte, 8, 8*len(s.log)+8)
		binary.BigEndian.PutUint64(b, o.runID)
		for _, v := range s.log {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		if err := os.WriteFile(o.AckLog, b, 0o644); err != nil {
			return m, err
		}
	}
	return m, nil
}

// ---- consume ----

type receiver struct {
	o             *Options
	ph            *Phase
	batch         int
	n, acked, all atomic.Uint64
	empty, polls  atomic.Uint64
	redelivered   atomic.Uint64
	last          atomic.Int64 // when a message last came, unix ns
	errs          Errors
	mu            sync.Mutex
	e2e           Hist
	seen          func(*pb.Message)
	wg            sync.WaitGroup
	ctx           context.Context
	cancel        context.CancelFunc
}

func newReceiver(o *Options, ph *Phase, batch int) *receiver {
	r := &receiver{o: o, ph: ph, batch: batch}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.last.Store(time.Now().UnixNano())
	return r
}

func (r *receiver) worker(c *Client) {
	defer r.wg.Done()
	var h Hist
	for r.ph.v.Load() < 2 {
		msgs, err := c.receive(r.ctx, r.o, r.batch)
		now := time.Now()
		on := r.ph.v.Load() == 1
		if r.ctx.Err() != nil { // cut short by the end of the run: what came is the server's again
			break
		}
		if err != nil {
			r.errs.Add(err)
			time.Sleep(5 * time.Millisecond)
		}
		if on {
			r.polls.Add(1)
		}
		if len(msgs) == 0 {
			if on {
				r.empty.Add(1)
			}
			continue
		}
		r.last.Store(now.UnixNano())
		r.all.Add(uint64(len(msgs)))
		for _, m := range msgs {
			if m.GetSystemProperties().GetDeliveryAttempt() > 1 {
				r.redelivered.Add(1)
			}
			if b := m.GetBody(); on && len(b) >= bodyHeader {
				h.Add(now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(b[16:])))))
			}
			if r.seen != nil {
				r.seen(m)
			}
		}
		k := 0
		switch r.o.Ack {
		case "batch":
			k, err = c.ack(r.o, msgs)
			if err != nil {
				r.errs.Add(err)
			}
		case "each":
			for i := range msgs {
				n, err := c.ack(r.o, msgs[i:i+1])
				k += n
				if err != nil {
					r.errs.Add(err)
				}
			}
		}
		if r.ph.v.Load() == 1 {
			r.n.Add(uint64(len(msgs)))
			r.acked.Add(uint64(k))
		}
	}
	r.mu.Lock()
	r.e2e.Merge(&h)
	r.mu.Unlock()
}

func (r *receiver) idle() bool { return time.Since(time.Unix(0, r.last.Load())) > r.o.Idle }

func (r *receiver) put(m map[string]any, sec float64) {
	m["received"], m["acked"], m["received_total"] = r.n.Load(), r.acked.Load(), r.all.Load()
	m["recv_per_s"] = r1(float64(r.n.Load()) / sec)
	m["polls"], m["empty_polls"], m["redelivered"] = r.polls.Load(), r.empty.Load(), r.redelivered.Load()
	if p := r.polls.Load() - r.empty.Load(); p > 0 {
		m["msgs_per_poll"] = r1(float64(r.n.Load()) / float64(p))
	}
}

func cmdConsume(o *Options) (map[string]any, error) {
	cs, err := newClients(o, o.Conns, o.Topic, o.Group)
	if err != nil {
		return nil, err
	}
	defer closeAll(cs)
	ph := &Phase{}
	r := newReceiver(o, ph, o.Batch)
	for _, c := range cs {
		for i := 0; i < o.Inflight; i++ {
			r.wg.Add(1)
			go r.worker(c)
		}
	}
	// the span ends early when the backlog is drained; the rate is then over the time until the last message
	w, m := runPhases(o, ph, r.n.Load, func() bool { return r.idle() || o.N > 0 && r.all.Load() >= uint64(o.N) })
	sec := time.Since(w.t).Seconds()
	if r.idle() {
		sec = max(time.Unix(0, r.last.Load()).Sub(w.t).Seconds(), 0.001)
		m["drained"] = true
	}
	n := r.n.Load()
	w.Close(m, n)
	m["seconds"] = r3(sec)
	ph.v.Store(2)
	r.cancel()
	r.wg.Wait()
	m["conns"], m["inflight"], m["batch"], m["ack"] = o.Conns, o.Inflight, o.Batch, o.Ack
	r.put(m, sec)
	r.errs.Put(m)
	return m, nil
}

func cmdBoth(o *Options) (map[string]any, error) {
	rc, err := newClients(o, o.RecvConns, o.Topic, o.Group)
	if err != nil {
		return nil, err
	}
	defer closeAll(rc)
	sc, err := newClients(o, o.Conns, o.Topic, "")
	if err != nil {
		return nil, err
	}
	defer closeAll(sc)
	ph := &Phase{}
	r, s := newReceiver(o, ph, o.Recv), &sender{o: o, ph: ph}
	for _, c := range rc {
		for i := 0; i < o.RecvInflight; i++ {
			r.wg.Add(1)
			go r.worker(c)
		}
	}
	time.Sleep(500 * time.Millisecond)
	for _, c := range sc {
		for i := 0; i < o.Inflight; i++ {
			s.wg.Add(1)
			go s.worker(c)
		}
	}
	w, m := runPhases(o, ph, func() uint64 { return s.n.Load() + r.n.Load() }, func() bool { return s.dead.Load() })
	sec := time.Since(w.t).Seconds()
	ph.v.Store(2)
	// per 100k counts a message that was sent and received as one
	w.Close(m, (s.n.Load()+r.n.Load())/2)
	r.cancel()
	s.wg.Wait()
	r.wg.Wait()
	m["size"], m["conns"], m["inflight"], m["batch"], m["recv_conns"], m["recv_inflight"], m["recv_batch"], m["ack"] =
		o.Size, o.Conns, o.Inflight, o.Batch, o.RecvConns, o.RecvInflight, o.Recv, o.Ack
	s.put(m, sec)
	r.put(m, sec)
	m["e2e_ms"] = r.e2e.JSON()
	e := map[string]any{}
	r.errs.Put(e)
	m["recv_errors"] = e
	return m, nil
}
