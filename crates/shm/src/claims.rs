//! Which puller of a group has which message: one word a message, changed by compare-and-swap only.
//!
//! Which of several live processes gets a message is consensus, and plain reads and writes cannot decide it: so these words
//! are the second exception to one writer a word, after the bell. A word is `{sequence:40 | owner:16 | state:2 |
//! rest:6}`, the message `s` has the word `s mod slots`, and `rest` is the attempt of a claim, or why the message is lost.
//!
//! ```text
//! DONE or LOST of s - slots, or FREE of s --claim--> TAKEN of s --done--> DONE of s
//!                    ^                                 |   |
//!                    +------give back, attempt + 1-----+   +--lose--> LOST of s
//! ```
//!
//! A request is a message whose pusher waits for what comes of it: it may `withdraw` it, free or taken, and whoever has it is then too late.
//!
//! A pusher writes nothing here to publish: what is over for the message one turn ago is free for this one. It overwrites the
//! slot of a message only when that message's word says DONE or LOST (C1); to take a message that nobody has, it must win its word
//! like a puller (`give_up`). Who finds that an owner is dead, or has had a message for too long, gives back exactly the claim that
//! it saw (C2), so that of two who find the same only one does it, and a claim made since is left alone. A puller that comes too late
//! fails in `done`, and is told.
//!
//! It does not know who is dead or how long a claim may last, nor where the words lie: it works on any run of atomics, so
//! that loom can check it on the heap. A time of taking was left out on purpose: a word that was seen unchanged for so long is that
//! old, by the clock of who watched it, and there is no second word that a killed puller could leave behind unwritten.
//!
//! Invariants: (C1) a word that is over stays as it is until the message one turn later is claimed, and that is published only after
//! its slot was overwritten. (C2) a word of `s` changes from a value that was read, by compare-and-swap; a TAKEN word never comes
//! back but where its owner gave it back unseen. (C3) whatever stands in a word, an index is masked, and nobody waits for it.

#[cfg(not(loom))]
pub mod file;

use crate::sync::{AtomicU64, Ordering};

/// Bits of the sequence.
pub const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;
const REST_BITS: u32 = 6;
const REST_MASK: u64 = (1 << REST_BITS) - 1;
/// The last attempt that is told from the one before.
pub const ATTEMPT_MAX: u8 = REST_MASK as u8;

/// Looks at one word before a message is not withdrawn that somebody takes and gives back all the time.
const WITHDRAWALS: u32 = 8;

const FREE: u64 = 0;
const TAKEN: u64 = 1;
const DONE: u64 = 2;
const LOST: u64 = 3;

/// Who has a message: a place among the members of a group, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owner(pub u16);

/// One claim, exactly as its word says it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Claim {
    sequence: u64,
    word: u64,
}

impl Claim {
    /// The message.
    pub fn sequence(self) -> u64 {
        self.sequence
    }

    /// Who has it.
    pub fn owner(self) -> Owner {
        Owner((self.word >> 8) as u16)
    }

    /// How often it was given back before, at most [`ATTEMPT_MAX`].
    pub fn attempt(self) -> u8 {
        (self.word & REST_MASK) as u8
    }
}

/// What a word says of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nobody has it; it was given back so often.
    Free(u8),
    /// Somebody has it.
    Taken(Claim),
    /// It was handled.
    Done,
    /// It is lost, for the cause of this index.
    Lost(u8),
    /// The word is of another message: of a later one, or of nobody who keeps to this page.
    Other,
}

impl Found {
    /// Whether the message's slot may be overwritten (C1).
    #[inline]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Lost(_))
    }
}

fn word(sequence: u64, owner: Owner, state: u64, rest: u8) -> u64 {
    (sequence << 24) | (u64::from(owner.0) << 8) | (state << REST_BITS) | u64::from(rest)
}

