//! Publishing and pushing what the body of a request holds.
//!
//! Invariant: an answer of 200 means that the message is in its ring; any other, that it is not.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use busway::{Bus, Codec, Context, Deed, Error, MessageId, Topic};
use serde::Serialize;
use tokio::time::Instant;

use crate::Shared;
use crate::budget::{Place, Taken};
use crate::limits::{HISTORY, RING_BYTES_MAX, SEND_TIME};
use crate::ports::Terms;
use crate::refusal::{Refusal, json};
use crate::rights::Caller;

/// What a message says beside its payload, as the headers of its request do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    id: Option<MessageId>,
    trace: Option<busway::TraceParent>,
    state: String,
}

/// The header that names a message.
const ID: &str = "busway-id";
/// The same where it is given.
pub(crate) const ID_NAME: HeaderName = HeaderName::from_static(ID);

impl Beside {
    /// Reads the headers. What is no trace is refused, rather than lost on the way.
    pub(crate) fn of(headers: &HeaderMap, bus: &Bus) -> Result<Beside, Refusal> {
        let text = |name: &str| -> Result<Option<&str>, Refusal> {
            let text = headers.get(name).map(HeaderValue::to_str).transpose();
            text.map_err(|_| Refusal::wrong("it is no text", format!("header {name}"), "send ASCII"))
        };
        let id = match text(ID)? {
            None => None,
            Some("new") => Some(bus.next_id()?),
            Some(id) => Some(id.parse::<MessageId>().map_err(Error::from)?),
        };
        let trace = text("traceparent")?.map(str::parse::<busway::TraceParent>).transpose();
        let trace = trace.map_err(Error::from)?;
        // Without a trace it is of nothing, as its specification says.
        let state = text("tracestate")?.filter(|_| trace.is_some()).unwrap_or_default().to_owned();
        let beside = Beside { id, trace, state };
        beside.context()?;
        Ok(beside)
    }

    /// The id of the message, as a header.
    pub(crate) fn id(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.id?.to_string()).ok()
    }

    pub(crate) fn context(&self) -> Result<Context<'_>, Error> {
        let mut context = Context::default();
        if let Some(id) = self.id {
            context = context.with_id(id);
        }
        match self.trace {
            Some(trace) => Ok(context.with_trace(trace).with_state(&self.state)?),
            None => Ok(context),
        }
    }
}

/// The codec that a content type names. What the bus has no word for goes as bytes.
pub(crate) fn codec(headers: &HeaderMap) -> Codec {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Codec::Json,
        "application/msgpack" | "application/vnd.msgpack" | "application/x-msgpack" => Codec::MessagePack,
        _ => Codec::Bytes,
    }
}

/// The content type of a message.
pub(crate) fn content_type(codec: Codec) -> &'static str {
    match codec {
        Codec::Json => "application/json",
        Codec::MessagePack => "application/msgpack",
        Codec::Bytes | Codec::Typed => "application/octet-stream",
    }
}

#[derive(Debug, Serialize)]
struct Sent<'a> {
    topic: &'a str,
    source: String,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// A message that came in a request.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) topic: Topic,
    pub(crate) headers: HeaderMap,
    pub(crate) body: axum::body::Bytes,
}

/// Publishes it, or pushes it. Its place, and that of its bytes, are given back when that has been done.
pub(crate) async fn send(
    shared: &Arc<Shared>,
    caller: &Caller,
    deed: Deed,
    came: Came,
    charged: (Place, Taken),
) -> Result<Response<Body>, Refusal> {
    let Came { topic, headers, body } = came;
    shared.rights.check(caller, deed, &topic)?;
    let (beside, codec) = (Beside::of(&headers, &shared.bus)?, codec(&headers));
    let (id, header) = (beside.id.map(|id| id.to_string()), beside.id());
    let ports = &shared.ports;
    let terms = Terms { who: caller.who(), until: Instant::now() + SEND_TIME, charged };
    let (source, sent) = if deed == Deed::Push {
        let open = |bus: &Bus, topic: &Topic| bus.pusher(topic.as_str()).bytes_max(RING_BYTES_MAX).open();
        let push = move |pusher: &mut busway::Pusher, left| {
            let sent = pusher.in_context(beside.context()?).send_encoded(codec, &body, left)?;
            Ok((pusher.id(), sent))
        };
        ports.with(&ports.pushers, &topic, terms, open, push).await?
    } else {
        let open = |bus: &Bus, topic: &Topic| {
            bus.publisher_of(topic.clone()).history(HISTORY).bytes_max(RING_BYTES_MAX).open()
        };
        let publish = move |publisher: &mut busway::Publisher, left| {
            let sent = publisher.in_context(beside.context()?).send_encoded(codec, &body, left)?;
            Ok((publisher.id(), sent))
        };
        ports.with(&ports.publishers, &topic, terms, open, publish).await?
    };
    let told = Sent { topic: topic.as_str(), source: source.to_string(), sequence: sent.sequence, id };
    let mut response = json(&told);
    response.headers_mut().extend(header.map(|id| (ID_NAME, id)));
    Ok(response)
}
