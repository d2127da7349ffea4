//! What a request is refused with: a status, and the error as JSON with its code, cause, place and remedy.
//!
//! Invariant: no refusal repeats a token, a body or a header.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use busway::{Code, Error};
use serde::Serialize;

use crate::limits::RETRY_AFTER_S;

/// Why a request is refused, as the metrics count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// 400, 404, 405 and the like: what was asked is wrong.
    Wrong,
    /// 413, 408: a body that is too large, or too slow.
    Body,
    /// 401.
    Unknown,
    /// 403 of the rules.
    Denied,
    /// 403 and 421: a page or a name of somebody else.
    Origin,
    /// 429: no room among the requests under way.
    Requests,
    /// 429: no room for the bytes.
    Bytes,
    /// 429: no room among the streams.
    Streams,
    /// 429: no room among the artifacts on their way.
    Transfers,
    /// 507: no room for an artifact.
    Store,
    /// 5xx: the bus, or who answers.
    Bus,
}

impl Cause {
    /// Every cause, with its name.
    pub(crate) const ALL: [(Cause, &'static str); 11] = [
        (Cause::Wrong, "wrong"),
        (Cause::Body, "body"),
        (Cause::Unknown, "unknown"),
        (Cause::Denied, "denied"),
        (Cause::Origin, "origin"),
        (Cause::Requests, "requests"),
        (Cause::Bytes, "bytes"),
        (Cause::Streams, "streams"),
        (Cause::Transfers, "transfers"),
        (Cause::Store, "store"),
        (Cause::Bus, "bus"),
    ];
}

/// A request that is refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) cause: Cause,
    error: Error,
    /// The connection cannot be used any more.
    closes: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    code: String,
    cause: &'a str,
    place: &'a str,
    remedy: &'a str,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, cause: Cause, error: Error) -> Refusal {
        Refusal { status, cause, error, closes: false }
    }

    /// Something in the request is wrong.
    pub(crate) fn wrong(cause: impl Into<String>, place: impl Into<String>, remedy: &str) -> Refusal {
        let error = Error::new(Code::BadRequest, cause).at(place).remedy(remedy);
        Refusal::new(StatusCode::BAD_REQUEST, Cause::Wrong, error)
    }

    /// Nothing is there.
    pub(crate) fn not_found(cause: impl Into<String>, place: impl Into<String>, remedy: &str) -> Refusal {
        let error = Error::new(Code::NotFound, cause).at(place).remedy(remedy);
        Refusal::new(StatusCode::NOT_FOUND, Cause::Wrong, error)
    }

    /// The rules do not allow it.
    pub(crate) fn denied(cause: impl Into<String>, place: impl Into<String>) -> Refusal {
        let error = Error::new(Code::NotAllowed, cause)
            .at(place)
            .remedy("ask whoever runs the node for a rule: [[acl]] of its configuration");
        Refusal::new(StatusCode::FORBIDDEN, Cause::Denied, error)
    }

    /// There is no room now.
    pub(crate) fn full(cause: Cause, said: impl Into<String>, key: &str) -> Refusal {
        let error = Error::new(Code::IngressFull, said)
            .at("flow ingress")
            .remedy(format!("come again after Retry-After, or allow more: {key}"));
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, cause, error)
    }

    /// There is no room for an artifact, and nobody is about to give some back.
    pub(crate) fn no_store(error: Error) -> Refusal {
        Refusal::new(StatusCode::INSUFFICIENT_STORAGE, Cause::Store, error).closing()
    }

    /// The connection ends with it: what follows of the request is not read.
    pub(crate) fn closing(self) -> Refusal {
        Refusal { closes: true, ..self }
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let Refusal { status, error, .. } = self;
        let (cause, place, remedy) = (error.cause(), error.place(), error.try_());
        let told = Told { code: error.code().to_string(), cause, place, remedy };
        let mut body = serde_json::to_vec(&told).unwrap_or_default();
        body.push(b'\n');
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = *status;
        // Whoever counts answers finds it there.
        response.extensions_mut().insert(self.cause);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if *status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let (status, cause) = match error.code() {
            Code::BadTopic
            | Code::BadPattern
            | Code::BadPolicy
            | Code::ReservedTopic
            | Code::BadSetting
            | Code::BadTrace
            | Code::BadId
            | Code::BadRequest => (StatusCode::BAD_REQUEST, Cause::Wrong),
            Code::NotFound => (StatusCode::NOT_FOUND, Cause::Wrong),
            Code::NotAllowed => (StatusCode::FORBIDDEN, Cause::Denied),
            Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Cause::Body),
            Code::IngressFull => (StatusCode::TOO_MANY_REQUESTS, Cause::Requests),
            Code::NotYet => (StatusCode::NOT_IMPLEMENTED, Cause::Wrong),
            Code::ResponderDied | Code::Unanswered | Code::ResponderFailed | Code::ReplyLost => {
                (StatusCode::BAD_GATEWAY, Cause::Bus)
            }
            // Room that others will give back, somebody who is to come, or a bus that ends: all may be tried again.
            _ => (StatusCode::SERVICE_UNAVAILABLE, Cause::Bus),
        };
        Refusal::new(status, cause, error)
    }
}

/// Serves as JSON what was made for this answer.
pub(crate) fn json<T: Serialize>(value: &T) -> Response<Body> {
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