/// The claim words of one group on one ring.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Claims<'a> {
    /// The claims in these words.
    ///
    /// # Panics
    /// Where their number is not a power of two.
    pub fn new(words: &'a [AtomicU64]) -> Self {
        assert!(words.len().is_power_of_two(), "a message's word is found by a mask");
        Self { words }
    }

    /// Makes all words those of messages that are over, so that the messages behind `from` are free. Before anybody else
    /// has them.
    pub fn begin(&self, from: u64) {
        let slots = self.words.len() as u64;
        for sequence in from + 1..=from + slots {
            let before = sequence.wrapping_sub(slots);
            self.at(sequence).store(word(before, Owner(0), DONE, 0), Ordering::Relaxed);
        }
    }

    #[inline]
    fn at(&self, sequence: u64) -> &'a AtomicU64 {
        // The mask keeps the index inside: there are a power of two of them.
        &self.words[sequence as usize & (self.words.len() - 1)]
    }

    fn read(&self, sequence: u64, word: u64) -> Found {
        let (of, state, rest) = (word >> 24, (word >> REST_BITS) & 3, (word & REST_MASK) as u8);
        if of == sequence & SEQUENCE_MASK {
            return match state {
                FREE => Found::Free(rest),
                TAKEN => Found::Taken(Claim { sequence, word }),
                DONE => Found::Done,
                _ => Found::Lost(rest),
            };
        }
        let before = sequence.wrapping_sub(self.words.len() as u64) & SEQUENCE_MASK;
        if of == before && matches!(state, DONE | LOST) { Found::Free(0) } else { Found::Other }
    }

    /// What became of a message so far.
    #[inline]
    pub fn look(&self, sequence: u64) -> Found {
        self.read(sequence, self.at(sequence).load(Ordering::Acquire)) // pairs with Release in `change`
    }

    /// Who handled a message that is done.
    pub fn done_by(&self, sequence: u64) -> Option<Owner> {
        let found = self.at(sequence).load(Ordering::Acquire); // pairs with Release in `change`
        (self.read(sequence, found) == Found::Done && found >> 24 == sequence & SEQUENCE_MASK)
            .then_some(Owner((found >> 8) as u16))
    }

    /// Takes a message that is published, if nobody has it.
    #[inline]
    pub fn claim(&self, sequence: u64, owner: Owner) -> Option<Claim> {
        self.claim_from(sequence, owner).map(|(claim, _)| claim)
    }

    /// As [`Claims::claim`], with who had given it back, or 0.
    #[inline]
    pub fn claim_from(&self, sequence: u64, owner: Owner) -> Option<(Claim, Owner)> {
        let found = self.at(sequence).load(Ordering::Acquire); // pairs with Release in `change`
        let Found::Free(attempt) = self.read(sequence, found) else { return None };
        // Free as its predecessor is over, the word says who did that.
        let before = Owner(if attempt > 0 { (found >> 8) as u16 } else { 0 });
        let taken = word(sequence, owner, TAKEN, attempt);
        self.change(sequence, found, taken).then_some((Claim { sequence, word: taken }, before))
    }

    /// Says that the message was handled. `false`: too late, it was given to another.
    #[inline]
    pub fn done(&self, claim: Claim) -> bool {
        self.change(claim.sequence, claim.word, word(claim.sequence, claim.owner(), DONE, 0))
    }

    /// Frees a claim of somebody who is dead or has had it for too long, or one's own; it counts as an attempt. `false`: it is not
    /// as it was seen any more.
    pub fn give_back(&self, claim: Claim) -> bool {
        self.give_back_as(claim, claim.attempt().saturating_add(1))
    }

    /// Frees one's own claim of a message that was not looked at; it does not count, and nobody lets it rest.
    pub fn put_back(&self, claim: Claim) -> bool {
        self.put_back_to(claim, Owner(0))
    }

    /// As [`Claims::put_back`], of a message that `before` had given back, which still rests for others.
    pub fn put_back_to(&self, claim: Claim, before: Owner) -> bool {
        self.change(claim.sequence, claim.word, word(claim.sequence, before, FREE, claim.attempt()))
    }

    /// As [`Claims::give_back`], of a message that was given to pullers so often in all. Where that is more often than before, all see who gave it back.
    pub fn give_back_as(&self, claim: Claim, attempt: u8) -> bool {
        let attempt = attempt.min(ATTEMPT_MAX);
        let by = if attempt > claim.attempt() { claim.owner() } else { Owner(0) };
        self.change(claim.sequence, claim.word, word(claim.sequence, by, FREE, attempt))
    }

    /// Whether a message that nobody has was given back by one of the group, and not told by its pusher to come from elsewhere.
    pub fn was_given_back(&self, sequence: u64) -> bool {
        let found = self.at(sequence).load(Ordering::Acquire); // pairs with Release in `change`
        let free = matches!(self.read(sequence, found), Found::Free(attempt) if attempt > 0);
        free && (found >> 8) as u16 != 0
    }

    /// The pusher, before it publishes this message, and when all that is before the one a turn ago is over: it was given to
    /// pullers so often elsewhere. It may be said once more, of what was not published. `false`: the word is of another message.
    pub fn begin_at(&self, sequence: u64, attempt: u8) -> bool {
        let found = self.at(sequence).load(Ordering::Acquire); // pairs with Release in `change`
        let free = word(sequence, Owner(0), FREE, attempt.min(ATTEMPT_MAX));
        matches!(self.read(sequence, found), Found::Free(_)) && self.change(sequence, found, free)
    }

    /// Says that a message which was taken is lost, for the cause of this index.
    pub fn lose(&self, claim: Claim, cause: u8) -> bool {
        self.change(
            claim.sequence,
            claim.word,
            word(claim.sequence, claim.owner(), LOST, cause & ATTEMPT_MAX),
        )
    }

    /// The pusher: takes a message that nobody has out of reach, or one whose word nobody who keeps to this page wrote.
    /// `false`: somebody has it now, or it is over.
    pub fn give_up(&self, sequence: u64, cause: u8) -> bool {
        let found = self.at(sequence).load(Ordering::Acquire); // pairs with Release in `change`
        let lost = word(sequence, Owner(0), LOST, cause & ATTEMPT_MAX);
        match self.read(sequence, found) {
            Found::Free(_) | Found::Other => self.change(sequence, found, lost),
            Found::Taken(_) | Found::Done | Found::Lost(_) => false,
        }
    }

    /// The pusher: says that a message is lost which nobody has yet, or of which whoever has it need not say any more what
    /// became of it. `false`: it is over, or its word is of another message.
    pub fn withdraw(&self, sequence: u64, cause: u8) -> bool {
        // It is free, then taken; by a user who keeps to the page it is not given back.
        for _ in 0..WITHDRAWALS {
            let found = self.at(sequence).load(Ordering::Acquire); // pairs with Release in `change`
            let owner = match self.read(sequence, found) {
                Found::Free(_) => Owner(0),
                Found::Taken(claim) => claim.owner(),
                Found::Done | Found::Lost(_) | Found::Other => return false,
            };
            if self.change(sequence, found, word(sequence, owner, LOST, cause & ATTEMPT_MAX)) {
                return true;
            }
        }
        false
    }

    /// C2: exactly the word that was read gives way.
    #[inline]
    fn change(&self, sequence: u64, from: u64, to: u64) -> bool {
        // Release: who finds a message over overwrites what its puller has read before; Acquire: who claims a message
        // that was given back reads it after the last.
        self.at(sequence).compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
