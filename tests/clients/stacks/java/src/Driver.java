import com.google.gson.Gson;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.handler.ssl.util.InsecureTrustManagerFactory;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;

/** A plain grpc-java client (shaded Netty) behind the drivers' protocol (see tests/proxy/stacks.py). */
public class Driver {
    private static final Gson GSON = new Gson();
    private static final CompletableFuture<Map<String, Object>> DONE = CompletableFuture.completedFuture(Map.of());
    private final Map<String, ManagedChannel> channels = new ConcurrentHashMap<>();
    private final Map<String, Call> calls = new ConcurrentHashMap<>();
    private final Map<String, String> compressed = new ConcurrentHashMap<>();

    static class Command {
        long id;
        String op;
        String name;
        String channel;
        String target;
        String tls;
        boolean gzip;
        long keepalive_ms;
        String path;
        List<List<String>> metadata;
        Long deadline_ms;
        String body;
    }

    /** A message is its own encoding. */
    static class Raw implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] value) {
            return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    /** One call: asks for a message only when one is read, so that flow control reaches the server. */
    static class Call extends ClientCall.Listener<byte[]> {
        final ClientCall<byte[], byte[]> call;
        final CompletableFuture<Map<String, Object>> headers = new CompletableFuture<>();
        final CompletableFuture<Map<String, Object>> ended = new CompletableFuture<>();
        private final Queue<CompletableFuture<Map<String, Object>>> readers = new ArrayDeque<>();

        Call(ClientCall<byte[], byte[]> call, Metadata metadata) {
            this.call = call;
            call.start(this, metadata);
        }

        synchronized CompletableFuture<Map<String, Object>> read() {
            if (ended.isDone()) {
                return ended;
            }
            CompletableFuture<Map<String, Object>> reader = new CompletableFuture<>();
            readers.add(reader);
            call.request(1);
            return reader;
        }

        @Override
        public void onHeaders(Metadata received) {
            headers.complete(Map.of());
        }

        @Override
        public synchronized void onMessage(byte[] message) {
            readers.remove().complete(Map.of("body", Base64.getEncoder().encodeToString(message)));
        }

        @Override
        public synchronized void onClose(Status status, Metadata trailers) {
            String text = status.getDescription() == null ? "" : status.getDescription();
            Map<String, Object> told = Map.of("code", status.getCode().value(), "text", text);
            headers.complete(Map.of());
            ended.complete(told);
            readers.forEach(reader -> reader.complete(told));
        }
    }

    private CompletableFuture<Map<String, Object>> connect(Command c) throws IOException {
        NettyChannelBuilder builder = NettyChannelBuilder.forTarget(c.target);
        if (c.tls == null) {
            builder.usePlaintext();
        } else {
            builder.sslContext(GrpcSslContexts.forClient().trustManager(InsecureTrustManagerFactory.INSTANCE).build());
        }
        if (c.keepalive_ms > 0) {
            builder.keepAliveTime(c.keepalive_ms, TimeUnit.MILLISECONDS).keepAliveWithoutCalls(true);
        }
        channels.put(c.name, builder.build());
        if (c.gzip) {
            compressed.put(c.name, "gzip");
        }
        return DONE;
    }

    private static Metadata metadata(Command c) {
        Metadata made = new Metadata();
        for (List<String> pair : c.metadata == null ? List.<List<String>>of() : c.metadata) {
            String name = pair.get(0);
            if (name.endsWith("-bin")) {
                made.put(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER), Base64.getDecoder().decode(pair.get(1)));
            } else {
                made.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), pair.get(1));
            }
        }
        return made;
    }

    private Call start(Command c, MethodType type) {
        MethodDescriptor<byte[], byte[]> method = MethodDescriptor.newBuilder(new Raw(), new Raw())
            .setFullMethodName(c.path.substring(1))
            .setType(type)
            .build();
        CallOptions options = CallOptions.DEFAULT;
        if (c.deadline_ms != null) {
            options = options.withDeadlineAfter(c.deadline_ms, TimeUnit.MILLISECONDS);
        }
        if (compressed.containsKey(c.channel)) {
            options = options.withCompression(compressed.get(c.channel));
        }
        Call made = new Call(channels.get(c.channel).newCall(method, options), metadata(c));
        calls.put(c.name, made);
        return made;
    }

    private static void ask(Call made, Command c) {
        made.call.sendMessage(bytes(c));
        made.call.halfClose();
    }

    private CompletableFuture<Map<String, Object>> unary(Command c) {
        Call made = start(c, MethodType.UNARY);
        CompletableFuture<Map<String, Object>> message = made.read();
        made.call.request(1);
        ask(made, c);
        return made.ended.thenCombine(message, (status, answer) -> {
            Map<String, Object> told = new HashMap<>(answer);
            told.putIfAbsent("body", "");
            told.putAll(status);
            return told;
        });
    }

    private CompletableFuture<Map<String, Object>> open(Command c) {
        Call made = start(c, c.body == null ? MethodType.BIDI_STREAMING : MethodType.SERVER_STREAMING);
        if (c.body != null) {
            ask(made, c);
        }
        return DONE;
    }

    private CompletableFuture<Map<String, Object>> write(Command c) {
        calls.get(c.name).call.sendMessage(bytes(c));
        return DONE;
    }

    private CompletableFuture<Map<String, Object>> halfClose(Command c) {
        calls.get(c.name).call.halfClose();
        return DONE;
    }

    private CompletableFuture<Map<String, Object>> cancel(Command c) {
        calls.get(c.name).call.cancel("told to", null);
        return DONE;
    }

    private CompletableFuture<Map<String, Object>> close(Command c) {
        channels.remove(c.name).shutdownNow();
        return DONE;
    }

    private static byte[] bytes(Command c) {
        return Base64.getDecoder().decode(c.body);
    }

    private CompletableFuture<Map<String, Object>> run(Command c) throws Exception {
        switch (c.op) {
            case "connect": return connect(c);
            case "unary": return unary(c);
            case "open": return open(c);
            case "headers": return calls.get(c.name).headers;
            case "read": return calls.get(c.name).read();
            case "write": return write(c);
            case "half_close": return halfClose(c);
            case "cancel": return cancel(c);
            case "close": return close(c);
            default: throw new IllegalArgumentException("this driver has no " + c.op);
        }
    }

    private void answer(Command c, PrintStream out) {
        CompletableFuture<Map<String, Object>> outcome;
        try {
            outcome = run(c);
        } catch (Exception error) {
            outcome = CompletableFuture.failedFuture(error);
        }
        outcome.whenComplete((result, error) -> {
            Map<String, Object> told = new HashMap<>(error == null ? result : Map.of("error", error.toString()));
            told.put("id", c.id);
            synchronized (out) {
                out.println(GSON.toJson(told));
                out.flush();
            }
        });
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err);
        Driver driver = new Driver();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            driver.answer(GSON.fromJson(line, Command.class), out);
        }
        System.exit(0);
    }
}
