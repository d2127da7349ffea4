//! A door with a bus of its own, and a client that sends raw bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Add;
use std::path::PathBuf;
use std::time::Duration;

use busway::Bus;
use busway_http::{Http, HttpConfig};
use serde_json::Value;

/// Nothing here takes longer, but what is measured in the limits.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A moment of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Moment {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Moment(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Moment::now().0.saturating_sub(self.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(self.0 + time)
    }
}

/// A bus in a directory of its own, which is removed at the end.
pub(crate) struct Place {
    directory: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let name = format!("busway-http-{:016x}", fastrand::u64(..));
        Place { directory: std::env::temp_dir().join(name) }
    }

    pub(crate) fn bus(&self) -> Bus {
        Bus::builder().directory(&self.directory).open().expect("a bus")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Opens a door at a port of the kernel's choice.
pub(crate) fn open(bus: &Bus, config: HttpConfig) -> Http {
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    Http::open(bus, HttpConfig { listen, ..config }).expect("a door")
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
    stream.set_write_timeout(Some(LIMIT)).expect("a time-out");
    stream
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().expect("a code").to_owned()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }
}

/// Reads the head of an answer.
pub(crate) fn head(reader: &mut impl BufRead) -> (u16, BTreeMap<String, String>) {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a first line");
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("a status: {line:?}"));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else { return (status, headers) };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
}

/// Sends these bytes and reads the answer to its end. The peer may close before it has read all.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    // To some it says how much there would be.
    if bytes.starts_with(b"HEAD ") {
        let (mut reader, mut body) = (BufReader::new(stream), Vec::new());
        let (status, headers) = head(&mut reader);
        if !headers.contains_key("content-length") {
            let _ = reader.read_to_end(&mut body);
        }
        return Answer { status, headers, body };
    }
    answer(stream)
}

/// Reads an answer to its end.
pub(crate) fn answer(stream: TcpStream) -> Answer {
    let mut reader = BufReader::new(stream);
    let (status, headers) = head(&mut reader);
    let mut body = Vec::new();
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    match length {
        Some(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body).expect("the body");
        }
        None => _ = reader.read_to_end(&mut body),
    }
    Answer { status, headers, body }
}

/// A request with these headers, each a line, and a body.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    raw(address, &request(method, path, headers, body))
}

pub(crate) fn request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
        text.push_str("host: localhost\r\n");
    }
    for line in headers {
        text.push_str(line);
        text.push_str("\r\n");
    }
    if !body.is_empty() || method == "PUT" {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, &[], &[])
}

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// A stream of events, as a page reads it.
pub(crate) struct Events {
    reader: BufReader<TcpStream>,
    pub(crate) status: u16,
}

impl Events {
    pub(crate) fn open(address: SocketAddr, path: &str, headers: &[&str]) -> Events {
        let mut stream = connect(address);
        // A stream of HTTP/1.0 is not cut into chunks.
        let path = path.replace('>', "%3E");
        let mut text = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n");
        for line in headers {
            text.push_str(&format!("{line}\r\n"));
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).expect("it is read");
        let mut reader = BufReader::new(stream);
        let (status, _) = head(&mut reader);
        Events { reader, status }
    }

    /// The next event; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = ("message".to_owned(), String::new(), None);
        let deadline = Moment::now() + LIMIT;
        while Moment::now() < deadline {
            let mut line = String::new();
            if self.reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", text)) => text.clone_into(&mut name),
                Some(("id", text)) => text.clone_into(&mut id),
                Some(("data", text)) => data = Some(serde_json::from_str(text).expect("JSON")),
                _ if line == "\n" && data.is_some() => {
                    return Some(Event { name, id, data: data.expect("it is some") });
                }
                _ => {}
            }
        }
        panic!("no event came in time");
    }

    /// The next event of this name.
    pub(crate) fn wait(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().expect("the stream goes on");
            if event.name == name {
                return event;
            }
        }
    }

    /// The bodies of the next messages.
    pub(crate) fn bodies(&mut self, count: usize) -> Vec<String> {
        let body = |event: Event| event.data["body"].as_str().expect("text").to_owned();
        (0..count).map(|_| body(self.wait("message"))).collect()
    }
}

/// The value of a line of `/metrics`.
pub(crate) fn metric(address: SocketAddr, name: &str) -> u64 {
    let text = get(address, "/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
}
