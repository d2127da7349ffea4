//! What `pub`, `push` and `req` say beside a body: `--id`, `--traceparent`, `--tracestate`.
//!
//! An id is the one that was given, or with `new` another for each message. A trace is the same for all.
//!
//! Invariant: without a flag there is nothing beside a body.

use busway::{Bus, Context, Error, MessageId};

use crate::command::{ContextArgs, IdArg};
use crate::exit::Failure;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Beside<'a> {
    bus: Bus,
    draws: bool,
    context: Context<'a>,
}

impl<'a> Beside<'a> {
    /// What the command line says.
    pub(crate) fn of(args: &'a ContextArgs, bus: &Bus) -> Result<Self, Failure> {
        let mut context = Context::default();
        if let Some(trace) = args.traceparent {
            context = context.with_trace(trace);
        }
        if let Some(state) = &args.tracestate {
            context = context.with_state(state).map_err(Error::from)?;
        }
        let draws = matches!(args.id, Some(IdArg::New));
        if let Some(IdArg::Given(id)) = args.id {
            context = context.with_id(id);
        }
        Ok(Self { bus: bus.clone(), draws, context })
    }

    /// Whether no message says anything.
    pub(crate) fn is_empty(&self) -> bool {
        !self.draws && self.context.is_empty()
    }

    /// What the next message says.
    pub(crate) fn next(&self) -> Result<Context<'a>, Failure> {
        Ok(if self.draws { self.context.with_id(self.bus.next_id()?) } else { self.context })
    }
}

/// What a message says, as JSON shows it.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
}

impl Shown {
    pub(crate) fn of(context: &Context<'_>) -> Self {
        let state = context.state();
        Self {
            id: context.id().as_ref().map(MessageId::to_string),
            traceparent: context.trace().map(|trace| trace.to_string()),
            tracestate: (!state.is_empty()).then_some(state),
        }
    }

    /// The same as variables of the environment.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all =
            [("BUSWAY_ID", &self.id), ("TRACEPARENT", &self.traceparent), ("TRACESTATE", &self.tracestate)];
        all.into_iter().filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
    }
}
