//! `cargo xtask soak`: the tests of the suite that a longer run makes stronger, at the size that the promises name.
//!
//! The suite runs each of them short; what makes them long is a variable that the test itself reads. It measures nothing.

use std::process::{ExitCode, Stdio};

use crate::args::Args;
use crate::failure::Failure;
use crate::workspace;

const HELP: &str = "cargo xtask soak [--minutes N] [--seed S] [PART]...

Runs, built for release, one after the other, until one fails:

  kills    kills publishers, subscribers and holders of the rendezvous at random and checks the invariants after each
           kill; a thousand kills a minute at least (A25)
  ports    opens and closes 100 000 ports; nothing is left behind (A5)
  hostile  a million rounds of nonsense in every word that a subscriber or a publisher owns (A26, H36)
  stress   a thousand million messages through one ring, to rows that check each while others come and go (A8)
  fire     100 000 tasks for eight pullers, of which one is killed every second; with acknowledgement each is done at least
           once, without at most once and else counted (A35)
  pairs    1 000 pairs of fresh interpreters for each Python package, a publisher and a subscriber started at once, in either order: no
           first message is lost (Y15)
  flights  the 336 777 records of 2013 (R1, R2), where BUSWAY_FLIGHTS names the file
  http     a minute of ten times as many requests and bytes as HTTP takes, by wrk, beside messages of others (W12)

  PART         only these
  --minutes N  how long to kill (default 10)
  --seed S     what is killed when (default: the test draws one and prints it)
";

/// Kills in a minute that a run must reach: ten thousand in ten.
const KILLS_A_MINUTE: u64 = 1000;

/// A test and what makes it long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    name: &'static str,
    package: &'static str,
    target: &'static str,
    /// The beginning of the names of its tests.
    filter: &'static str,
    /// The variable that the test reads, and its value where it is not the command line that decides.
    variable: &'static str,
    value: Option<&'static str>,
}

const PARTS: [Part; 8] = [
    Part {
        name: "kills",
        package: "busway",
        target: "soak",
        filter: "",
        variable: "BUSWAY_SOAK_MINUTES",
        value: None,
    },
    Part {
        name: "ports",
        package: "busway",
        target: "processes",
        filter: "ports::registrations_leave_nothing_behind",
        variable: "BUSWAY_TEST_PORTS",
        value: Some("100000"),
    },
    Part {
        name: "hostile",
        package: "busway-shm",
        target: "hostile",
        filter: "",
        variable: "BUSWAY_HOSTILE_ROUNDS",
        value: Some("1000000"),
    },
    Part {
        name: "stress",
        package: "busway-shm",
        target: "stress",
        filter: "",
        variable: "BUSWAY_STRESS_MESSAGES",
        value: Some("1000000000"),
    },
    Part {
        name: "fire",
        package: "busway",
        target: "groups",
        filter: "deaths::what_killed_pullers_had",
        variable: "BUSWAY_FIRE_TASKS",
        value: Some("100000"),
    },
    Part {
        name: "pairs",
        package: "busway-python",
        target: "module",
        filter: "no_first_message_is_lost",
        variable: "BUSWAY_PAIRS",
        value: Some("1000"),
    },
    Part {
        name: "flights",
        package: "busway-cli",
        target: "real",
        filter: "flights::",
        variable: "BUSWAY_FLIGHTS",
        value: None,
    },
    Part {
        name: "http",
        package: "busway-cli",
        target: "real",
        filter: "load::ten_times_what_http_takes",
        variable: "BUSWAY_LOAD_SECONDS",
        value: Some("60"),
    },
];

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(mut args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    let minutes = args.number("--minutes")?.unwrap_or(10);
    let seed = args.number("--seed")?;
    let names = args.rest()?;
    for part in chosen(&names)? {
        println!("soak: {}", part.name);
        let mut command = workspace::cargo();
        command.args(["test", "-p", part.package, "--release", "--test", part.target, "--"]);
        command.args(["--nocapture", "--test-threads=1"]).args(Some(part.filter).filter(|f| !f.is_empty()));
        if part.name == "kills" {
            command.env(part.variable, minutes.to_string());
            command.env("BUSWAY_SOAK_KILLS", minutes.saturating_mul(KILLS_A_MINUTE).to_string());
            command.envs(seed.map(|seed| ("BUSWAY_SOAK_SEED", seed.to_string())));
        } else if let Some(value) = part.value {
            command.env(part.variable, value);
        } else if std::env::var_os(part.variable).is_none() {
            println!("skipped: {} names no file", part.variable);
            continue;
        }
        let status = command.stdin(Stdio::null()).status();
        let status = status.map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "install Rust"))?;
        if !status.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The parts of these names, or all.
fn chosen(names: &[String]) -> Result<Vec<Part>, Failure> {
    if let Some(unknown) = names.iter().find(|name| PARTS.iter().all(|part| part.name != **name)) {
        return Err(Failure::usage(format!("the soak has no part `{unknown}`"), HELP));
    }
    let wanted = |part: &Part| names.is_empty() || names.iter().any(|name| name == part.name);
    Ok(PARTS.into_iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::{PARTS, chosen};

    #[test]
    fn every_part_sets_a_variable_that_its_test_reads() {
        let sources = [
            include_str!("../../crates/busway/tests/soak.rs"),
            include_str!("../../crates/busway/tests/processes/ports.rs"),
            include_str!("../../crates/shm/tests/hostile/scene.rs"),
            include_str!("../../crates/shm/tests/stress.rs"),
            include_str!("../../crates/busway/tests/groups/deaths.rs"),
            concat!(
                include_str!("../../crates/python/tests/module.rs"),
                include_str!("../../crates/python/tests/stage/interpreter.rs"),
            ),
            include_str!("../../crates/cli/tests/real/flights.rs"),
            include_str!("../../crates/cli/tests/real/load.rs"),
        ];
        for (part, source) in PARTS.iter().zip(sources) {
            assert!(source.contains(&format!("\"{}\"", part.variable)), "{}", part.name);
            let test = part.filter.rsplit("::").next().unwrap_or_default();
            assert!(source.contains(test), "{} has no test {test}", part.name);
        }
        assert!(sources[0].contains("\"BUSWAY_SOAK_KILLS\"") && sources[0].contains("\"BUSWAY_SOAK_SEED\""));
    }

    #[test]
    fn parts_are_chosen_by_name_and_an_unknown_one_is_refused() {
        let name = |text: &str| vec![text.to_owned()];
        assert_eq!(chosen(&[]).unwrap(), PARTS);
        assert_eq!(chosen(&name("ports")).unwrap(), [PARTS[1]]);
        assert_eq!(chosen(&name("port")).unwrap_err().exit, 2);
    }
}
