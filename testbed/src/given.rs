//! What nodes have sent whom, counted where it is sent; and what a store has.
//!
//! A node says in its log each part of an artifact that it gives a peer. Here each of these lines becomes one of a file, at once, so that a node that is killed has told all.
//!
//! Invariant: a line is in the file before the bytes that it is about are on the link.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::Failure;
use crate::clock::now_ns;

/// The part of an artifact that has a hash of its own: by its id, and which.
pub(crate) type Piece = (String, u64);

/// Bytes that a peer was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// When, by the clock of this machine.
    pub(crate) at_ns: u64,
    pub(crate) peer: u64,
    pub(crate) id: String,
    /// Which piece; none for a small artifact, and for the values of the pieces of a large one.
    pub(crate) piece: Option<u64>,
    pub(crate) bytes: u64,
}

/// From now on what this process gives is written there.
pub(crate) fn record(path: &Path) -> Result<(), Failure> {
    let file = File::options().create(true).append(true).open(path)?;
    tracing::subscriber::set_global_default(Recorder { file })?;
    Ok(())
}

/// What was written there, in order.
pub(crate) fn read(path: &Path) -> Result<Vec<Given>, Failure> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> Result<Given, Failure> {
    let fields: Vec<&str> = line.split(' ').collect();
    let &[at_ns, peer, id, piece, bytes] = fields.as_slice() else {
        return Err(format!("not a line of what was given: {line}").into());
    };
    let piece = if piece == "-" { None } else { Some(piece.parse()?) };
    Ok(Given { at_ns: at_ns.parse()?, peer: peer.parse()?, id: id.to_owned(), piece, bytes: bytes.parse()? })
}

struct Recorder {
    file: File,
}

/// The fields of one line of the log.
#[derive(Default)]
struct Fields {
    peer: Option<u64>,
    id: String,
    piece: Option<u64>,
    bytes: u64,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "peer" => self.peer = Some(value),
            "piece" => self.piece = Some(value),
            "bytes" => self.bytes = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "id" {
            self.id = format!("{value:?}");
        }
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        of.target() == "busway::gossip" && *of.level() == Level::TRACE && of.is_event()
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Some(peer) = fields.peer else { return };
        let piece = fields.piece.map_or("-".to_owned(), |piece| piece.to_string());
        let line = format!("{} {peer} {} {piece} {}\n", now_ns(), fields.id, fields.bytes);
        // One call, so that a line is there or not. Where it cannot be written, who reads finds too few.
        let _ = (&self.file).write_all(line.as_bytes());
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The pieces that a store has, by their marks, which are written behind them: see FORMAT.md, "Stored artifacts".
pub(crate) fn stored(store: &Path) -> Result<BTreeSet<Piece>, Failure> {
    let mut pieces = BTreeSet::new();
    for entry in std::fs::read_dir(store)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".artifact")) else { continue };
        let mut parts = name.split('-');
        let (Some(id), Some(size)) = (parts.next(), parts.next()) else { continue };
        let count = usize::try_from(count(size.parse()?))?;
        let mut head = vec![0; 64 + 33 * count];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(entry.path())?, &mut head, 0)?;
        let marks = (0..).zip(&head[64 + 32 * count..]).filter(|(_, mark)| **mark == 1);
        pieces.extend(marks.map(|(index, _)| (id.to_owned(), index)));
    }
    Ok(pieces)
}

/// How many pieces an artifact of so many bytes has: see FORMAT.md, "Words about artifacts".
fn count(size: u64) -> u64 {
    if size <= 8 << 20 {
        return size.div_ceil(32 << 10);
    }
    let bytes = [64_u64 << 10, 128 << 10].into_iter().find(|bytes| bytes << 10 >= size);
    size.div_ceil(bytes.unwrap_or(256 << 10))
}

#[cfg(test)]
mod tests {
    use super::{count, parse};

    #[test]
    fn a_line_of_what_was_given_is_read_as_it_is_written() {
        let given = parse("17 3 ab 5 32768").unwrap();
        assert_eq!((given.at_ns, given.peer, given.piece, given.bytes), (17, 3, Some(5), 32_768));
        assert_eq!(parse("17 3 ab - 1").unwrap().piece, None);
        for wrong in ["", "17 3 ab 5", "17 3 ab x 1", "17 3 ab 5 1 2"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(
            [1, 8 << 20, (8 << 20) + 1, 64 << 20, (64 << 20) + 1, 1 << 30].map(count),
            [1, 256, 129, 1_024, 513, 4_096]
        );
    }
}
