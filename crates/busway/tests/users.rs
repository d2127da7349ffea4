//! Users and containers: another user is refused unless the realm names a group, and who shares only the directory
//! can talk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/part.rs"]
mod part;
#[path = "scene/place.rs"]
mod place;

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use busway::{Bus, Code, Policy, Realm};
use busway_wire::Control;
use part::{Child, Part, hear, say};
use place::{PATIENCE, Scene, join};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketType};
use rustix::process::Signal;
use rustix::time::Timespec;

/// `nobody`, and another one: users without any right of their own.
const NOBODY: u32 = 65_534;
const STRANGER: u32 = 65_533;
/// A group that no user is in but those who are started in it.
const GROUP: u32 = 60_271;

#[test]
fn plays_its_part_if_it_was_started_for_one() {
    let Some(part) = Part::given() else { return };
    match part.name.as_str() {
        "tries" => tries(&part, Realm::User),
        "tries the group" => tries(&part, Realm::Group(GROUP)),
        "publishes" => publishes(&part.bus()),
        "publishes to the group" => publishes(&in_group(&part)),
        "reads" => reads(&part.bus()),
        "reads of the group" => reads(&in_group(&part)),
        other => panic!("no part is called {other}"),
    }
}

fn in_group(part: &Part) -> Bus {
    part.join().realm(Realm::Group(GROUP)).open().unwrap()
}

/// Joins, and says how that went.
fn tries(part: &Part, realm: Realm) {
    match part.join().realm(realm).open() {
        Ok(bus) => {
            say("joined");
            assert_eq!(hear(), None);
            drop(bus);
        }
        Err(error) => {
            say(&format!("{} {}", error.code(), !error.place().is_empty() && !error.try_().is_empty()))
        }
    }
}

/// Sends messages of the sizes that it hears.
fn publishes(bus: &Bus) {
    let mut publisher = bus.publisher("sizes").open().unwrap();
    say("publishes");
    while let Some(line) = hear() {
        let (bytes, subscribers) = line.split_once(" to ").unwrap_or((&line, "1"));
        publisher.wait_for_subscribers(subscribers.parse().unwrap(), PATIENCE).unwrap();
        publisher.send(&vec![8; bytes.parse().unwrap()]).unwrap();
        say("sent");
    }
}

/// Reads messages and says their size, whether they are held or copied, and whether they are whole.
fn reads(bus: &Bus) {
    let mut subscriber = bus.subscriber("sizes").policy(Policy::Block).open().unwrap();
    say("subscribed");
    while let Some(sample) = subscriber.recv_timeout(PATIENCE).unwrap() {
        let whole = sample.iter().all(|byte| *byte == 8);
        say(&format!("{} held={} whole={whole}", sample.len(), sample.is_held()));
    }
}

/// Whether this can be tried at all; says why not.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can start processes of other users and in other namespaces");
    }
    root
}

/// Starts a process of another user. The binary is found through the process, for its path may be closed to that user.
fn start_as(scene: &Scene, uid: u32, gid: u32, part: &str) -> Child {
    // Built under a strict umask it could be run by us alone.
    let program = std::env::current_exe().unwrap();
    let mode = std::fs::metadata(&program).unwrap().permissions().mode();
    std::fs::set_permissions(&program, Permissions::from_mode(mode | 0o055)).unwrap();
    let mut command = Command::new("/proc/self/exe");
    command.uid(uid).gid(gid).current_dir("/");
    Child::start(command, scene, part)
}

#[test]
fn another_user_is_refused_by_the_directory_with_a_clear_error() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let bus = scene.bus("owner");
    let mode = std::fs::metadata(scene.directory()).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700);
    let child = start_as(&scene, NOBODY, NOBODY, "tries");
    assert_eq!(child.line(), format!("{} true", Code::DirectoryMode), "a directory that is closed to it");
    // Nobody's own directory: root could enter it, and does not trust it.
    let theirs = Scene::new();
    let child = start_as(&theirs, NOBODY, NOBODY, "tries");
    assert_eq!(child.line(), "joined");
    let error = join(theirs.directory(), "root").open().unwrap_err();
    assert_eq!(error.code(), Code::DirectoryOwner, "{error}");
    assert!(error.cause().contains("65534"), "it says whose it is: {error}");
    assert_eq!(bus.inspect().unwrap().processes.len(), 1, "nobody has joined");
    assert_eq!(scene.start("tries").line(), "joined", "its own user may");
    child.signal(Signal::KILL);
    println!("evidence: refused={},{}", Code::DirectoryMode, Code::DirectoryOwner);
}

