//! A plain tonic client behind the drivers' protocol (see tests/proxy/stacks.py): JSON lines in on stdin, out on stdout.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::{engine::general_purpose::STANDARD, Engine};
use bytes::{Buf, BufMut};
use hyper_util::rt::TokioIo;
use serde_json::{json, Value};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch, Mutex as AsyncMutex};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::Uri;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, BinaryMetadataKey, BinaryMetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

mod tls;

type Answer = Result<Value, String>;
type Opened = Result<Response<Streaming<Vec<u8>>>, Status>;

/// A message is its own encoding.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

enum Incoming {
    Opening(JoinHandle<Opened>),
    Open(Streaming<Vec<u8>>),
    Ended(Status),
}

struct Call {
    channel: String,
    outgoing: Mutex<Option<mpsc::UnboundedSender<Vec<u8>>>>,
    incoming: AsyncMutex<Incoming>,
    cancelled: watch::Sender<bool>,
}

impl Call {
    fn new(channel: String, outgoing: Option<mpsc::UnboundedSender<Vec<u8>>>, incoming: Incoming) -> Call {
        let (outgoing, incoming) = (Mutex::new(outgoing), AsyncMutex::new(incoming));
        Call { channel, outgoing, incoming, cancelled: watch::Sender::new(false) }
    }

    /// Drops both halves, tonic's way to give a call up: either alone would keep it open.
    async fn cancel(&self) {
        self.outgoing.lock().unwrap().take();
        self.cancelled.send_replace(true);
        let mut incoming = self.incoming.lock().await;
        if let Incoming::Opening(opening) = &*incoming {
            opening.abort();
        }
        if !matches!(*incoming, Incoming::Ended(_)) {
            *incoming = Incoming::Ended(Status::cancelled("told to"));
        }
    }

    /// Waits for the headers; runs until a cancellation.
    async fn headers(&self) {
        let mut cancelled = self.cancelled.subscribe();
        let mut incoming = self.incoming.lock().await;
        if let Incoming::Opening(opening) = &mut *incoming {
            tokio::select! {
                _ = cancelled.wait_for(|is| *is) => {}
                opened = opening => {
                    *incoming = match opened.expect("only cancel aborts it") {
                        Ok(response) => Incoming::Open(response.into_inner()),
                        Err(status) => Incoming::Ended(status),
                    };
                }
            }
        }
    }

    /// The next message, or how the call ended.
    async fn read(&self) -> Value {
        self.headers().await;
        let mut cancelled = self.cancelled.subscribe();
        let mut incoming = self.incoming.lock().await;
        if let Incoming::Open(stream) = &mut *incoming {
            let ended = tokio::select! {
                _ = cancelled.wait_for(|is| *is) => Status::cancelled("told to"),
                next = stream.message() => match next {
                    Ok(Some(message)) => return json!({"body": STANDARD.encode(message)}),
                    Ok(None) => Status::ok(""),
                    Err(status) => status,
                },
            };
            *incoming = Incoming::Ended(ended);
        }
        match &*incoming {
            Incoming::Ended(status) => told(status),
            _ => told(&Status::cancelled("told to")),
        }
    }
}

#[derive(Default)]
struct Driver {
    channels: Mutex<HashMap<String, (Channel, bool)>>,
    calls: Mutex<HashMap<String, Arc<Call>>>,
}

fn text(args: &Value, key: &str) -> String {
    args[key].as_str().unwrap_or_default().to_string()
}

fn body(args: &Value) -> Result<Vec<u8>, String> {
    STANDARD.decode(text(args, "body")).map_err(said)
}

fn told(status: &Status) -> Value {
    json!({"code": status.code() as i32, "text": status.message()})
}

fn request<T>(args: &Value, message: T) -> Result<Request<T>, String> {
    let mut made = Request::new(message);
    for pair in args["metadata"].as_array().unwrap_or(&vec![]) {
        let (name, value) = (pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default());
        if name.ends_with("-bin") {
            let bytes = STANDARD.decode(value).map_err(said)?;
            let key = BinaryMetadataKey::from_bytes(name.as_bytes()).map_err(said)?;
            made.metadata_mut().append_bin(key, BinaryMetadataValue::from_bytes(&bytes));
        } else {
            let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(said)?;
            made.metadata_mut().append(key, AsciiMetadataValue::try_from(value).map_err(said)?);
        }
    }
    if let Some(deadline_ms) = args["deadline_ms"].as_u64() {
        made.set_timeout(Duration::from_millis(deadline_ms));
    }
    Ok(made)
}

