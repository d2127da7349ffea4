//! Which topics there are, of those that the caller may read or write.
//!
//! Invariant: a name that the caller may do nothing with is not told.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use busway::{Deed, Topic};
use serde::Serialize;

use crate::refusal::{Refusal, json};
use crate::rights::Caller;
use crate::{Shared, ports};

#[derive(Debug, Serialize)]
struct Listed {
    topics: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Shown {
    topic: String,
    publishers: usize,
    subscribers: usize,
    sent: u64,
}

pub(crate) async fn list(shared: &Arc<Shared>, caller: Caller) -> Result<Response<Body>, Refusal> {
    let turn = shared.budget.question(&caller.who()).await?;
    let bus = shared.bus.clone();
    let (views, _turn) =
        ports::waiting(shared, &caller.who(), move || Ok((bus.inspect()?.topics, turn))).await?;
    let may = |topic: &Topic| {
        let deeds = [Deed::Subscribe, Deed::Publish, Deed::Push, Deed::Request];
        deeds.into_iter().any(|deed| shared.rights.allow(&caller, deed, topic))
    };
    let topics = views.into_iter().filter(|view| Topic::new(&view.topic).is_ok_and(|topic| may(&topic)));
    let shown = topics.map(|view| Shown {
        publishers: view.publishers.len(),
        subscribers: view.subscribers.len(),
        sent: view.publishers.iter().fold(0, |sum, publisher| sum.saturating_add(publisher.sent)),
        topic: view.topic,
    });
    Ok(json(&Listed { topics: shown.collect() }))
}
