//! What can go wrong, each with a number that never changes.
//!
//! An [`Error`] says the cause, the place and what to try; scripts look at its [`Code`] only. The hundreds of a
//! code name who is asked to act: 01xx the caller's names and settings, 02xx joining a bus, 03xx memory and
//! descriptors, 04xx the data path, 05xx a peer, 06xx this process, 07xx a codec.
//!
//! It does not decide exit statuses (that is the tool's business) and it is never made on the data path's fast side.
//!
//! Invariant: a number is never given twice and never given again; `Code::ALL` lists every one in rising order.

use busway_shm::error::ShmError;
use std::fmt;

/// Declares [`Code`] with its numbers and one sentence each, so that list, number and text cannot drift apart.
macro_rules! codes {
    ($($(#[$meta:meta])* $name:ident = $number:literal, $meaning:literal;)*) => {
        /// A stable number for a kind of error. Codes are only ever added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Code {
            $($(#[$meta])* #[doc = $meaning] $name = $number,)*
        }

        impl Code {
            /// Every code, in rising order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// What the code means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$name => $meaning,)* }
            }

            /// The code of a number that came over the control socket, if it is one of ours.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Code> {
                match number { $($number => Some(Code::$name),)* _ => None }
            }
        }
    };
}

codes! {
    BadTopic = 101, "the name of a topic breaks the grammar";
    BadPattern = 102, "a pattern breaks the grammar";
    BadDomain = 103, "the name of a domain breaks the grammar";
    BadPolicy = 104, "a policy cannot be read";
    ReservedTopic = 105, "names that begin with `$` belong to the bus";
    BadSetting = 106, "a setting is outside its range";
    TooLarge = 107, "a message is larger than its publisher allows";
    TopicClash = 108, "another topic has the same id";
    BadCredentials = 109, "a certificate, a key or a token cannot be used";
    BadTrace = 110, "a trace context cannot be read";
    BadId = 111, "the id of a message cannot be read";
    NotYet = 112, "this version cannot do it yet";
    BadRequest = 113, "a request over HTTP cannot be read";
    NotFound = 114, "nothing of that name is there";
    NotAllowed = 115, "who asks may not do that, or has not shown who it is";
    StrangeOrigin = 116, "a page of another origin asks, or a host name that is not ours";
    DirectoryOwner = 201, "the runtime directory belongs to somebody else";
    DirectoryMode = 202, "the runtime directory is open to others, or closed to us";
    DirectoryKind = 203, "the runtime directory is a symbolic link or not a directory";
    DirectoryUnusable = 204, "the runtime directory cannot be made or opened";
    SocketUnusable = 205, "the socket of the domain cannot be made or reached";
    HolderSilent = 206, "the process that holds the rendezvous does not answer";
    HolderRefused = 207, "the process that holds the rendezvous refused us";
    UserRefused = 208, "the peer runs as another user and the realm does not allow it";
    LockUnusable = 209, "the lock of the domain cannot be taken or read";
    RealmUnknown = 210, "the realm names a group that does not exist or that we are not in";
    AddressUnusable = 211, "an address cannot be listened at";
    EndpointTaken = 212, "another process is this endpoint of its cluster already";
    NoNode = 213, "no node of this host shares artifacts";
    StoreUnusable = 214, "the store of artifacts cannot be used";
    DomainBudget = 301, "the byte budget of the domain is spent";
    Descriptors = 302, "the process has no file descriptor left";
    AddressSpace = 303, "the process has no address space left";
    ArenaFull = 304, "the arena of this process is full";
    MemoryRefused = 305, "the kernel refused memory";
    HoldBudget = 306, "the process holds as many samples as it may";
    FileSize = 307, "the limit on the size of files refuses shared memory";
    TooManyPorts = 308, "the process has as many publishers and subscribers as it may";
    SeatRefused = 309, "a publisher has no room for the subscriber";
    Full = 401, "a reliable subscriber has not read what would be overwritten";
    TimedOut = 402, "what was waited for did not happen in time";
    Evicted = 403, "the subscriber was evicted, because it did not keep up";
    NoSubscribers = 404, "nobody subscribes to the topic";
    TooLate = 405, "an acknowledgement came after its message was given to another puller";
    NoResponders = 406, "nobody answers requests on the topic";
    ResponderDied = 407, "the responder died before its last reply";
    Unanswered = 408, "the responder let the request go without an answer";
    ResponderFailed = 409, "the responder failed, and says why";
    ReplyLost = 410, "a reply was lost because the requester did not take its replies in time";
    Cancelled = 411, "nobody waits for the reply any more";
    TooManyRequests = 412, "so many requests are under way or unread that the requester has no room for another";
    TooFarAhead = 413, "a request has not ended, and so many were sent after it that its place is needed";
    Rejected = 414, "a hook rejected the message before it was sent";
    BreakerOpen = 415, "sending failed again and again, and nothing is tried for a while";
    BytesLost = 416, "bytes of an artifact are not here, and nobody is there who gives them";
    IngressFull = 417, "as many requests, streams or bytes are under way over HTTP as may be";
    LayoutDiffers = 501, "the peer was built with another memory layout";
    SegmentRefused = 502, "a segment from a peer is not what it must be";
    ProtocolBroken = 503, "the peer sent what the control protocol does not allow";
    PeerCorrupt = 504, "the memory of a peer holds impossible words";
    Forked = 601, "the handle was inherited by fork and belongs to the parent";
    Closed = 602, "the bus is closed";
    ThreadRefused = 603, "the control thread cannot be started";
    EncodeFailed = 701, "the value cannot be encoded";
    DecodeFailed = 702, "the bytes do not hold the value";
    CastRefused = 703, "the bytes do not fit the type";
}

impl Code {
    /// The number: 107 for `BUS-0107`.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BUS-{:04}", self.number())
    }
}

