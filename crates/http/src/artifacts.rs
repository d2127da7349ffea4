//! Artifacts: which there are, putting one, getting one, and taking one back.
//!
//! What may be published on a topic may be put there, and what may be subscribed to may be got. A name in a path is that of an artifact, 64 digits, or that of a topic. Who may not
//! subscribe to a topic is told the same as where nothing is. Moving the bytes is `transfer`'s.
//!
//! Invariant: nothing of an artifact is told but to who may subscribe to a topic on which it is offered.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busway::artifacts::{ArtifactId, Listed, OfferBuilder};
use busway::{Bus, Code, Deed, Error, Pattern, Topic};
use serde::Serialize;

use crate::budget::Way;
use crate::limits::{ASK_TIME_DEFAULT, ASK_TIME_MAX, ATTRIBUTE_BYTES_MAX, LISTED_MAX};
use crate::query::Query;
use crate::range::{self, Part};
use crate::refusal::{Cause, Refusal, json};
use crate::rights::Caller;
use crate::{Shared, ports, transfer};

/// The header that says on which topic an artifact is offered.
const TOPIC: &str = "busway-topic";

/// Offers that are looked at at a time.
const PAGE: usize = 1 << 10;

/// What a path names.
#[derive(Clone, Debug)]
enum Named {
    Id(ArtifactId),
    Topic(Topic),
}

impl Named {
    fn of(name: &str) -> Result<Named, Refusal> {
        match name.parse() {
            Ok(id) => Ok(Named::Id(id)),
            Err(_) => Ok(Named::Topic(Topic::new(name).map_err(Error::from)?)),
        }
    }

    fn pattern(&self) -> &str {
        match self {
            Named::Id(_) => ">",
            Named::Topic(topic) => topic.as_str(),
        }
    }

    fn is(&self, topic: &Topic, id: ArtifactId) -> bool {
        match self {
            Named::Id(wanted) => *wanted == id,
            Named::Topic(wanted) => wanted == topic,
        }
    }
}

#[derive(Debug, Serialize)]
struct Put<'a> {
    topic: &'a str,
    id: String,
    size: u64,
}

#[derive(Debug, Serialize)]
struct Withdrawn {
    withdrawn: usize,
}

#[derive(Debug, Serialize)]
struct Shown {
    artifacts: Vec<Entry>,
    more: bool,
}

#[derive(Debug, Serialize)]
struct Entry {
    topic: String,
    id: String,
    size: u64,
    node: u8,
    here: bool,
    own: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute_base64: Option<String>,
}

impl Entry {
    fn of(listed: &Listed) -> Entry {
        let (advert, here, own) = (&listed.advert, listed.here, listed.own);
        let said = Some(advert.attribute()).filter(|said| !said.is_empty());
        let attribute = said.and_then(|said| std::str::from_utf8(said).ok()).map(str::to_owned);
        let attribute_base64 = said.filter(|_| attribute.is_none()).map(|said| STANDARD.encode(said));
        let (topic, id, size, node) =
            (advert.topic().to_owned(), advert.id().to_string(), advert.size(), advert.node());
        Entry { topic, id, size, node, here, own, attribute, attribute_base64 }
    }
}

/// Those that the caller may get, as far as `wanted` says so, at most so many.
async fn seen(
    shared: &Arc<Shared>,
    caller: &Caller,
    pattern: String,
    most: usize,
    wanted: impl Fn(&Topic, ArtifactId) -> bool + Send + 'static,
    charged: impl Send + 'static,
) -> Result<Vec<Listed>, Error> {
    let (shared, caller) = (shared.clone(), caller.clone());
    ports::waiting(&shared.clone(), &caller.who(), move || {
        let _charged = charged;
        let artifacts = shared.bus.artifacts(&pattern)?;
        let may = |listed: &Listed| {
            let topic = Topic::new(listed.advert.topic());
            topic.is_ok_and(|topic| {
                wanted(&topic, listed.advert.id()) && shared.rights.allow(&caller, Deed::Subscribe, &topic)
            })
        };
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = artifacts.list_after(after.as_ref(), PAGE)?;
            let last = page.len() < PAGE;
            after = page.last().cloned();
            seen.extend(page.into_iter().filter(may));
            if last || seen.len() >= most {
                seen.truncate(most);
                return Ok(seen);
            }
        }
    })
    .await
}

