import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Collections;
import org.apache.rocketmq.client.AccessChannel;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.trace.TraceBean;
import org.apache.rocketmq.client.trace.TraceContext;
import org.apache.rocketmq.client.trace.TraceDataEncoder;
import org.apache.rocketmq.client.trace.TraceType;
import org.apache.rocketmq.common.message.MessageType;

/** What a 4.x-protocol client writes into the trace topic: one line a type, its name and the text in base64. */
public class Trace {
    public static void main(String[] args) {
        for (TraceType type : TraceType.values()) {
            TraceContext context = new TraceContext();
            context.setTraceType(type);
            context.setAccessChannel(AccessChannel.LOCAL);
            context.setTimeStamp(1700000000000L);
            context.setRegionId("DefaultRegion");
            context.setGroupName("billing");
            context.setRequestId("REQ1");
            context.setCostTime(12);
            context.setSuccess(type != TraceType.SubAfter);
            context.setContextCode(2);
            TraceBean bean = new TraceBean();
            bean.setTopic("orders");
            bean.setMsgId("ID1");
            bean.setKeys("k1");
            bean.setStoreHost("10.0.0.1:10911");
            bean.setBodyLength(5);
            bean.setMsgType(MessageType.Normal_Msg);
            bean.setRetryTimes(2);
            bean.setTransactionId("TX1");
            bean.setTransactionState(LocalTransactionState.COMMIT_MESSAGE);
            bean.setFromTransactionCheck(true);
            context.setTraceBeans(Collections.singletonList(bean));
            byte[] text = TraceDataEncoder.encoderFromContextBean(context).getTransData().getBytes(StandardCharsets.UTF_8);
            System.out.println(type + " " + Base64.getEncoder().encodeToString(text));
        }
    }
}
