import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import java.io.BufferedReader;
import java.io.Closeable;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientConfigurationBuilder;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;
import org.apache.rocketmq.client.java.message.MessageViewImpl;

/** The official Java client behind the drivers' protocol (see harness.py): JSON lines in on stdin, out on stdout. */
public class Driver {
    private static final Gson GSON = new GsonBuilder().serializeNulls().create();
    private final ClientServiceProvider provider = ClientServiceProvider.loadService();
    private final Map<String, Closeable> clients = new ConcurrentHashMap<>();
    private final Map<String, List<Map<String, Object>>> deliveries = new ConcurrentHashMap<>();
    private final Map<String, MessageView> held = new ConcurrentHashMap<>();
    private final Map<String, Transaction> begun = new ConcurrentHashMap<>();
    private final Map<String, List<String>> checked = new ConcurrentHashMap<>();

    static class Command {
        long id;
        String op;
        String name;
        String endpoint;
        String topic;
        String group;
        String filter;
        long await_s;
        int nack_first;
        String body;
        List<String> bodies;
        String tag;
        String message_group;
        Integer priority;
        String lite_topic;
        List<String> lite_topics;
        List<String> keys;
        Map<String, String> properties;
        int max;
        long invisible_s;
        String receipt;
        long due_ms;
        String recall;
        String decision;
        String message_id;
        boolean commit;
    }

    /** TLS is the SDK's own choice, unless the variable that the Go SDK reads turns it off. */
    private static ClientConfiguration configuration(Command c) {
        ClientConfigurationBuilder builder = ClientConfiguration.newBuilder().setEndpoints(c.endpoint);
        if ("false".equals(System.getenv("rocketmq.client.enableSsl"))) {
            builder.enableSsl(false);
        }
        return builder.build();
    }

    private static Map<String, FilterExpression> subscriptions(Command c) {
        return Collections.singletonMap(c.topic, new FilterExpression(c.filter, FilterExpressionType.TAG));
    }

    /** The receipt handle is not part of the SDK's public interface, but its own tools read it like this, too. */
    private static String receipt(MessageView message) {
        return ((MessageViewImpl) message).getReceiptHandle();
    }

    private static String body(MessageView message) {
        ByteBuffer body = message.getBody();
        byte[] bytes = new byte[body.remaining()];
        body.get(bytes);
        return Base64.getEncoder().encodeToString(bytes);
    }

    private static Map<String, Object> describe(MessageView message) {
        Map<String, Object> shown = new HashMap<>();
        shown.put("message_id", message.getMessageId().toString());
        shown.put("topic", message.getTopic());
        shown.put("body", body(message));
        shown.put("tag", message.getTag().orElse(null));
        shown.put("keys", message.getKeys().stream().sorted().collect(Collectors.toList()));
        shown.put("properties", message.getProperties());
        shown.put("attempt", message.getDeliveryAttempt());
        shown.put("receipt", receipt(message));
        return shown;
    }

    private Map<String, Object> keep(Command c, Closeable client) {
        clients.put(c.name, client);
        return new HashMap<>();
    }

    private MessageListener recorder(Command c) {
        List<Map<String, Object>> taken = Collections.synchronizedList(new ArrayList<>());
        deliveries.put(c.name, taken);
        return message -> {
            taken.add(describe(message));
            return message.getDeliveryAttempt() <= c.nack_first ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
        };
    }

    private Map<String, Object> push(Command c) throws Exception {
        return keep(c, provider.newPushConsumerBuilder()
            .setClientConfiguration(configuration(c))
            .setConsumerGroup(c.group)
            .setSubscriptionExpressions(subscriptions(c))
            .setMessageListener(recorder(c))
            .build());
    }

    private Map<String, Object> lite(Command c) throws Exception {
        return keep(c, provider.newLitePushConsumerBuilder()
            .setClientConfiguration(configuration(c))
            .setConsumerGroup(c.group)
            .bindTopic(c.topic)
            .setMessageListener(recorder(c))
            .build());
    }

    private Map<String, Object> subscribe(Command c) throws Exception {
        for (String topic : c.lite_topics) {
            ((LitePushConsumer) clients.get(c.name)).subscribeLite(topic);
        }
        return new HashMap<>();
    }

    private Map<String, Object> unsubscribe(Command c) throws Exception {
        for (String topic : c.lite_topics) {
            ((LitePushConsumer) clients.get(c.name)).unsubscribeLite(topic);
        }
        return new HashMap<>();
    }

    private Map<String, Object> simple(Command c) throws Exception {
        return keep(c, provider.newSimpleConsumerBuilder()
            .setClientConfiguration(configuration(c))
            .setConsumerGroup(c.group)
            .setSubscriptionExpressions(subscriptions(c))
            .setAwaitDuration(Duration.ofSeconds(c.await_s))
            .build());
    }

    private Map<String, Object> producer(Command c) throws Exception {
        return keep(c, provider.newProducerBuilder()
            .setClientConfiguration(configuration(c))
            .setTopics(c.topic)
            .build());
    }

    private Map<String, Object> send(Command c) throws Exception {
        MessageBuilder builder = provider.newMessageBuilder()
            .setTopic(c.topic)
            .setBody(Base64.getDecoder().decode(c.body))
            .setKeys(c.keys.toArray(new String[0]));
        c.properties.forEach(builder::addProperty);
        if (c.tag != null) {
            builder.setTag(c.tag);
        }
        if (c.message_group != null) {
            builder.setMessageGroup(c.message_group);
        }
        if (c.lite_topic != null) {
            builder.setLiteTopic(c.lite_topic);
        }
        if (c.priority != null) {
            builder.setPriority(c.priority);
        }
        Producer producer = (Producer) clients.get(c.name);
        if (c.due_ms > 0) {
            builder.setDeliveryTimestamp(c.due_ms);
        }
        SendReceipt sent = producer.send(builder.build());
        Map<String, Object> result = new HashMap<>(Map.of("message_id", sent.getMessageId().toString()));
        result.put("recall", sent.getRecallHandle());
        return result;
    }

