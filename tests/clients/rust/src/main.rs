//! The official Rust client behind the drivers' protocol (see harness.py): JSON lines in on stdin, out on stdout.
//! The released crate has neither push consumers nor a change of the invisible duration: those commands answer an error.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::{engine::general_purpose::STANDARD, Engine};
use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{AckMessageEntry, MessageBuilder, MessageView};
use rocketmq::{Producer, SimpleConsumer};
use serde_json::{json, Value};

type Answer = Result<Value, String>;

struct Subscriber {
    consumer: SimpleConsumer,
    topic: String,
    filter: FilterExpression,
}

#[derive(Default)]
struct Driver {
    producers: Mutex<HashMap<String, Arc<Producer>>>,
    subscribers: Mutex<HashMap<String, Arc<Subscriber>>>,
    held: Mutex<HashMap<String, Arc<MessageView>>>,
}

fn text(args: &Value, key: &str) -> String {
    args[key].as_str().unwrap_or_default().to_string()
}

fn client_option(args: &Value) -> ClientOption {
    let mut option = ClientOption::default();
    option.set_access_url(text(args, "endpoint"));
    option.set_enable_tls(false);
    if let Some(await_s) = args["await_s"].as_u64() {
        option.set_long_polling_timeout(Duration::from_secs(await_s));
    }
    option
}

fn describe(message: &MessageView) -> Value {
    let mut keys = message.keys().to_vec();
    keys.sort();
    json!({
        "message_id": message.message_id(),
        "topic": message.topic(),
        "body": STANDARD.encode(message.body()),
        "tag": message.tag(),
        "keys": keys,
        "properties": message.properties(),
        "attempt": message.delivery_attempt(),
        "receipt": AckMessageEntry::receipt_handle(message),
    })
}

impl Driver {
    async fn producer(&self, args: &Value) -> Answer {
        let mut option = ProducerOption::default();
        option.set_topics(vec![text(args, "topic")]);
        let mut producer = Producer::new(option, client_option(args)).map_err(said)?;
        producer.start().await.map_err(said)?;
        self.producers.lock().unwrap().insert(text(args, "name"), Arc::new(producer));
        Ok(json!({}))
    }

    async fn simple(&self, args: &Value) -> Answer {
        let mut option = SimpleConsumerOption::default();
        option.set_consumer_group(text(args, "group"));
        option.set_topics(vec![text(args, "topic")]);
        let mut consumer = SimpleConsumer::new(option, client_option(args)).map_err(said)?;
        consumer.start().await.map_err(said)?;
        let filter = FilterExpression::new(FilterType::Tag, text(args, "filter"));
        let subscriber = Subscriber { consumer, topic: text(args, "topic"), filter };
        self.subscribers.lock().unwrap().insert(text(args, "name"), Arc::new(subscriber));
        Ok(json!({}))
    }

    async fn send(&self, args: &Value) -> Answer {
        let producer = self.producers.lock().unwrap()[&text(args, "name")].clone();
        let body = STANDARD.decode(text(args, "body")).map_err(said)?;
        let keys: Vec<String> = args["keys"].as_array().unwrap().iter().map(string).collect();
        let properties = args["properties"].as_object().unwrap();
        let properties: HashMap<String, String> = properties.iter().map(|(k, v)| (k.clone(), string(v))).collect();
        let mut builder = MessageBuilder::builder()
            .set_topic(text(args, "topic"))
            .set_body(body)
            .set_keys(keys)
            .set_properties(properties);
        if let Some(tag) = args["tag"].as_str() {
            builder = builder.set_tag(tag);
        }
        if let Some(message_group) = args["message_group"].as_str() {
            builder = builder.set_message_group(message_group);
        }
        if let Some(due_ms) = args["due_ms"].as_i64() {
            builder = builder.set_delivery_timestamp((due_ms + 999) / 1000); // the SDK takes whole seconds
        }
        let receipt = producer.send(builder.build().map_err(said)?).await.map_err(said)?;
        Ok(json!({"message_id": receipt.message_id(), "recall": null}))
    }

    async fn receive(&self, args: &Value) -> Answer {
        let subscriber = self.subscribers.lock().unwrap()[&text(args, "name")].clone();
        let max = args["max"].as_i64().unwrap() as i32;
        let invisible = Duration::from_secs(args["invisible_s"].as_u64().unwrap());
        let received = subscriber.consumer.receive_with(&subscriber.topic, &subscriber.filter, max, invisible);
        let messages = received.await.map_err(said)?;
        let shown: Vec<Value> = messages.iter().map(describe).collect();
        let mut held = self.held.lock().unwrap();
        for message in messages {
            held.insert(AckMessageEntry::receipt_handle(&message), Arc::new(message));
        }
        Ok(json!({"messages": shown}))
    }

    async fn ack(&self, args: &Value) -> Answer {
        let subscriber = self.subscribers.lock().unwrap()[&text(args, "name")].clone();
        let message = self.held.lock().unwrap()[&text(args, "receipt")].clone();
        subscriber.consumer.ack(message.as_ref()).await.map_err(said)?;
        Ok(json!({}))
    }

    async fn stop(&self, args: &Value) -> Answer {
        let name = text(args, "name");
        let producer = self.producers.lock().unwrap().remove(&name);
        if let Some(producer) = producer.and_then(Arc::into_inner) {
            producer.shutdown().await.map_err(said)?;
        }
        let subscriber = self.subscribers.lock().unwrap().remove(&name);
        if let Some(subscriber) = subscriber.and_then(Arc::into_inner) {
            subscriber.consumer.shutdown().await.map_err(said)?;
        }
        Ok(json!({}))
    }

    async fn run(&self, args: &Value) -> Answer {
        match args["op"].as_str().unwrap_or_default() {
            "producer" => self.producer(args).await,
            "simple" => self.simple(args).await,
            "send" => self.send(args).await,
            "receive" => self.receive(args).await,
            "ack" => self.ack(args).await,
            "stop" => self.stop(args).await,
            other => Err(format!("this client has no {other}")),
        }
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn answer(driver: Arc<Driver>, command: Value) {
    let mut result = driver.run(&command).await.unwrap_or_else(|error| json!({"error": error}));
    result["id"] = command["id"].clone();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{result}").and_then(|()| out.flush()).expect("the harness reads stdout");
}

#[tokio::main]
async fn main() {
    let driver = Arc::new(Driver::default());
    let (commands, mut queue) = tokio::sync::mpsc::unbounded_channel::<Value>();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let command = serde_json::from_str(&line).expect("a command is one line of JSON");
            if commands.send(command).is_err() {
                return;
            }
        }
    });
    while let Some(command) = queue.recv().await {
        tokio::spawn(answer(driver.clone(), command));
    }
}
