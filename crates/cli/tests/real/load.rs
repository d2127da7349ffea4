//! HTTP under ten times as much as it takes, while others use the same node: who is refused is told when to come again, nothing of theirs is lost, and memory stays within its bounds.
//!
//! What presses is `wrk`; where it is not there the test says so and is skipped. Windows of three kinds follow each other round by round: nobody presses, somebody presses a node of which the others know
//! nothing (so much is the machine's), and their own node is pressed. Times are printed and not judged. `BUSWAY_LOAD_SECONDS` is how long their own node is pressed (`cargo xtask soak http`).

use std::io::{BufReader, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use busway::{Bus, Policy, Publisher, Subscriber};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use crate::harness::{Place, Running};
use crate::hosts::listen;

const WRK: &str = "/usr/bin/wrk";
/// Requests that may be under way.
const IN_FLIGHT: u64 = 10;
/// Each has one at a time.
const CONNECTIONS: u64 = 10 * IN_FLIGHT;
/// Bytes of a body, and of all bodies that may be under way: a tenth of what comes at once. What comes at once is more than memory may grow by: where the bound of bytes did not hold, that of memory would
/// not either.
const BODY: u64 = 128 << 10;
const BUDGET: u64 = CONNECTIONS * BODY / 10;
/// What memory may grow by beside them, in KiB.
const BESIDE_KIB: u64 = 8 << 10;
const _: () = assert!(CONNECTIONS * BODY > BUDGET + (BESIDE_KIB << 10));
const ROUNDS: u64 = 3;
const DEADLINE: Duration = Duration::from_secs(60);

/// Counts the answers by what they say. Each connection goes on to the next of some topics.
const SCRIPT: &str = r#"
local threads = {}
wrk.method = "POST"
wrk.body = string.rep("x", BODY)
function setup(thread) table.insert(threads, thread) end
function init(args) sent, full, bare, other, at = 0, 0, 0, 0, 0 end
function request()
  at = at + 1
  return wrk.format("POST", "/v1/publish/pressed." .. at % 8)
end
function response(status, headers, body)
  if status == 200 then sent = sent + 1
  elseif status == 429 and (headers["retry-after"] or headers["Retry-After"]) == "1" then full = full + 1
  elseif status == 429 then bare = bare + 1
  else
    other = other + 1
    if other == 1 then print("strange: " .. status .. " " .. body) end
  end
end
function done(summary, latency, requests)
  local all = { 0, 0, 0, 0, summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout }
  for _, thread in ipairs(threads) do
    for at, name in ipairs({ "sent", "full", "bare", "other" }) do all[at] = all[at] + thread:get(name) end
  end
  print("counted " .. table.concat(all, " "))
end
"#;

/// Of the monotonic clock.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Messages that go to another program and come back, one at a time.
struct Flow {
    ping: Publisher,
    pong: Subscriber,
    count: u64,
}

impl Flow {
    fn start(near: &Bus, far: Bus, name: &str) -> Flow {
        let (there, back) = (format!("{name}.there"), format!("{name}.back"));
        let ping = near.publisher(&there).open().expect("a publisher");
        let pong = near.subscriber(&back).policy(Policy::Block).open().expect("a subscriber");
        let mut heard = far.subscriber(&there).policy(Policy::Block).open().expect("a subscriber");
        let mut answer = far.publisher(&back).open().expect("a publisher");
        std::thread::spawn(move || {
            while let Ok(sample) = heard.recv() {
                if answer.send(&sample).is_err() {
                    return;
                }
            }
        });
        let mut flow = Flow { ping, pong, count: 0 };
        // Until both directions are joined what is sent may reach nobody.
        let deadline = now() + DEADLINE;
        loop {
            flow.ping.send(&flow.count.to_le_bytes()).expect("sent");
            if flow.pong.recv_timeout(Duration::from_millis(100)).expect("a bus").is_some() {
                break;
            }
            assert!(now() < deadline, "{name}: nothing comes back");
        }
        // What was sent meanwhile comes before this, however late.
        flow.count = u64::MAX;
        flow.ping.send(&flow.count.to_le_bytes()).expect("sent");
        while flow.pong.recv_timeout(DEADLINE).expect("a bus").expect("it comes back")[..] != [u8::MAX; 8] {}
        flow.count = 0;
        flow
    }

    /// How long one takes, there and back, in microseconds.
    fn once(&mut self) -> u64 {
        self.count += 1;
        let began = now();
        self.ping.send(&self.count.to_le_bytes()).expect("sent");
        let back = self.pong.recv_timeout(DEADLINE).expect("a bus").expect("it comes back");
        assert_eq!(back[..], self.count.to_le_bytes(), "in order, and none lost");
        u64::try_from((now() - began).as_micros()).unwrap_or(u64::MAX)
    }
}

/// The time below which 99 of 100 stay.
fn p99(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// What others do while something presses, and how long it took them.
struct Others {
    local: Flow,
    linked: Flow,
    rng: fastrand::Rng,
}

impl Others {
    /// Goes on while this is so, with moments of rest between; p99 of both.
    fn run(&mut self, mut on: impl FnMut() -> bool) -> [u64; 2] {
        let (mut local, mut linked) = (Vec::new(), Vec::new());
        while on() || local.is_empty() {
            local.push(self.local.once());
            linked.push(self.linked.once());
            // Nothing comes on this topic of its own: it is a rest, of another length each time.
            let rest = Duration::from_micros(self.rng.u64(200..1_200));
            assert!(self.local.pong.recv_timeout(rest).expect("a bus").is_none());
        }
        [p99(&mut local), p99(&mut linked)]
    }
}

/// A line of the status of a process, in KiB.
fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn join(place: &Place) -> Bus {
    Bus::builder().directory(place.bus_directory()).open().expect("a bus")
}

/// A node that serves HTTP, with a link where it has a peer.
struct Served {
    node: Running,
    _stream: BufReader<PipeReader>,
    at: String,
}

impl Served {
    fn start(place: &Place, peer: Option<&str>) -> Served {
        let file = place.temporary().join("busway.toml");
        let links =
            peer.map(|peer| format!("[node]\nindex = 0\n[peers]\n1 = \"{peer}\"\n")).unwrap_or_default();
        // Those of one window may not have ended when the next begins, and one address has half.
        let most = 4 * CONNECTIONS;
        let http = format!("[http]\nlisten = [\"127.0.0.1:0\"]\nconnections_max = {most}\n");
        let flow = format!("[flows.ingress]\nin_flight = {IN_FLIGHT}\nbytes = \"{}KiB\"\n", BUDGET >> 10);
        std::fs::write(&file, [links, http, flow].concat()).expect("a file");
        let arguments = ["up", "--config", file.to_str().expect("a path of text")];
        let (node, stream, line) = Running::spoken(place.limited("ulimit -n 8192", &arguments));
        let at = line.split_whitespace().find_map(|word| word.strip_prefix("http=")).expect("it serves HTTP");
        Served { at: at.to_owned(), node, _stream: stream }
    }

    fn press(&self, script: &Path, connections: u64, seconds: u64) -> Child {
        let mut shell = Command::new("sh");
        // What presses stands behind all others: it is not to take from them what HTTP does not.
        shell.args(["-c", "ulimit -n 8192 && exec nice -n 19 \"$0\" \"$@\"", WRK]);
        shell.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
        // An answer that is late on a busy machine is one all the same.
        shell.args(["--timeout", &format!("{}s", DEADLINE.as_secs()), "-s"]).arg(script);
        shell.arg(format!("http://{}/", self.at)).stdin(Stdio::null()).stdout(Stdio::piped());
        shell.spawn().expect("wrk starts")
    }
}

/// Waits for its end, which `others` do not wait for; its counts.
fn pressed(mut wrk: Child, others: &mut Others) -> ([u64; 2], [u64; 5]) {
    let times = others.run(|| wrk.try_wait().expect("a child").is_none());
    let output = wrk.wait_with_output().expect("its output");
    let text = String::from_utf8_lossy(&output.stdout);
    let line =
        text.lines().find_map(|line| line.strip_prefix("counted ")).unwrap_or_else(|| panic!("{text}"));
    let counts: Vec<u64> = line.split(' ').map(|count| count.parse().expect("a count")).collect();
    (times, counts.try_into().expect("five"))
}

fn script(place: &Place) -> PathBuf {
    let script = place.temporary().join("count.lua");
    std::fs::write(&script, SCRIPT.replace("BODY", &BODY.to_string())).expect("a file");
    script
}

/// Round by round: the ratio of each to that of the first window, as the median of the rounds.
fn ratio(of: &[[u64; 2]], idle: &[[u64; 2]], which: usize) -> f64 {
    let mut ratios: Vec<f64> =
        of.iter().zip(idle).map(|(of, idle)| of[which] as f64 / idle[which].max(1) as f64).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

#[test]
fn ten_times_what_http_takes_is_refused_with_a_time_and_takes_no_more_than_its_bounds() {
    if !Path::new(WRK).is_file() {
        println!("skipped: there is no {WRK}");
        return;
    }
    let seconds = std::env::var("BUSWAY_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let (near, far, elsewhere) = (Place::new(), Place::new(), Place::new());
    let (far_node, _far_stream, address) = listen(&far, "1", "127.0.0.1:0");
    let (own, other) = (Served::start(&near, Some(&address)), Served::start(&elsewhere, None));
    let script = script(&near);
    let near_bus = join(&near);
    let (local, linked) =
        (Flow::start(&near_bus, join(&near), "local"), Flow::start(&near_bus, join(&far), "linked"));
    let mut others = Others { local, linked, rng: fastrand::Rng::with_seed(5) };
    let window = (seconds / ROUNDS).max(1);
    // What its publishers keep is there before it is pressed: they write over it from then on.
    let mut kept = 0;
    loop {
        pressed(own.press(&script, 1, 1), &mut others);
        let now = memory(own.node.pid(), "RssShmem:");
        if now <= std::mem::replace(&mut kept, now) + BESIDE_KIB / 100 {
            break;
        }
    }
    let before = memory(own.node.pid(), "VmRSS:");
    let (mut idle, mut beside, mut under) = (Vec::new(), Vec::new(), Vec::new());
    let mut counts = [0; 5];
    for _ in 0..ROUNDS {
        let until = now() + Duration::from_secs(window);
        idle.push(others.run(|| now() < until));
        beside.push(pressed(other.press(&script, CONNECTIONS, window), &mut others).0);
        let (times, counted) = pressed(own.press(&script, CONNECTIONS, window), &mut others);
        under.push(times);
        counts.iter_mut().zip(counted).for_each(|(all, count)| *all += count);
    }
    let [sent, refused, bare, strange, broken] = counts;
    let grown = memory(own.node.pid(), "VmHWM:").saturating_sub(before);
    let busy = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "evidence: load={:?} pressed_s={} connections={CONNECTIONS} sent={sent} refused_429_with_retry_after={refused} without={bare} strange={strange} broken={broken} messages_lost=0 \
         grown_kib={grown} of={} p99_us_idle={idle:?} p99_us_machine_pressed={beside:?} p99_us_node_pressed={under:?}",
        busy.split(' ').next().unwrap_or_default(),
        window * ROUNDS,
        (BUDGET >> 10) + BESIDE_KIB
    );
    println!(
        "evidence: median_ratio_of_p99: local to_idle={:.2} to_machine_pressed={:.2}; linked to_idle={:.2} to_machine_pressed={:.2}",
        ratio(&under, &idle, 0),
        ratio(&under, &beside, 0),
        ratio(&under, &idle, 1),
        ratio(&under, &beside, 1)
    );
    assert!(sent > 0 && refused > 0);
    assert_eq!((bare, strange, broken), (0, 0, 0));
    assert!(grown <= (BUDGET >> 10) + BESIDE_KIB, "{grown} KiB");
    drop(others);
    drop(near_bus);
    for node in [own.node, other.node, far_node] {
        node.signal(Signal::TERM);
        node.finish().expect(0);
    }
}
