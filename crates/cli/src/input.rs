//! What `busway pub` and `busway push` send: a body, stdin whole or by lines, or seeded bytes, so many and so fast.
//!
//! It does not know what becomes of a message, nor what a port does where there is no room.
//!
//! Invariant: bytes go as they came; nothing is added or left out but the line feeds of lines.

use std::io;
use std::os::unix::ffi::OsStringExt;

use crate::command::InputArgs;
use crate::exit::Failure;
use crate::lines::{self, Lines, Stdin};
use crate::rate::Pace;
use crate::signals::Signals;

/// Begins the sequence of `--size`; a constant, so that two runs send the same bytes.
const SEED: u64 = 0x6275_7377_6179_2121;

/// Where messages come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The same bytes each time.
    Body(Vec<u8>),
    /// The lines of stdin.
    Lines,
    /// Seeded bytes, other ones in each message.
    Seeded(usize),
}

impl Source {
    /// What the command line of `command` says, with all of stdin where that is the body.
    pub(crate) fn of(args: &InputArgs, command: &str, signals: &Signals) -> Result<Self, Failure> {
        let dash = args.body.as_deref().is_some_and(|body| body == "-");
        if let Some(size) = args.size {
            let too_large = || {
                let cause =
                    format!("{} bytes are more than the {} a message may have", size.0, lines::BODY_SIZE_MAX);
                Failure::usage(cause, "--size", "send it in parts")
            };
            let size = usize::try_from(size.0).map_err(|_| too_large())?;
            return if size > lines::BODY_SIZE_MAX { Err(too_large()) } else { Ok(Self::Seeded(size)) };
        }
        match &args.body {
            Some(body) if args.lines && !dash => Err(Failure::usage(
                format!("--lines reads stdin, but a BODY is given: '{}'", body.to_string_lossy()),
                command,
                "leave the BODY away, or write - for it",
            )),
            None | Some(_) if args.lines => Ok(Self::Lines),
            Some(_) if dash => match lines::read_all(Stdin::new(signals)) {
                Ok(body) => Ok(Self::Body(body)),
                Err(error) => Err(on_stdin(&error, signals)),
            },
            Some(body) => Ok(Self::Body(body.clone().into_vec())),
            None => Err(Failure::usage(
                "there is nothing to send",
                command,
                "give a BODY, - for stdin, --lines for its lines, or --size",
            )),
        }
    }
}

fn on_stdin(error: &io::Error, signals: &Signals) -> Failure {
    if let Some(number) = signals.raised() {
        return Failure::Signalled(number);
    }
    if error.kind() == io::ErrorKind::FileTooLarge {
        return Failure::usage(error.to_string(), "reading stdin", "send it in parts");
    }
    Failure::stream(error, "reading stdin")
}

/// What messages are sent by.
pub(crate) trait Port {
    /// Sends a message.
    fn send(&mut self, body: &[u8], signals: &Signals) -> Result<(), Failure>;

    /// Sends so many seeded bytes, those of the message of this number.
    fn send_seeded(&mut self, size: usize, number: u64, signals: &Signals) -> Result<(), Failure>;
}

/// Sends all that there is.
pub(crate) fn send_all(
    port: &mut impl Port,
    source: &Source,
    args: &InputArgs,
    signals: &Signals,
) -> Result<(), Failure> {
    let mut pace = args.rate.map(Pace::new);
    let mut step = || {
        if let Some(pace) = &mut pace {
            pace.wait(signals);
        }
        signals.check()
    };
    match source {
        Source::Body(body) => {
            for _ in 0..args.count.unwrap_or(1) {
                step()?;
                port.send(body, signals)?;
            }
        }
        Source::Seeded(size) => {
            for number in 0..args.count.unwrap_or(1) {
                step()?;
                port.send_seeded(*size, number, signals)?;
            }
        }
        Source::Lines => {
            let mut lines = Lines::new(Stdin::new(signals));
            for _ in 0..args.count.unwrap_or(u64::MAX) {
                let Some(line) = lines.next_line().map_err(|error| on_stdin(&error, signals))? else { break };
                step()?;
                port.send(line, signals)?;
            }
        }
    }
    Ok(())
}

/// Fills `body` with bytes that depend on the message's number only (splitmix64).
pub(crate) fn fill(body: &mut [u8], number: u64) {
    let mut state = SEED ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for part in body.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let bytes = (word ^ (word >> 31)).to_le_bytes();
        part.copy_from_slice(&bytes[..part.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn seeded_bytes_are_the_same_in_each_run_and_differ_between_messages() {
        let (mut first, mut again, mut second) = ([0; 13], [0; 13], [0; 13]);
        fill(&mut first, 0);
        fill(&mut again, 0);
        fill(&mut second, 1);
        assert_eq!(first, again);
        assert_ne!(first, second);
        assert_ne!(first[8..], [0; 5], "the tail is filled too");
    }
}
