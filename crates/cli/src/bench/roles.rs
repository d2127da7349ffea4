//! What the processes of a bench do, and what exactly is measured.
//!
//! - *ping/echo*: one message at a time, there and back; half of it is one way.
//! - *source/sink*: messages carry the time at which they were sent, with a rate the time at which they should have been
//!   sent; the sink subtracts. The source also measures each call of `send`.
//!
//! Payloads are written before and touched after. Times are of the monotonic clock, which all processes share.

use busway::{Bus, Policy, Publisher, Sample, Subscriber};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::children::{Word, hear, say};
use crate::clock;
use crate::exit::{CommandCode, Failure};
use crate::rate::{Pace, Rate};

/// Bytes of the time at the front of each payload.
pub(super) const STAMP_SIZE: u64 = 8;

const PING: &str = "bench.ping";
const PONG: &str = "bench.pong";
const DATA: &str = "bench.data";

/// Rounds before the clock starts: pages are mapped and branch predictors know the way.
const WARM_UP: u64 = 1_000;

/// Longer than this no single figure can be; beyond, the histogram says this.
const LONGEST_NS: u64 = 600_000_000_000;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PingJob {
    pub(super) size: u64,
    pub(super) count: u64,
    pub(super) wake: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EchoJob {
    pub(super) wake: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SourceJob {
    pub(super) size: u64,
    pub(super) count: u64,
    pub(super) rate: Option<f64>,
    pub(super) subscribers: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SinkJob {
    pub(super) count: u64,
    pub(super) wake: bool,
}

/// What one process measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(super) count: u64,
    pub(super) lost: u64,
    pub(super) elapsed_ns: u64,
    pub(super) threads: u64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) p999_ns: u64,
    pub(super) max_ns: u64,
}

impl Measured {
    fn new(histogram: &Histogram<u64>, count: u64, lost: u64, elapsed_ns: u64) -> Self {
        Self {
            count,
            lost,
            elapsed_ns,
            threads: threads(),
            p50_ns: histogram.value_at_quantile(0.5),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
        }
    }

    /// The worst of each figure: a mean over subscribers would hide one that starves.
    pub(super) fn worst(all: &[Self]) -> Self {
        let most = |figure: fn(&Self) -> u64| all.iter().map(figure).max().unwrap_or(0);
        Self {
            count: all.iter().map(|one| one.count).min().unwrap_or(0),
            lost: all.iter().map(|one| one.lost).sum(),
            elapsed_ns: most(|one| one.elapsed_ns),
            threads: most(|one| one.threads),
            p50_ns: most(|one| one.p50_ns),
            p99_ns: most(|one| one.p99_ns),
            p999_ns: most(|one| one.p999_ns),
            max_ns: most(|one| one.max_ns),
        }
    }
}

pub(crate) fn echo(bus: &Bus, job: &EchoJob) -> Result<(), Failure> {
    let mut subscriber = bus.subscriber(PING).policy(Policy::Block).open()?;
    let mut publisher = bus.publisher(PONG).open()?;
    say(&Word::Ready)?;
    loop {
        // Until the parent, which dies with us or kills us, has enough.
        let sample = take(&mut subscriber, job.wake)?;
        publisher.send(&sample)?;
    }
}

pub(crate) fn ping(bus: &Bus, job: &PingJob) -> Result<(), Failure> {
    let mut subscriber = bus.subscriber(PONG).policy(Policy::Block).open()?;
    let mut publisher = bus.publisher(PING).open()?;
    attach(&publisher, 1)?;
    say(&Word::Ready)?;
    hear();
    let mut body = vec![0x5a; size(job.size)];
    let mut histogram = histogram()?;
    let mut started = clock::now_ns();
    for number in 0..job.count.saturating_add(WARM_UP) {
        if number == WARM_UP {
            histogram.reset();
            started = clock::now_ns();
        }
        let sent = clock::now_ns();
        stamp(&mut body, sent);
        publisher.send(&body)?;
        let sample = take(&mut subscriber, job.wake)?;
        let back = read_stamp(&sample);
        if back != sent {
            let cause = format!("message {number} came back as another");
            return Err(Failure::new(
                CommandCode::ChildFailed,
                cause,
                "measuring a round trip",
                "please report it",
            ));
        }
        histogram.saturating_record((clock::now_ns() - sent) / 2);
    }
    let elapsed = clock::now_ns() - started;
    say(&Word::BenchMeasured(Measured::new(&histogram, job.count, lost(&mut subscriber), elapsed)))
}

pub(crate) fn source(bus: &Bus, job: &SourceJob) -> Result<(), Failure> {
    // A busy machine may keep a subscriber from running for long; giving up on it would make the figures better.
    let mut publisher = bus.publisher(DATA).max_wait(PATIENCE).open()?;
    attach(&publisher, job.subscribers)?;
    say(&Word::Ready)?;
    hear();
    let mut body = vec![0x5a; size(job.size)];
    let mut histogram = histogram()?;
    let mut pace = job.rate.map(|rate| Pace::new(Rate(rate)));
    let started = clock::now_ns();
    for _ in 0..job.count {
        let due = pace.as_mut().map(|pace| {
            let due = pace.next_ns();
            // Spinning: a sleep overshoots by more than what is measured here.
            while clock::now_ns() < due {
                std::hint::spin_loop();
            }
            due
        });
        let before = clock::now_ns();
        stamp(&mut body, due.unwrap_or(before));
        publisher.send(&body)?;
        histogram.saturating_record(clock::now_ns() - before);
    }
    let elapsed = clock::now_ns() - started;
    if let Err(error) = publisher.flush(PATIENCE) {
        let cause = format!("not every subscriber has passed the last message: {error}");
        return Err(Failure::new(CommandCode::Behind, cause, "measuring", "busway doctor"));
    }
    let dropped = publisher.account().dropped_total();
    say(&Word::BenchMeasured(Measured::new(&histogram, job.count, dropped, elapsed)))?;
    hear();
    Ok(())
}

pub(crate) fn sink(bus: &Bus, job: &SinkJob) -> Result<(), Failure> {
    let mut subscriber = bus.subscriber(DATA).policy(Policy::Block).open()?;
    say(&Word::Ready)?;
    let mut histogram = histogram()?;
    let (mut received, mut missing, mut first) = (0_u64, 0_u64, None);
    let mut touched = 0_u8;
    while received.saturating_add(missing) < job.count {
        let Some(sample) =
            (if job.wake { subscriber.recv_timeout(PATIENCE)? } else { subscriber.try_recv()? })
        else {
            missing = missing.saturating_add(lost(&mut subscriber));
            std::hint::spin_loop();
            continue;
        };
        let stamp = read_stamp(&sample);
        touched ^= sample.last().copied().unwrap_or(0);
        histogram.saturating_record(clock::now_ns().saturating_sub(stamp));
        first.get_or_insert(stamp);
        received += 1;
    }
    std::hint::black_box(touched);
    let elapsed = clock::now_ns().saturating_sub(first.unwrap_or_default());
    missing = missing.saturating_add(lost(&mut subscriber));
    say(&Word::BenchMeasured(Measured::new(&histogram, received, missing, elapsed)))?;
    hear();
    Ok(())
}

/// The next message, asleep or spinning until it comes.
fn take(subscriber: &mut Subscriber, wake: bool) -> Result<Sample, Failure> {
    if wake {
        return Ok(subscriber.recv()?);
    }
    loop {
        if let Some(sample) = subscriber.try_recv()? {
            return Ok(sample);
        }
        std::hint::spin_loop();
    }
}

fn attach(publisher: &Publisher, wanted: u32) -> Result<(), Failure> {
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let found = publisher.wait_for_subscribers(wanted, PATIENCE)?;
    if found < wanted {
        let cause = format!("{found} of {wanted} subscribers came");
        return Err(Failure::new(CommandCode::NoSubscribers, cause, "starting a bench", "busway doctor"));
    }
    Ok(())
}

fn lost(subscriber: &mut Subscriber) -> u64 {
    subscriber.losses().iter().map(|loss| loss.count).sum()
}

fn size(size: u64) -> usize {
    usize::try_from(size).expect("the command refuses sizes above 1 GiB")
}

fn stamp(body: &mut [u8], ns: u64) {
    body[..8].copy_from_slice(&ns.to_le_bytes());
}

fn read_stamp(body: &[u8]) -> u64 {
    body.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_max(LONGEST_NS, 3).map_err(|error| {
        Failure::new(CommandCode::ChildFailed, error.to_string(), "making a histogram", "please report it")
    })
}

fn threads() -> u64 {
    std::fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::{Measured, read_stamp, stamp};

    #[test]
    fn a_stamp_comes_back() {
        let mut body = [0; 9];
        stamp(&mut body, 0x0123_4567_89ab_cdef);
        assert_eq!(read_stamp(&body), 0x0123_4567_89ab_cdef);
        assert_eq!(read_stamp(&[1, 2]), 0);
    }

    #[test]
    fn the_worst_subscriber_is_what_is_told() {
        let fast = Measured { count: 10, p99_ns: 5, elapsed_ns: 100, ..Measured::default() };
        let slow = Measured { count: 9, lost: 1, p99_ns: 50, elapsed_ns: 200, ..Measured::default() };
        let worst = Measured::worst(&[fast, slow]);
        assert_eq!((worst.count, worst.lost, worst.p99_ns, worst.elapsed_ns), (9, 1, 50, 200));
    }
}
