//! What a newcomer copies from the README, run as it stands there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::harness::{Place, Running, free_address};

const PAGES: [&str; 2] = [include_str!("../../../../README.md"), include_str!("../../../../README.zh-CN.md")];

/// The block of code with this fence that has `part` in it.
fn block<'a>(page: &'a str, fence: &str, part: &str) -> &'a str {
    let blocks = page.split("\n```").filter_map(|block| block.strip_prefix(fence));
    let mut found = blocks.filter(|block| block.contains(part));
    found.next().expect("the README shows it")
}

/// A shell in the root of the repository, as it is after the build. It ends with all that it has started.
fn shell(place: &Place, script: &str) -> Running {
    let mut command = place.adopt(Command::new("timeout"), &["50", "sh", "-c", script]);
    command.current_dir(place.temporary()).env_remove("BUSWAY_DIR");
    command.stdin(std::process::Stdio::piped());
    Running::start(command)
}

#[test]
fn the_two_hosts_of_the_readme_are_linked_and_a_message_crosses() {
    for page in PAGES {
        let text = block(page, "sh\n", "busway up --index 1");
        let text = text.replace("127.0.0.1:4420", &free_address().to_string());
        let (second, first) = text.split_once("\n\n").expect("two shells");
        let place = Place::new();
        fs::create_dir_all(place.temporary().join("target/release")).expect("a directory");
        let binary = place.temporary().join("target/release/busway");
        symlink(Path::new(env!("CARGO_BIN_EXE_busway")), binary).expect("the binary");
        assert!(second.ends_with("--reliable"), "{second}");
        // The subscriber ends after the message; its node stays until the publisher has its account.
        let second = shell(&place, &format!("{second} --count 1; cat; kill $!; wait"));
        let first = shell(&place, &format!("{first}\nkill $!; wait"));
        let sent = first.finish();
        assert!(sent.text().contains("node 1"), "{} {:?}", sent.text(), sent.stderr);
        let account = |line: &String| line == "sent 1 subscribers 1 delivered 1 dropped 0 in-flight 0";
        assert!(sent.stderr.iter().any(account), "{:?}", sent.stderr);
        let read = second.finish();
        assert!(read.text().contains("price.tick\t101.5\n"), "{} {:?}", read.text(), read.stderr);
    }
}

#[test]
fn before_the_readme_says_to_type_the_command_it_says_how_a_shell_finds_it() {
    for page in PAGES {
        let said = page.find("`export PATH=$PWD/target/release:$PATH`").expect("the README says it");
        let built = page.find("cargo run --release").expect("the README says how it is built");
        let typed = page.find("\nbusway ").expect("the README shows the command");
        assert!(built < said && said < typed);
    }
}

#[test]
fn the_configuration_of_the_readme_is_sound_beside_its_certificates() {
    for page in PAGES {
        let place = Place::new();
        let line =
            page.lines().find(|line| line.starts_with("busway cert new")).expect("the README shows it");
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        fs::write(place.temporary().join("busway.toml"), block(page, "toml\n", "[tls]")).expect("a file");
        for words in [&words[..], &["config", "check"]] {
            let mut command = place.command(words);
            command.current_dir(place.temporary());
            Running::start(command).finish().expect(0);
        }
    }
}
