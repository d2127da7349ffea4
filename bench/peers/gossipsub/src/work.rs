//! The work: artifacts cut into messages, and put together again and checked by their hashes.
//!
//! Invariant: what counts as here has the hash that who gave it made.

use std::collections::{BTreeMap, BTreeSet};

use crate::Failure;

/// Hash, run, count of artifacts of the run, size, and where in it the data lies.
pub(crate) const HEAD_BYTES: usize = 64;

/// What stands before the data of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    hash: [u8; 32],
    run: u64,
    count: u64,
    size: u64,
    at: u64,
}

impl Head {
    fn bytes(&self) -> Vec<u8> {
        let numbers = [self.run, self.count, self.size, self.at];
        self.hash.into_iter().chain(numbers.into_iter().flat_map(u64::to_le_bytes)).collect()
    }

    fn read(message: &[u8]) -> Option<(Self, &[u8])> {
        let (head, data) = message.split_first_chunk::<HEAD_BYTES>()?;
        let (hash, numbers) = head.split_first_chunk::<32>()?;
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let mut next = || numbers.next();
        Some((Self { hash: *hash, run: next()?, count: next()?, size: next()?, at: next()? }, data))
    }
}

/// The messages of the artifacts of a run, made one after the other. The bodies are those that a node of ours makes of that seed.
#[derive(Debug)]
pub(crate) struct Cut {
    bodies: Vec<Vec<u8>>,
    hashes: Vec<[u8; 32]>,
    run: u64,
    message: usize,
    next: (usize, usize),
    last: (usize, usize),
}

impl Cut {
    pub(crate) fn new(count: usize, size: usize, seed: u64, message: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let bodies: Vec<Vec<u8>> = (0..count)
            .map(|_| {
                let mut body = vec![0; size];
                random.fill(&mut body);
                body
            })
            .collect();
        let hashes = bodies.iter().map(|body| *blake3::hash(body).as_bytes()).collect();
        Self { bodies, hashes, run: seed, message, next: (0, 0), last: (0, 0) }
    }

    /// The next message; none when all were made.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let (index, at) = self.next;
        let body = self.bodies.get(index)?;
        let end = (at + self.message).min(body.len());
        let head = Head {
            hash: self.hashes[index],
            run: self.run,
            count: self.bodies.len() as u64,
            size: body.len() as u64,
            at: at as u64,
        };
        self.last = self.next;
        self.next = if end == body.len() { (index + 1, 0) } else { (index, end) };
        let mut message = head.bytes();
        message.extend_from_slice(&body[at..end]);
        Some(message)
    }

    /// The last message comes once more: nobody has taken it.
    pub(crate) fn back(&mut self) {
        self.next = self.last;
    }
}

/// What of the runs has come.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    runs: BTreeMap<u64, Run>,
}

#[derive(Debug, Default)]
struct Run {
    arriving: BTreeMap<[u8; 32], Arriving>,
    whole: BTreeSet<[u8; 32]>,
}

#[derive(Debug, Default)]
struct Arriving {
    body: Vec<u8>,
    places: BTreeSet<u64>,
    bytes: u64,
}

impl Joined {
    /// Takes a message. The run of which this was the last that was missing.
    ///
    /// # Errors
    /// It is none of ours, or an artifact does not have its hash.
    pub(crate) fn take(&mut self, message: &[u8]) -> Result<Option<u64>, Failure> {
        let (head, data) = Head::read(message).ok_or("a message without a head")?;
        let run = self.runs.entry(head.run).or_default();
        if run.whole.contains(&head.hash) {
            return Ok(None);
        }
        let (at, size) = (usize::try_from(head.at)?, usize::try_from(head.size)?);
        let arriving = run.arriving.entry(head.hash).or_default();
        arriving.body.resize(size, 0);
        let place = at.checked_add(data.len()).and_then(|end| arriving.body.get_mut(at..end));
        place.ok_or("a message beyond the end of its artifact")?.copy_from_slice(data);
        if arriving.places.insert(head.at) {
            arriving.bytes += data.len() as u64;
        }
        if arriving.bytes < head.size {
            return Ok(None);
        }
        let whole = run.arriving.remove(&head.hash).unwrap_or_default();
        if *blake3::hash(&whole.body).as_bytes() != head.hash {
            return Err("an artifact does not have its hash".into());
        }
        run.whole.insert(head.hash);
        Ok((run.whole.len() as u64 == head.count).then_some(head.run))
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, Joined};

    #[test]
    fn what_was_cut_is_put_together_in_any_order_and_checked() {
        let mut cut = Cut::new(3, 100_001, 7, 4_096);
        let mut messages: Vec<Vec<u8>> = std::iter::from_fn(|| cut.next()).collect();
        assert_eq!(messages.len(), 3 * 25);
        fastrand::Rng::with_seed(1).shuffle(&mut messages);
        let mut joined = Joined::default();
        let done: Vec<Option<u64>> = messages.iter().map(|message| joined.take(message).unwrap()).collect();
        let (last, before) = done.split_last().unwrap();
        assert!(*last == Some(7) && before.iter().all(Option::is_none));
        // What comes once more is no second end, and what is wrong is found.
        assert_eq!(joined.take(&messages[0]).unwrap(), None);
        let (last, rest) = messages.split_last_mut().unwrap();
        *last.last_mut().unwrap() ^= 1;
        let mut joined = Joined::default();
        assert!(rest.iter().all(|message| joined.take(message).is_ok()));
        assert!(joined.take(last).is_err());
    }
}
