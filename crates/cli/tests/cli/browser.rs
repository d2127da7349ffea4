//! A page in a real browser reads the streams of a node: headless Chromium, driven by the plain HTTP of its driver.
//!
//! Where there is no Chromium or no driver the test says so and is skipped; with `BUSWAY_BROWSER` set that is a failure: `cargo xtask ci browser` installs them first.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::harness::{Place, Running};
use crate::node::up;

/// A browser that starts on a busy machine takes its time.
const LIMIT: Duration = Duration::from_secs(120);

const CHROMIUM: &str = "/usr/bin/chromium";
const DRIVER: &str = "/usr/bin/chromedriver";

/// The page, with `AT` for the address of the node. Each event is a line of its list.
const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>ticks</title>
<p id="state">new</p>
<ol id="events"></ol>
<script>
  const events = document.getElementById("events");
  const state = document.getElementById("state");
  const show = (text) => {
    const line = document.createElement("li");
    line.textContent = text;
    events.append(line);
  };
  const source = new EventSource("http://AT/v1/subscribe/ticks");
  let begun = 0;
  source.addEventListener("ready", () => { state.textContent = "ready " + ++begun; });
  source.addEventListener("lost", (event) => show("lost " + event.data));
  source.addEventListener("message", (event) => show(JSON.parse(event.data).body));
</script>
"#;

/// Serves the page to whoever asks, whatever they ask for.
fn serve(listener: TcpListener, page: String) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let page = page.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                    line.clear();
                }
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length";
                let _ = stream.write_all(format!("{head}: {}\r\n\r\n{page}", page.len()).as_bytes());
            });
        }
    });
}

/// A browser with one page. It ends with this.
struct Browser {
    driver: Child,
    at: String,
    session: String,
}

impl Browser {
    fn start(place: &Place) -> Browser {
        let mut command = Command::new(DRIVER);
        command.arg("--port=0").env("HOME", place.temporary()).env("TMPDIR", place.temporary());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().expect("the driver starts");
        let mut said = BufReader::new(driver.stdout.take().expect("a pipe"));
        let port = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("a line") > 0, "the driver says its port");
            if let Some((_, port)) = line.trim_end().trim_end_matches('.').split_once("successfully on port ")
            {
                break port.to_owned();
            }
        };
        // What it says further is of no interest, and must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let mut browser = Browser { driver, at: format!("127.0.0.1:{port}"), session: String::new() };
        let profile = place.temporary().join("profile");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let options = json!({ "binary": CHROMIUM, "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let session = browser.ask("POST", "/session", &wanted);
        session["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        browser
    }

    /// Asks the driver, and gives the value that it answers with.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(&self.at).expect("the driver listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
        let (at, body) = (&self.at, if method == "POST" { body.to_string() } else { String::new() });
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close");
        let head =
            format!("{head}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).expect("it is read");
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).expect("a head") > 0, "an answer to {path}");
            if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = said.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).expect("the answer");
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        let value = &answer["value"];
        assert!(value.get("error").is_none(), "{path}: {value}");
        value.clone()
    }

    fn open(&self, url: &str) {
        self.ask("POST", &format!("/session/{}/url", self.session), &json!({ "url": url }));
    }

    /// What stands in the page: its state, and the lines of its list.
    fn shown(&self) -> (String, Vec<String>) {
        let script = "return [document.getElementById('state').textContent,
                      Array.from(document.querySelectorAll('#events li'), (line) => line.textContent)]";
        let path = format!("/session/{}/execute/sync", self.session);
        let shown = self.ask("POST", &path, &json!({ "script": script, "args": [] }));
        serde_json::from_value(shown).expect("a state and lines")
    }

    /// Waits until the page shows this.
    fn until(&self, what: &str, done: impl Fn(&str, &[String]) -> bool) {
        let now = || clock_gettime(ClockId::Monotonic).tv_sec.unsigned_abs();
        let end = now() + LIMIT.as_secs();
        loop {
            let (state, lines) = self.shown();
            if done(&state, &lines) {
                return;
            }
            assert!(now() < end, "in vain: {what}: {state}, {lines:?}");
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser is a process of its own, which would live on. Here nothing may fail: a test that has failed ends this way too.
        if let Ok(mut stream) = TcpStream::connect(&self.at) {
            let (session, at) = (&self.session, &self.at);
            let head =
                format!("DELETE /session/{session} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n");
            let _ = stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.write_all(head.as_bytes()));
            let _ = stream.read(&mut [0; 512]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Why there is no browser here.
fn missing() -> Option<&'static str> {
    [CHROMIUM, DRIVER].into_iter().find(|program| !Path::new(program).is_file())
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_page_shows_each_event_once_and_in_order_also_after_its_node_was_killed() {
    if let Some(program) = missing() {
        assert!(std::env::var_os("BUSWAY_BROWSER").is_none(), "there is no {program}");
        println!("skipped: the job browser tries it: there is no {program}");
        return;
    }
    let place = Place::new();
    let server = TcpListener::bind("127.0.0.1:0").expect("an address");
    let page = server.local_addr().expect("an address");
    let file = place.temporary().join("busway.toml");
    let write = |at: &str| {
        let text = format!("[http]\nlisten = [\"{at}\"]\norigins = [\"http://{page}\"]\n");
        std::fs::write(&file, text).expect("a file");
    };
    write("127.0.0.1:0");
    let arguments = ["--config", file.to_str().expect("a path of text")];
    let (node, line) = up(&place, &arguments);
    let at = crate::http::http(&line);
    serve(server, PAGE.replace("AT", &at));
    // Its successor is where the page looks for it.
    write(&at);
    // A program of its own, which lives on while the node is killed.
    let mut publisher = place.command(&["pub", "ticks", "--lines"]);
    publisher.stdin(Stdio::piped());
    let mut publisher = Running::start(publisher);
    let mut lines = publisher.stdin().expect("a pipe");
    let mut say =
        |numbers: &[String]| lines.write_all((numbers.join("\n") + "\n").as_bytes()).expect("lines");
    let browser = Browser::start(&place);
    browser.open(&format!("http://{page}/"));
    browser.until("it subscribes", |state, _| state == "ready 1");
    say(&numbers(1..=50));
    browser.until("the first fifty are there", |_, shown| shown.len() >= 50);
    node.signal(Signal::KILL);
    node.finish();
    say(&numbers(51..=75));
    let (node, _) = up(&place, &arguments);
    browser.until("it comes back by itself", |state, _| state == "ready 2");
    say(&numbers(76..=100));
    browser.until("all are there", |_, shown| shown.len() >= 100);
    let (_, shown) = browser.shown();
    assert_eq!(shown, numbers(1..=100));
    // A page of another origin is given nothing: the same server, under another name.
    browser.open(&format!("http://localhost:{}/", page.port()));
    let strange = browser.ask(
        "POST",
        &format!("/session/{}/execute/async", browser.session),
        &json!({ "script": format!("const done = arguments[0]; fetch('http://{at}/v1/topics').then(() => done('read'), () => done('refused'))"), "args": [] }),
    );
    assert_eq!(strange, "refused");
    assert!(browser.shown().1.is_empty());
    drop((browser, say));
    drop(lines);
    publisher.finish().expect(0);
    node.signal(Signal::TERM);
    node.finish().expect(0);
    println!("evidence: events=100 kills=1 missing=0 twice=0 strange_pages_refused=1");
}
