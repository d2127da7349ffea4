//! Moving an artifact between a connection and the store of the node, a part at a time.
//!
//! One that is put is read by a thread of its own, which writes it down as it comes; one that is given is read part by part by threads that never wait for what is not here.
//! Who is too slow is cut off, and who may have it no more too.
//!
//! Invariant: of an artifact on its way no more than [`TRANSFER_BYTES`] are in memory.
//!
//! [`TRANSFER_BYTES`]: crate::limits::TRANSFER_BYTES

use std::future::poll_fn;
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use busway::artifacts::{Advert, Event, Reader};
use busway::{Code, Deed, Error, Topic};
use futures_core::Stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Shared;
use crate::account::add;
use crate::budget::{Transfer, Who};
use crate::limits::{BODY_TIME, COME, PART_BYTES, TRANSFER_BYTES_PER_S_MIN, TRANSFER_GRACE};
use crate::ports;
use crate::refusal::{Cause, Refusal};
use crate::rights::Caller;
use crate::serve::either;

/// Parts that wait for the thread that writes them down: a socket gives some 16 KiB at a time.
const PARTS: usize = 4;

/// When one that has begun then, and of which so much has moved, must have moved on. It is asked all along: who stops early does not have the time of all the rest.
fn due(began: Instant, moved: u64) -> Instant {
    began + TRANSFER_GRACE + Duration::from_secs(moved / TRANSFER_BYTES_PER_S_MIN)
}

/// A body as who writes it down reads it.
#[derive(Debug)]
pub(crate) struct Pipe {
    parts: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.rest = part,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buf.len());
        buf[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// Puts what comes: `open` reads it, on a thread of its own.
pub(crate) async fn take<T: Send + 'static>(
    shared: &Shared,
    body: Body,
    place: Transfer,
    open: impl FnOnce(Pipe) -> Result<T, Error> + Send + 'static,
) -> Result<T, Refusal> {
    let (give, parts) = mpsc::channel(PARTS);
    let written = tokio::spawn(ports::on_a_thread(move || {
        let offer = open(Pipe { parts, rest: Bytes::new() });
        // The thread is free from here on, and not when its caller has gone.
        drop(place);
        offer
    }));
    let came = read(shared, body, &give).await;
    drop(give);
    let offer = written.await.unwrap_or_else(|_| Err(Error::new(Code::Closed, "the door is closing")));
    match (came, offer) {
        (Err(refusal), _) => Err(refusal),
        (Ok(()), Ok(offer)) => Ok(offer),
        (Ok(()), Err(error)) => Err(match error.code() {
            Code::Full | Code::StoreUnusable => Refusal::no_store(error),
            _ => Refusal::from(error).closing(),
        }),
    }
}

/// Reads a body to its end, as fast as it is written down. Who writes it down may need no more of it, having failed.
async fn read(shared: &Shared, body: Body, give: &mpsc::Sender<Bytes>) -> Result<(), Refusal> {
    let slow = |_| {
        let error = Error::new(Code::BadRequest, "the body comes too slowly").at("the body").remedy(format!(
            "send at least {TRANSFER_BYTES_PER_S_MIN} bytes a second, and never nothing for long"
        ));
        Refusal::new(StatusCode::REQUEST_TIMEOUT, Cause::Body, error).closing()
    };
    let (began, mut came) = (Instant::now(), 0);
    let mut stream = body.into_data_stream();
    loop {
        let next = poll_fn(|context| Pin::new(&mut stream).poll_next(context));
        let until = due(began, came).min(Instant::now() + BODY_TIME);
        // It may be refused before all of it, or any, has come.
        let next = either(next, give.closed());
        let part = match timeout_at(until, next).await.map_err(slow)? {
            Ok(Some(part)) => part,
            Ok(None) | Err(()) => return Ok(()),
        };
        let part =
            part.map_err(|_| Refusal::wrong("the body breaks off", "the body", "send it whole").closing())?;
        came += part.len() as u64;
        add(&shared.accounts.artifact_bytes_in, part.len() as u64);
        if give.send(part).await.is_err() {
            return Ok(());
        }
    }
}

/// An artifact that is being given, and what keeps it coming.
struct Source {
    reader: Reader,
    _subscriber: busway::artifacts::Subscriber,
}

