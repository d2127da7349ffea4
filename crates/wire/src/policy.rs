//! What happens when a subscriber is slower than its publisher: the six policies.
//!
//! A subscription asks for one; whether a policy that makes the publisher wait is allowed is the publisher's
//! decision. This file holds their names, text form and bounds, and none of their behaviour.
//!
//! Invariant: the depth of a policy that came from text or from a peer is within its bounds.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{DROP_NEWEST_DEPTH_MAX, RING_SLOTS_HARD_MAX};

/// What happens when the subscriber is slower than the publisher.
///
/// The text form is that of `--policy`: `drop-oldest[:D]`, `keep-latest`, `drop-newest:D`, `block`, `fail`, `evict`.
///
/// ```
/// use busway_wire::Policy;
/// assert_eq!("drop-oldest:8".parse(), Ok(Policy::DropOldest { depth: 8 }));
/// assert_eq!(Policy::default().to_string(), "drop-oldest");
/// assert!(Policy::Block.gates() && !Policy::KeepLatest.gates());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "PolicyBody")]
pub enum Policy {
    /// Keep the newest `depth` messages, count what was lost before them.
    DropOldest {
        /// Messages kept: 1 to `RING_SLOTS_HARD_MAX`, or [`Policy::DEPTH_RING`] for as many as the ring holds.
        depth: u32,
    },
    /// Keep one message, the newest of each source.
    KeepLatest,
    /// Keep the oldest `depth` messages, count what came after them.
    DropNewest {
        /// Messages kept: 1 to `DROP_NEWEST_DEPTH_MAX`.
        depth: u32,
    },
    /// The publisher waits, at most its own cap.
    Block,
    /// The publisher's `send` returns `Full` at once.
    Fail,
    /// The publisher goes on and drops this subscriber.
    Evict,
}

impl Policy {
    /// The depth of `drop-oldest` without a number: all that the ring still holds.
    pub const DEPTH_RING: u32 = u32::MAX;

    /// Whether the publisher looks at this subscriber's cursor before it overwrites a slot.
    #[must_use]
    pub const fn gates(self) -> bool {
        match self {
            Policy::DropOldest { .. } | Policy::KeepLatest | Policy::DropNewest { .. } => false,
            Policy::Block | Policy::Fail | Policy::Evict => true,
        }
    }

    /// The name without its depth, as `--policy` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Policy::DropOldest { .. } => "drop-oldest",
            Policy::KeepLatest => "keep-latest",
            Policy::DropNewest { .. } => "drop-newest",
            Policy::Block => "block",
            Policy::Fail => "fail",
            Policy::Evict => "evict",
        }
    }

    /// Returns the policy if its depth is within bounds.
    ///
    /// # Errors
    /// [`PolicyError::Depth`] with the bounds.
    pub const fn checked(self) -> Result<Policy, PolicyError> {
        match self {
            Policy::DropOldest { depth: Policy::DEPTH_RING } => Ok(self),
            Policy::DropOldest { depth } if depth == 0 || depth > RING_SLOTS_HARD_MAX => {
                Err(PolicyError::Depth { depth: depth as u64, depth_max: RING_SLOTS_HARD_MAX })
            }
            Policy::DropNewest { depth } if depth == 0 || depth > DROP_NEWEST_DEPTH_MAX => {
                Err(PolicyError::Depth { depth: depth as u64, depth_max: DROP_NEWEST_DEPTH_MAX })
            }
            Policy::DropOldest { .. }
            | Policy::KeepLatest
            | Policy::DropNewest { .. }
            | Policy::Block
            | Policy::Fail
            | Policy::Evict => Ok(self),
        }
    }
}

