//! Reading the body of a request, within its bounds.
//!
//! Room is taken for what has come and a little ahead, never for what a head says will come: heads are cheap. What is told to be too large, or for which there is no room
//! now, is refused before it has come all the same.
//!
//! Invariant: a body never has more memory than room was taken for.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, HeaderMap};
use busway::{Code, Error};
use futures_core::Stream;
use tokio::time::timeout;

use crate::Shared;
use crate::account::add;
use crate::budget::{Taken, Who};
use crate::limits::{BODY_BYTES_AHEAD, BODY_TIME};
use crate::refusal::{Cause, Refusal};

/// Reads all of it; with it, its place among all bytes that are under way.
pub(crate) async fn read(
    shared: &Shared,
    who: &Who,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, Taken), Refusal> {
    let room = &shared.budget.bytes;
    // What all bytes under way may be is a bound of each.
    let most = shared.body_bytes_max.min(room.limit());
    let said = said(headers);
    if said.is_some_and(|said| said > most) {
        return Err(too_large(most));
    }
    let no_bytes = |why| shared.budget.no_bytes(why);
    room.has(who, said.unwrap_or(0)).map_err(no_bytes)?;
    let mut taken = room.take_for(who, 0).map_err(no_bytes)?;
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    let all = async {
        loop {
            let Some(part) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await else {
                return Ok(());
            };
            let part = part
                .map_err(|_| Refusal::wrong("the body breaks off", "the body", "send it whole").closing())?;
            let len = bytes.len() as u64 + part.len() as u64;
            if len > most {
                return Err(too_large(most));
            }
            if len > taken.count() {
                let ahead = (2 * len).max(BODY_BYTES_AHEAD).min(said.unwrap_or(most)).max(len);
                taken.grow(ahead - taken.count()).map_err(no_bytes)?;
                bytes.reserve_exact(usize::try_from(ahead).unwrap_or(usize::MAX) - bytes.len());
            }
            add(&shared.accounts.body_bytes, part.len() as u64);
            bytes.extend_from_slice(&part);
        }
    };
    timeout(BODY_TIME, all).await.unwrap_or_else(|_| Err(slow()))?;
    Ok((bytes.into(), taken))
}

/// How many bytes a head says there are.
pub(crate) fn said(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(most: u64) -> Refusal {
    let error = Error::new(Code::TooLarge, format!("a body has at most {most} bytes"))
        .at("the body")
        .remedy("send less, put it as an artifact, or allow more: http.body_bytes_max");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Cause::Body, error).closing()
}

fn slow() -> Refusal {
    let cause = format!("the body has not come in {} s", BODY_TIME.as_secs());
    let error =
        Error::new(Code::BadRequest, cause).at("the body").remedy("send it faster, or in several messages");
    Refusal::new(StatusCode::REQUEST_TIMEOUT, Cause::Body, error).closing()
}