impl Driver {
    fn connect(&self, args: &Value) -> Answer {
        let secured = args["tls"].is_string();
        let scheme = if secured { "https" } else { "http" };
        let target = text(args, "target");
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{target}")).map_err(said)?;
        if let Some(keepalive_ms) = args["keepalive_ms"].as_u64().filter(|ms| *ms > 0) {
            endpoint = endpoint.http2_keep_alive_interval(Duration::from_millis(keepalive_ms)).keep_alive_while_idle(true);
        }
        let channel = if secured {
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let target = target.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(tls::secure(TcpStream::connect(target).await?).await?)) }
            }))
        } else {
            endpoint.connect_lazy()
        };
        let gzip = args["gzip"].as_bool().unwrap_or_default();
        self.channels.lock().unwrap().insert(text(args, "name"), (channel, gzip));
        Ok(json!({}))
    }

    fn client(&self, args: &Value) -> Result<(Grpc<Channel>, PathAndQuery), String> {
        let (channel, gzip) = self.channels.lock().unwrap()[&text(args, "channel")].clone();
        let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        if gzip {
            grpc = grpc.send_compressed(CompressionEncoding::Gzip);
        }
        Ok((grpc, PathAndQuery::try_from(text(args, "path")).map_err(said)?))
    }

    fn keep(&self, args: &Value, made: Call) -> Arc<Call> {
        let made = Arc::new(made);
        self.calls.lock().unwrap().insert(text(args, "name"), made.clone());
        made
    }

    fn call(&self, args: &Value) -> Result<Arc<Call>, String> {
        let name = text(args, "name");
        self.calls.lock().unwrap().get(&name).cloned().ok_or(format!("{name} has not begun"))
    }

    async fn unary(&self, args: &Value) -> Answer {
        let (mut grpc, path) = self.client(args)?;
        let request = request(args, body(args)?)?;
        let made = self.keep(args, Call::new(text(args, "channel"), None, Incoming::Ended(Status::ok(""))));
        let mut cancelled = made.cancelled.subscribe();
        let answered = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.unary(request, path, Raw).await
        };
        Ok(tokio::select! {
            _ = cancelled.wait_for(|is| *is) => told(&Status::cancelled("told to")),
            response = answered => match response {
                Ok(response) => json!({"code": 0, "text": "", "body": STANDARD.encode(response.into_inner())}),
                Err(status) => told(&status),
            },
        })
    }

    fn open(&self, args: &Value) -> Answer {
        let (mut grpc, path) = self.client(args)?;
        let (outgoing, opening) = if args["body"].is_string() {
            let request = request(args, body(args)?)?;
            let opening = tokio::spawn(async move {
                grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
                grpc.server_streaming(request, path, Raw).await
            });
            (None, opening)
        } else {
            let (outgoing, messages) = mpsc::unbounded_channel();
            let request = request(args, UnboundedReceiverStream::new(messages))?;
            let opening = tokio::spawn(async move {
                grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
                grpc.streaming(request, path, Raw).await
            });
            (Some(outgoing), opening)
        };
        self.keep(args, Call::new(text(args, "channel"), outgoing, Incoming::Opening(opening)));
        Ok(json!({}))
    }

    fn write(&self, args: &Value) -> Answer {
        if let Some(outgoing) = &*self.call(args)?.outgoing.lock().unwrap() {
            // Fails once the call is over, which is told by read.
            let _ = outgoing.send(body(args)?);
        }
        Ok(json!({}))
    }

    async fn close(&self, args: &Value) -> Answer {
        let name = text(args, "name");
        let calls: Vec<_> = self.calls.lock().unwrap().values().cloned().collect();
        for call in calls.iter().filter(|call| call.channel == name) {
            call.cancel().await;
        }
        self.channels.lock().unwrap().remove(&name);
        Ok(json!({}))
    }

    async fn run(&self, args: &Value) -> Answer {
        match args["op"].as_str().unwrap_or_default() {
            "connect" => return self.connect(args),
            "unary" => return self.unary(args).await,
            "open" => return self.open(args),
            "headers" => self.call(args)?.headers().await,
            "read" => return Ok(self.call(args)?.read().await),
            "write" => return self.write(args),
            "half_close" => drop(self.call(args)?.outgoing.lock().unwrap().take()),
            "cancel" => self.call(args)?.cancel().await,
            "close" => return self.close(args).await,
            other => return Err(format!("this driver has no {other}")),
        }
        Ok(json!({}))
    }
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
    let (commands, mut queue) = mpsc::unbounded_channel::<Value>();
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
