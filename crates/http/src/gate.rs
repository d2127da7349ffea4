//! What is asked of every request before any route sees it: by which name it calls us, which page sends it, and who it is.
//!
//! A browser lets any page of the world send requests to this host. Two things tell such a page: a name in `Host` that is not ours (a page may have its own
//! name lead to 127.0.0.1), and an `Origin`, or a `Sec-Fetch-Site`, that is another's. Neither can be set by a page.
//!
//! Invariant: a request that passes called us by a name of ours, and comes from no page but our own and those that are listed.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN, VARY};
use axum::http::uri::Authority;
use axum::http::{Method, Request, Response, StatusCode};
use busway::{Code, Error};

use crate::Shared;
use crate::refusal::{Cause, Refusal};
use crate::rights::Caller;

/// Where a connection came in, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) ours: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// What the gate found.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It goes on, for this one; open routes are for everybody.
    Pass(Option<Caller>),
    /// It was a question about what pages may do, and this is the answer.
    Answer(Response<Body>),
}

/// Looks at a request.
pub(crate) fn look(shared: &Shared, request: &Request<Body>, ends: Ends) -> Result<Verdict, Refusal> {
    let host = host(request)?;
    if !is_ours(shared, &host, ends.ours.ip()) {
        let error = Error::new(Code::StrangeOrigin, "the name in Host is none of this node")
            .at("header Host")
            .remedy("call it localhost or by its address, or list the name: http.hosts");
        return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, Cause::Origin, error));
    }
    let listed = page(shared, request.headers(), &host)?;
    if request.method() == Method::OPTIONS && listed.is_some() {
        return Ok(Verdict::Answer(preflight()));
    }
    let shown = bearer(request.headers())?.or_else(|| crate::socket::token(request.headers()));
    let caller = shared.rights.caller(shown, ends.peer.ip());
    if caller.is_none() && !crate::routes::is_open(request.uri().path()) {
        let error = Error::new(Code::NotAllowed, "no token that is known here was shown")
            .at("header Authorization")
            .remedy("send Authorization: Bearer TOKEN, with one of [tokens] of the node");
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, Cause::Unknown, error));
    }
    Ok(Verdict::Pass(caller))
}

/// The one value of a header; `Err` where there are several, or it is no text.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let (value, more) = (values.next(), values.next());
    let text = value.map(|value| value.to_str());
    match (text, more) {
        (None, _) => Ok(None),
        (Some(Ok(text)), None) => Ok(Some(text)),
        (Some(Err(_)), _) | (Some(_), Some(_)) => Err(Refusal::wrong(
            "the header stands twice, or is no text",
            format!("header {name}"),
            "send it once",
        )),
    }
}

/// By which name we are called, and at which port.
fn host(request: &Request<Body>) -> Result<Authority, Refusal> {
    let wrong = |cause: &str| Refusal::wrong(cause, "header Host", "send Host: NAME:PORT once");
    let said = one(request.headers(), HOST.as_str())?.ok_or_else(|| wrong("there is no Host"))?;
    let said: Authority = said.parse().map_err(|_| wrong("the Host is no name with a port"))?;
    if said.as_str().contains('@') {
        return Err(wrong("the Host is no name with a port"));
    }
    // Who asks a proxy says it in the first line, which then counts.
    match request.uri().authority() {
        Some(asked) if asked.as_str().eq_ignore_ascii_case(said.as_str()) => Ok(said),
        Some(_) => Err(wrong("the Host is another than the one in the first line")),
        None => Ok(said),
    }
}

fn is_ours(shared: &Shared, host: &Authority, local: IpAddr) -> bool {
    let name = host.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match bare.parse::<IpAddr>() {
        // An address is nobody's name: no page has made it lead here.
        Ok(ip) => ip == local.to_canonical() || ip == local,
        Err(_) => {
            name.eq_ignore_ascii_case("localhost") && local.to_canonical().is_loopback()
                || shared.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name))
        }
    }
}

/// Refuses what a page of another origin sends; the origin, where it is another and listed.
fn page(shared: &Shared, headers: &HeaderMap, host: &Authority) -> Result<Option<HeaderValue>, Refusal> {
    let strange = |place: &str| {
        let error = Error::new(Code::StrangeOrigin, "a page of another origin sends this")
            .at(place.to_owned())
            .remedy("list the origin of the page: http.origins");
        Err(Refusal::new(StatusCode::FORBIDDEN, Cause::Origin, error))
    };
    if let Some(origin) = one(headers, ORIGIN.as_str())? {
        let own = origin.strip_prefix("http://").is_some_and(|name| name.eq_ignore_ascii_case(host.as_str()));
        if own {
            return Ok(None);
        }
        if shared.origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin)) {
            return Ok(headers.get(ORIGIN).cloned());
        }
        return strange("header Origin");
    }
    // What a page asks for without reading it (an image, a script, a link) has no Origin.
    match one(headers, "sec-fetch-site")? {
        None | Some("same-origin" | "none") => Ok(None),
        Some(_) => strange("header Sec-Fetch-Site"),
    }
}

/// The token that is shown.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(said) = one(headers, AUTHORIZATION.as_str())? else { return Ok(None) };
    let (scheme, token) = said.split_once(' ').unwrap_or((said, ""));
    match scheme.eq_ignore_ascii_case("bearer") {
        true => Ok(Some(token.trim())),
        false => Err(Refusal::wrong(
            "this is no bearer token",
            "header Authorization",
            "send Authorization: Bearer TOKEN",
        )),
    }
}

/// What a page of a listed origin may send.
fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let allowed = "authorization, busway-id, content-type, if-none-match, if-range, last-event-id, range, traceparent, tracestate";
    for (name, value) in [
        ("access-control-allow-methods", "GET, POST, PUT, DELETE"),
        ("access-control-allow-headers", allowed),
        ("access-control-max-age", "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets the page of a listed origin read the answer.
pub(crate) fn share(shared: &Shared, origin: Option<&HeaderValue>, response: &mut Response<Body>) {
    let Some(origin) = origin else { return };
    let is = |text: &str| shared.origins.iter().any(|listed| listed.eq_ignore_ascii_case(text));
    if origin.to_str().is_ok_and(is) {
        let headers = response.headers_mut();
        headers.insert("access-control-allow-origin", origin.clone());
        let shown = "accept-ranges, busway-id, busway-topic, content-range, etag, retry-after, traceparent";
        headers.insert("access-control-expose-headers", HeaderValue::from_static(shown));
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}
