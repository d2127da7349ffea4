//! What the processes of a tour do.
//!
//! The publisher: attach all, say ready, wait for the word, send passes over the records, flush, report. A subscriber:
//! attach, say ready, hash what comes, and once it has been told how much was sent and has it all, report.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use busway::{Bus, Policy};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::children::{Word, hear, say};
use crate::clock::{self, Deadline};
use crate::exit::{CommandCode, Failure};

use super::records::{PassHash, Records};

const TOPIC: &str = "flights";

/// How often the publisher says how far it is.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Reading the clock once in so many sends costs nothing.
const CLOCK_EVERY: u64 = 1024;

/// A busy machine may keep a subscriber from running for long; here that is no reason to go on without it.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What the publisher must know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PublisherJob {
    pub(super) seconds: u64,
    pub(super) subscribers: u32,
}

/// What a subscriber must know: the name that its report bears.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SubscriberJob {
    pub(super) name: String,
}

/// The publisher's report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(super) account: AccountReport,
    pub(super) seconds: f64,
    pub(super) bytes: u64,
    pub(super) passes: u64,
}

/// An account on its way to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AccountReport {
    pub(super) sent: u64,
    pub(super) subscribers: u64,
    pub(super) expected: u64,
    pub(super) delivered: u64,
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) dropped_total: u64,
    pub(super) in_flight: u64,
    pub(super) closed: bool,
}

impl AccountReport {
    pub(super) fn accounted(&self) -> u64 {
        self.delivered.saturating_add(self.dropped_total).saturating_add(self.in_flight)
    }
}

/// A subscriber's report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(super) name: String,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) passes: u64,
    pub(super) passes_wrong: u64,
    /// Of the last whole pass.
    pub(super) hash: String,
}

pub(crate) fn publish(bus: &Bus, job: &PublisherJob) -> Result<(), Failure> {
    let records = Records::unpack()?;
    let mut publisher = bus.publisher(TOPIC).max_wait(MAX_WAIT).open()?;
    let wanted = usize::try_from(job.subscribers).unwrap_or(usize::MAX);
    let found = publisher.wait_for_subscribers(wanted, MAX_WAIT)?;
    if found < wanted {
        let cause = format!("{found} of {wanted} subscribers came");
        return Err(Failure::new(CommandCode::NoSubscribers, cause, "starting the tour", "busway doctor"));
    }
    say(&Word::Ready)?;
    if hear().is_none() {
        return Ok(());
    }
    let started = clock::now_ns();
    let end = Deadline::after(Duration::from_secs(job.seconds));
    let mut progress = Deadline::after(PROGRESS_INTERVAL);
    let (mut sent, mut passes) = (0_u64, 0);
    // Whole passes only: each subscriber compares whole passes with the file.
    while !end.over() || passes == 0 {
        for line in records.lines() {
            publisher.send(line)?;
            sent += 1;
            if sent.is_multiple_of(CLOCK_EVERY) && progress.over() {
                say(&Word::Progress(sent))?;
                progress = Deadline::after(PROGRESS_INTERVAL);
            }
        }
        passes += 1;
    }
    if let Err(error) = publisher.flush(MAX_WAIT) {
        let cause = format!("not every subscriber has passed the last message: {error}");
        return Err(Failure::new(CommandCode::Behind, cause, "ending the tour", "busway doctor"));
    }
    let seconds = Duration::from_nanos(clock::now_ns() - started).as_secs_f64();
    let account = publisher.account();
    let account = AccountReport {
        sent: account.sent,
        subscribers: account.subscribers,
        expected: account.expected,
        delivered: account.delivered,
        dropped_total: account.dropped_total(),
        in_flight: account.in_flight,
        closed: account.closed(),
        dropped: account.dropped,
    };
    let bytes = passes * (records.bytes().len() as u64 - records.count());
    say(&Word::TourPublished(Published { account, seconds, bytes, passes }))?;
    // The rings of a publisher that leaves stay readable, but the tour shows processes that live to the end.
    hear();
    Ok(())
}

pub(crate) fn subscribe(bus: &Bus, job: &SubscriberJob) -> Result<(), Failure> {
    let records = Records::unpack()?;
    let count = records.count();
    let mut subscriber = bus.subscriber(TOPIC).policy(Policy::Block).open()?;
    say(&Word::Ready)?;
    let mut report = Received {
        name: job.name.clone(),
        received: 0,
        lost: 0,
        passes: 0,
        passes_wrong: 0,
        hash: String::new(),
    };
    let mut hash = PassHash::default();
    let mut end: Option<(u64, Deadline)> = None;
    loop {
        // In two steps: while messages flow there is no system call, and so no look at the parent either.
        let sample = match subscriber.try_recv()? {
            Some(sample) => Some(sample),
            None => subscriber.recv_timeout(Duration::from_millis(20))?,
        };
        if let Some(sample) = sample {
            hash.line(&sample);
            report.received += 1;
            if report.received.is_multiple_of(count) {
                report.passes += 1;
                report.hash = hash.take();
                report.passes_wrong += u64::from(report.hash != records.hash());
            }
            continue;
        }
        report.lost += subscriber.losses().iter().map(|loss| loss.count).sum::<u64>();
        if end.is_none() && parent_spoke() {
            match hear().and_then(|line| line.parse().ok()) {
                Some(sent) => end = Some((sent, Deadline::after(Duration::from_secs(5)))),
                None => return Ok(()),
            }
        }
        if let Some((sent, patience)) = end
            && (report.received >= sent || patience.over())
        {
            return say(&Word::TourReceived(report));
        }
    }
}

/// Whether there is a line of the parent, or its end.
fn parent_spoke() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|count| count > 0)
}
