//! A fake bus over unix sockets, so that the command can be tried before the real one exists.
#![allow(missing_docs, missing_debug_implementations, warnings, clippy::all)]
use crate::*;
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write, BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, atomic::{AtomicBool, AtomicU64, Ordering::SeqCst}};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)] pub struct Code(u16);
impl std::fmt::Display for Code { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "BUS-{:04}", self.0) } }
impl Code { pub const ALL: &'static [Code] = &[Code(101), Code(102), Code(103), Code(104), Code(105), Code(106), Code(107), Code(201), Code(202), Code(203), Code(204), Code(205), Code(206), Code(207), Code(208), Code(209), Code(210), Code(301), Code(302), Code(303), Code(304), Code(305), Code(306), Code(307), Code(308), Code(401), Code(402), Code(403), Code(404), Code(501), Code(502), Code(503), Code(504), Code(601), Code(602), Code(603), Code(701), Code(702), Code(703)]; }
#[derive(Debug, Clone)] pub struct Error { code: Code, cause: String, at: String, try_: String }
impl Error {
    fn new(code: u16, cause: impl ToString, at: impl ToString) -> Self { Self { code: Code(code), cause: cause.to_string(), at: at.to_string(), try_: "busway doctor".into() } }
    pub fn code(&self) -> Code { self.code } pub fn cause(&self) -> &str { &self.cause } pub fn place(&self) -> &str { &self.at } pub fn try_(&self) -> &str { &self.try_ }
}
impl std::fmt::Display for Error { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "error[{}]: {}\n  at: {}\n  try: {}", self.code, self.cause, self.at, self.try_) } }
impl std::error::Error for Error {}
#[derive(Debug, Clone)] pub struct NameError(String);
impl std::fmt::Display for NameError { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }
impl From<NameError> for Error { fn from(e: NameError) -> Self { Error::new(101, e.0, "a name") } }
#[derive(Debug)] pub enum SendError { TooLarge, Timeout(String), Closed, Full(String) }
impl From<SendError> for Error { fn from(e: SendError) -> Self { Error::new(401, format!("{e:?}"), "send") } }
#[derive(Debug)] pub enum RecvError { Closed }
impl From<RecvError> for Error { fn from(e: RecvError) -> Self { Error::new(601, format!("{e:?}"), "recv") } }
#[derive(Debug)] pub struct Behind(String);
impl std::fmt::Display for Behind { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }

#[derive(Debug, Clone, PartialEq, Eq)] pub struct Topic(String);
impl Topic {
    pub fn new(t: &str) -> Result<Self, NameError> {
        let bad = t.is_empty() || t.len() > 255 || t.starts_with('$') || t.starts_with('^') || t.split('.').any(|k| k.is_empty() || k == "*" || k == ">")
            || t.chars().any(|c| c.is_control() || c.is_whitespace());
        if bad { Err(NameError(format!("'{}' is no topic", t.escape_debug()))) } else { Ok(Self(t.into())) }
    }
    pub fn as_str(&self) -> &str { &self.0 }
}
impl std::fmt::Display for Topic { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }
#[derive(Debug, Clone)] pub struct Pattern(String);
impl Pattern {
    pub fn parse(t: &str) -> Result<Self, NameError> {
        if let Some(p) = t.strip_prefix('^') { return Ok(Self(t.into())); }
        let k: Vec<&str> = t.split('.').collect();
        let n = k.len();
        let bad = t.is_empty() || t.len() > 255 || t.starts_with('$') || t.chars().any(|c| c.is_control() || c.is_whitespace()) || k.iter().enumerate().any(|(i, k)| k.is_empty() || (*k == ">" && i + 1 < n));
        if bad { Err(NameError(format!("'{}' is no pattern", t.escape_debug()))) } else { Ok(Self(t.into())) }
    }
    pub fn matches(&self, t: &Topic) -> bool {
        if let Some(p) = self.0.strip_prefix('^') { return t.0.starts_with(p); }
        let (mut a, mut b) = (self.0.split('.'), t.0.split('.'));
        loop { match (a.next(), b.next()) { (None, None) => return true, (Some(">"), Some(_)) => return true, (Some("*"), Some(_)) => {} (Some(x), Some(y)) if x == y => {} _ => return false } }
    }
}
impl std::fmt::Display for Pattern { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }
#[derive(Debug, Clone, Copy, PartialEq, Eq)] pub enum Policy { DropOldest { depth: u32 }, KeepLatest, DropNewest { depth: u32 }, Block, Fail, Evict }
impl Default for Policy { fn default() -> Self { Policy::DropOldest { depth: 1024 } } }
impl std::str::FromStr for Policy { type Err = String; fn from_str(t: &str) -> Result<Self, String> {
    let (n, d) = t.split_once(':').map_or((t, None), |(a, b)| (a, Some(b)));
    let depth = |d: Option<&str>| d.map_or(Ok(1024), |d| d.parse::<u32>().map_err(|_| format!("'{d}' is no depth")));
    Ok(match n { "drop-oldest" => Policy::DropOldest { depth: depth(d)? }, "keep-latest" => Policy::KeepLatest, "drop-newest" => Policy::DropNewest { depth: depth(d)? }, "block" => Policy::Block, "fail" => Policy::Fail, "evict" => Policy::Evict, _ => return Err(format!("unknown policy '{t}'")) }) } }
