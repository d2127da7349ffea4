//! The table of routes, and what each is given: a caller who may come in, a topic that is one, a body that fits.
//!
//! The router, the OpenAPI document and the tests are made of this table.
//!
//! Invariant: what is no route of the table is 404, and its other methods are 405.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{Request, Response, StatusCode};
use axum::routing::{MethodRouter, delete, get, head, post, put};
use busway::{Code, Deed, Error, Pattern, Topic};

use crate::budget::Taken;
use crate::limits::BODY_BYTES_AHEAD;
use crate::refusal::{Cause, Refusal, json};
use crate::rights::Caller;
use crate::send::{Came, send};
use crate::{Shared, account, artifacts, ask, body, openapi, ports, socket, sse, topics};

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// `get`, `head`, `post`, `put` or `delete`.
    pub method: &'static str,
    /// The path; a part in braces is a name.
    pub path: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What may stand behind the question mark.
    pub query: &'static [(&'static str, &'static str)],
    /// Whether it takes a body.
    pub body: bool,
    /// The content type of its answer.
    pub answer: &'static str,
    /// The schema of its answer, where that is JSON.
    pub schema: Option<&'static str>,
    /// Whether it needs no token.
    pub open: bool,
}

const ROUTE: Route = Route {
    method: "get",
    path: "",
    summary: "",
    query: &[],
    body: false,
    answer: "application/json",
    schema: None,
    open: false,
};

/// An artifact by its id or its topic.
pub(crate) const NAMED: &str = "/v1/artifacts/{name}";

/// All of them.
pub const ROUTES: &[Route] = &[
    Route {
        method: "post",
        path: "/v1/publish/{topic}",
        summary: "Publish the body to all who subscribe to the topic",
        body: true,
        schema: Some("Sent"),
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/push/{topic}",
        summary: "Give the body as work: to one puller of each group",
        body: true,
        schema: Some("Sent"),
        ..ROUTE
    },
    Route {
        method: "post",
        path: "/v1/request/{topic}",
        summary: "Ask whoever answers on the topic; the answer is the first reply, or all as events where text/event-stream is accepted",
        query: &[("timeout", "How long the replies are waited for: 250ms, 5s")],
        body: true,
        answer: "application/octet-stream",
        ..ROUTE
    },
    Route {
        path: "/v1/subscribe/{pattern}",
        summary: "Messages as they come: as server-sent events, or over a WebSocket where the request asks for one",
        query: &[
            ("history", "Messages from before of each publisher, if it has kept them"),
            ("last_event_id", "Where to go on, for who cannot send the header Last-Event-ID"),
        ],
        answer: "text/event-stream",
        schema: Some("Message"),
        ..ROUTE
    },
    Route {
        path: "/v1/artifacts",
        summary: "Artifacts that the caller may get",
        query: &[("pattern", "Only those on these topics")],
        schema: Some("Artifacts"),
        ..ROUTE
    },
    Route {
        path: NAMED,
        summary: "Get an artifact by its id, or the one that is offered on a topic, as it arrives: all of it, or the bytes that Range names",
        query: &[("timeout", "How long it is waited for its first byte: 250ms, 5s")],
        answer: "application/octet-stream",
        ..ROUTE
    },
    Route {
        method: "head",
        path: NAMED,
        summary: "The size and the id of an artifact, without its bytes",
        query: &[("timeout", "As for get; nothing is waited for")],
        answer: "application/octet-stream",
        ..ROUTE
    },
    Route {
        method: "put",
        path: NAMED,
        summary: "Offer the body as an artifact on this topic, as long as the node runs or until it is withdrawn",
        query: &[("attribute", "What those who may want it are told beside, at most 256 bytes")],
        body: true,
        schema: Some("Put"),
        ..ROUTE
    },
    Route {
        method: "delete",
        path: NAMED,
        summary: "Withdraw what was put over HTTP, by its id or its topic",
        schema: Some("Withdrawn"),
        ..ROUTE
    },
    Route {
        path: "/v1/topics",
        summary: "Topics that the caller may read or write",
        schema: Some("Topics"),
        ..ROUTE
    },
    Route {
        path: "/healthz",
        summary: "Whether the process answers",
        schema: Some("Health"),
        open: true,
        ..ROUTE
    },
    Route {
        path: "/readyz",
        summary: "Whether the bus can be used: 503 while it ends",
        schema: Some("Health"),
        open: true,
        ..ROUTE
    },
    Route { path: "/metrics", summary: "What is counted, for Prometheus", answer: "text/plain", ..ROUTE },
    Route {
        path: "/openapi.json",
        summary: "This description",
        open: true,
        schema: Some("Document"),
        ..ROUTE
    },
];