/// `GET /v1/artifacts`.
pub(crate) async fn list(
    shared: &Arc<Shared>,
    caller: Caller,
    query: &str,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(query)?;
    query.only(&["pattern"])?;
    let pattern = query.get("pattern").unwrap_or(">");
    let pattern = Pattern::parse(pattern).map_err(Error::bad_pattern)?;
    shared.rights.check_pattern(&caller, &pattern)?;
    let turn = shared.budget.question(&caller.who()).await?;
    // One more, to know whether there are more.
    let pattern = pattern.as_str().to_owned();
    let mut seen = seen(shared, &caller, pattern, LISTED_MAX + 1, |_, _| true, turn).await?;
    let more = seen.len() > LISTED_MAX;
    seen.truncate(LISTED_MAX);
    Ok(json(&Shown { artifacts: seen.iter().map(Entry::of).collect(), more }))
}

/// `PUT /v1/artifacts/{name}`.
pub(crate) async fn put(
    shared: &Arc<Shared>,
    caller: Caller,
    topic: Topic,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    shared.rights.check(&caller, Deed::Publish, &topic)?;
    let (head, body) = request.into_parts();
    let query = Query::of(head.uri.query().unwrap_or_default())?;
    query.only(&["attribute"])?;
    let attribute = query.get("attribute").unwrap_or_default().to_owned();
    if attribute.len() > ATTRIBUTE_BYTES_MAX {
        let cause = format!("an attribute has at most {ATTRIBUTE_BYTES_MAX} bytes");
        return Err(Refusal::wrong(cause, "the query", "say less of it").closing());
    }
    let size = length(&head.headers)?;
    let most = shared.artifact_bytes_max;
    if size > most {
        let error = Error::new(Code::TooLarge, format!("an artifact that is put has at most {most} bytes"))
            .at("the body")
            .remedy("put it in parts, or allow more: http.artifact_bytes_max");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Cause::Body, error).closing());
    }
    let transfer = shared.budget.transfer(&caller.who(), Way::In, size)?;
    let place = shared.shelf.place(size)?;
    let (bus, on) = (shared.bus.clone(), topic.clone());
    // What it takes on the shelf is its own as long as it is written down, also where its caller has gone.
    let offer = move |reader| Ok((offering(&bus, &on, reader, size, &attribute)?.open()?, place));
    let (offer, place) = transfer::take(shared, body, transfer, offer).await?;
    let id = offer.id();
    // What was taken away while it came holds.
    shared.rights.check(&caller, Deed::Publish, &topic)?;
    shared.shelf.keep(&topic, offer, place);
    let mut response = json(&Put { topic: topic.as_str(), id: id.to_string(), size });
    name(&mut response, id);
    Ok(response)
}

fn offering(
    bus: &Bus,
    topic: &Topic,
    reader: transfer::Pipe,
    size: u64,
    attribute: &str,
) -> Result<OfferBuilder, Error> {
    Ok(bus.artifacts(topic.as_str())?.offer_sized(reader, size).attribute(attribute.as_bytes()))
}

/// The length that a body says it has: room is taken for it before it comes.
fn length(headers: &HeaderMap) -> Result<u64, Refusal> {
    let said = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    said.ok_or_else(|| {
        let error = Error::new(Code::BadRequest, "it is not said how large the artifact is")
            .at("header Content-Length")
            .remedy("send its length, rather than chunks");
        Refusal::new(StatusCode::LENGTH_REQUIRED, Cause::Wrong, error).closing()
    })
}

fn name(response: &mut Response<Body>, id: ArtifactId) {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{id}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
}

