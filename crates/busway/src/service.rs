//! What makes a service out of ports: when something that fails is tried again, and when it is left alone.
//!
//! The decisions are machines of `busway-protocol`, which know no clock: whoever uses them says what time it is, by [`now`]
//! in a program and by a number of its own in a test. Each end of something that fails for itself has its own breaker.
//!
//! ```
//! # fn main() -> Result<(), busway::Error> {
//! use busway::service::{Breaker, Ended, Retry, now};
//!
//! # let bus = busway::Bus::open("example-of-service")?;
//! let mut publisher = bus.publisher("orders.new").open()?;
//! let mut breaker = Breaker::default();
//! match breaker.admit(now()) {
//!     Ok(pass) => {
//!         let sent = publisher.try_send(b"17 apples");
//!         breaker.settle(now(), pass, if sent.is_ok() { Ended::Well } else { Ended::Badly });
//!     }
//!     Err(refused) => println!("not before {} ns", refused.until.0),
//! }
//!
//! let mut attempts = Retry::times(3).begin(17);
//! let second = attempts.failed(now()).expect("there are three more");
//! assert!(second > now());
//! # Ok(())
//! # }
//! ```

pub use busway_protocol::{Attempts, Breaker, BreakerState, Ended, Pass, Refused, Retry, Time};

/// The time of the machines here: the monotonic clock, which nobody sets.
#[must_use]
pub fn now() -> Time {
    Time(busway_shm::clock::monotonic_ns())
}