/// Whether this path needs no token.
pub(crate) fn is_open(path: &str) -> bool {
    ROUTES.iter().any(|route| route.open && route.path == path)
}

/// The router of the table.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    let of = |route: &Route| -> MethodRouter<Arc<Shared>> {
        match (route.path, route.method) {
            ("/v1/publish/{topic}", _) => post(publish),
            ("/v1/push/{topic}", _) => post(push),
            ("/v1/request/{topic}", _) => post(request),
            ("/v1/subscribe/{pattern}", _) => get(subscribe),
            ("/v1/artifacts", _) => get(list_artifacts),
            (NAMED, "get") => get(get_artifact),
            (NAMED, "head") => head(get_artifact),
            (NAMED, "put") => put(put_artifact),
            (NAMED, _) => delete(withdraw_artifact),
            ("/v1/topics", _) => get(list),
            ("/healthz", _) => get(async || json(&serde_json::json!({ "ok": true }))),
            ("/readyz", _) => get(ready),
            ("/metrics", _) => get(metrics),
            _ => get(async || json(&openapi::document())),
        }
    };
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, of(route));
    }
    let unknown = async || {
        let remedy = "see /openapi.json for what there is";
        Refusal::not_found("there is no such path", "the path", remedy).response()
    };
    let other = async || {
        let error = Error::new(Code::BadRequest, "the path has another method")
            .at("the method")
            .remedy("see /openapi.json for what there is");
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Cause::Wrong, error).response()
    };
    router.fallback(unknown).method_not_allowed_fallback(other).with_state(shared.clone())
}

/// A name in a path.
type Named = Result<Path<String>, PathRejection>;

/// What a handler gives: a refusal is an answer too.
fn told(result: Result<Response<Body>, Refusal>) -> Response<Body> {
    result.unwrap_or_else(|refusal| refusal.response())
}

fn name(named: Named) -> Result<String, Refusal> {
    let wrong =
        |_| Refusal::wrong("the name is not UTF-8", "the path", "encode it as UTF-8, then in percents");
    named.map(|Path(name)| name).map_err(wrong)
}

pub(crate) fn topic(named: Named) -> Result<Topic, Refusal> {
    Ok(Topic::new(&name(named)?).map_err(Error::from)?)
}

/// Who asks. The gate lets nobody pass to these routes without one.
pub(crate) fn caller(request: &Request<Body>) -> Result<Caller, Refusal> {
    let missing = || Refusal::denied("nobody asks", "the gate");
    request.extensions().get::<Caller>().cloned().ok_or_else(missing)
}

async fn publish(State(shared): State<Arc<Shared>>, named: Named, request: Request<Body>) -> Response<Body> {
    told(take_and_send(&shared, Deed::Publish, named, request).await)
}

async fn push(State(shared): State<Arc<Shared>>, named: Named, request: Request<Body>) -> Response<Body> {
    told(take_and_send(&shared, Deed::Push, named, request).await)
}

async fn take_and_send(
    shared: &Arc<Shared>,
    deed: Deed,
    named: Named,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    let (caller, topic) = (caller(&request)?, topic(named)?);
    shared.rights.check(&caller, deed, &topic)?;
    let (head, body) = request.into_parts();
    let (body, bytes) = body_of(shared, &caller, &topic, &head.headers, body).await?;
    // Only what has come whole is under way: who is slow to send holds up nobody.
    let place = shared.budget.request(&caller.who(), &topic)?;
    send(shared, &caller, deed, Came { topic, headers: head.headers, body }, (place, bytes)).await
}

async fn request(State(shared): State<Arc<Shared>>, named: Named, request: Request<Body>) -> Response<Body> {
    told(take_and_ask(&shared, named, request).await)
}