/// `DELETE /v1/artifacts/{name}`.
pub(crate) fn withdraw(shared: &Shared, caller: &Caller, name: &str) -> Result<Response<Body>, Refusal> {
    let named = Named::of(name)?;
    if let Named::Topic(topic) = &named {
        shared.rights.check(caller, Deed::Publish, topic)?;
    }
    let may = |topic: &Topic| shared.rights.allow(caller, Deed::Publish, topic);
    match shared.shelf.withdraw(|topic, id| named.is(topic, id) && may(topic)) {
        0 => Err(nothing()),
        withdrawn => Ok(json(&Withdrawn { withdrawn })),
    }
}

fn nothing() -> Refusal {
    Refusal::not_found("no artifact of this name is here", "the path", "see what there is: GET /v1/artifacts")
}

/// The artifact that a path names, if the caller may have it.
async fn find(shared: &Arc<Shared>, caller: &Caller, name: &str) -> Result<Listed, Refusal> {
    let named = Named::of(name)?;
    if let Named::Topic(topic) = &named {
        shared.rights.check(caller, Deed::Subscribe, topic)?;
    }
    let (pattern, by_topic) = (named.pattern().to_owned(), matches!(named, Named::Topic(_)));
    let found = seen(shared, caller, pattern, PAGE, move |topic, id| named.is(topic, id), ()).await?;
    let first = found.first().ok_or_else(nothing)?;
    let several = by_topic && found.iter().any(|other| other.advert.id() != first.advert.id());
    if several {
        let error = Error::new(Code::BadRequest, "several artifacts are offered on this topic")
            .at("the path")
            .remedy("ask for one by its id: GET /v1/artifacts?pattern=TOPIC lists them");
        return Err(Refusal::new(StatusCode::CONFLICT, Cause::Wrong, error));
    }
    // One that is here needs nobody else.
    Ok(found.iter().find(|listed| listed.here).unwrap_or(first).clone())
}

/// `GET` and `HEAD /v1/artifacts/{name}`.
pub(crate) async fn get(
    shared: &Arc<Shared>,
    caller: Caller,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(request.uri().query().unwrap_or_default())?;
    query.only(&["timeout"])?;
    let time = query.duration("timeout", ASK_TIME_MAX)?.unwrap_or(ASK_TIME_DEFAULT);
    let Listed { advert, here, .. } = find(shared, &caller, name).await?;
    let (id, size, tag) = (advert.id(), advert.size(), format!("\"{}\"", advert.id()));
    let mut response = Response::new(Body::empty());
    self::name(&mut response, id);
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(topic) = HeaderValue::try_from(advert.topic()) {
        headers.insert(TOPIC, topic);
    }
    if range::has(request.headers(), &tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let whole = request.method() == Method::HEAD;
    let part = if whole { Part::All } else { range::part(request.headers(), size, &tag) };
    let (from, count) = match part {
        Part::All => (0, size),
        Part::Of { from, count } => (from, count),
        Part::Beyond => return Ok(beyond(size)),
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, count.into());
    if part != Part::All {
        let range = format!("bytes {from}-{}/{size}", from + count - 1);
        headers.extend(HeaderValue::try_from(range).ok().map(|range| (CONTENT_RANGE, range)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if !whole {
        // What is here is waited for by nobody, but takes a moment to be handed out.
        let time = if here { time.max(ASK_TIME_DEFAULT) } else { time };
        let place = shared.budget.transfer(&caller.who(), Way::Out, count)?;
        *response.body_mut() = transfer::give(shared, caller, advert, (from, count), time, place).await?;
    }
    Ok(response)
}

/// There is no such part.
fn beyond(size: u64) -> Response<Body> {
    let error = Error::new(Code::BadRequest, format!("the artifact has {size} bytes"))
        .at("header Range")
        .remedy("ask for bytes that it has");
    let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Cause::Wrong, error);
    let mut response = refusal.response();
    let range = HeaderValue::try_from(format!("bytes */{size}")).ok();
    response.headers_mut().extend(range.map(|range| (CONTENT_RANGE, range)));
    response
}
