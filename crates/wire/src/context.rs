//! The context of a message: its id, and the trace to which it belongs.
//!
//! Both are optional and lie in extensions, so that a message without them has no byte more. A context is read where it
//! lies. What it does not know, or what is malformed, it leaves alone: a message is not lost for what stands beside it.
//!
//! The text of vendors is bytes here: who wrote them may still change them, and text must not change. It is checked of a copy, when it is asked for.
//!
//! Invariant: what a context says is well-formed. `write` fills exactly `size` bytes.

use alloc::string::String;

use crate::extension::{Extension, ExtensionKind, Extensions, PREFIX_SIZE, UNIT};
use crate::limits::TRACE_STATE_BYTES_MAX;
use crate::message_id::MessageId;
use crate::trace::{TraceError, TraceParent, check_state};

/// What a message says beside its payload. It borrows the text of vendors, if there is one, and nothing else.
///
/// ```
/// use busway_wire::Context;
/// let context = Context::default()
///     .with_id("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse()?)
///     .with_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?);
/// assert!(context.id().is_some() && context.trace().is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context<'a> {
    id: Option<MessageId>,
    trace: Option<TraceParent>,
    state: &'a [u8],
}

/// Bytes of an extension with so long a value.
const fn padded(length: usize) -> usize {
    (PREFIX_SIZE + length).next_multiple_of(UNIT)
}

impl<'a> Context<'a> {
    /// Bytes of the extensions of the largest context.
    pub const SIZE_MAX: usize =
        padded(MessageId::SIZE) + padded(TraceParent::SIZE) + padded(TRACE_STATE_BYTES_MAX);

    /// The same with this id.
    #[must_use]
    pub fn with_id(self, id: MessageId) -> Context<'a> {
        Context { id: Some(id), ..self }
    }

    /// The same in this trace, without what vendors said of another.
    #[must_use]
    pub fn with_trace(self, trace: TraceParent) -> Context<'a> {
        Context { trace: Some(trace), state: &[], ..self }
    }

    /// The same with this `tracestate`: what vendors keep beside the trace.
    ///
    /// # Errors
    /// Where it is no such list, has more than 512 bytes, or there is no trace.
    pub fn with_state(self, state: &'a str) -> Result<Context<'a>, TraceError> {
        check_state(state)?;
        if self.trace.is_none() && !state.is_empty() {
            return Err(TraceError::StateAlone);
        }
        Ok(Context { state: state.as_bytes(), ..self })
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        self.id
    }

    /// The trace.
    #[must_use]
    pub fn trace(&self) -> Option<TraceParent> {
        self.trace
    }

    /// What vendors keep beside the trace, copied; empty where that is nothing, or is malformed.
    #[must_use]
    pub fn state(&self) -> String {
        let text = String::from_utf8(self.state.to_vec()).unwrap_or_default();
        if check_state(&text).is_ok() { text } else { String::new() }
    }

    /// Only the trace: what an answer has of what it answers.
    #[must_use]
    pub fn without_id(self) -> Context<'a> {
        Context { id: None, ..self }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && self.trace.is_none()
    }

    /// Bytes of its extensions.
    #[must_use]
    pub fn size(&self) -> usize {
        let id = self.id.map_or(0, |_| padded(MessageId::SIZE));
        let trace = self.trace.map_or(0, |_| padded(TraceParent::SIZE));
        let state = if self.state.is_empty() { 0 } else { padded(self.state.len()) };
        id + trace + state
    }

    /// Writes its extensions; `out` has [`Context::size`] bytes, and is as it was where it has not.
    pub fn write(&self, out: &mut [u8]) {
        if out.len() != self.size() {
            return;
        }
        let mut rest = out;
        let id = self.id.map(MessageId::to_bytes);
        let trace = self.trace.map(TraceParent::to_bytes);
        let state = (!self.state.is_empty()).then_some(self.state);
        let all = [
            (ExtensionKind::Traceparent, trace.as_ref().map(<[u8; TraceParent::SIZE]>::as_slice)),
            (ExtensionKind::Tracestate, state),
            (ExtensionKind::MessageId, id.as_ref().map(<[u8; MessageId::SIZE]>::as_slice)),
        ];
        for (kind, value) in all {
            let Some(value) = value else { continue };
            let Some((place, behind)) = rest.split_at_mut_checked(padded(value.len())) else { return };
            Extensions::write(place, kind, value);
            rest = behind;
        }
    }

    /// What the extensions of a message say. Of two of a kind the first counts; behind one that is malformed nothing is read.
    #[must_use]
    pub fn read(extensions: Extensions<'a>) -> Context<'a> {
        let mut context = Context::default();
        let mut state = None;
        for Extension { number, value } in extensions.map_while(Result::ok) {
            if number == ExtensionKind::Traceparent.number() && context.trace.is_none() {
                context.trace = TraceParent::of(value);
            } else if number == ExtensionKind::Tracestate.number() && state.is_none() {
                state = Some(value).filter(|value| value.len() <= TRACE_STATE_BYTES_MAX);
            } else if number == ExtensionKind::MessageId.number() && context.id.is_none() {
                context.id = value.try_into().ok().map(|bytes| MessageId(u128::from_le_bytes(bytes)));
            }
        }
        context.state = state.filter(|_| context.trace.is_some()).unwrap_or_default();
        context
    }
}

