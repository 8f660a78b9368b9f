package compat;

import com.alibaba.fastjson.JSON;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * What a broker shows to a 4.x-protocol client, as one JSON object a line. Verbs (the name server's address comes first):
 * <pre>
 *   read NAMES TOPIC...             every queue of the topics from its first offset to its end, and its bounds
 *   send NAMES TOPIC QUEUE BODY     one more message
 *   push NAMES GROUP TOPIC N NACKS  what a push consumer gets until N messages are done; the first NACKS are sent back once
 *   find NAMES TOPIC KEY            the messages that the key index knows
 *   offsets NAMES GROUP TOPIC       the group's stored offset in each queue
 * </pre>
 */
public final class Reader {
    private static final long ROUTE_WAIT_MS = 60_000;
    private static final int PULL_BATCH = 32;

    public static void main(String[] args) {
        try {
            run(args);
            System.exit(0); // a client leaves threads behind that would keep the process alive
        } catch (Exception failed) {
            failed.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(String[] args) throws Exception {
        String verb = args[0];
        String names = args[1];
        List<String> rest = List.of(args).subList(2, args.length);
        switch (verb) {
            case "read": read(names, rest); break;
            case "send": send(names, rest.get(0), Integer.parseInt(rest.get(1)), rest.get(2)); break;
            case "push": push(names, rest.get(0), rest.get(1), Integer.parseInt(rest.get(2)), Integer.parseInt(rest.get(3))); break;
            case "find": find(names, rest.get(0), rest.get(1)); break;
            case "offsets": offsets(names, rest.get(0), rest.get(1)); break;
            default: throw new IllegalArgumentException(verb);
        }
    }

    private static void read(String names, List<String> topics) throws Exception {
        DefaultMQPullConsumer consumer = consumer(names, "compat_reader");
        for (String topic : topics) {
            for (MessageQueue queue : new TreeSet<>(queues(consumer, topic))) {
                long first = consumer.minOffset(queue);
                long end = consumer.maxOffset(queue);
                print("queue", "topic", topic, "queueId", queue.getQueueId(), "first", first, "end", end);
                for (long next = first; next < end; ) {
                    next = pull(consumer, queue, next);
                }
            }
        }
    }

    private static long pull(DefaultMQPullConsumer consumer, MessageQueue queue, long from) throws Exception {
        PullResult result = consumer.pull(queue, "*", from, PULL_BATCH);
        if (result.getPullStatus() != PullStatus.FOUND) {
            throw new IllegalStateException(queue + " at " + from + ": " + result);
        }
        for (MessageExt message : result.getMsgFoundList()) {
            print("message", message);
        }
        return result.getNextBeginOffset();
    }

    private static void send(String names, String topic, int queueId, String body) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("compat_sender");
        producer.setNamesrvAddr(names);
        producer.start();
        Message message = new Message(topic, "one-more", "one-more-key", body.getBytes(StandardCharsets.UTF_8));
        SendResult sent = producer.send(message, (queues, m, id) -> queueOf(queues, (Integer) id), queueId, 10_000);
        print("sent", "topic", topic, "queueId", sent.getMessageQueue().getQueueId(), "queueOffset", sent.getQueueOffset(),
            "id", sent.getMsgId(), "offsetId", sent.getOffsetMsgId(), "status", sent.getSendStatus().name());
        producer.shutdown();
    }

    private static MessageQueue queueOf(List<MessageQueue> queues, int id) {
        return queues.stream().filter(queue -> queue.getQueueId() == id).findFirst().orElseThrow();
    }

    private static void push(String names, String group, String topic, int count, int nacks) throws Exception {
        BlockingQueue<MessageExt> seen = new LinkedBlockingQueue<>();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(names);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setConsumeMessageBatchMaxSize(1);
        consumer.subscribe(topic, "*");
        BlockingQueue<Integer> refusals = new LinkedBlockingQueue<>();
        for (int i = 0; i < nacks; i++) {
            refusals.add(i);
        }
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            if (messages.get(0).getReconsumeTimes() == 0 && refusals.poll() != null) {
                context.setDelayLevelWhenNextConsume(1);
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            seen.addAll(messages);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        for (int i = 0; i < count; i++) {
            MessageExt message = seen.poll(ROUTE_WAIT_MS, TimeUnit.MILLISECONDS);
            if (message == null) {
                break; // the caller counts what it got
            }
            print("message", message);
        }
        consumer.shutdown();
    }

    private static void find(String names, String topic, String key) throws Exception {
        DefaultMQPullConsumer consumer = consumer(names, "compat_reader");
        queues(consumer, topic);
        try {
            QueryResult result = consumer.queryMessage(topic, key, 64, 0, Long.MAX_VALUE);
            for (MessageExt message : result.getMessageList()) {
                print("message", message);
            }
        } catch (MQClientException nothingFound) {
            print("nothing", "topic", topic, "key", key, "why", nothingFound.getErrorMessage());
        }
    }

    private static void offsets(String names, String group, String topic) throws Exception {
        DefaultMQPullConsumer consumer = consumer(names, group);
        for (MessageQueue queue : new TreeSet<>(queues(consumer, topic))) {
            print("offset", "topic", topic, "queueId", queue.getQueueId(), "next", consumer.fetchConsumeOffset(queue, true));
        }
    }

    private static DefaultMQPullConsumer consumer(String names, String group) throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(group);
        consumer.setNamesrvAddr(names);
        consumer.start();
        return consumer;
    }

    /** A broker that has just started takes some seconds to register its topics. */
    private static List<MessageQueue> queues(DefaultMQPullConsumer consumer, String topic) throws Exception {
        long end = System.currentTimeMillis() + ROUTE_WAIT_MS;
        while (true) {
            try {
                return new ArrayList<>(consumer.fetchSubscribeMessageQueues(topic));
            } catch (MQClientException noRouteYet) {
                if (System.currentTimeMillis() > end) {
                    throw noRouteYet;
                }
                Thread.sleep(200);
            }
        }
    }

    private static void print(String kind, MessageExt message) {
        Map<String, String> properties = new LinkedHashMap<>(message.getProperties());
        byte[] body = message.getBody() == null ? new byte[0] : message.getBody(); // an empty body is decoded as null
        print(kind, "topic", message.getTopic(), "queueId", message.getQueueId(), "queueOffset", message.getQueueOffset(),
            "position", message.getCommitLogOffset(), "size", message.getStoreSize(), "id", message.getMsgId(),
            "offsetId", MessageDecoder.createMessageId(message.getStoreHost(), message.getCommitLogOffset()),
            "tags", message.getTags(), "keys", message.getKeys(), "properties", properties,
            "body", Base64.getEncoder().encodeToString(body), "bodyCrc", message.getBodyCRC(),
            "sysFlag", message.getSysFlag(), "flag", message.getFlag(), "attempts", message.getReconsumeTimes(),
            "bornMs", message.getBornTimestamp(), "bornHost", message.getBornHostString(), "storeMs", message.getStoreTimestamp());
    }

    private static void print(String kind, Object... pairs) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("kind", kind);
        for (int i = 0; i < pairs.length; i += 2) {
            line.put((String) pairs[i], pairs[i + 1]);
        }
        System.out.println(JSON.toJSONString(line));
        System.out.flush();
    }
}
