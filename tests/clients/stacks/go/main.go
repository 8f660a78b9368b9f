// A plain grpc-go client behind the drivers' protocol (see tests/proxy/stacks.py): JSON lines in on stdin, out on stdout.
package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"rmq-test-lines"
)

type command struct {
	Name        string      `json:"name"`
	Channel     string      `json:"channel"`
	Target      string      `json:"target"`
	TLS         string      `json:"tls"`
	Gzip        bool        `json:"gzip"`
	KeepaliveMs int64       `json:"keepalive_ms"`
	Path        string      `json:"path"`
	Metadata    [][2]string `json:"metadata"`
	DeadlineMs  *int64      `json:"deadline_ms"`
	Body        *[]byte     `json:"body"`
}

type reply = lines.Reply

// A message is its own encoding.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = append([]byte{}, data...); return nil }
func (raw) Name() string                       { return "proto" }

type call struct {
	channel string
	stream  grpc.ClientStream
	cancel  context.CancelFunc
	ended   error
}

type driver struct {
	lock     sync.Mutex
	channels map[string]*grpc.ClientConn
	calls    map[string]*call
}

func (d *driver) channel(name string) *grpc.ClientConn {
	d.lock.Lock()
	defer d.lock.Unlock()
	return d.channels[name]
}

func (d *driver) call(name string) *call {
	d.lock.Lock()
	defer d.lock.Unlock()
	return d.calls[name]
}

func (d *driver) keep(name string, made *call) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.calls[name] = made
}

func (d *driver) connect(c *command) (reply, error) {
	transport := insecure.NewCredentials()
	if c.TLS != "" {
		transport = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	options := []grpc.CallOption{grpc.ForceCodec(raw{})}
	if c.Gzip {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	dial := []grpc.DialOption{grpc.WithTransportCredentials(transport), grpc.WithDefaultCallOptions(options...)}
	if c.KeepaliveMs > 0 {
		every := time.Duration(c.KeepaliveMs) * time.Millisecond
		dial = append(dial, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: every, PermitWithoutStream: true}))
	}
	made, err := grpc.NewClient("passthrough:///"+c.Target, dial...)
	if err != nil {
		return nil, err
	}
	d.lock.Lock()
	defer d.lock.Unlock()
	d.channels[c.Name] = made
	return reply{}, nil
}

func begin(c *command) (context.Context, context.CancelFunc, error) {
	pairs := metadata.MD{}
	for _, pair := range c.Metadata {
		value := pair[1]
		if strings.HasSuffix(pair[0], "-bin") {
			decoded, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				return nil, nil, err
			}
			value = string(decoded)
		}
		pairs.Append(pair[0], value)
	}
	ctx := metadata.NewOutgoingContext(context.Background(), pairs)
	if c.DeadlineMs != nil {
		bounded, cancel := context.WithTimeout(ctx, time.Duration(*c.DeadlineMs)*time.Millisecond)
		return bounded, cancel, nil
	}
	cancellable, cancel := context.WithCancel(ctx)
	return cancellable, cancel, nil
}

func told(err error) reply {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return reply{"code": status.Code(err), "text": status.Convert(err).Message()}
}

func (d *driver) unary(c *command) (reply, error) {
	ctx, cancel, err := begin(c)
	if err != nil {
		return nil, err
	}
	defer cancel()
	d.keep(c.Name, &call{channel: c.Channel, cancel: cancel})
	var body []byte
	result := told(d.channel(c.Channel).Invoke(ctx, c.Path, c.Body, &body))
	result["body"] = base64.StdEncoding.EncodeToString(body)
	return result, nil
}

func (d *driver) open(c *command) (reply, error) {
	ctx, cancel, err := begin(c)
	if err != nil {
		return nil, err
	}
	description := &grpc.StreamDesc{ServerStreams: true, ClientStreams: c.Body == nil}
	stream, err := d.channel(c.Channel).NewStream(ctx, description, c.Path)
	if err != nil {
		cancel()
		return nil, err
	}
	d.keep(c.Name, &call{channel: c.Channel, stream: stream, cancel: cancel})
	if c.Body != nil {
		// How it fails is told by read.
		_ = stream.SendMsg(c.Body)
		_ = stream.CloseSend()
	}
	return reply{}, nil
}

func (d *driver) headers(c *command) (reply, error) {
	_, err := d.call(c.Name).stream.Header()
	return reply{}, err
}

// One message, or the end; who waits for the end reads what is before it.
func (d *driver) read(c *command) (reply, error) {
	open := d.call(c.Name)
	if open.ended == nil {
		var body []byte
		if open.ended = open.stream.RecvMsg(&body); open.ended == nil {
			return reply{"body": base64.StdEncoding.EncodeToString(body)}, nil
		}
	}
	return told(open.ended), nil
}

func (d *driver) write(c *command) (reply, error) {
	return reply{}, d.call(c.Name).stream.SendMsg(c.Body)
}

func (d *driver) halfClose(c *command) (reply, error) {
	return reply{}, d.call(c.Name).stream.CloseSend()
}

func (d *driver) stop(c *command) (reply, error) {
	if begun := d.call(c.Name); begun != nil {
		begun.cancel()
		return reply{}, nil
	}
	return nil, fmt.Errorf("%s has not begun", c.Name)
}

func (d *driver) close(c *command) (reply, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	for _, open := range d.calls {
		if open.channel == c.Name {
			open.cancel()
		}
	}
	closed := d.channels[c.Name]
	delete(d.channels, c.Name)
	return reply{}, closed.Close()
}

func main() {
	d := &driver{channels: map[string]*grpc.ClientConn{}, calls: map[string]*call{}}
	lines.Serve(lines.Verbs[command]{
		"connect": d.connect, "unary": d.unary, "open": d.open, "headers": d.headers, "read": d.read,
		"write": d.write, "half_close": d.halfClose, "cancel": d.stop, "close": d.close,
	})
}
