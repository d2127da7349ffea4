//! Completions and man pages against `--help`: one table, so each flag and command stands in all three.

use std::collections::BTreeSet;

use crate::harness::Place;

/// Every command of the table, as words.
const COMMANDS: [&[&str]; 38] = [
    &[],
    &["up"],
    &["peers"],
    &["flows"],
    &["node"],
    &["node", "info"],
    &["node", "drain"],
    &["node", "kick"],
    &["cert"],
    &["cert", "new"],
    &["config"],
    &["config", "check"],
    &["config", "show"],
    &["config", "explain"],
    &["pub"],
    &["sub"],
    &["push"],
    &["pull"],
    &["req"],
    &["reply"],
    &["put"],
    &["get"],
    &["artifacts"],
    &["artifacts", "ls"],
    &["artifacts", "info"],
    &["artifacts", "rm"],
    &["stat"],
    &["ls"],
    &["info"],
    &["shm"],
    &["shm", "ls"],
    &["bench"],
    &["bench", "lat"],
    &["bench", "thr"],
    &["bench", "fanout"],
    &["doctor"],
    &["tour"],
    &["completions"],
];

/// The long flags at the beginning of lines of `--help`.
fn flags(help: &str) -> BTreeSet<String> {
    help.lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'))
        .flat_map(|line| line.split([' ', ',', '=', '[']).take(3))
        .filter(|word| word.starts_with("--"))
        .map(|word| word.trim_end_matches('.').to_string())
        .collect()
}

/// The commands that `--help` lists.
fn commands(help: &str) -> BTreeSet<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        // Deeper lines go on with the text of the command above them.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_string)
        .collect()
}

fn help(place: &Place, words: &[&str]) -> String {
    place.run(&[words, &["--help"]].concat()).expect(0).text()
}

#[test]
fn help_lists_every_command_and_no_hidden_one() {
    let place = Place::new();
    let top = commands(&help(&place, &[]));
    let expected = [
        "artifacts",
        "bench",
        "cert",
        "completions",
        "config",
        "doctor",
        "flows",
        "get",
        "info",
        "ls",
        "man",
        "node",
        "peers",
        "pub",
        "pull",
        "push",
        "put",
        "reply",
        "req",
        "shm",
        "stat",
        "sub",
        "tour",
        "up",
    ];
    assert_eq!(top, expected.iter().map(ToString::to_string).collect());
    assert_eq!(
        commands(&help(&place, &["bench"])),
        ["fanout", "lat", "thr"].iter().map(ToString::to_string).collect()
    );
}

#[test]
fn every_man_page_has_the_flags_of_its_help() {
    let place = Place::new();
    let directory = place.temporary().join("man");
    place.run(&["man", directory.to_str().expect("text")]).expect(0);
    for words in COMMANDS {
        let name = [&["busway"], words].concat().join("-");
        let page =
            std::fs::read_to_string(directory.join(format!("{name}.1"))).expect("a page for each command");
        let page = page.replace("\\-", "-");
        assert!(!page.contains("__role"), "{name}");
        let help = help(&place, words);
        let flags = flags(&help);
        assert!(flags.len() >= 7, "{name}: {flags:?}");
        for flag in &flags {
            assert!(page.contains(flag.as_str()), "{name}: {flag} is missing in the page");
        }
        for command in commands(&help) {
            assert!(page.contains(&command), "{name}: {command} is missing in the page");
        }
        let known = |word: &str| flags.contains(word) || help.contains(word);
        for word in page.split(|character: char| !(character.is_ascii_alphanumeric() || character == '-')) {
            assert!(
                !word.starts_with("--") || word.len() < 4 || known(word),
                "{name}: {word} is not in --help"
            );
        }
    }
}

#[test]
fn every_shell_is_told_every_command_and_flag() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).expect(0).text();
        assert!(!script.contains("__role"), "{shell}");
        for words in COMMANDS {
            let help = help(&place, words);
            for command in commands(&help) {
                assert!(script.contains(&command), "{shell}: {command} is missing");
            }
            for flag in flags(&help) {
                // Fish writes flags without their dashes.
                let bare = flag.trim_start_matches('-');
                assert!(
                    script.contains(&flag) || script.contains(&format!("-l {bare}")),
                    "{shell}: {flag} is missing"
                );
            }
        }
    }
}

#[test]
fn bash_completes_no_flag_that_help_lacks() {
    let place = Place::new();
    let script = place.run(&["completions", "bash"]).expect(0).text();
    let known: BTreeSet<String> =
        COMMANDS.iter().chain(&[&["man"][..]]).flat_map(|words| flags(&help(&place, words))).collect();
    for line in script.lines().filter_map(|line| line.trim().strip_prefix("opts=\"")) {
        for flag in line.trim_end_matches('"').split(' ').filter(|word| word.starts_with("--")) {
            assert!(known.contains(flag), "bash completes {flag}, which no --help has");
        }
    }
}
