// The official Go client behind the drivers' protocol (see harness.py): JSON lines in on stdin, out on stdout.
package main

import (
	"context"
	"encoding/base64"
	"errors"
	"sort"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"

	"rmq-test-lines"
)

type command struct {
	Name       string            `json:"name"`
	Endpoint   string            `json:"endpoint"`
	Topic      string            `json:"topic"`
	Group      string            `json:"group"`
	Filter     string            `json:"filter"`
	AwaitS     int               `json:"await_s"`
	NackFirst  int32             `json:"nack_first"`
	Body       []byte            `json:"body"`
	Bodies     [][]byte          `json:"bodies"`
	Tag        string            `json:"tag"`
	Keys       []string          `json:"keys"`
	Properties map[string]string `json:"properties"`
	Line       string            `json:"message_group"`
	Priority   *int32            `json:"priority"`
	LiteTopic  string            `json:"lite_topic"`
	LiteTopics []string          `json:"lite_topics"`
	Max        int32             `json:"max"`
	InvisibleS int               `json:"invisible_s"`
	Receipt    string            `json:"receipt"`
	Decision   string            `json:"decision"`
	MessageID  string            `json:"message_id"`
	Commit     bool              `json:"commit"`
	DueMs      int64             `json:"due_ms"`
	Recall     string            `json:"recall"`
}

type reply = lines.Reply

type client interface {
	Start() error
	GracefulStop() error
}

type driver struct {
	lock    sync.Mutex
	clients map[string]client
	taken   map[string][]reply
	held    map[string]*rmq.MessageView
	begun   map[string]rmq.Transaction
	checked map[string][]string
}

var resolutions = map[string]rmq.TransactionResolution{
	"UNKNOWN": rmq.UNKNOWN, "COMMIT": rmq.COMMIT, "ROLLBACK": rmq.ROLLBACK,
}

func configuration(c *command) *rmq.Config {
	return &rmq.Config{Endpoint: c.Endpoint, ConsumerGroup: c.Group, Credentials: &credentials.SessionCredentials{}}
}

func subscriptions(c *command) map[string]*rmq.FilterExpression {
	return map[string]*rmq.FilterExpression{c.Topic: rmq.NewFilterExpression(c.Filter)}
}

func describe(message *rmq.MessageView) reply {
	keys := append([]string{}, message.GetKeys()...)
	sort.Strings(keys)
	return reply{
		"message_id": message.GetMessageId(),
		"topic":      message.GetTopic(),
		"body":       base64.StdEncoding.EncodeToString(message.GetBody()),
		"tag":        message.GetTag(),
		"keys":       keys,
		"properties": message.GetProperties(),
		"attempt":    message.GetDeliveryAttempt(),
		"receipt":    message.GetReceiptHandle(),
	}
}

func (d *driver) client(name string) client {
	d.lock.Lock()
	defer d.lock.Unlock()
	return d.clients[name]
}

func (d *driver) message(receipt string) *rmq.MessageView {
	d.lock.Lock()
	defer d.lock.Unlock()
	return d.held[receipt]
}

func (d *driver) hold(messages ...*rmq.MessageView) {
	d.lock.Lock()
	defer d.lock.Unlock()
	for _, message := range messages {
		d.held[message.GetReceiptHandle()] = message
	}
}

func (d *driver) start(c *command, made client, err error) (reply, error) {
	if err == nil {
		err = made.Start()
	}
	if err != nil {
		return nil, err
	}
	d.lock.Lock()
	defer d.lock.Unlock()
	d.clients[c.Name] = made
	return reply{}, nil
}

func (d *driver) producer(c *command) (reply, error) {
	producer, err := rmq.NewProducer(configuration(c), rmq.WithTopics(c.Topic))
	return d.start(c, producer, err)
}

