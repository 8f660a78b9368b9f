import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.filter.FilterFactory;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;

/**
 * Evaluates SQL92 filters with Apache's own classes. Reads lines of tokens, each the Base64 of UTF-8 behind one letter: M and the keys and values of
 * a message, E and an expression. Writes a line an expression: X where it is refused; else a letter a message: T, F, N (null), E (it throws), O (other).
 */
public class Evaluate {
    record Message(Map<String, String> properties) implements EvaluationContext {
        @Override public Object get(String name) { return properties.get(name); }

        @Override public Map<String, Object> keyValues() { return new HashMap<>(properties); }
    }

    public static void main(String[] args) throws Exception {
        List<Message> messages = new ArrayList<>();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line; (line = in.readLine()) != null; ) {
            String[] tokens = line.split(" ", -1);
            if (tokens[0].equals("M")) {
                Map<String, String> properties = new HashMap<>();
                for (int i = 1; i + 1 < tokens.length; i += 2) properties.put(text(tokens[i]), text(tokens[i + 1]));
                messages.add(new Message(properties));
            } else {
                System.out.println(evaluate(text(tokens[1]), messages));
            }
        }
    }

    private static String text(String token) { return new String(Base64.getDecoder().decode(token), StandardCharsets.UTF_8); }

    private static String evaluate(String sql, List<Message> messages) {
        Expression expression;
        try {
            expression = FilterFactory.INSTANCE.get("SQL92").compile(sql);
        } catch (Throwable refused) {
            return "X";
        }
        StringBuilder out = new StringBuilder();
        for (Message message : messages) out.append(letter(expression, message));
        return out.toString();
    }

    private static char letter(Expression expression, Message message) {
        try {
            Object value = expression.evaluate(message);
            return value == null ? 'N' : value == Boolean.TRUE ? 'T' : value == Boolean.FALSE ? 'F' : 'O';
        } catch (Throwable thrown) {
            return 'E';
        }
    }
}
