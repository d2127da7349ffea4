//! HTTP as others see it: a page in a browser, and a program that tries what the description of the node says.
//!
//! Both are tests of the command (`browser` and `openapi` in crates/cli/tests/cli), which are skipped where what they take is not there. Here it is fetched first: Chromium and its driver by apt-get,
//! where we are root, and schemathesis by pip, into an environment of its own. Where neither can be had the job is skipped with its reason.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::failure::Failure;
use crate::process::{self, Output};
use crate::workspace;

/// What became of it.
pub(crate) enum Web {
    Good,
    Bad(String),
    Nothing(String),
}

const LIMIT: Duration = Duration::from_secs(900);
const PROGRAMS: &[&str] = &["/usr/bin/chromium", "/usr/bin/chromedriver"];
const PACKAGES: &[&str] = &["chromium", "chromium-driver"];
const SCHEMATHESIS: &str = "schemathesis>=4.32,<5";

/// A page in headless Chromium reads a stream.
pub(crate) fn browser() -> Result<Web, Failure> {
    let missing = || PROGRAMS.iter().find(|program| !Path::new(program).is_file());
    if missing().is_some() && workspace::is_root() && Path::new("/usr/bin/apt-get").is_file() {
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.args(["-q", "-y"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
            quiet(command)
        };
        let install = [&["install", "--no-install-recommends"], PACKAGES].concat();
        // Lists that are old name packages that are gone.
        if !apt(&install)? && apt(&["update"])? {
            apt(&install)?;
        }
    }
    match missing() {
        Some(program) => Ok(Web::Nothing(format!("there is no {program}, and apt-get does not install it"))),
        None => test("browser::", ("BUSWAY_BROWSER", Path::new("1"))),
    }
}

/// What schemathesis draws from `/openapi.json` is answered as that says.
pub(crate) fn openapi() -> Result<Web, Failure> {
    let venv = workspace::target().join("openapi");
    let _ = std::fs::remove_dir_all(&venv);
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    let mut fetch = Command::new(venv.join("bin/python"));
    fetch.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", SCHEMATHESIS]);
    for (step, what) in [(make, "python3 makes no environment"), (fetch, "pip cannot fetch schemathesis")] {
        if !quiet(step).unwrap_or(false) {
            return Ok(Web::Nothing(what.to_owned()));
        }
    }
    test("openapi::", ("BUSWAY_SCHEMATHESIS", &venv.join("bin/schemathesis")))
}

fn quiet(command: Command) -> Result<bool, Failure> {
    Ok(process::run(command, "web-tools", LIMIT, Output::Kept)?.success())
}

fn test(name: &str, (variable, value): (&str, &Path)) -> Result<Web, Failure> {
    let mut command = workspace::cargo();
    command.args(["test", "-p", "busway-cli", "--test", "cli", "--locked", "--", "--nocapture", name]);
    command.env(variable, value);
    let end = process::run(command, &format!("web-{name}"), LIMIT, Output::Shown)?;
    Ok(if !end.success() {
        Web::Bad(end.why())
    } else if !end.output.contains("running 1 test") {
        // A filter that fits nothing any more must not pass for a check.
        Web::Bad(format!("no test is called {name}"))
    } else {
        Web::Good
    })
}