func (d *driver) simple(c *command) (reply, error) {
	consumer, err := rmq.NewSimpleConsumer(configuration(c),
		rmq.WithSimpleAwaitDuration(time.Duration(c.AwaitS)*time.Second),
		rmq.WithSimpleSubscriptionExpressions(subscriptions(c)))
	return d.start(c, consumer, err)
}

func (d *driver) recorder(c *command) *rmq.FuncMessageListener {
	consume := func(message *rmq.MessageView) rmq.ConsumerResult {
		d.lock.Lock()
		d.taken[c.Name] = append(d.taken[c.Name], describe(message))
		d.lock.Unlock()
		if message.GetDeliveryAttempt() <= c.NackFirst {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	}
	return &rmq.FuncMessageListener{Consume: consume}
}

func (d *driver) push(c *command) (reply, error) {
	consumer, err := rmq.NewPushConsumer(configuration(c),
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushSubscriptionExpressions(subscriptions(c)),
		rmq.WithPushMessageListener(d.recorder(c)))
	return d.start(c, consumer, err)
}

func (d *driver) lite(c *command) (reply, error) {
	consumer, err := rmq.NewLitePushConsumer(configuration(c),
		rmq.NewLitePushConsumerConfig(c.Topic, 30*time.Second),
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushMessageListener(d.recorder(c)))
	return d.start(c, consumer, err)
}

func (d *driver) subscribe(c *command) (reply, error) {
	for _, topic := range c.LiteTopics {
		if err := d.client(c.Name).(rmq.LitePushConsumer).SubscribeLite(topic); err != nil {
			return nil, err
		}
	}
	return reply{}, nil
}

func (d *driver) unsubscribe(c *command) (reply, error) {
	for _, topic := range c.LiteTopics {
		if err := d.client(c.Name).(rmq.LitePushConsumer).UnSubscribeLite(topic); err != nil {
			return nil, err
		}
	}
	return reply{}, nil
}

func (d *driver) send(c *command) (reply, error) {
	message := &rmq.Message{Topic: c.Topic, Body: c.Body}
	message.SetKeys(c.Keys...)
	if c.Tag != "" {
		message.SetTag(c.Tag)
	}
	if c.Line != "" {
		message.SetMessageGroup(c.Line)
	}
	if c.LiteTopic != "" {
		message.SetLiteTopic(c.LiteTopic)
	}
	if c.Priority != nil {
		if err := message.SetPriority(*c.Priority); err != nil {
			return nil, err
		}
	}
	if c.DueMs != 0 {
		message.SetDelayTimestamp(time.UnixMilli(c.DueMs))
	}
	for key, value := range c.Properties {
		message.AddProperty(key, value)
	}
	receipts, err := d.client(c.Name).(rmq.Producer).Send(context.Background(), message)
	if err != nil {
		return nil, err
	}
	return reply{"message_id": receipts[0].MessageID, "recall": receipts[0].RecallHandle}, nil
}

func (d *driver) sendAll(c *command) (reply, error) {
	ids, failures := make([]string, len(c.Bodies)), make([]error, len(c.Bodies))
	var sent sync.WaitGroup
	sent.Add(len(c.Bodies))
	for number, body := range c.Bodies {
		message := &rmq.Message{Topic: c.Topic, Body: body}
		done := func(_ context.Context, receipts []*rmq.SendReceipt, err error) {
			defer sent.Done()
			if failures[number] = err; err == nil {
				ids[number] = receipts[0].MessageID
			}
		}
		d.client(c.Name).(rmq.Producer).SendAsync(context.Background(), message, done)
	}
	sent.Wait()
	return reply{"message_ids": ids}, errors.Join(failures...)
}

func (d *driver) recall(c *command) (reply, error) {
	id, err := d.client(c.Name).(rmq.Producer).Recall(context.Background(), c.Topic, c.Recall)
	return reply{"message_id": id}, err
}

func (d *driver) deciding(c *command) (reply, error) {
	check := func(message *rmq.MessageView) rmq.TransactionResolution {
		d.lock.Lock()
		defer d.lock.Unlock()
		d.checked[c.Name] = append(d.checked[c.Name], base64.StdEncoding.EncodeToString(message.GetBody()))
		return resolutions[c.Decision]
	}
	producer, err := rmq.NewProducer(configuration(c), rmq.WithTopics(c.Topic),
		rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: check}))
	return d.start(c, producer, err)
}

