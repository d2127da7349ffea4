//! The bundled flight records, unpacked, with their hash.
//!
//! Where they come from and under which licence stands in `data/README.md`.

use std::io::Read;

use flate2::read::GzDecoder;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::exit::{CommandCode, Failure};

const PACKED: &[u8] = include_bytes!("../../data/flights-20000.csv.gz");

/// The lines of the file, each one message.
#[derive(Debug)]
pub(super) struct Records {
    bytes: Vec<u8>,
    hash: String,
}

impl Records {
    pub(super) fn unpack() -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        GzDecoder::new(PACKED).read_to_end(&mut bytes).map_err(|error| {
            let remedy = "the binary is damaged: build it again";
            Failure::new(CommandCode::Stream, error.to_string(), "unpacking the flight records", remedy)
        })?;
        let hash = format!("{:032x}", xxh3_128(&bytes));
        Ok(Self { bytes, hash })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Each line without its line feed.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let body = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        body.split(|byte| *byte == b'\n')
    }

    pub(super) fn count(&self) -> u64 {
        self.lines().count() as u64
    }

    /// XXH3-128 in hexadecimal, as `xxh128sum` prints it.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}

/// Hashes lines as they come, so that a whole pass hashes like the file.
#[derive(Default)]
pub(super) struct PassHash {
    state: Xxh3,
}

impl PassHash {
    pub(super) fn line(&mut self, line: &[u8]) {
        self.state.update(line);
        self.state.update(b"\n");
    }

    /// The hash of what came since the last call.
    pub(super) fn take(&mut self) -> String {
        let hash = format!("{:032x}", self.state.digest128());
        self.state.reset();
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::{PassHash, Records};

    #[test]
    fn the_lines_hash_like_the_file_in_each_pass() {
        let records = Records::unpack().expect("the bundled file");
        assert_eq!(records.count(), 20_000);
        let mut hash = PassHash::default();
        for _ in 0..2 {
            records.lines().for_each(|line| hash.line(line));
            assert_eq!(hash.take(), records.hash());
        }
        records.lines().skip(1).for_each(|line| hash.line(line));
        assert_ne!(hash.take(), records.hash(), "a lost line is seen");
    }
}
