//! Requests: the body is asked, and the reply is the answer.
//!
//! Sending may wait for the bus, and does so on a thread for that; waiting for replies takes no thread. Of one topic all requests share a requester, and whoever of
//! them is polled receives for all. An answer is the first reply, or all of them as a stream of events where the request accepts one.
//!
//! Invariant: a caller that has gone waits for nothing: its request is withdrawn.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busway::{Bus, Code, Deed, Error, Pending, Reply, RequestError, Requester, Topic};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use crate::Shared;
use crate::budget::{Place, Taken};
use crate::feed::as_text;
use crate::limits::{ASK_TIME_DEFAULT, ASK_TIME_MAX, GRACE, RING_BYTES_MAX, SEND_TIME};
use crate::ports::Terms;
use crate::query::Query;
use crate::refusal::{Cause, Refusal};
use crate::rights::Caller;
use crate::send::{Beside, Came, ID_NAME};
use crate::serve::either;
use crate::sse::Pieces;

/// At most so long nobody looks, whatever comes.
const LOOK: Duration = Duration::from_millis(100);

/// The requester of a topic, and who waits for its replies.
#[derive(Debug)]
pub(crate) struct Desk {
    requester: Requester,
    news: Arc<News>,
}

/// Tells all who wait that there may be something.
#[derive(Debug, Default)]
struct News(Notify);

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.0.notify_waiters();
    }
}

impl Desk {
    fn open(bus: &Bus, topic: &Topic) -> Result<Arc<Desk>, Error> {
        // Nobody waits here for who is to answer: the caller is told, and asks again.
        let requester = bus.requester(topic.as_str()).late_join(Duration::ZERO).bytes_max(RING_BYTES_MAX);
        Ok(Arc::new(Desk { requester: requester.open()?, news: Arc::default() }))
    }

    /// Waits for the next reply to this request; `None` after the last.
    async fn next(&self, pending: &mut Pending, most_bytes: u64) -> Result<Option<Said>, Error> {
        let waker = Waker::from(self.news.clone());
        let mut ready = Vec::new();
        loop {
            let mut news = pin!(self.news.0.notified());
            // From here on it is told, also what comes before it waits.
            news.as_mut().enable();
            let most = self.requester.poll_watched(&mut Context::from_waker(&waker), &mut ready)?;
            if ready.drain(..).any(|id| id != pending.id()) {
                self.news.0.notify_waiters();
            }
            if let Some(reply) = pending.take()? {
                return Said::of(&reply, most_bytes).map(Some);
            }
            if pending.is_over() {
                return Ok(None);
            }
            let _ = tokio::time::timeout(most.unwrap_or(LOOK).min(LOOK), news).await;
        }
    }
}

/// A reply, copied: what it lay in is given back at once.
#[derive(Debug)]
struct Said {
    payload: Vec<u8>,
    trace: Option<String>,
    index: u32,
    last: bool,
}

impl Said {
    fn of(reply: &Reply, most: u64) -> Result<Said, Error> {
        if reply.payload().len() as u64 > most {
            let cause = format!("a reply has {} bytes, and over HTTP at most {most}", reply.payload().len());
            return Err(Error::new(Code::TooLarge, cause)
                .at("the reply")
                .remedy("ask for less, or allow more: http.body_bytes_max"));
        }
        let trace = reply.trace().map(|trace| trace.to_string());
        Ok(Said { payload: reply.payload().to_vec(), trace, index: reply.index(), last: reply.is_last() })
    }
}

#[derive(Debug, Serialize)]
struct Told<'a> {
    index: u32,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// How long replies are waited for.
pub(crate) fn time(query: &str) -> Result<Duration, Refusal> {
    let query = Query::of(query)?;
    query.only(&["timeout"])?;
    Ok(query.duration("timeout", ASK_TIME_MAX)?.unwrap_or(ASK_TIME_DEFAULT))
}

