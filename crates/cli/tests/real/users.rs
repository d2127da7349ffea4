//! An ordinary user with a home of its own, and root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{Place, Running, names};

/// `nobody`: a user without any right of its own.
const NOBODY: u32 = 65_534;

/// Another user of that kind, and a group that no user is in but who is started in it.
const OTHER: u32 = 65_533;
const GROUP: u32 = 60_272;

/// A home that a user owns, with a copy of the binary: the place of the build need not be open to everybody.
struct Home {
    path: PathBuf,
    uid: u32,
}

impl Home {
    fn new(uid: u32) -> Self {
        let path = std::env::temp_dir().join(format!("busway-home-{:016x}", fastrand::u64(..)));
        fs::create_dir(&path).expect("a home");
        fs::copy(env!("CARGO_BIN_EXE_busway"), path.join("program")).expect("a copy of the binary");
        fs::set_permissions(path.join("program"), Permissions::from_mode(0o755)).expect("a mode");
        chown(&path, Some(uid), Some(uid)).expect("root gives away");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a mode");
        Self { path, uid }
    }

    /// The command as the user types it: only its home and its runtime directory are known.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path.join("program"));
        command.args(arguments).env_clear().env("HOME", &self.path).env("XDG_RUNTIME_DIR", &self.path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.uid(self.uid).gid(self.uid).current_dir(&self.path);
        command
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn talk(subscriber: Command, publisher: Command) {
    let mut subscriber = Running::start(subscriber);
    subscriber.stderr_until(|line| line == "ready x");
    Running::start(publisher).finish().expect(0);
    assert_eq!(subscriber.finish().expect(0).text(), "x\ty\n".repeat(100));
}

const SUB: [&str; 5] = ["sub", "x", "--reliable", "--count", "100"];
const PUB: [&str; 10] = ["pub", "x", "y", "--wait", "--count", "100", "--max-wait", "60s", "--linger", "60s"];

#[test]
fn who_runs_the_tests_can_use_it() {
    let place = Place::new();
    talk(place.command(&SUB), place.command(&PUB));
    println!("evidence: uid {}", rustix::process::geteuid().as_raw());
}

#[test]
fn an_ordinary_user_can_use_it_in_its_own_runtime_directory() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can become another user");
    }
    let home = Home::new(NOBODY);
    talk(home.command(&SUB), home.command(&PUB));
    let tour = Running::start(home.command(&["tour", "--seconds", "1", "--subscribers", "1"])).finish();
    assert!(tour.expect(0).text().contains("account closed"));
    assert_eq!(names(&home.path.join("busway")), ["default.lock"], "nothing but the lock is left");
    println!("evidence: uid {NOBODY}, 100 messages and a tour");
}

#[test]
fn another_user_is_refused_and_the_first_does_not_notice() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can become another user");
    }
    let (place, home) = (Place::new(), Home::new(NOBODY));
    let listener = place.subscribe(&["x", "--reliable", "--count", "1"]);
    let mut command = home.command(&["pub", "x", "intruder"]);
    command.env("BUSWAY_DIR", place.bus_directory());
    let refused = Running::start(command).finish().expect(3);
    assert!(refused.report().0.starts_with("BUS-02"), "{:?}", refused.stderr);
    assert_eq!(refused.stderr.len(), 3, "{:?}", refused.stderr);
    place.run(&["pub", "x", "y", "--wait"]).expect(0);
    assert_eq!(listener.finish().expect(0).text(), "x\ty\n");
    println!("evidence: uid {NOBODY} refused at the directory of uid 0");
}

/// A directory that several users can reach, and the realm of a group in it.
struct Shared {
    path: PathBuf,
}

impl Shared {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("busway-shared-{:016x}", fastrand::u64(..)));
        fs::create_dir(&path).expect("a directory");
        // As /tmp: everybody may make something there, and nobody may remove what others made.
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).expect("a mode");
        Self { path }
    }

    /// The command of a user who was started in the group.
    fn command(&self, home: &Home, arguments: &[&str]) -> Command {
        let mut command = home.command(arguments);
        command.env("BUSWAY_DIR", self.path.join("bus")).env("BUSWAY_REALM", GROUP.to_string()).gid(GROUP);
        command
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn two_users_of_a_group_share_a_realm_and_others_do_not() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can become another user");
    }
    let (shared, one, other) = (Shared::new(), Home::new(NOBODY), Home::new(OTHER));
    let mut up = shared.command(&one, &["up"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    up.stdout(writer);
    let up = Running::start(up);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(reader), &mut line).expect("a line is read");
    assert!(line.starts_with("ready "), "{line}");
    for (subscribing, publishing) in [(&one, &other), (&other, &one)] {
        let mut subscriber = Running::start(shared.command(subscribing, &SUB));
        subscriber.stderr_until(|line| line == "ready x");
        let seen = Running::start(shared.command(publishing, &["ls", "--json"])).finish().expect(0).object();
        assert_eq!(seen["subscribers"][0]["pid"], subscriber.pid(), "{seen}");
        Running::start(shared.command(publishing, &PUB)).finish().expect(0);
        assert_eq!(subscriber.finish().expect(0).text(), "x\ty\n".repeat(100));
    }
    let made = fs::metadata(shared.path.join("bus")).expect("it was made");
    assert_eq!(
        (made.permissions().mode() & 0o7777, std::os::unix::fs::MetadataExt::gid(&made)),
        (0o2770, GROUP)
    );
    // Who is not in the group, and who does not say that it means the group's.
    let mut stranger = shared.command(&other, &["pub", "x", "intruder"]);
    stranger.gid(OTHER);
    assert_eq!(Running::start(stranger).finish().expect(3).report().0, "BUS-0202");
    let mut unaware = shared.command(&one, &["pub", "x", "y"]);
    unaware.env_remove("BUSWAY_REALM");
    let refused = Running::start(unaware).finish().expect(3).report();
    assert_eq!(refused.0, "BUS-0202");
    assert!(refused.3.contains(&format!("--realm {GROUP}")), "the remedy is named: {refused:?}");
    up.signal(rustix::process::Signal::TERM);
    up.finish().expect(0);
    println!("evidence: uids {NOBODY} and {OTHER} in group {GROUP}, 200 messages");
}