/// The part of an artifact as a body, as soon as it begins to be here.
pub(crate) async fn give(
    shared: &Arc<Shared>,
    caller: Caller,
    advert: Advert,
    (from, count): (u64, u64),
    time: Duration,
    place: Transfer,
) -> Result<Body, Refusal> {
    let topic = Topic::new(advert.topic()).map_err(Error::from)?;
    let (mut source, place) = begin(shared, (&caller.who(), &advert), time, place).await?;
    source.reader.seek(SeekFrom::Start(from)).map_err(|error| broken(&error))?;
    let (give, parts) = mpsc::channel(1);
    tokio::spawn(pump(shared.clone(), source, count, give, (caller, topic), place));
    Ok(Body::from_stream(Parts(parts)))
}

/// Subscribes to this one, and waits until it begins to come.
async fn begin(
    shared: &Shared,
    (who, advert): (&Who, &Advert),
    time: Duration,
    place: Transfer,
) -> Result<(Source, Transfer), Refusal> {
    let (bus, wanted) = (shared.bus.clone(), advert.clone());
    let until = Instant::now() + time;
    let (mut subscriber, place) = ports::waiting(shared, who, move || {
        let artifacts = bus.artifacts(wanted.topic())?;
        Ok((artifacts.subscriber().only(wanted.id()).as_it_arrives().open()?, place))
    })
    .await?;
    loop {
        // It waits for nothing: it may be asked here.
        match subscriber.recv_timeout(Duration::ZERO)? {
            Some(Event::Received(artifact)) => {
                let reader = artifact.reader().patience(Duration::ZERO);
                return Ok((Source { reader, _subscriber: subscriber }, place));
            }
            Some(Event::Arriving(arriving)) => {
                let reader = arriving.reader(Duration::ZERO);
                return Ok((Source { reader, _subscriber: subscriber }, place));
            }
            Some(_) => {}
            None if Instant::now() >= until => {
                let error = Error::new(Code::TimedOut, format!("it has not begun to come after {time:?}"))
                    .at(format!("artifact {}", advert.id()))
                    .remedy("ask again, with a longer timeout, or see who is linked: busway peers");
                return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, Cause::Bus, error));
            }
            None => sleep(COME).await,
        }
    }
}

fn broken(error: &io::Error) -> Refusal {
    let error = Error::new(Code::BytesLost, format!("it cannot be read: {error}")).at("the artifact");
    Refusal::from(error.remedy("ask again"))
}

/// Reads so many bytes, and gives each part when it is here. Where it cannot go on it breaks off, which its reader sees by the length.
async fn pump(
    shared: Arc<Shared>,
    mut source: Source,
    count: u64,
    give: mpsc::Sender<io::Result<Bytes>>,
    (caller, topic): (Caller, Topic),
    _place: Transfer,
) {
    let (who, began, mut left) = (caller.who(), Instant::now(), count);
    let mut stands_until = Instant::now() + TRANSFER_GRACE;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(PART_BYTES);
        let read = ports::waiting(&shared, &who, move || {
            let mut part = vec![0; most];
            let read = source.reader.read(&mut part).map(|count| {
                part.truncate(count);
                Bytes::from(part)
            });
            Ok((source, read))
        });
        let Ok((back, read)) = read.await else { return };
        source = back;
        let may = shared.rights.knows(&caller) && shared.rights.allow(&caller, Deed::Subscribe, &topic);
        let (now, until) = (Instant::now(), due(began, count - left));
        let failed = |what: &str| Err(io::Error::other(what));
        let part = match read {
            _ if !may => failed("its reader may have it no more"),
            _ if now >= until || now >= stands_until => failed("it comes, or is taken, too slowly"),
            Ok(part) if part.is_empty() => failed("it has fewer bytes than were offered"),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                // What is not here may come.
                match either(sleep(COME), either(give.closed(), shared.ended())).await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
            read => read,
        };
        let (size, broken) = (part.as_ref().map_or(0, |part| part.len() as u64), part.is_err());
        let sent = timeout_at(until, either(give.send(part), shared.ended())).await;
        if broken || !matches!(sent, Ok(Ok(Ok(())))) {
            return;
        }
        left -= size;
        stands_until = Instant::now() + TRANSFER_GRACE;
        add(&shared.accounts.artifact_bytes_out, size);
    }
}

/// The parts as a body.
struct Parts(mpsc::Receiver<io::Result<Bytes>>);

impl Stream for Parts {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