#[test]
fn another_user_that_reaches_the_socket_is_refused_by_the_holder() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let child = start_as(&scene, NOBODY, NOBODY, "tries");
    assert_eq!(child.line(), "joined");
    // Root passes any directory, so here its own checks are left out.
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let address = SocketAddrUnix::new(scene.directory().join("test.sock")).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let timeout = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)).unwrap(), 1);
    let mut buffer = vec![0; 64 << 10];
    let (bytes, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap();
    let answer = busway_wire::decode(&buffer[..bytes]).unwrap();
    let Control::Refused { code, reason } = answer else { panic!("not refused: {answer:?}") };
    assert_eq!(Code::from_number(code), Some(Code::UserRefused));
    assert!(reason.contains("65534") && reason.contains("uid 0"), "it names both users: {reason}");
    let (bytes, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap_or((0, 0));
    assert_eq!(bytes, 0, "the connection is closed");
    println!("evidence: refused={} reason={reason}", Code::UserRefused);
}

#[test]
fn users_of_the_realms_group_talk_and_copy_what_other_users_send() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    // The directory is made by root, as an administrator would; root itself takes no part afterwards.
    join(scene.directory(), "administrator").realm(Realm::Group(GROUP)).open().unwrap().close();
    let made = std::fs::metadata(scene.directory()).unwrap();
    assert_eq!((made.mode() & 0o7777, made.gid()), (0o2770, GROUP));
    let reader = start_as(&scene, NOBODY, GROUP, "reads of the group");
    assert_eq!(reader.line(), "subscribed");
    let mut same_user = start_as(&scene, NOBODY, GROUP, "publishes to the group");
    assert_eq!(same_user.line(), "publishes");
    let mut other_user = start_as(&scene, STRANGER, GROUP, "publishes to the group");
    assert_eq!(other_user.line(), "publishes");
    for (bytes, held) in [(96, false), (200, true), (3 << 20, true)] {
        assert_eq!(same_user.ask(&bytes.to_string()), "sent");
        assert_eq!(reader.line(), format!("{bytes} held={held} whole=true"), "of its own user");
        assert_eq!(other_user.ask(&bytes.to_string()), "sent");
        assert_eq!(reader.line(), format!("{bytes} held=false whole=true"), "of another user");
    }
    let outside = start_as(&scene, STRANGER, STRANGER, "tries the group");
    assert_eq!(outside.line(), format!("{} true", Code::DirectoryMode), "who is not in the group stays out");
    println!("evidence: users=2 sizes=3 copied=3 refused={}", Code::DirectoryMode);
}

/// Process numbers of its own: whoever is started has number 1 there, and those outside have none.
const OWN_NUMBERS: &str = "--pid --fork --kill-child --mount-proc";

/// Starts a process as containers do: with its own /tmp, /run and /dev/shm; the directory lies elsewhere.
fn contained(scene: &Scene, more: &str, part: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t tmpfs none /mnt && mkdir /mnt/shared && mount --bind {} /mnt/shared \
         && touch /mnt/program && mount --bind \"$0\" /mnt/program \
         && for place in /tmp /run /dev/shm; do mount -t tmpfs none $place || exit 1; done \
         && export BUSWAY_TEST_DIRECTORY=/mnt/shared && exec /mnt/program \"$@\"",
        scene.directory().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--ipc", "--uts"]).args(more.split_whitespace());
    command.args(["sh", "-c", &script]).arg(&program);
    Child::start(command, scene, part)
}

#[test]
fn mount_namespaces_that_share_only_the_directory_can_talk() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let first = scene.bus("outside");
    let reader = contained(&scene, "", "reads");
    assert_eq!(reader.line(), "subscribed");
    let mut publisher = contained(&scene, OWN_NUMBERS, "publishes");
    assert_eq!(publisher.line(), "publishes");
    for bytes in [8, 1_000, 2 << 20] {
        assert_eq!(publisher.ask(&bytes.to_string()), "sent");
        assert_eq!(reader.line(), format!("{bytes} held={} whole=true", bytes > 96));
    }
    // The holder outside goes: one of those inside takes over, in the directory that they share.
    first.close();
    let second = scene.bus("outside again");
    let mut own = second.subscriber("sizes").open().unwrap();
    assert_eq!(publisher.ask("500 to 2"), "sent");
    assert_eq!(reader.line(), "500 held=true whole=true");
    assert_eq!(own.recv_timeout(PATIENCE).unwrap().unwrap()[..], [8; 500]);
    println!("evidence: mount_namespaces=3 pid_namespaces=2 sizes=3");
}

#[test]
fn a_holder_in_a_container_lets_in_those_who_have_no_process_number_there() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    std::fs::create_dir(scene.directory()).unwrap();
    std::fs::set_permissions(scene.directory(), Permissions::from_mode(0o700)).unwrap();
    // The first holds. Two others come, of which it has no number: another container's first process, and one outside.
    let mut publisher = contained(&scene, OWN_NUMBERS, "publishes");
    assert_eq!(publisher.line(), "publishes");
    let reader = contained(&scene, OWN_NUMBERS, "reads");
    assert_eq!(reader.line(), "subscribed");
    let bus = scene.bus("outside");
    let mut own = bus.subscriber("sizes").policy(Policy::Block).open().unwrap();
    for bytes in [8, 1_000, 2 << 20] {
        assert_eq!(publisher.ask(&format!("{bytes} to 2")), "sent");
        assert_eq!(reader.line(), format!("{bytes} held={} whole=true", bytes > 96));
        assert_eq!(own.recv_timeout(PATIENCE).unwrap().unwrap().len(), bytes);
    }
    assert_eq!(bus.inspect().unwrap().processes.len(), 3);
    // It is killed with its container: its death is told by its life word, whatever its number was.
    drop(publisher);
    let mut publisher = contained(&scene, OWN_NUMBERS, "publishes");
    assert_eq!(publisher.line(), "publishes");
    assert_eq!(publisher.ask("700 to 2"), "sent");
    assert_eq!(reader.line(), "700 held=true whole=true");
    assert_eq!(own.recv_timeout(PATIENCE).unwrap().unwrap()[..], [8; 700]);
    println!("evidence: pid_namespaces=4 sizes=4");
}
