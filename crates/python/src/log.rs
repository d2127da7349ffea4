//! What the Rust side says to who runs the program, as records of Python's `logging`.
//!
//! Whoever says a line may hold the interpreter, or a lock that another thread wants which holds it. So the line goes into a queue,
//! and a thread of ours, begun by the first line and ended with the last bus, hands it to the logger `busway`. What the queue has no
//! room for is counted, and told when there is, as is what the thread leaves there when it ends. How often a cause is told is decided
//! by who says it, and what is shown by the program: where it has no handler nothing is.
//!
//! Invariant: who holds the lock of the queue waits for nothing, so that nobody who says a line waits for the interpreter, a handler or
//! this thread; a child made by fork has its own queue.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, span};

use crate::deadline::Deadline;

/// Lines that wait for Python: each kind of failure says one a second, so that only a handler that hangs fills it.
const LINES_MAX: usize = 256;
/// Bytes of a line: an error says a few hundred.
const LINE_BYTES_MAX: usize = 4096;
/// Who closes the last bus waits so long for lines to be told, and no longer for a handler that hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// The level of the logger when it was last looked at, as Python counts.
static WANTED: AtomicU8 = AtomicU8::new(WARNING);
const ERROR: u8 = 40;
const WARNING: u8 = 30;
const INFO: u8 = 20;
const DEBUG: u8 = 10;

/// Queues of this process and of those that it was forked from, the oldest first.
static QUEUES: OnceLock<Box<Queue>> = OnceLock::new();

#[derive(Debug)]
struct Line {
    level: u8,
    target: &'static str,
    text: String,
}

/// The thread that tells, and what is dropped when it ends.
#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    ended: Receiver<()>,
}

/// Lines of one process.
#[derive(Debug)]
struct Queue {
    pid: u32,
    state: Mutex<State>,
    /// A line was said, or no bus is open any more.
    news: Condvar,
    thread: Mutex<Option<Thread>>,
    next: OnceLock<Box<Queue>>,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    /// Buses that are open.
    users: usize,
    /// There is a thread that looks here before it ends. It is raised and lowered with what it says of the lines and the users.
    is_begun: bool,
    lost: u64,
    lost_untold: u64,
}

impl State {
    fn lose(&mut self, count: usize) {
        self.lost += count as u64;
        self.lost_untold += count as u64;
    }

    /// What is said of those that were lost, if any were since this was said last.
    fn lost(&mut self) -> Option<Line> {
        let lost = std::mem::take(&mut self.lost_untold);
        let text = format!("{lost} lines were lost: a handler of the log is slow");
        (lost > 0).then_some(Line { level: WARNING, target: "busway", text })
    }
}

/// What the thread has to do.
enum Word {
    Tell(Line),
    /// It ends, and this is the last that it tells.
    End(Option<Line>),
}

impl Queue {
    fn new(pid: u32) -> Box<Self> {
        let (state, news) = (Mutex::default(), Condvar::new());
        Box::new(Self { pid, state, news, thread: Mutex::default(), next: OnceLock::new() })
    }