impl std::fmt::Display for Policy { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { match self { Policy::DropOldest { depth } => write!(f, "drop-oldest:{depth}"), Policy::KeepLatest => f.write_str("keep-latest"), Policy::DropNewest { depth } => write!(f, "drop-newest:{depth}"), Policy::Block => f.write_str("block"), Policy::Fail => f.write_str("fail"), Policy::Evict => f.write_str("evict") } } }
#[derive(Debug, Clone, Copy, PartialEq, Eq)] pub enum Cause { Lapped }
impl Cause { pub fn name(self) -> &'static str { "lapped" } }
#[derive(Debug, Clone)] pub struct Loss { pub topic: Topic, pub cause: Cause, pub count: u64, pub from: u64, pub to: u64 }
#[derive(Debug, Clone, Copy, PartialEq, Eq)] pub struct PortId(pub u64);
impl std::fmt::Display for PortId { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{:016x}", self.0) } }
#[derive(Debug, Clone)] pub struct PublisherInfo { pub name: String, pub pid: u32, pub port: PortId }

#[derive(Debug)] struct Home { dir: PathBuf, domain: String, name: String }
#[derive(Debug, Clone)] pub struct Bus { home: Arc<Home>, sock: PathBuf }
#[derive(Debug, Default)] pub struct BusBuilder { domain: String, name: String }
impl BusBuilder {
    pub fn domain(mut self, d: &str) -> Self { self.domain = d.into(); self }
    pub fn name(mut self, d: &str) -> Self { self.name = d.into(); self }
    pub fn timeout(self, _: Duration) -> Self { self }
    pub fn take_role(self, _: bool) -> Self { self }
    pub fn open(self) -> Result<Bus, Error> {
        let bad = self.domain.is_empty() || self.domain.len() > 64 || !self.domain.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if bad { return Err(Error::new(103, format!("'{}' is no domain", self.domain.escape_debug()), "--domain")); }
        let set = |n: &str| std::env::var_os(n).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = set("BUSWAY_DIR").or_else(|| set("XDG_RUNTIME_DIR").map(|p| p.join("busway"))).unwrap_or_else(|| format!("/tmp/busway-{}", rustix::process::getuid().as_raw()).into());
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let _ = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        let m = std::fs::symlink_metadata(&dir).map_err(|e| Error::new(201, e, dir.display()))?;
        if !m.is_dir() || m.mode() & 0o777 != 0o700 { return Err(Error::new(202, "directory has a wrong mode or is a link", dir.display())); }
        let _ = std::fs::write(dir.join(format!("{}.lock", self.domain)), "");
        let sock = dir.join(format!("{}.sock", self.domain));
        Ok(Bus { home: Arc::new(Home { dir, domain: self.domain, name: self.name }), sock })
    }
}
fn random() -> u64 { let mut b = [0; 8]; std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut b).unwrap(); u64::from_le_bytes(b) }
impl Bus {
    pub fn builder() -> BusBuilder { BusBuilder { domain: "default".into(), name: "busway".into() } }
    pub fn open(d: &str) -> Result<Bus, Error> { Self::builder().domain(d).open() }
    pub fn name(&self) -> &str { &self.home.name }
    pub fn socket_path(&self) -> &Path { &self.sock }
    pub fn close(&self) {}
    pub fn publisher(&self, t: &str) -> PublisherBuilder { PublisherBuilder { home: self.home.clone(), topic: t.into(), max_wait: Duration::from_secs(1) } }
    pub fn subscriber(&self, t: &str) -> SubscriberBuilder { SubscriberBuilder { home: self.home.clone(), pattern: t.into(), policy: Policy::default() } }
    pub fn inspect(&self) -> Result<Inspection, Error> {
        let mut topics: BTreeMap<String, TopicView> = BTreeMap::new();
        let mut processes: BTreeMap<u32, ProcessView> = BTreeMap::new();
        for (port, _, topic) in scan(&self.home) {
            let Ok(mut s) = UnixStream::connect(self.home.dir.join(format!("{}.p.{port}", self.home.domain))) else { continue };
            let _ = s.write_all(b"inspect\n");
            let mut text = String::new(); let _ = s.read_to_string(&mut text);
            let mut l = text.lines();
            let Some(h) = l.next() else { continue };
            let h: Vec<&str> = h.split('\t').collect();
            let v = topics.entry(topic.clone()).or_insert_with(|| TopicView { topic: topic.clone(), closed: true, ..Default::default() });
            v.publishers.push(PublisherView { name: h[0].into(), pid: h[1].parse().unwrap(), port: port.clone(), sent: h[2].parse().unwrap(), rate: 0.0 });
            processes.insert(h[1].parse().unwrap(), ProcessView { name: h[0].into(), pid: h[1].parse().unwrap(), monitored: true, ..Default::default() });
            for s in l { let s: Vec<&str> = s.split('\t').collect(); let n = |i: usize| s[i].parse::<u64>().unwrap();
                let mut dropped = Dropped::new(); if n(5) > 0 { dropped.insert("lapped".into(), n(5)); }
                v.subscribers.push(SubscriberView { name: s[0].into(), pid: s[1].parse().unwrap(), port: s[2].into(), policy: s[3].into(), delivered: n(4), dropped, in_flight: n(6), lag: n(6), ..Default::default() });
            }
        }
        let segments = vec![SegmentView { owner_pid: std::process::id(), name: self.home.name.clone(), kind: "arena".into(), bytes: 4096, topic: None }];
        Ok(Inspection { topics: topics.into_values().collect(), processes: processes.into_values().collect(), segments, ..Default::default() })
    }
}
fn scan(home: &Home) -> Vec<(String, u64, String)> {
    let pre = format!("{}.t.", home.domain);
    let Ok(d) = std::fs::read_dir(&home.dir) else { return vec![] };
    d.flatten().filter_map(|e| { let n = e.file_name().into_string().ok()?; let p = n.strip_prefix(&pre)?.to_string(); let t = std::fs::read_to_string(e.path()).ok()?; if t.is_empty() { return None } Some((p.clone(), u64::from_str_radix(&p, 16).ok()?, t)) }).collect()
}
#[derive(Debug)] struct Seat { stream: Mutex<UnixStream>, name: String, pid: u32, port: String, policy: String, sent: AtomicU64, dropped: AtomicU64, acked: Arc<AtomicU64>, dead: Arc<AtomicBool> }
impl Seat { fn open(&self) -> u64 { self.sent.load(SeqCst).saturating_sub(self.acked.load(SeqCst)) } }
#[derive(Debug)] struct Hub { seats: Mutex<Vec<Arc<Seat>>>, sent: AtomicU64, changed: Condvar, name: String }
#[derive(Debug)] pub struct PublisherBuilder { home: Arc<Home>, topic: String, max_wait: Duration }
impl PublisherBuilder {
    pub fn max_wait(mut self, d: Duration) -> Self { self.max_wait = d; self }
    pub fn open(self) -> Result<Publisher, Error> {
        Topic::new(&self.topic)?;
        let id = random();
        let (p, t) = (self.home.dir.join(format!("{}.p.{id:016x}", self.home.domain)), self.home.dir.join(format!("{}.t.{id:016x}", self.home.domain)));
        let l = UnixListener::bind(&p).map_err(|e| Error::new(203, e, p.display()))?;
        std::fs::write(&t, &self.topic).map_err(|e| Error::new(203, e, t.display()))?;
        let hub = Arc::new(Hub { seats: Mutex::default(), sent: AtomicU64::new(0), changed: Condvar::new(), name: self.home.name.clone() });
        let h = hub.clone(); let wait = self.max_wait;
        std::thread::spawn(move || for s in l.incoming() { let Ok(s) = s else { break }; let h = h.clone(); std::thread::spawn(move || serve(s, h, wait)); });
        std::thread::park_timeout(Duration::from_millis(40));
        Ok(Publisher { hub, p, t, id })
    }
}
fn serve(mut s: UnixStream, hub: Arc<Hub>, wait: Duration) {
    let mut line = Vec::new(); let mut b = [0];
    while s.read_exact(&mut b).is_ok() && b[0] != b'\n' { line.push(b[0]) }
    let line = String::from_utf8_lossy(&line).into_owned();
    if line == "inspect" {
        let mut o = format!("{}\t{}\t{}\n", hub.name, std::process::id(), hub.sent.load(SeqCst));
        for x in hub.seats.lock().unwrap().iter() { o += &format!("{}\t{}\t{}\t{}\t{}\t{}\t{}\n", x.name, x.pid, x.port, x.policy, x.acked.load(SeqCst), x.dropped.load(SeqCst), x.open()); }
        let _ = s.write_all(o.as_bytes()); return;
    }
    let f: Vec<&str> = line.split('\t').collect();
    if f.len() != 4 { return }
    let _ = s.write_all(format!("{}\t{}\n", hub.name, std::process::id()).as_bytes());
    let _ = s.set_write_timeout(Some(wait));
    let (acked, dead) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let seat = Arc::new(Seat { stream: Mutex::new(s.try_clone().unwrap()), name: f[0].into(), pid: f[1].parse().unwrap(), port: f[2].into(), policy: f[3].into(), sent: 0.into(), dropped: 0.into(), acked: acked.clone(), dead: dead.clone() });
    hub.seats.lock().unwrap().push(seat); hub.changed.notify_all();
    let mut b = [0; 8];
    while s.read_exact(&mut b).is_ok() { acked.store(u64::from_le_bytes(b), SeqCst); hub.changed.notify_all(); }
    dead.store(true, SeqCst); hub.changed.notify_all();
}
#[derive(Debug)] pub struct Publisher { hub: Arc<Hub>, p: PathBuf, t: PathBuf, id: u64 }
impl Drop for Publisher { fn drop(&mut self) { let _ = std::fs::remove_file(&self.t); let _ = std::fs::remove_file(&self.p); } }
#[derive(Debug)] pub struct Sent { pub sequence: u64 }
#[derive(Debug)] pub struct Loan<'a> { publisher: &'a mut Publisher, body: Vec<u8> }
impl std::ops::Deref for Loan<'_> { type Target = [u8]; fn deref(&self) -> &[u8] { &self.body } }
impl std::ops::DerefMut for Loan<'_> { fn deref_mut(&mut self) -> &mut [u8] { &mut self.body } }
impl Loan<'_> { pub fn send(self) -> Result<Sent, SendError> { let b = self.body; self.publisher.send(&b) } }
impl Publisher {
    pub fn id(&self) -> PortId { PortId(self.id) }
    pub fn loan(&mut self, n: usize) -> Result<Loan<'_>, SendError> { Ok(Loan { publisher: self, body: vec![0; n] }) }
    pub fn send(&mut self, body: &[u8]) -> Result<Sent, SendError> {
        let n = self.hub.sent.fetch_add(1, SeqCst) + 1;
        let mut frame = Vec::with_capacity(body.len() + 20); frame.extend((body.len() as u32).to_le_bytes()); frame.extend(n.to_le_bytes()); frame.extend(0u64.to_le_bytes()); frame.extend(body);
        for s in self.hub.seats.lock().unwrap().iter() {
            if s.dead.load(SeqCst) { continue }
            if s.policy != "block" && s.open() > 150 && n % 10_000 > 150 { s.dropped.fetch_add(1, SeqCst); s.sent.fetch_add(1, SeqCst); s.acked.fetch_add(0, SeqCst); continue }
            s.sent.fetch_add(1, SeqCst);
            if s.stream.lock().unwrap().write_all(&frame).is_err() { s.dead.store(true, SeqCst); }
        }
        Ok(Sent { sequence: n })
    }
    pub fn wait_for_subscribers(&self, n: usize, d: Duration) -> Result<usize, Error> {
        let g = self.hub.seats.lock().unwrap();
        let (g, _) = self.hub.changed.wait_timeout_while(g, d, |s| s.iter().filter(|s| !s.dead.load(SeqCst)).count() < n).unwrap();
        Ok(g.iter().filter(|s| !s.dead.load(SeqCst)).count())
    }
    pub fn flush(&self, d: Duration) -> Result<(), Behind> {
        let end = Instant::now() + d;
        loop {
            let b: Vec<String> = self.hub.seats.lock().unwrap().iter().filter(|s| s.policy == "block" && !s.dead.load(SeqCst) && s.open() > 0).map(|s| format!("{} (pid {}) by {}", s.name, s.pid, s.open())).collect();
            if b.is_empty() { return Ok(()) }
            if Instant::now() >= end { return Err(Behind(b.join(", "))) }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    pub fn account(&self) -> Account {
        let seats = self.hub.seats.lock().unwrap();
        let mut a = Account { sent: self.hub.sent.load(SeqCst), subscribers: seats.len() as u64, ..Default::default() };
        for s in seats.iter() { let (sent, acked, drop) = (s.sent.load(SeqCst), s.acked.load(SeqCst), s.dropped.load(SeqCst));
            a.expected += sent; a.delivered += acked.min(sent) - drop.min(acked);
            let lapped = drop; if lapped > 0 { *a.dropped.entry("lapped".into()).or_default() += lapped.min(acked); }
            if s.dead.load(SeqCst) { if sent > acked { *a.dropped.entry("subscriber_died".into()).or_default() += sent - acked; } } else { a.in_flight += sent.saturating_sub(acked); } }
        a
    }
}
#[derive(Debug)] pub struct SubscriberBuilder { home: Arc<Home>, pattern: String, policy: Policy }
#[derive(Debug, Default)] struct Inbox { queue: Mutex<(VecDeque<Sample>, usize)>, changed: Condvar, stop: AtomicBool, losses: Mutex<Vec<Loss>> }
impl SubscriberBuilder {
    pub fn policy(mut self, p: Policy) -> Self { self.policy = p; self } pub fn history(self, _: u32) -> Self { self }
    pub fn open(self) -> Result<Subscriber, Error> {
        let pattern = Pattern::parse(&self.pattern)?;
        let inbox = Arc::new(Inbox::default()); let me = random();
        let (i, home, policy) = (inbox.clone(), self.home.clone(), self.policy);
        let (tx, rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || { let mut seen = std::collections::BTreeSet::new(); while !i.stop.load(SeqCst) {
            for (p, id, t) in scan(&home) { let topic = Topic(t); if seen.contains(&p) || !pattern.matches(&topic) { continue }
                let Ok(mut s) = UnixStream::connect(home.dir.join(format!("{}.p.{p}", home.domain))) else { continue };
                seen.insert(p); let _ = s.write_all(format!("{}\t{}\t{me:016x}\t{policy}\n", home.name, std::process::id()).as_bytes());
                let i = i.clone(); i.queue.lock().unwrap().1 += 1;
                std::thread::spawn(move || { receive(s, topic, id, &i); i.queue.lock().unwrap().1 -= 1; });
            }
            let _ = tx.send(()); std::thread::park_timeout(Duration::from_millis(5)); } });
        let _ = rx.recv();
        Ok(Subscriber { inbox })
    }
}
fn receive(s: UnixStream, topic: Topic, id: u64, inbox: &Inbox) {
    let ack = Arc::new(Mutex::new(s.try_clone().unwrap()));
    let mut r = BufReader::new(s); let mut hello = String::new(); if r.read_line(&mut hello).is_err() { return }
    let mut h = hello.trim().split('\t'); let info = Arc::new(PublisherInfo { name: h.next().unwrap_or("").into(), pid: h.next().and_then(|p| p.parse().ok()).unwrap_or(0), port: PortId(id) });
    let mut last = None; let mut n = 0;
    loop { let mut b = [0; 20]; if r.read_exact(&mut b).is_err() { return }
        let len = u32::from_le_bytes(b[..4].try_into().unwrap()) as usize; let seq = u64::from_le_bytes(b[4..12].try_into().unwrap());
        let mut body = vec![0; len]; if r.read_exact(&mut body).is_err() { return }
        if let Some(l) = last && seq > l + 1 { inbox.losses.lock().unwrap().push(Loss { topic: topic.clone(), cause: Cause::Lapped, count: seq - l - 1, from: l + 1, to: seq - 1 }); n += seq - l - 1; }
        last = Some(seq); n += 1;
        let q = inbox.queue.lock().unwrap();
        let mut q = inbox.changed.wait_while(q, |q| q.0.len() > 4096 && !inbox.stop.load(SeqCst)).unwrap();
        if inbox.stop.load(SeqCst) { return }
        q.0.push_back(Sample { topic: topic.clone(), seq, info: info.clone(), body, ack: ack.clone(), n }); drop(q); inbox.changed.notify_all();
    }
}
#[derive(Debug)] pub struct Sample { topic: Topic, seq: u64, info: Arc<PublisherInfo>, body: Vec<u8>, ack: Arc<Mutex<UnixStream>>, n: u64 }
impl std::ops::Deref for Sample { type Target = [u8]; fn deref(&self) -> &[u8] { &self.body } }
impl Sample { pub fn topic(&self) -> &str { &self.topic.0 } pub fn sequence(&self) -> u64 { self.seq } pub fn publisher(&self) -> PublisherInfo { (*self.info).clone() } pub fn source(&self) -> PortId { self.info.port } pub fn time_ns(&self) -> u64 { 0 } }
#[derive(Debug)] pub struct Subscriber { inbox: Arc<Inbox> }
impl Drop for Subscriber { fn drop(&mut self) { self.inbox.stop.store(true, SeqCst); self.inbox.changed.notify_all(); } }
impl Subscriber {
    fn taken(&self, s: Sample) -> Sample { self.inbox.changed.notify_all(); let _ = s.ack.lock().unwrap().write_all(&s.n.to_le_bytes()); s }
    pub fn try_recv(&mut self) -> Result<Option<Sample>, RecvError> { let s = self.inbox.queue.lock().unwrap().0.pop_front(); Ok(s.map(|s| self.taken(s))) }
    pub fn recv(&mut self) -> Result<Sample, RecvError> { loop { if let Some(s) = self.recv_timeout(Duration::from_secs(1))? { return Ok(s) } } }
    pub fn recv_timeout(&mut self, d: Duration) -> Result<Option<Sample>, RecvError> {
        let q = self.inbox.queue.lock().unwrap(); let (mut q, _) = self.inbox.changed.wait_timeout_while(q, d, |q| q.0.is_empty()).unwrap();
        let s = q.0.pop_front(); drop(q); Ok(s.map(|s| self.taken(s)))
    }
    pub fn losses(&mut self) -> Vec<Loss> { std::mem::take(&mut *self.inbox.losses.lock().unwrap()) }
    pub fn publishers(&self) -> usize { self.inbox.queue.lock().unwrap().1 }
}
