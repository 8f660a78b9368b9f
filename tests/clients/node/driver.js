// The official Node client behind the drivers' protocol (see harness.py): JSON lines in on stdin, out on stdout.

import { createInterface } from 'node:readline';
import sdk from 'rocketmq-client-nodejs';

const { Producer, SimpleConsumer, PushConsumer, LitePushConsumerImpl, FilterExpression, ConsumeResult } = sdk;
const clients = new Map();
const deliveries = new Map();
const held = new Map();
const transactions = new Map();
const checks = new Map();
const RESOLUTIONS = { UNKNOWN: 0, COMMIT: 1, ROLLBACK: 2 };
const log = (...words) => console.error(...words);
const logger = { info() {}, debug() {}, warn: log, error: log, write: log };

const sslEnabled = process.env['rocketmq.client.enableSsl'] === 'true';
const options = (args) => ({ endpoints: args.endpoint, namespace: '', sslEnabled, logger });
const subscriptions = (args) => new Map([[args.topic, new FilterExpression(args.filter)]]);

function describe(message) {
  return {
    message_id: message.messageId,
    topic: message.topic,
    body: message.body.toString('base64'),
    tag: message.tag ?? null,
    keys: [...message.keys].sort(),
    properties: Object.fromEntries(message.properties),
    attempt: message.deliveryAttempt,
    receipt: message.receiptHandle,
  };
}

function recorder(args) {
  const taken = [];
  deliveries.set(args.name, taken);
  const consume = (message) => {
    taken.push(describe(message));
    return message.deliveryAttempt <= args.nack_first ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
  };
  return { consume };
}

async function start(args, client) {
  await client.startup();
  clients.set(args.name, client);
  return {};
}

const verbs = {
  producer: (args) => start(args, new Producer({ ...options(args), topics: [args.topic] })),

  simple: (args) => start(args, new SimpleConsumer({
    ...options(args),
    consumerGroup: args.group,
    subscriptions: subscriptions(args),
    awaitDuration: args.await_s * 1000,
  })),

  push: (args) => start(args, new PushConsumer({
    ...options(args),
    consumerGroup: args.group,
    subscriptions: subscriptions(args),
    messageListener: recorder(args),
  })),

  lite: (args) => start(args, new LitePushConsumerImpl({
    ...options(args),
    consumerGroup: args.group,
    bindTopic: args.topic,
    messageListener: recorder(args),
  })),

  async subscribe(args) {
    await Promise.all(args.lite_topics.map((topic) => clients.get(args.name).subscribeLite(topic)));
    return {};
  },

  async unsubscribe(args) {
    await Promise.all(args.lite_topics.map((topic) => clients.get(args.name).unsubscribeLite(topic)));
    return {};
  },

  async send(args) {
    const receipt = await clients.get(args.name).send({
      topic: args.topic,
      body: Buffer.from(args.body, 'base64'),
      tag: args.tag ?? undefined,
      messageGroup: args.message_group ?? undefined,
      keys: args.keys,
      properties: new Map(Object.entries(args.properties)),
      deliveryTimestamp: args.due_ms === undefined ? undefined : new Date(args.due_ms),
      priority: args.priority,
      liteTopic: args.lite_topic,
    });
    return { message_id: receipt.messageId, recall: receipt.recallHandle };
  },

  async send_all(args) {
    const producer = clients.get(args.name);
    const send = (body) => producer.send({ topic: args.topic, body: Buffer.from(body, 'base64') });
    const receipts = await Promise.all(args.bodies.map(send));
    return { message_ids: receipts.map((receipt) => receipt.messageId) };
  },

  async recall(args) {
    const receipt = await clients.get(args.name).recallMessage(args.topic, args.recall);
    return { message_id: receipt.messageId };
  },

  deciding(args) {
    const bodies = [];
    checks.set(args.name, bodies);
    const check = async (message) => {
      bodies.push(message.body.toString('base64'));
      return RESOLUTIONS[args.decision];
    };
    return start(args, new Producer({ ...options(args), topics: [args.topic], checker: { check } }));
  },

  async begin(args) {
    const producer = clients.get(args.name);
    const transaction = producer.beginTransaction();
    const receipt = await producer.send({ topic: args.topic, body: Buffer.from(args.body, 'base64') }, transaction);
    transactions.set(receipt.messageId, transaction);
    return { message_id: receipt.messageId };
  },

  async end(args) {
    const transaction = transactions.get(args.message_id);
    await (args.commit ? transaction.commit() : transaction.rollback());
    return {};
  },

  checked: (args) => ({ bodies: checks.get(args.name).splice(0) }),

  async receive(args) {
    const messages = await clients.get(args.name).receive(args.max, args.invisible_s * 1000);
    messages.forEach((message) => held.set(message.receiptHandle, message));
    return { messages: messages.map(describe) };
  },

  async ack(args) {
    await clients.get(args.name).ack(held.get(args.receipt));
    return {};
  },

  async change(args) {
    const message = held.get(args.receipt);
    await clients.get(args.name).changeInvisibleDuration(message, args.invisible_s * 1000);
    held.set(message.receiptHandle, message);
    return { receipt: message.receiptHandle };
  },

  taken: (args) => ({ messages: deliveries.get(args.name).splice(0) }),

  async stop(args) {
    await clients.get(args.name).shutdown();
    clients.delete(args.name);
    return {};
  },
};

async function answer(command) {
  let result;
  try {
    result = await verbs[command.op](command);
  } catch (error) {
    result = { error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(`${JSON.stringify({ id: command.id, ...result })}\n`);
}

createInterface({ input: process.stdin })
  .on('line', (line) => answer(JSON.parse(line)))
  // The SDK's push consumer opens a log of its own and never closes it: its timer would keep the process alive.
  .on('close', () => process.exit(0));