async fn take_and_ask(
    shared: &Arc<Shared>,
    named: Named,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    let (caller, topic) = (caller(&request)?, topic(named)?);
    shared.rights.check(&caller, Deed::Request, &topic)?;
    let (head, body) = request.into_parts();
    let time = ask::time(head.uri.query().unwrap_or_default())?;
    let (body, bytes) = body_of(shared, &caller, &topic, &head.headers, body).await?;
    let place = shared.budget.request(&caller.who(), &topic)?;
    ask::ask(shared, &caller, Came { topic, headers: head.headers, body }, time, (place, bytes)).await
}

async fn subscribe(
    State(shared): State<Arc<Shared>>,
    named: Named,
    request: Request<Body>,
) -> Response<Body> {
    let asked = || -> Result<_, Refusal> {
        let caller = caller(&request)?;
        let pattern = Pattern::parse(&name(named)?).map_err(Error::bad_pattern)?;
        shared.rights.check_pattern(&caller, &pattern)?;
        Ok((caller, sse::wish(pattern, &request)?))
    };
    match asked() {
        Ok((caller, wish)) if socket::is_asked(request.headers()) => {
            told(socket::open(&shared, caller, wish, request).await)
        }
        Ok((caller, wish)) => told(sse::open(&shared, caller, wish).await),
        Err(refusal) => refusal.response(),
    }
}

async fn list(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    match caller(&request) {
        Ok(caller) => told(topics::list(&shared, caller).await),
        Err(refusal) => refusal.response(),
    }
}

async fn list_artifacts(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    match caller(&request) {
        Ok(caller) => told(artifacts::list(&shared, caller, query).await),
        Err(refusal) => refusal.response(),
    }
}

async fn get_artifact(
    State(shared): State<Arc<Shared>>,
    named: Named,
    request: Request<Body>,
) -> Response<Body> {
    match caller(&request).and_then(|caller| Ok((caller, name(named)?))) {
        Ok((caller, name)) => told(artifacts::get(&shared, caller, &name, request).await),
        Err(refusal) => refusal.response(),
    }
}

async fn put_artifact(
    State(shared): State<Arc<Shared>>,
    named: Named,
    request: Request<Body>,
) -> Response<Body> {
    match caller(&request).and_then(|caller| Ok((caller, topic(named)?))) {
        Ok((caller, topic)) => told(artifacts::put(&shared, caller, topic, request).await),
        Err(refusal) => refusal.closing().response(),
    }
}

async fn withdraw_artifact(
    State(shared): State<Arc<Shared>>,
    named: Named,
    request: Request<Body>,
) -> Response<Body> {
    let asked = caller(&request).and_then(|caller| Ok((caller, name(named)?)));
    told(asked.and_then(|(caller, name)| artifacts::withdraw(&shared, &caller, &name)))
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response<Body> {
    if shared.ends() || shared.bus.is_closed() {
        let error = Error::new(Code::Closed, "the node ends").at("readiness").remedy("ask another node");
        return Refusal::from(error).response();
    }
    json(&serde_json::json!({ "ok": true }))
}

async fn metrics(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let who = match caller(&request) {
        Ok(caller) => caller.who(),
        Err(refusal) => return refusal.response(),
    };
    let turn = match shared.budget.question(&who).await {
        Ok(turn) => turn,
        Err(refusal) => return refusal.response(),
    };
    let (bus, own) = (shared.bus.clone(), account::text(&shared));
    let text = ports::waiting(&shared, &who, move || {
        let _turn = turn;
        Ok(busway::metrics::prometheus(&bus.metrics_of_all()?))
    });
    let text = text.await;
    told(text.map_err(Refusal::from).map(|text| {
        let mut response = Response::new(Body::from(text + &own));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }))
}

/// The body of what is for this topic, within its bounds; with it, its place among all bytes that are under way.
async fn body_of(
    shared: &Shared,
    caller: &Caller,
    topic: &Topic,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, Taken), Refusal> {
    // Who would be refused afterwards is refused before it has sent anything. A small body may as well come, and the connection stay.
    let small = body::said(headers).is_some_and(|said| said <= BODY_BYTES_AHEAD);
    let refused = |refusal: Refusal| if small { refusal } else { refusal.closing() };
    shared.budget.has_request(&caller.who(), topic).map_err(refused)?;
    body::read(shared, &caller.who(), headers, body).await
}
