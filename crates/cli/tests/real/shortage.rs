//! Memory, descriptors, address space and file size that run out: a cause and a remedy, and nothing lost for others.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Ended, Place, Running};

/// 64 MiB, of which the domain that is made inside has a quarter, and each process half.
const GROUP_BYTES: u64 = 64 << 20;

#[test]
fn limits_that_are_too_small_are_refused_by_name_and_nobody_else_notices() {
    let place = Place::new();
    let node = place.up();
    let listener = place.subscribe(&["x", "--reliable", "--raw", "--count", "2"]);
    place.run(&["pub", "x", "before", "--wait", "--linger", "60s"]).expect(0);
    let limits = [
        ("ulimit -n 8", "BUS-0302", "ulimit -n"),
        ("ulimit -n 10", "BUS-0302", "ulimit -n"),
        ("ulimit -n 15", "BUS-0302", "ulimit -n"),
        ("ulimit -v 65536", "BUS-0303", "ulimit -v"),
        ("ulimit -v 1000000", "BUS-0303", "ulimit -v"),
        ("ulimit -f 100", "BUS-0307", "ulimit -f"),
    ];
    for (limit, wanted, remedy) in limits {
        let ended = Running::start(place.limited(limit, &["pub", "x", "lost"])).finish().expect(3);
        let (code, _, _, told) = ended.report();
        assert_eq!(code, wanted, "{limit}: {:?}", ended.stderr);
        assert!(told.contains(remedy), "{limit}: {told}");
        assert_eq!(ended.stderr.len(), 3, "{limit}: {:?}", ended.stderr);
    }
    place.run(&["pub", "x", "after", "--wait", "--linger", "60s"]).expect(0);
    assert_eq!(listener.finish().expect(0).text(), "before\nafter\n");
    node.signal(rustix::process::Signal::TERM);
    node.finish().expect(0);
    println!("evidence: {} limits refused, others lost 0", limits.len());
}

#[test]
fn output_past_the_limit_of_files_is_an_error_and_no_death() {
    let place = Place::new();
    let file = place.temporary().join("out");
    // In the shell's units of 512 bytes; stderr is a pipe, which has no limit.
    let mut command = place.limited("ulimit -f 1000000", &["sub", "x", "--raw", "--reliable"]);
    command.stdout(fs::File::create(&file).expect("a file"));
    let mut subscriber = Running::start(command);
    subscriber.stderr_until(|line| line == "ready x");
    limit_files(subscriber.pid(), 1000);
    place.run(&["pub", "x", "--size", "1MiB", "--wait"]).expect(0);
    let ended = subscriber.finish().expect(1);
    assert_eq!(ended.report().0, "BUS-0802");
    println!("evidence: 1 write past the limit");
}

/// Lowers the file size limit of a process that has its segments already.
fn limit_files(pid: u32, bytes: u64) {
    let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).expect("our own child");
}

/// A memory cgroup, removed at its end.
struct Group {
    path: PathBuf,
}

impl Group {
    fn new() -> Result<Self, String> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory/busway-test-{:016x}", fastrand::u64(..)));
        fs::create_dir(&path).map_err(|error| format!("no memory cgroup can be made: {error}"))?;
        let group = Self { path };
        let limit = group.path.join("memory.limit_in_bytes");
        fs::write(limit, GROUP_BYTES.to_string()).map_err(|error| format!("it takes no limit: {error}"))?;
        Ok(group)
    }

    /// Runs the command inside.
    fn run(&self, place: &Place, arguments: &[&str]) -> Ended {
        let join = format!("echo $$ > {}/cgroup.procs", self.path.display());
        Running::start(place.limited(&join, arguments)).finish()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// In a cgroup of 64 MiB: a message that can never fit is refused, and many that do not fit at once go one after the
/// other. `outside`: the domain was made by a process without that limit.
fn check_group(group: &Group, place: &Place) {
    let listener = place.subscribe(&["x", "--reliable", "--count", "20", "--raw"]);
    let refused = group.run(place, &["pub", "x", "--size", "48MiB"]).expect(3);
    let (code, cause, _, remedy) = refused.report();
    assert!(["BUS-0301", "BUS-0305"].contains(&code.as_str()), "{code}: {cause}");
    assert!(!remedy.is_empty());
    let words = ["pub", "x", "--size", "4MiB", "--count", "20", "--wait"];
    let sent = group.run(place, &[&words[..], &["--max-wait", "60s", "--linger", "60s"]].concat()).expect(0);
    assert_eq!(sent.last_error_line(), "sent 20 subscribers 1 delivered 20 dropped 0 in-flight 0");
    // The refused publisher sent nothing, so all that comes is of the second.
    assert!(listener.finish().expect(0).stdout.len() == 20 * ((4 << 20) + 1));
}

#[test]
fn in_a_cgroup_of_64_mib_the_kernel_kills_nobody() {
    let group = match Group::new() {
        Ok(group) => group,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let place = Place::new();
    // Nobody is there: the first publisher makes the domain, inside.
    let alone = group.run(&place, &["pub", "x", "--size", "4MiB", "--count", "20"]).expect(0);
    assert_eq!(alone.last_error_line(), "sent 20 subscribers 0 delivered 0 dropped 0 in-flight 0");
    check_group(&group, &place);
    let node = place.up();
    check_group(&group, &place);
    node.signal(rustix::process::Signal::TERM);
    node.finish().expect(0);
    println!("evidence: 60 messages of 4 MiB sent from a cgroup of 64 MiB, 2 of 48 MiB refused");
}
