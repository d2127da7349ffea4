//! `cargo xtask swarm`: artifacts among real nodes on shaped lines. The measurements are in testbed/, which this builds and runs.
//!
//! With `--peer` it builds the rival too, in its own workspace, and gives the testbed its program. With `--write` it puts what a report found into
//! bench/src/figure/swarm.md and its section of bench/RESULTS.md, as `busway-bench report --redraw` would.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::failure::Failure;
use crate::workspace;

const HELP: &str = "cargo xtask swarm [--peer libp2p-gossipsub] [--report [--write]] [ARGUMENT]...

Builds the testbed and runs it, as root. Further arguments go to it; its own help follows.

  --peer libp2p-gossipsub  builds bench/peers/gossipsub, and runs it beside ours on the same hosts, lines and rounds
  --write                  of a --report: into bench/src/figure/swarm.md, bench/RESULTS.md and bench/plots/swarm.svg

";

/// A rival of the testbed, and where its workspace and program are.
const PEERS: &[(&str, &str, &str)] = &[(
    "libp2p-gossipsub",
    "bench/peers/gossipsub/Cargo.toml",
    "bench/peers/gossipsub/target/release/busway-gossipsub",
)];
/// What of swarm.md is measured stands between these lines.
const MEASURED: (&str, &str) = ("<!-- measured -->\n", "<!-- end of what was measured -->\n");
/// Where the section of RESULTS.md begins that is swarm.md. It ends where the next one begins.
const SECTION: &str = "## Swarm\n";

/// Runs the testbed, which reads its own arguments and says what there is to say of them.
pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let asks = arguments.iter().any(|word| ["-h", "--help", "help"].contains(&word.as_str()));
    if asks {
        print!("{HELP}");
    }
    let wanted = Wanted::read(arguments)?;
    let mut arguments = wanted.rest;
    if let Some((_, manifest, program)) = wanted.peer.filter(|_| !asks) {
        let mut build = workspace::cargo();
        let built = run(build.args(["build", "--release", "--locked", "--manifest-path", manifest]))?;
        if built != ExitCode::SUCCESS {
            return Ok(built);
        }
        let program = workspace::root().join(program).display().to_string();
        arguments.extend(["--against".to_owned(), program]);
    }
    let measured = workspace::target().join("swarm.md");
    let plot = workspace::root().join("bench/plots/swarm.svg");
    if wanted.write {
        for (flag, path) in [("--markdown", &measured), ("--plot", &plot)] {
            arguments.extend([flag.to_owned(), path.display().to_string()]);
        }
    }
    let mut command = workspace::cargo();
    command.args(["run", "--quiet", "--release", "-p", "busway-testbed", "--"]).args(arguments);
    let done = run(&mut command)?;
    if wanted.write && done == ExitCode::SUCCESS {
        write(&measured)?;
    }
    Ok(done)
}

/// What of the arguments is ours.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    peer: Option<&'static (&'static str, &'static str, &'static str)>,
    write: bool,
    rest: Vec<String>,
}

impl Wanted {
    fn read(arguments: Vec<String>) -> Result<Self, Failure> {
        let (mut peer, mut write, mut rest) = (None, false, Vec::new());
        let mut words = arguments.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--write" => write = true,
                "--peer" => {
                    let name = words.next().unwrap_or_default();
                    let found = PEERS.iter().find(|(known, _, _)| *known == name);
                    let cause = format!("there is no peer `{name}`");
                    peer = Some(found.ok_or_else(|| Failure::usage(cause, "--peer libp2p-gossipsub"))?);
                }
                _ => rest.push(word),
            }
        }
        if write && !rest.iter().any(|word| word == "--report") {
            return Err(Failure::usage("--write is of a --report", "cargo xtask swarm --report --write"));
        }
        Ok(Self { peer, write, rest })
    }
}

fn run(command: &mut Command) -> Result<ExitCode, Failure> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "install Rust"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(measured: &Path) -> Result<(), Failure> {
    let (page, results) = ("bench/src/figure/swarm.md", "bench/RESULTS.md");
    let read = |path: &Path| {
        fs::read_to_string(path)
            .map_err(|e| Failure::new(format!("{}: {e}", path.display()), "run in a full checkout"))
    };
    let whole = |name: &str| workspace::root().join(name);
    let text = spliced(&read(&whole(page))?, &read(measured)?, page)?;
    let results_text = replaced(&read(&whole(results))?, &text, results)?;
    for (name, text) in [(page, text), (results, results_text)] {
        fs::write(whole(name), text).map_err(|e| Failure::new(format!("{name}: {e}"), "make it writable"))?;
    }
    Ok(())
}

/// The page, with what was measured now in place of what was.
fn spliced(page: &str, measured: &str, name: &str) -> Result<String, Failure> {
    let (first, rest) = page.split_once(MEASURED.0).ok_or_else(|| lacks(name, MEASURED.0))?;
    let (_, last) = rest.split_once(MEASURED.1).ok_or_else(|| lacks(name, MEASURED.1))?;
    Ok(format!("{first}{}\n{measured}\n{}{last}", MEASURED.0, MEASURED.1))
}

/// The results, with this section in place of what it was.
fn replaced(results: &str, section: &str, name: &str) -> Result<String, Failure> {
    let at = results.find(SECTION).ok_or_else(|| lacks(name, SECTION))?;
    let (before, rest) = results.split_at(at);
    let next = rest.find("\n\n## ").map_or("", |next| &rest[next + 1..]);
    Ok(format!("{before}{section}{next}"))
}

fn lacks(name: &str, line: &str) -> Failure {
    Failure::new(format!("{name} has no line `{}`", line.trim()), "git checkout it")
}

#[cfg(test)]
mod tests {
    use super::{Wanted, replaced, spliced};

    fn wanted(line: &str) -> Result<Wanted, crate::failure::Failure> {
        Wanted::read(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn what_is_ours_is_taken_out_and_the_testbed_reads_the_rest() {
        let read = wanted("--report --peer libp2p-gossipsub --set mesh=3 --write --json").unwrap();
        assert_eq!(read.peer.map(|(name, _, _)| *name), Some("libp2p-gossipsub"));
        assert_eq!((read.write, read.rest.join(" ").as_str()), (true, "--report --set mesh=3 --json"));
        for wrong in ["--peer", "--peer nobody", "--write --brief"] {
            assert_eq!(wanted(wrong).unwrap_err().exit, 2, "{wrong}");
        }
    }

    #[test]
    fn what_was_measured_takes_the_place_of_what_was_and_all_else_stays() {
        let page = "## Swarm\n\nwords\n\n<!-- measured -->\nold\n<!-- end of what was measured -->\n\n### Real files\n";
        let once = spliced(page, "new\n", "page").unwrap();
        assert!(once.starts_with("## Swarm\n\nwords") && once.ends_with("\n### Real files\n"), "{once}");
        assert!(once.contains("new") && !once.contains("old"), "{once}");
        assert_eq!(spliced(&once, "new\n", "page").unwrap(), once);
        assert_eq!(
            replaced("# Results\n\n## Swarm\n\nold\n", &once, "results").unwrap(),
            format!("# Results\n\n{once}")
        );
        let behind = "\n## HTTP\n\n### There\n";
        assert_eq!(
            replaced(&format!("# Results\n\n## Swarm\n\n### Here\n{behind}"), &once, "results").unwrap(),
            format!("# Results\n\n{once}{behind}")
        );
        assert!(spliced("no lines", "new", "page").is_err() && replaced("none", "", "results").is_err());
    }
}
