//! The Python package as its users get it: built by pip, installed in an environment of its own, tested and type-checked.
//!
//! `cargo xtask test` tries the module as cargo builds it; here it is tried as a wheel. What it takes (maturin, mypy, pytest)
//! comes from pip, and where pip has none the job is skipped: nothing else needs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::Failure;
use crate::process::{self, Output};
use crate::workspace;

/// What became of it.
pub(crate) enum Wheel {
    Good,
    Bad(String),
    Nothing(String),
}

const LIMIT: Duration = Duration::from_secs(900);
// numpy is for an example, which shows a message to it.
const TOOLS: &[&str] = &["maturin>=1.9,<2", "mypy>=1.18,<3", "pytest>=8,<10", "numpy>=1.26,<3"];
/// What tests use where it is there: the programs' own packages. Where pip has one of them not, its test says so.
const EXTRAS: &[&str] = &["fastapi", "msgpack", "orjson", "pyarrow"];
/// From the package's directory.
const EXAMPLES: &str = "../../examples/python";
const OLD: &str = "import sys; sys.exit(sys.version_info < (3, 11))";

/// Builds, installs and tries it.
pub(crate) fn run() -> Result<Wheel, Failure> {
    if workspace::answer("python3", &["-c", OLD]).is_none() {
        return Ok(Wheel::Nothing("there is no python3 of 3.11 or newer".to_owned()));
    }
    let folder = workspace::target().join("wheel");
    let (venv, out) = (folder.join("venv"), folder.join("out"));
    let _ = std::fs::remove_dir_all(&folder);
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    let python = venv.join("bin/python");
    let mut tools = Command::new(&python);
    tools.args(["-m", "pip", "install", "--quiet"]).args(TOOLS);
    for (step, what) in [(make, "python3 makes no environment"), (tools, "pip cannot fetch the tools")] {
        if !quiet(step)? {
            return Ok(Wheel::Nothing(what.to_owned()));
        }
    }
    for extra in EXTRAS {
        let mut package = Command::new(&python);
        package.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", extra]);
        quiet(package)?;
    }
    for (name, step) in steps(&python, &out) {
        let end = process::run(step, name, LIMIT, Output::Shown)?;
        if !end.success() {
            return Ok(Wheel::Bad(format!("{name}: {}", end.why())));
        }
    }
    Ok(Wheel::Good)
}

fn quiet(command: Command) -> Result<bool, Failure> {
    Ok(process::run(command, "wheel-tools", LIMIT, Output::Kept)?.success())
}

fn steps(python: &Path, out: &Path) -> Vec<(&'static str, Command)> {
    let package = workspace::root().join("crates/python");
    let bin = python.parent().expect("it lies in bin");
    let path = std::env::join_paths(
        std::iter::once(bin.to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let module = |arguments: &[&str]| {
        let mut command = Command::new(python);
        command.arg("-m").args(arguments).current_dir(&package);
        command.env("PATH", path.as_deref().unwrap_or_default()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("BUSWAY_DIR", bin.join("run")).env("BUSWAY_SOURCES", &package);
        command.env("BUSWAY_TOOL", workspace::target().join("debug/busway"));
        command
    };
    let mut tool = workspace::cargo();
    tool.args(["build", "-p", "busway-cli", "--locked"]);
    // As the tests are built, so that hardly anything is built again.
    let mut wheel = module(&["pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]);
    wheel.args(["--config-settings", "build-args=--profile dev"]).arg("--wheel-dir").arg(out);
    let mut install = module(&["pip", "install", "--quiet", "--no-deps", "--no-index", "busway"]);
    install.arg("--find-links").arg(out);
    let mut tests = module(&["pytest", "-q", "-p", "no:cacheprovider", "tests/python"]);
    // The module as cargo builds it has started many pairs of interpreters: here it is tried that the wheel can.
    tests.env("PYTHONPATH", package.join("tests/python")).env("BUSWAY_PAIRS", "10");
    let cache: PathBuf = out.join("mypy");
    let mut types =
        module(&["mypy", "--strict", "python/busway", "python/message_bus", EXAMPLES, "--cache-dir"]);
    types.arg(&cache);
    let stubs = module(&["mypy.stubtest", "busway", "message_bus", "--allowlist", "tests/stubtest.txt"]);
    vec![
        ("wheel-command", tool),
        ("wheel-build", wheel),
        ("wheel-install", install),
        ("wheel-tests", tests),
        ("wheel-types", types),
        ("wheel-stubs", stubs),
    ]
}