    private Map<String, Object> sendAll(Command c) {
        Producer producer = (Producer) clients.get(c.name);
        List<CompletableFuture<SendReceipt>> sent = c.bodies.stream()
            .map(body -> producer.sendAsync(provider.newMessageBuilder()
                .setTopic(c.topic)
                .setBody(Base64.getDecoder().decode(body))
                .build()))
            .collect(Collectors.toList());
        return new HashMap<>(Map.of("message_ids", sent.stream()
            .map(future -> future.join().getMessageId().toString())
            .collect(Collectors.toList())));
    }

    private Map<String, Object> recall(Command c) throws Exception {
        Producer producer = (Producer) clients.get(c.name);
        return new HashMap<>(Map.of("message_id", producer.recallMessage(c.topic, c.recall).getMessageId().toString()));
    }

    private Map<String, Object> deciding(Command c) throws Exception {
        List<String> bodies = Collections.synchronizedList(new ArrayList<>());
        checked.put(c.name, bodies);
        return keep(c, provider.newProducerBuilder()
            .setClientConfiguration(configuration(c))
            .setTopics(c.topic)
            .setTransactionChecker(message -> {
                bodies.add(body(message));
                return TransactionResolution.valueOf(c.decision);
            })
            .build());
    }

    private Map<String, Object> begin(Command c) throws Exception {
        Producer producer = (Producer) clients.get(c.name);
        Transaction transaction = producer.beginTransaction();
        SendReceipt sent = producer.send(provider.newMessageBuilder()
            .setTopic(c.topic)
            .setBody(Base64.getDecoder().decode(c.body))
            .build(), transaction);
        begun.put(sent.getMessageId().toString(), transaction);
        return new HashMap<>(Map.of("message_id", sent.getMessageId().toString()));
    }

    private Map<String, Object> end(Command c) throws Exception {
        Transaction transaction = begun.get(c.message_id);
        if (c.commit) {
            transaction.commit();
        } else {
            transaction.rollback();
        }
        return new HashMap<>();
    }

    private Map<String, Object> asked(Command c) {
        List<String> bodies = checked.get(c.name);
        synchronized (bodies) {
            List<String> copy = new ArrayList<>(bodies);
            bodies.clear();
            return new HashMap<>(Map.of("bodies", copy));
        }
    }

    private Map<String, Object> receive(Command c) throws Exception {
        List<MessageView> messages = consumer(c).receive(c.max, Duration.ofSeconds(c.invisible_s));
        messages.forEach(message -> held.put(receipt(message), message));
        return new HashMap<>(Map.of("messages", messages.stream().map(Driver::describe).collect(Collectors.toList())));
    }

    private Map<String, Object> ack(Command c) throws Exception {
        consumer(c).ack(held.get(c.receipt));
        return new HashMap<>();
    }

    private Map<String, Object> change(Command c) throws Exception {
        MessageView message = held.get(c.receipt);
        consumer(c).changeInvisibleDuration(message, Duration.ofSeconds(c.invisible_s));
        held.put(receipt(message), message);
        return new HashMap<>(Map.of("receipt", receipt(message)));
    }

    private Map<String, Object> drain(Command c) {
        List<Map<String, Object>> taken = deliveries.get(c.name);
        synchronized (taken) {
            List<Map<String, Object>> copy = new ArrayList<>(taken);
            taken.clear();
            return new HashMap<>(Map.of("messages", copy));
        }
    }

    private Map<String, Object> stop(Command c) throws Exception {
        clients.remove(c.name).close();
        return new HashMap<>();
    }

    private SimpleConsumer consumer(Command c) {
        return (SimpleConsumer) clients.get(c.name);
    }

    private Map<String, Object> run(Command c) throws Exception {
        switch (c.op) {
            case "producer": return producer(c);
            case "simple": return simple(c);
            case "push": return push(c);
            case "lite": return lite(c);
            case "subscribe": return subscribe(c);
            case "unsubscribe": return unsubscribe(c);
            case "send": return send(c);
            case "send_all": return sendAll(c);
            case "recall": return recall(c);
            case "deciding": return deciding(c);
            case "begin": return begin(c);
            case "end": return end(c);
            case "checked": return asked(c);
            case "receive": return receive(c);
            case "ack": return ack(c);
            case "change": return change(c);
            case "taken": return drain(c);
            case "stop": return stop(c);
            default: throw new IllegalArgumentException("this driver has no " + c.op);
        }
    }

    private static String story(Throwable error) {
        String told = error.toString();
        return error.getCause() == null ? told : told + "; " + story(error.getCause());
    }

    private void answer(Command c, PrintStream out) {
        Map<String, Object> result = new HashMap<>();
        try {
            result = run(c);
        } catch (Throwable error) {
            result.put("error", story(error));
        }
        result.put("id", c.id);
        synchronized (out) {
            out.println(GSON.toJson(result));
            out.flush();
        }
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err);
        Driver driver = new Driver();
        ExecutorService pool = Executors.newCachedThreadPool();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Command command = GSON.fromJson(line, Command.class);
            pool.execute(() -> driver.answer(command, out));
        }
        pool.shutdown();
    }
}
