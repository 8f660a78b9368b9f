// A plain grpc-js client behind the drivers' protocol (see tests/proxy/stacks.py): JSON lines in on stdin, out on stdout.

import { createInterface } from 'node:readline';
import * as grpc from '@grpc/grpc-js';

const GZIP = 2;
const channels = new Map();
const calls = new Map();
const same = (bytes) => bytes;

function metadata(args) {
  const made = new grpc.Metadata();
  for (const [name, value] of args.metadata ?? []) {
    made.add(name, name.endsWith('-bin') ? Buffer.from(value, 'base64') : value);
  }
  return made;
}

const options = (args) => (args.deadline_ms == null ? {} : { deadline: Date.now() + args.deadline_ms });
const body = (args) => Buffer.from(args.body, 'base64');
const told = (status) => ({ code: status.code, text: status.details });

function opened(args, stream) {
  const ended = new Promise((resolve) => stream.once('status', resolve));
  const headers = Promise.race([new Promise((resolve) => stream.once('metadata', resolve)), ended]);
  stream.on('error', () => {}); // is told by its status
  calls.set(args.name, { channel: args.channel, stream, ended, headers, messages: stream[Symbol.asyncIterator]() });
  return {};
}

const verbs = {
  connect(args) {
    const credentials = args.tls
      ? grpc.credentials.createSsl(null, null, null, { rejectUnauthorized: false })
      : grpc.credentials.createInsecure();
    channels.set(args.name, new grpc.Client(args.target, credentials, {
      'grpc.use_local_subchannel_pool': 1,
      ...(args.gzip && { 'grpc.default_compression_algorithm': GZIP }),
      ...(args.keepalive_ms && { 'grpc.keepalive_time_ms': args.keepalive_ms, 'grpc.keepalive_permit_without_calls': 1 }),
    }));
    return {};
  },

  unary: (args) => new Promise((resolve) => {
    let answer = null;
    const stream = channels.get(args.channel)
      .makeUnaryRequest(args.path, same, same, body(args), metadata(args), options(args), (_, message) => {
        answer = message;
      });
    stream.once('status', (status) => {
      setImmediate(() => resolve({ ...told(status), body: (answer ?? Buffer.alloc(0)).toString('base64') }));
    });
    calls.set(args.name, { channel: args.channel, stream });
  }),

  open(args) {
    const client = channels.get(args.channel);
    if (args.body == null) {
      return opened(args, client.makeBidiStreamRequest(args.path, same, same, metadata(args), options(args)));
    }
    const request = [args.path, same, same, body(args), metadata(args), options(args)];
    return opened(args, client.makeServerStreamRequest(...request));
  },

  async headers(args) {
    await calls.get(args.name).headers;
    return {};
  },

  async read(args) {
    const { messages, ended } = calls.get(args.name);
    try {
      const next = await messages.next();
      if (!next.done) {
        return { body: next.value.toString('base64') };
      }
    } catch {
      // is told by its status
    }
    return told(await ended);
  },

  write: (args) => new Promise((resolve) => {
    calls.get(args.name).stream.write(body(args), () => resolve({}));
  }),

  half_close(args) {
    calls.get(args.name).stream.end();
    return {};
  },

  cancel(args) {
    calls.get(args.name).stream.cancel();
    return {};
  },

  close(args) {
    for (const call of calls.values()) {
      if (call.channel === args.name) {
        call.stream.cancel();
      }
    }
    channels.get(args.name).close();
    channels.delete(args.name);
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
  .on('close', () => process.exit(0));