impl Default for Policy {
    /// Drop oldest, as deep as the ring: the publisher never waits and the subscriber sees what is recent.
    fn default() -> Policy {
        Policy::DropOldest { depth: Policy::DEPTH_RING }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Policy::DropOldest { depth: Policy::DEPTH_RING } => Ok(()),
            Policy::DropOldest { depth } | Policy::DropNewest { depth } => write!(f, ":{depth}"),
            Policy::KeepLatest | Policy::Block | Policy::Fail | Policy::Evict => Ok(()),
        }
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Policy, PolicyError> {
        let (name, depth) = match text.split_once(':') {
            Some((name, depth)) => (name, Some(depth)),
            None => (text, None),
        };
        let policy = match (name, depth) {
            ("drop-oldest", None) => Policy::default(),
            ("drop-oldest", Some(depth)) => {
                Policy::DropOldest { depth: parse_depth(depth, RING_SLOTS_HARD_MAX)? }
            }
            ("drop-newest", Some(depth)) => {
                Policy::DropNewest { depth: parse_depth(depth, DROP_NEWEST_DEPTH_MAX)? }
            }
            ("drop-newest", None) => return Err(PolicyError::DepthMissing),
            ("keep-latest", None) => Policy::KeepLatest,
            ("block", None) => Policy::Block,
            ("fail", None) => Policy::Fail,
            ("evict", None) => Policy::Evict,
            ("keep-latest" | "block" | "fail" | "evict", Some(_)) => return Err(PolicyError::DepthUnwanted),
            _ => return Err(PolicyError::Unknown),
        };
        policy.checked()
    }
}

fn parse_depth(text: &str, depth_max: u32) -> Result<u32, PolicyError> {
    // `u32::from_str` takes a leading plus sign; two spellings of one policy would be one too many.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PolicyError::NotANumber { depth_max });
    }
    // Digits that do not fit 64 bits are as much too large as those that do not fit 32.
    let depth = text.parse::<u64>().unwrap_or(u64::MAX);
    match u32::try_from(depth) {
        Ok(depth) if depth <= depth_max => Ok(depth),
        _ => Err(PolicyError::Depth { depth, depth_max }),
    }
}

/// A policy as it lies in a control message, before its bounds are checked.
#[derive(Deserialize)]
enum PolicyBody {
    DropOldest { depth: u32 },
    KeepLatest,
    DropNewest { depth: u32 },
    Block,
    Fail,
    Evict,
}

impl TryFrom<PolicyBody> for Policy {
    type Error = PolicyError;

    fn try_from(body: PolicyBody) -> Result<Policy, PolicyError> {
        match body {
            PolicyBody::DropOldest { depth } => Policy::DropOldest { depth },
            PolicyBody::KeepLatest => Policy::KeepLatest,
            PolicyBody::DropNewest { depth } => Policy::DropNewest { depth },
            PolicyBody::Block => Policy::Block,
            PolicyBody::Fail => Policy::Fail,
            PolicyBody::Evict => Policy::Evict,
        }
        .checked()
    }
}

/// Why a text or a peer's bytes are not a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// No policy has this name.
    Unknown,
    /// The depth is 0 or above its bound.
    Depth {
        /// What was asked for; `u64::MAX` for more than fits.
        depth: u64,
        /// The largest depth of this policy.
        depth_max: u32,
    },
    /// What follows the colon is not a number.
    NotANumber {
        /// The largest depth of this policy.
        depth_max: u32,
    },
    /// `drop-newest` without its depth.
    DepthMissing,
    /// A depth for a policy that has none.
    DepthUnwanted,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::Unknown => f.write_str(
                "unknown policy; write drop-oldest[:D], keep-latest, drop-newest:D, block, fail or evict",
            ),
            PolicyError::Depth { depth, depth_max } => {
                write!(f, "depth {depth} is out of bounds; write a number from 1 to {depth_max}")
            }
            PolicyError::NotANumber { depth_max } => {
                write!(f, "the depth is not a number; write a number from 1 to {depth_max} after the colon")
            }
            PolicyError::DepthMissing => write!(
                f,
                "drop-newest needs its depth; write drop-newest:D with D from 1 to {DROP_NEWEST_DEPTH_MAX}"
            ),
            PolicyError::DepthUnwanted => f.write_str(
                "only drop-oldest and drop-newest have a depth; leave out the colon and the number",
            ),
        }
    }
}

impl core::error::Error for PolicyError {}