func (d *driver) begin(c *command) (reply, error) {
	producer := d.client(c.Name).(rmq.Producer)
	transaction := producer.BeginTransaction()
	message := &rmq.Message{Topic: c.Topic, Body: c.Body}
	receipts, err := producer.SendWithTransaction(context.Background(), message, transaction)
	if err != nil {
		return nil, err
	}
	d.lock.Lock()
	defer d.lock.Unlock()
	d.begun[receipts[0].MessageID] = transaction
	return reply{"message_id": receipts[0].MessageID}, nil
}

func (d *driver) end(c *command) (reply, error) {
	d.lock.Lock()
	transaction := d.begun[c.MessageID]
	d.lock.Unlock()
	if c.Commit {
		return reply{}, transaction.Commit()
	}
	return reply{}, transaction.RollBack()
}

func (d *driver) asked(c *command) (reply, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	bodies := append([]string{}, d.checked[c.Name]...)
	d.checked[c.Name] = nil
	return reply{"bodies": bodies}, nil
}

// The SDK reports an empty poll as an error; the protocol wants an empty list.
func isEmptyPoll(err error) bool {
	var status *rmq.ErrRpcStatus
	return errors.As(err, &status) && status.GetCode() == int32(v2.Code_MESSAGE_NOT_FOUND)
}

func (d *driver) receive(c *command) (reply, error) {
	consumer := d.client(c.Name).(rmq.SimpleConsumer)
	messages, err := consumer.Receive(context.Background(), c.Max, time.Duration(c.InvisibleS)*time.Second)
	if err != nil && !isEmptyPoll(err) {
		return nil, err
	}
	d.hold(messages...)
	shown := []reply{}
	for _, message := range messages {
		shown = append(shown, describe(message))
	}
	return reply{"messages": shown}, nil
}

func (d *driver) ack(c *command) (reply, error) {
	return reply{}, d.client(c.Name).(rmq.SimpleConsumer).Ack(context.Background(), d.message(c.Receipt))
}

func (d *driver) change(c *command) (reply, error) {
	message := d.message(c.Receipt)
	invisible := time.Duration(c.InvisibleS) * time.Second
	if err := d.client(c.Name).(rmq.SimpleConsumer).ChangeInvisibleDuration(message, invisible); err != nil {
		return nil, err
	}
	d.hold(message)
	return reply{"receipt": message.GetReceiptHandle()}, nil
}

func (d *driver) drain(c *command) (reply, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	taken := append([]reply{}, d.taken[c.Name]...)
	d.taken[c.Name] = nil
	return reply{"messages": taken}, nil
}

func (d *driver) stop(c *command) (reply, error) {
	stopped := d.client(c.Name)
	d.lock.Lock()
	delete(d.clients, c.Name)
	d.lock.Unlock()
	return reply{}, stopped.GracefulStop()
}

func main() {
	d := &driver{clients: map[string]client{}, taken: map[string][]reply{}, held: map[string]*rmq.MessageView{},
		begun: map[string]rmq.Transaction{}, checked: map[string][]string{}}
	lines.Serve(lines.Verbs[command]{
		"producer": d.producer, "simple": d.simple, "push": d.push, "lite": d.lite,
		"subscribe": d.subscribe, "unsubscribe": d.unsubscribe, "send": d.send, "send_all": d.sendAll, "recall": d.recall, "receive": d.receive,
		"ack": d.ack, "change": d.change, "taken": d.drain, "stop": d.stop,
		"deciding": d.deciding, "begin": d.begin, "end": d.end, "checked": d.asked,
	})
}