    /// That of this process, if it has one.
    fn of_ours() -> Option<&'static Queue> {
        let pid = std::process::id();
        let mut queue: &Queue = QUEUES.get()?;
        while queue.pid != pid {
            queue = queue.next.get()?;
        }
        Some(queue)
    }

    /// That of this process. The interpreter is held, so that no two are made.
    fn for_us() -> &'static Queue {
        let pid = std::process::id();
        let mut queue: &Queue = QUEUES.get_or_init(|| Queue::new(pid));
        while queue.pid != pid {
            queue = queue.next.get_or_init(|| Queue::new(pid));
        }
        queue
    }

    fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&'static self, line: Line) {
        let mut state = self.state();
        if state.lines.len() < LINES_MAX {
            state.lines.push_back(line);
        } else {
            state.lose(1);
        }
        let begins = state.users > 0 && !std::mem::replace(&mut state.is_begun, true);
        drop(state);
        self.news.notify_one();
        if begins {
            self.begin();
        }
    }

    fn begin(&'static self) {
        let (ends, ended) = sync_channel(0);
        let begun = std::thread::Builder::new().name("bw-log".to_owned()).spawn(move || {
            let _ends = ends;
            self.tell_all();
        });
        match (begun, self.thread.try_lock()) {
            (Ok(handle), Ok(mut place)) => *place = Some(Thread { handle, ended }),
            // The last bus is being closed, and waits for no line that is said after that.
            (Ok(_), Err(_)) => {}
            // What is there waits for the next line.
            (Err(_), _) => self.state().is_begun = false,
        }
    }

    /// What the thread does, until no bus is open and all is told.
    fn tell_all(&self) {
        let mut ends = None;
        loop {
            match self.word(&mut ends) {
                Word::Tell(line) => tell(&line),
                Word::End(line) => return line.iter().for_each(tell),
            }
        }
    }

    /// What comes next; it is waited for while a bus is open. What is said after an end begins a thread.
    fn word(&self, ends: &mut Option<Deadline>) -> Word {
        let mut state = self.state();
        loop {
            if state.users > 0 {
                *ends = None;
            } else if ends.get_or_insert_with(|| Deadline::within(PATIENCE / 2)).expired() {
                // A slow handler, or a flood that does not end: the interpreter may be ending, and nobody may be in it then.
                let left = std::mem::take(&mut state.lines).len();
                state.lose(left);
                state.is_begun = false;
                return Word::End(state.lost());
            }
            if let Some(line) = state.lost() {
                return Word::Tell(line);
            }
            if let Some(line) = state.lines.pop_front() {
                return Word::Tell(line);
            }
            if state.users == 0 {
                state.is_begun = false;
                return Word::End(None);
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all is told; without the interpreter, which the thread needs.
    fn wait(&self) {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // A handler may close the bus.
        if thread.handle.thread().id() == std::thread::current().id() {
            return;
        }
        if thread.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected) {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.handle.join();
        } else {
            // A handler hangs: the next bus may wait for it.
            self.thread.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(thread);
        }
    }
}

/// As long as it is there, what is said is told.
#[derive(Debug)]
pub(crate) struct Told(&'static Queue);

impl Told {
    /// Looks at what the logger wants, and tells it from now on.
    pub(crate) fn new(py: Python<'_>) -> Self {
        static LISTENS: OnceLock<()> = OnceLock::new();
        LISTENS.get_or_init(|| {
            // Nobody else in this library could have done it.
            let _ = set_global_default(ToPython);
        });
        let queue = Queue::for_us();
        queue.state().users += 1;
        if let Some(logging) = logging(py) {
            // A program that has broken its logging has no log.
            let _ = look(&logging);
        }
        Self(queue)
    }

    /// Ends it, and with the last one waits until all was told; without the interpreter.
    pub(crate) fn end(self) {
        let queue = self.0;
        drop(self);
        // A child made by fork neither waits for the thread of its parent nor has its lock.
        if queue.is_ours() && queue.state().users == 0 {
            queue.wait();
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if self.0.is_ours() {
            self.0.state().users -= 1;
            self.0.news.notify_one();
        }
    }
}

/// `logging`, where anybody has imported it: nobody else can have a handler.
fn logging(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    py.import("sys").ok()?.getattr("modules").ok()?.get_item("logging").ok()
}

/// Looks how much the logger wants.
fn look(logging: &Bound<'_, PyAny>) -> PyResult<()> {
    let level = logging.call_method1("getLogger", ("busway",))?.call_method0("getEffectiveLevel")?;
    WANTED.store(level.extract::<i64>()?.clamp(0, 255) as u8, Ordering::Relaxed);
    Ok(())
}

/// Hands a line to the logger of its target: `busway::link` is `busway.link`.
fn tell(line: &Line) {
    Python::try_attach(|py| {
        let Some(logging) = logging(py) else { return };
        let told = || -> PyResult<()> {
            let logger = logging.call_method1("getLogger", (line.target.replace("::", "."),))?;
            // Without a handler Python would print what is a warning or worse.
            if logger.call_method0("hasHandlers")?.is_truthy()?
                && logger.call_method1("isEnabledFor", (line.level,))?.is_truthy()?
            {
                logger.call_method1("log", (line.level, "%s", &line.text))?;
            }
            look(&logging)
        };
        if let Err(error) = told() {
            error.write_unraisable(py, None);
        }
    });
}

/// What hears the Rust side.
#[derive(Debug)]
struct ToPython;

fn level_of(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => WARNING,
        Level::INFO => INFO,
        _ => DEBUG,
    }
}

impl tracing::Subscriber for ToPython {
    fn register_callsite(&self, _metadata: &'static Metadata<'static>) -> Interest {
        // What the logger wants may change.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let wanted = WANTED.load(Ordering::Relaxed);
        metadata.is_event() && *metadata.level() < Level::TRACE && level_of(*metadata.level()) >= wanted
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(queue) = Queue::of_ours() else { return };
        let mut words = Words::default();
        event.record(&mut words);
        let text = words.line();
        queue.say(Line {
            level: level_of(*event.metadata().level()),
            target: event.metadata().target(),
            text,
        });
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// The message of an event, and what else it says.
#[derive(Debug, Default)]
struct Words {
    message: String,
    fields: String,
}

impl Words {
    fn line(mut self) -> String {
        self.message.push_str(&self.fields);
        if self.message.len() > LINE_BYTES_MAX {
            let end = (0..=LINE_BYTES_MAX).rev().find(|at| self.message.is_char_boundary(*at)).unwrap_or(0);
            self.message.truncate(end);
        }
        self.message
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a text cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.fields, " {}={value}", field.name());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        // Most often nothing was held back.
        if value > 0 || field.name() != "held_back" {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }
}

/// Says a line as the Rust side does, for tests. Returns how many were lost by now.
#[pyfunction]
pub(crate) fn _say(level: u8, text: &str) -> u64 {
    match level {
        ERROR.. => tracing::error!(target: "busway", "{text}"),
        WARNING.. => tracing::warn!(target: "busway", "{text}"),
        INFO.. => tracing::info!(target: "busway::link", "{text}"),
        _ => tracing::debug!(target: "busway", "{text}"),
    }
    Queue::of_ours().map_or(0, |queue| queue.state().lost)
}