/// Asks, and answers with what was replied.
pub(crate) async fn ask(
    shared: &Arc<Shared>,
    caller: &Caller,
    came: Came,
    time: Duration,
    (place, bytes): (Place, Taken),
) -> Result<Response<Body>, Refusal> {
    let Came { topic, headers, body } = came;
    shared.rights.check(caller, Deed::Request, &topic)?;
    let beside = Beside::of(&headers, &shared.bus)?;
    let id = beside.id().map(|id| (ID_NAME, id));
    let send = move |desk: &mut Arc<Desk>, left: Duration| {
        let context = beside.context()?;
        let sent = desk.requester.in_context(context).send_within(&body, time, left.min(time))?;
        let pending = sent.ok_or(RequestError::TooMany)?;
        pending.watch();
        // Its place is its own until it is answered; its body is not here any more.
        Ok((desk.clone(), pending, place))
    };
    let ports = &shared.ports;
    let terms = Terms { who: caller.who(), until: Instant::now() + SEND_TIME, charged: bytes };
    let (desk, mut pending, place) =
        ports.with(&ports.requesters, &topic, terms, Desk::open, send).await.map_err(refused)?;
    if streams(&headers) {
        let (give, pieces) = mpsc::channel(1);
        let until = Instant::now() + time + GRACE;
        let asks = (caller.clone(), topic);
        tokio::spawn(stream(shared.clone(), (desk, pending), give, asks, until, place));
        let mut response = Response::new(Body::from_stream(Pieces(pieces)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.headers_mut().extend(id);
        return Ok(response);
    }
    let said = desk.next(&mut pending, shared.body_bytes_max).await;
    let said = said.and_then(|said| said.ok_or_else(|| RequestError::Unanswered.into())).map_err(refused)?;
    let mut response = Response::new(Body::from(said.payload));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().extend(id);
    if let Some(trace) = said.trace.and_then(|trace| HeaderValue::try_from(trace).ok()) {
        response.headers_mut().insert("traceparent", trace);
    }
    Ok(response)
}

fn streams(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/event-stream")
}

/// What is up while it is waited for is a gateway's time-out.
fn refused(error: Error) -> Refusal {
    match error.code() {
        Code::TimedOut => Refusal::new(StatusCode::GATEWAY_TIMEOUT, Cause::Bus, error),
        Code::TooLarge => Refusal::new(StatusCode::BAD_GATEWAY, Cause::Bus, error),
        _ => error.into(),
    }
}

/// Writes replies as they come, and how it ended. All of it has a time: who takes them slowly keeps its place no longer than who waits for them.
async fn stream(
    shared: Arc<Shared>,
    (desk, mut pending): (Arc<Desk>, Pending),
    give: mpsc::Sender<Bytes>,
    (caller, topic): (Caller, Topic),
    until: Instant,
    _place: Place,
) {
    let replies = async {
        loop {
            let (text, over) = match desk.next(&mut pending, shared.body_bytes_max).await {
                Ok(Some(said)) => (event(&said), said.last),
                Ok(None) => (String::new(), true),
                Err(error) => return drop(give.send(failed(&error).into()).await),
            };
            // What was taken away meanwhile holds.
            if !shared.rights.knows(&caller) || !shared.rights.allow(&caller, Deed::Request, &topic) {
                return;
            }
            let text = if over { text + "event: end\ndata: {}\n\n" } else { text };
            if give.send(text.into()).await.is_err() || over {
                return;
            }
        }
    };
    let gone = either(shared.ended(), give.closed());
    if let Ok(Ok(Ok(()))) = timeout_at(until, either(gone, replies)).await {
        let error = Error::new(Code::Closed, "the node ends");
        let _ = timeout(GRACE, give.send(failed(&error).into())).await;
    }
}

fn event(said: &Said) -> String {
    let body = as_text(&said.payload);
    let body_base64 = body.is_none().then(|| STANDARD.encode(&said.payload));
    let told = Told { index: said.index, size: said.payload.len(), body, body_base64 };
    format!("event: reply\ndata: {}\n\n", serde_json::to_string(&told).unwrap_or_default())
}

fn failed(error: &Error) -> String {
    let told = serde_json::json!({ "code": error.code().to_string(), "cause": error.cause() });
    format!("event: error\ndata: {told}\n\n")
}