/// Why something did not work: the cause, the place, and what to try.
///
/// ```
/// use busway::{Code, Error};
///
/// let error = Error::new(Code::BadTopic, "a topic may not be empty").at("topic ``").remedy("name at least one token");
/// assert_eq!(error.to_string(), "error[BUS-0101]: a topic may not be empty\n  at: topic ``\n  try: name at least one token");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    cause: String,
    at: String,
    remedy: String,
}

impl Error {
    /// An error of this code with its cause: lower case, no full stop. Add [`Error::at`] and [`Error::remedy`].
    #[must_use]
    pub fn new(code: Code, cause: impl Into<String>) -> Error {
        Error { code, cause: cause.into(), at: String::new(), remedy: String::new() }
    }

    /// Says where: a path, a topic, a process by name and pid.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Error {
        self.at = place.into();
        self
    }

    /// Says what the reader can try.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Error {
        self.remedy = remedy.into();
        self
    }

    /// The stable number.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// Where it happened; empty if there is no place to name.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.at
    }

    /// What to try; empty if there is nothing to try.
    #[must_use]
    pub fn try_(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.cause)?;
        if !self.at.is_empty() {
            write!(f, "\n  at: {}", self.at)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  try: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The error of a failed system call: errno decides the code where it names a shortage, `otherwise` else.
pub(crate) fn system(errno: rustix::io::Errno, tried: &str, otherwise: Code) -> Error {
    use rustix::io::Errno;
    match errno {
        Errno::MFILE => {
            Error::new(Code::Descriptors, format!("{tried}: this process has no descriptor left"))
                .remedy("raise the limit: ulimit -n 4096")
        }
        Errno::NFILE => {
            Error::new(Code::Descriptors, format!("{tried}: this machine has no descriptor left"))
                .remedy("raise fs.file-max, or close programs")
        }
        Errno::NOMEM => Error::new(Code::MemoryRefused, format!("{tried}: the kernel has no memory left"))
            .remedy("close programs, or raise the limits of this one (ulimit -v, its cgroup)"),
        other => Error::new(otherwise, format!("{tried}: {other}")),
    }
}

/// The error of the memory crate, with its code and what to try.
pub(crate) fn memory(error: &ShmError, at: &str) -> Error {
    let (code, remedy) = match error {
        ShmError::Budget { .. } => (
            Code::DomainBudget,
            "send smaller messages, close publishers, or raise the budget of who makes the domain",
        ),
        ShmError::Descriptors { .. } => (Code::Descriptors, "raise the limit: ulimit -n 4096"),
        ShmError::AddressSpace { .. } => {
            (Code::AddressSpace, "raise the limits: ulimit -v unlimited, sysctl -w vm.max_map_count=262144")
        }
        ShmError::FileSize { .. } => (Code::FileSize, "raise the limit: ulimit -f unlimited"),
        ShmError::Share { .. } => {
            (Code::MemoryRefused, "raise the limit of the cgroup (memory.max), or send smaller messages")
        }
        ShmError::Memory { .. } => (Code::MemoryRefused, "free memory, or lower the budget"),
        ShmError::Layout { .. } => (Code::LayoutDiffers, "run the same version of busway everywhere"),
        ShmError::NotSealed { .. }
        | ShmError::WrongAccess { .. }
        | ShmError::NotShared { .. }
        | ShmError::WrongSize { .. }
        | ShmError::Magic { .. } => (Code::SegmentRefused, "end the process that sent it"),
        ShmError::Incarnation { .. } | ShmError::Refused { .. } => {
            (Code::SegmentRefused, "try again, or end the process that sent it")
        }
        ShmError::TableFull { .. } => (Code::TooManyPorts, "close ports, or spread them over more processes"),
        ShmError::ArenaFull { .. } => (Code::ArenaFull, "open the bus with a larger arena"),
        ShmError::TooLarge { .. } => (Code::TooLarge, "split the message"),
        ShmError::OutOfBounds { .. } => (Code::PeerCorrupt, "end the process that wrote it"),
        ShmError::Forked => (Code::Forked, "open a new bus in the child"),
        ShmError::LifeTaken { .. } | ShmError::System { .. } => {
            (Code::MemoryRefused, "see `busway doctor` for what this machine lacks")
        }
    };
    Error::new(code, error.to_string()).at(at).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::{Code, Error, system};
    use rustix::io::Errno;

    #[test]
    fn numbers_rise_and_none_is_given_twice() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()), "numbers must rise");
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert!(!code.meaning().is_empty());
        }
        assert_eq!(Code::from_number(0), None);
        assert_eq!(Code::from_number(u16::MAX), None);
    }

    #[test]
    fn an_error_prints_cause_place_and_remedy_on_three_lines() {
        let error = Error::new(Code::TooLarge, "body of 9 bytes").at("topic x").remedy("send less");
        assert_eq!(error.to_string(), "error[BUS-0107]: body of 9 bytes\n  at: topic x\n  try: send less");
        assert_eq!((error.cause(), error.place(), error.try_()), ("body of 9 bytes", "topic x", "send less"));
        assert_eq!(Error::new(Code::Closed, "closed").to_string(), "error[BUS-0602]: closed");
    }

    #[test]
    fn shortages_have_their_own_codes() {
        assert_eq!(system(Errno::MFILE, "accept", Code::SocketUnusable).code(), Code::Descriptors);
        assert_eq!(system(Errno::NOMEM, "mmap", Code::SocketUnusable).code(), Code::MemoryRefused);
        assert_eq!(system(Errno::ACCESS, "connect", Code::SocketUnusable).code(), Code::SocketUnusable);
    }
}
