//! A stream of events as a page reads it: `text/event-stream`.
//!
//! A task of its own waits for messages and writes what is there together, as much as its reader takes. It ends with its reader, with the door, and when its
//! reader may come in no more.
//!
//! Invariant: at most two pieces of [`WRITE_BYTES`], and one event, wait for a reader.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Request, Response};
use busway::{Error, Pattern};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::Shared;
use crate::account::add;
use crate::budget::Taken;
use crate::feed::{Event, Feed, Wish};
use crate::limits::{BEAT, GRACE, RESUME_MAX, WRITE_BYTES};
use crate::place::Place;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::rights::Caller;
use crate::serve::either;

/// Pieces that wait for a reader.
const PIECES: usize = 1;

/// What a request asks for.
pub(crate) fn wish(pattern: Pattern, request: &Request<Body>) -> Result<Wish, Refusal> {
    let query = Query::of(request.uri().query().unwrap_or_default())?;
    query.only(&["history", "last_event_id"])?;
    let wrong = || {
        Refusal::wrong("this is no id of an event", "Last-Event-ID", "send the id of the last event, or none")
    };
    let header = request.headers().get("last-event-id").map(HeaderValue::to_str).transpose();
    let header = header.map_err(|_| wrong())?.map(str::to_owned);
    let place = header.or_else(|| query.get("last_event_id").map(str::to_owned));
    let place = place.filter(|place| !place.is_empty()).map(|place| place.parse::<Place>()).transpose();
    let place = place.map_err(|_| wrong())?;
    let history = query.number("history", 0..=RESUME_MAX)?.unwrap_or(0);
    Ok(Wish { pattern, place, history })
}

/// Subscribes, and answers with the stream.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    caller: Caller,
    wish: Wish,
) -> Result<Response<Body>, Refusal> {
    let place = shared.budget.stream(&caller.who())?;
    let (feed, place) = Feed::open(shared, caller, wish, place).await?;
    add(&shared.accounts.streams, 1);
    let (give, pieces) = mpsc::channel(PIECES);
    tokio::spawn(run(shared.clone(), feed, give, place));
    let mut response = Response::new(Body::from_stream(Pieces(pieces)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

/// The pieces as a body.
pub(crate) struct Pieces(pub(crate) mpsc::Receiver<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(Ok))
    }
}

fn write(event: &Event, text: &mut String) {
    let Event { name, data, place } = event;
    // What a page hears without asking for a name is a message. Writing to a string cannot fail.
    let _ = match *name {
        "message" => write!(text, "id: {place}\ndata: {data}\n\n"),
        name => write!(text, "event: {name}\nid: {place}\ndata: {data}\n\n"),
    };
}

async fn run(shared: Arc<Shared>, mut feed: Feed, give: mpsc::Sender<Bytes>, _place: Taken) {
    let mut beat = interval_at(Instant::now() + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // First what ends it: a reader that always has messages hears of that too.
        let idle = either(shared.ended(), either(give.closed(), beat.tick()));
        let mut text = String::new();
        match either(idle, feed.next()).await {
            Err(Ok(event)) => write(&event, &mut text),
            Err(Err(error)) => {
                end(&error.into(), &mut text);
                let _ = either(shared.ended(), give.send(text.into())).await;
                return;
            }
            Ok(Err(Err(_))) => {
                if feed.tell_gone().await.is_err() {
                    return;
                }
                text.push_str(":\n\n");
            }
            // Its reader has gone.
            Ok(Err(Ok(()))) => return,
            Ok(Ok(())) => return last(&give).await,
        }
        while text.len() < WRITE_BYTES
            && let Ok(Some(event)) = feed.try_next()
        {
            write(&event, &mut text);
        }
        if !feed.is_welcome() {
            return;
        }
        match either(shared.ended(), give.send(text.into())).await {
            Err(Ok(())) => {}
            // What was not given comes again to who comes back.
            Ok(()) => return last(&give).await,
            Err(Err(_)) => return,
        }
    }
}

/// Tells a reader that the node ends, if it takes that in time.
async fn last(give: &mpsc::Sender<Bytes>) {
    let text = "event: end\ndata: {\"cause\":\"the node ends\"}\n\n";
    let _ = timeout(GRACE, give.send(Bytes::from_static(text.as_bytes()))).await;
}

fn end(error: &Error, text: &mut String) {
    let data = serde_json::json!({ "code": error.code().to_string(), "cause": error.cause() });
    let _ = write!(text, "event: end\ndata: {data}\n\n");
}
