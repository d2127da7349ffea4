//! NATS: a client that publishes and a client that subscribes, with its server between them, over TCP of loopback.
//!
//! Every setting and the page that recommends it stand in `settings/nats.md`. The server is a process of its own, as
//! it always is; it may run on both processors.

use async_nats::{Client, ConnectOptions, Subscriber};
use busway_bench::cell::requests::{Answers, Asker, answer};
use busway_bench::clock::pause;
use busway_bench::floor::tcp::{port_of, tell_port};
use busway_bench::medium::{
    Channel, END, Letter, Medium, Quality, Receiver, Scene, Sender, from_bytes, to_bytes,
};
use busway_bench::{Failure, place};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Messages that may wait for the receiving thread: with fewer the client drops what its server sent.
const SUBSCRIPTION: usize = 4 << 20;

/// One process: a client, its runtime, and on the first side the server.
pub(crate) struct Nats {
    client: Client,
    size: usize,
    runtime: Rc<Runtime>,
    // Ends last.
    _server: Option<Server>,
}

/// The server, which ends with us.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that publishes.
pub(crate) struct NatsSender {
    client: Client,
    size: usize,
    runtime: Rc<Runtime>,
}

/// A client that subscribes.
pub(crate) struct NatsReceiver {
    subscriber: Option<Subscriber>,
    runtime: Rc<Runtime>,
}

impl Drop for NatsReceiver {
    fn drop(&mut self) {
        // A subscription tells its client of its end by a task.
        let _entered = self.runtime.enter();
        drop(self.subscriber.take());
    }
}

fn subject(channel: Channel) -> &'static str {
    match channel {
        Channel::There => "bench.there",
        Channel::Back => "bench.back",
    }
}

fn server(scene: &Scene<'_>) -> Result<(Server, u16), Failure> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    // A child runs where its parent does; this one is to run where it likes.
    place::unpin(&scene.plan.cpus)?;
    let child = Command::new("nats-server")
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|cause| format!("nats-server: {cause} (see settings/nats.md)"));
    place::pin(scene.plan.cpus[0])?;
    Ok((Server(child?), port))
}

impl Medium for Nats {
    type Sender = NatsSender;
    type Receiver = NatsReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        let first = scene.owner == std::process::id();
        let (server, port) = if first {
            let (server, port) = server(scene)?;
            (Some(server), port)
        } else {
            (None, port_of(scene.stage)?)
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = format!("127.0.0.1:{port}");
        let mut tries = 0;
        let client = loop {
            let options = ConnectOptions::new().subscription_capacity(SUBSCRIPTION);
            match runtime.block_on(options.connect(&address)) {
                Ok(client) => break client,
                Err(cause) if tries > 100 => return Err(cause.into()),
                Err(_) => pause(Duration::from_millis(50)),
            }
            tries += 1;
        };
        if first {
            tell_port(scene.stage, port);
        }
        let size = usize::try_from(scene.plan.size)?;
        Ok(Self { client, size, runtime: Rc::new(runtime), _server: server })
    }

    fn sender(&self, _: Channel, _: Quality) -> Result<NatsSender, Failure> {
        Ok(NatsSender { client: self.client.clone(), size: self.size, runtime: self.runtime.clone() })
    }

    fn receiver(&self, channel: Channel, _: Quality) -> Result<NatsReceiver, Failure> {
        let subscriber = self.runtime.block_on(async {
            let subscriber = self.client.subscribe(subject(channel)).await?;
            // The server knows of it when it has answered.
            self.client.flush().await?;
            Ok::<_, Failure>(subscriber)
        })?;
        Ok(NatsReceiver { subscriber: Some(subscriber), runtime: self.runtime.clone() })
    }
}

impl Sender for NatsSender {
    fn settle(&mut self, _: usize) -> Result<(), Failure> {
        Ok(())
    }

    fn send(&mut self, _: &Letter) -> Result<(), Failure> {
        Err("NATS is measured by payloads".into())
    }

    #[inline]
    fn send_filled(&mut self, fill: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        let mut payload = vec![0; self.size];
        fill(&mut payload);
        let publish = self.client.publish(subject(Channel::There), payload.into());
        Ok(self.runtime.block_on(publish)?)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.runtime.block_on(self.client.flush())?)
    }
}

impl Receiver for NatsReceiver {
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        Err("NATS is measured by payloads".into())
    }

    #[inline]
    fn read_sized(&mut self, timeout: Duration, look: impl FnOnce(&[u8])) -> Result<bool, Failure> {
        let subscriber = self.subscriber.as_mut().ok_or("it has ended")?;
        let message = match subscriber.next().now_or_never() {
            Some(message) => message,
            None => {
                let waited = async { tokio::time::timeout(timeout, subscriber.next()).await };
                match self.runtime.block_on(waited) {
                    Ok(message) => message,
                    Err(_) => return Ok(false),
                }
            }
        };
        look(&message.ok_or("the subscription has ended")?.payload);
        Ok(true)
    }
}

/// What a service listens to.
const SERVICE: &str = "bench.service";

/// A client that asks.
pub(crate) struct NatsAsker {
    asked: FuturesUnordered<BoxFuture<'static, Result<Letter, Failure>>>,
    client: Nats,
}

impl Answers for Nats {
    type Asker = NatsAsker;

    fn asker(scene: &Scene<'_>, _: usize) -> Result<NatsAsker, Failure> {
        Ok(NatsAsker { asked: FuturesUnordered::new(), client: Self::open(scene)? })
    }

    fn serve(scene: &Scene<'_>, ready: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let nats = Self::open(scene)?;
        let Self { client, runtime, .. } = &nats;
        // A subscription tells its client of its end by a task.
        let _entered = runtime.enter();
        let mut subscriber = runtime.block_on(async {
            let subscriber = client.subscribe(SERVICE).await?;
            client.flush().await?;
            Ok::<_, Failure>(subscriber)
        })?;
        ready()?;
        runtime.block_on(async {
            while let Some(message) = subscriber.next().await {
                let letter = from_bytes(&message.payload)?;
                let to = message.reply.ok_or("a request without a place for its reply")?;
                client.publish(to, to_bytes(&answer(&letter)).to_vec().into()).await?;
                if letter[0] == END {
                    client.flush().await?;
                    return Ok(());
                }
            }
            Err("the subscription has ended".into())
        })
    }
}

impl Asker for NatsAsker {
    fn settle(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn ask(&mut self, letter: &Letter) -> Result<(), Failure> {
        let (client, payload) = (self.client.client.clone(), to_bytes(letter).to_vec());
        self.asked.push(Box::pin(async move {
            let message = client.request(SERVICE, payload.into()).await?;
            from_bytes(&message.payload)
        }));
        Ok(())
    }

    fn reply(&mut self) -> Result<Letter, Failure> {
        let next = self.client.runtime.clone().block_on(self.asked.next());
        next.ok_or("nothing was asked")?
    }
}
