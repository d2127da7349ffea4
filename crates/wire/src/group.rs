//! A group: pullers that share the messages of a topic, each message going to one of them.
//!
//! Its name and how it takes messages are said by each of its pullers alike; who says something else is refused by the
//! pusher. This file holds the bounds, and nothing of what follows.
//!
//! Invariant: a group that came from a peer is within its bounds.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{GROUP_ACK_MS_MAX, GROUP_ATTEMPTS_MAX};
use crate::request::responders;
use crate::topic::Topic;

/// Before the name of a group: the topic of what none of its pullers acknowledged, whatever its own topic was.
///
/// ```
/// assert_eq!(format!("{}resizers", busway_wire::DEAD_LETTERS), "dead-letters.resizers");
/// ```
pub const DEAD_LETTERS: &str = "dead-letters.";

/// A group, as its pullers name it. Its name follows the grammar of topics.
///
/// ```
/// use busway_wire::{Acknowledge, Group, Topic};
/// let name = Topic::new("resizers")?;
/// let group = Group::new(name.clone(), Some(Acknowledge { within_ms: 30_000, attempts: 5 })).unwrap();
/// assert_eq!(group.to_string(), "group resizers, acknowledged within 30000 ms, 5 attempts");
/// assert!(Group::new(name, Some(Acknowledge { within_ms: 0, attempts: 1 })).is_err());
/// # Ok::<(), busway_wire::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "GroupBody")]
pub struct Group {
    name: Topic,
    acknowledge: Option<Acknowledge>,
}

/// A group in which what was not acknowledged is given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledge {
    /// So long a puller may take for a message: 1 to `GROUP_ACK_MS_MAX` milliseconds.
    pub within_ms: u32,
    /// To so many pullers a message is given: 1 to `GROUP_ATTEMPTS_MAX`.
    pub attempts: u8,
}

/// A group as it stands in a body.
#[derive(Deserialize)]
struct GroupBody {
    name: Topic,
    acknowledge: Option<Acknowledge>,
}

impl TryFrom<GroupBody> for Group {
    type Error = GroupError;

    fn try_from(body: GroupBody) -> Result<Group, GroupError> {
        Group::new(body.name, body.acknowledge)
    }
}

/// A group that is out of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// The time for an acknowledgement.
    Within(u32),
    /// The number of attempts.
    Attempts(u8),
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(found) => {
                write!(f, "an acknowledgement may take 1 to {GROUP_ACK_MS_MAX} ms, not {found}")
            }
            Self::Attempts(found) => {
                write!(f, "a message may be given to 1 to {GROUP_ATTEMPTS_MAX} pullers, not {found}")
            }
        }
    }
}

impl core::error::Error for GroupError {}

impl Group {
    /// A group of this name. Without `acknowledge` a message is given to one puller, and that is all.
    ///
    /// # Errors
    /// A time or a number of attempts that is out of its bounds.
    pub fn new(name: Topic, acknowledge: Option<Acknowledge>) -> Result<Group, GroupError> {
        if let Some(Acknowledge { within_ms, attempts }) = acknowledge {
            if within_ms == 0 || within_ms > GROUP_ACK_MS_MAX {
                return Err(GroupError::Within(within_ms));
            }
            if attempts == 0 || attempts > GROUP_ATTEMPTS_MAX {
                return Err(GroupError::Attempts(attempts));
            }
        }
        Ok(Group { name, acknowledge })
    }

    /// Whether a process may pull for it: users name their groups, and of those of the bus there is the one of the responders, which
    /// acknowledges nothing.
    ///
    /// ```
    /// use busway_wire::{Group, Topic, responders};
    /// assert!(Group::new(responders(), None).unwrap().is_open());
    /// assert!(!Group::new(Topic::reserved("$other").unwrap(), None).unwrap().is_open());
    /// ```
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.name.is_reserved() || self.name == responders() && self.acknowledge.is_none()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Topic {
        &self.name
    }

    /// How messages are acknowledged in it, if they are.
    #[must_use]
    pub fn acknowledge(&self) -> Option<Acknowledge> {
        self.acknowledge
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.name)?;
        match self.acknowledge {
            None => Ok(()),
            Some(Acknowledge { within_ms, attempts }) => {
                write!(f, ", acknowledged within {within_ms} ms, {attempts} attempts")
            }
        }
    }
}