const _: () = assert!(Context::SIZE_MAX <= crate::limits::EXTENSION_BYTES_MAX - crate::extension::Part::SIZE);

#[cfg(test)]
mod tests {
    use super::Context;
    use crate::extension::{ExtensionKind, Extensions};
    use crate::message_id::MessageId;
    use crate::trace::TraceError;
    use alloc::string::String;
    use alloc::vec::Vec;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn bytes(context: &Context<'_>) -> Vec<u8> {
        let mut bytes = alloc::vec![0xaa; context.size()];
        context.write(&mut bytes);
        assert!(Extensions::check(&bytes).is_ok());
        bytes
    }

    #[test]
    fn a_context_comes_out_as_it_went_in_whatever_it_has() {
        let (id, trace) = (MessageId(77), TRACE.parse().unwrap());
        let mut long = String::from("a=");
        long.extend(core::iter::repeat_n('b', 256));
        let none = Context::default();
        assert!(none.is_empty() && none.size() == 0);
        let traced = none.with_trace(trace);
        for context in [
            none,
            none.with_id(id),
            traced,
            traced.with_state("rojo=1").unwrap(),
            traced.with_id(id).with_state(&long).unwrap(),
        ] {
            assert_eq!(Context::read(Extensions::new(&bytes(&context))), context);
            assert!(context.size() <= Context::SIZE_MAX);
        }
        assert_eq!(none.with_state("rojo=1"), Err(TraceError::StateAlone));
        assert_eq!(
            traced.with_state("rojo=1").unwrap().with_trace(trace).state(),
            "",
            "it was said of another trace"
        );
    }

    #[test]
    fn what_is_malformed_is_left_alone_and_takes_nothing_else_with_it() {
        let mut all = Vec::new();
        Extensions::push(&mut all, ExtensionKind::ContentType, b"text/plain").unwrap();
        Extensions::push(&mut all, ExtensionKind::Traceparent, &[0; 25]).unwrap();
        Extensions::push(&mut all, ExtensionKind::Tracestate, b"\xff").unwrap();
        Extensions::push(&mut all, ExtensionKind::MessageId, &[1; 15]).unwrap();
        Extensions::push(&mut all, ExtensionKind::MessageId, &[0; 16]).unwrap();
        let context = Context::read(Extensions::new(&all));
        assert_eq!((context.id(), context.trace()), (Some(MessageId(0)), None));
        assert_eq!(context.state(), "");
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let mut garbage = all.clone();
            garbage[rng.usize(..all.len())] = rng.u8(..);
            let cut = rng.usize(..=garbage.len());
            let context = Context::read(Extensions::new(&garbage[..cut]));
            let _ = bytes(&context);
        }
    }
}
