//! A Python to run a claim in: the interpreter of this machine, and the module as it was just built.
//!
//! The package is laid out in the tests' own directory, of links; nothing is installed, and nothing written beside the
//! sources.
//!
//! Invariant: what hangs is killed with its children's pipes closed, long before the suite's own limit.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Longer than any claim takes, also on a machine that does ten other things.
const WATCHDOG: Duration = Duration::from_secs(90);
/// The same where a soak asks for more pairs of interpreters than the suite has time for.
const WATCHDOG_OF_SOAK: Duration = Duration::from_secs(3600);
/// The oldest that the module is for.
const OLDEST: (u32, u32) = (3, 11);

/// What the wheel installs.
const PACKAGES: &[&str] = &["busway", "message_bus"];

/// The packages as users import them, and who is asked for it.
#[derive(Debug)]
pub(crate) struct Interpreter {
    program: PathBuf,
    package: PathBuf,
    directory: PathBuf,
}

impl Interpreter {
    /// The interpreter of this machine, or why there is none that will do.
    pub(crate) fn find() -> Result<Interpreter, String> {
        let program =
            std::env::var_os("BUSWAY_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
        let script = "import sys; print(*sys.version_info[:2])";
        let answer = Command::new(&program).args(["-c", script]).stdin(Stdio::null()).output();
        let text =
            answer.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) if (major, minor) >= OLDEST => {}
            (None, _) | (_, None) => return Err("there is no python3".to_owned()),
            _ => return Err(format!("python3 is older than 3.11: {}", text.trim())),
        }
        let directory = std::env::temp_dir().join(format!("busway-python-{:016x}", fastrand::u64(..)));
        Ok(Interpreter { program, package: laid_out(), directory })
    }

    /// Python with the module, in a runtime directory of its own, and with what the tests share.
    pub(crate) fn command(&self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path =
            std::env::join_paths([&self.package, &root.join("tests/python")]).expect("no colon in paths");
        let mut command = Command::new(&self.program);
        command
            .env("PYTHONPATH", path)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("BUSWAY_DIR", &self.directory);
        command.env("BUSWAY_TOOL", module().with_file_name("../busway"));
        command
            .env("BUSWAY_SOURCES", root)
            .env_remove("BUSWAY_DOMAIN")
            .current_dir(root)
            .stdin(Stdio::null());
        command
    }

    /// Runs one claim of `tests/python`, `test_file.Class.test_name`, and shows what it prints.
    pub(crate) fn claim(&self, name: &str) {
        let mut command = self.command();
        command.args(["-W", "error", "-X", "faulthandler", "-m", "unittest", name]);
        let mut child = command.spawn().expect("python starts");
        let (done, ended) = channel();
        let pid = child.id();
        let waits = std::thread::spawn(move || {
            let status = child.wait();
            let _ = done.send(());
            status
        });
        let soak = std::env::var_os("BUSWAY_PAIRS").is_some();
        if ended.recv_timeout(if soak { WATCHDOG_OF_SOAK } else { WATCHDOG }).is_err() {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let status = waits.join().expect("the wait ends").expect("it can be waited for");
        assert!(status.success(), "{name}: {status}");
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The module as cargo has just built it, beside this program.
fn module() -> PathBuf {
    let program = std::env::current_exe().expect("a path");
    let beside = program.parent().expect("a directory").join("lib_busway.so");
    assert!(beside.is_file(), "{}: cargo builds it with this test", beside.display());
    beside
}

/// Builds the command `busway`, for the claims that use it: cargo builds no other package's programs for a test. The suite
/// of the workspace has built it.
pub(crate) fn build_the_command() {
    if std::env::var_os("BUSWAY_COMMAND_IS_BUILT").is_some() {
        return;
    }
    let target = module().with_file_name("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "busway-cli", "--target-dir"]).arg(target);
    // What cargo has told this test would make other crates look changed.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    if module().with_file_name("..").canonicalize().is_ok_and(|profile| profile.ends_with("release")) {
        command.arg("--release");
    }
    let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).status();
    assert!(status.expect("cargo starts").success(), "the command does not build");
}

/// The directory to import the packages from. Several processes may lay it out at once: each link is put in place whole.
fn laid_out() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let mut links = vec![(path.join("busway/_busway.abi3.so"), module())];
    for name in PACKAGES {
        let package = path.join(name);
        fs::create_dir_all(&package).expect("a directory");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
        for entry in fs::read_dir(sources).expect("the sources") {
            let entry = entry.expect("an entry");
            if entry.path().is_file() {
                links.push((package.join(entry.file_name()), entry.path()));
            }
        }
    }
    for (link, target) in links {
        if fs::read_link(&link).is_ok_and(|old| old == target) {
            continue;
        }
        let new = link.with_file_name(format!("new-{:016x}", fastrand::u64(..)));
        symlink(target, &new).expect("a link");
        fs::rename(new, link).expect("a link in its place");
    }
    path
}
