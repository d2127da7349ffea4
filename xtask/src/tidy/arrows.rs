//! Which crate may use which, and why each outside dependency is there.

use toml::{Table, Value};

use crate::tidy::Finding;
use crate::tree::Tree;

/// (package, the packages of ours that it may use). ARCHITECTURE.md draws it.
const ARROWS: &[(&str, &[&str])] = &[
    ("busway-wire", &[]),
    ("busway-protocol", &["busway-wire"]),
    ("busway-shm", &["busway-wire"]),
    // Drivers know bytes only: what they mean is decided elsewhere.
    ("busway-io", &[]),
    ("busway", &["busway-wire", "busway-shm", "busway-protocol", "busway-io"]),
    // A door of the node: it uses what any program can.
    ("busway-http", &["busway"]),
    ("busway-node", &["busway", "busway-http"]),
    ("busway-cli", &["busway", "busway-node"]),
    ("busway-examples", &["busway"]),
    ("busway-python", &["busway"]),
    // It drives the machines of `protocol` over a network of its own, and the runtime over that of `io`.
    ("busway-sim", &["busway-wire", "busway-protocol", "busway-io", "busway"]),
    // Nodes as a program has them, in network namespaces.
    ("busway-testbed", &["busway"]),
    // The two outer workspaces measure through the public API; the rivals are linked in the second only.
    ("busway-bench", &["busway"]),
    ("busway-peers", &["busway-bench"]),
    // A rival for the testbed, which starts it as a program.
    ("busway-gossipsub", &[]),
    // Hostile bytes go straight to the decoders.
    ("busway-fuzz", &["busway-wire", "busway-protocol", "busway-shm", "busway"]),
    // The tool must build when nothing else does.
    ("xtask", &[]),
];

/// The same for what is no part of a package: its tests.
const TEST_ARROWS: &[(&str, &[&str])] = &[
    // Hostile bytes are made for the shipped command as well.
    ("busway-cli", &["busway-wire"]),
];

/// Every arrow between two of our packages stands in the table.
pub(crate) fn between_crates(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.files.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        let Ok(manifest) = text.parse::<Table>() else {
            out.push(Finding::new(path, 1, "this is not TOML", "cargo metadata says what is wrong"));
            continue;
        };
        let Some(package) = manifest.get("package").and_then(|p| p.get("name")).and_then(Value::as_str)
        else {
            continue;
        };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package) else {
            out.push(Finding::new(
                path,
                line_of(text, "name"),
                format!("package {package} has no place in the table of arrows"),
                "a new crate is architecture: add it to xtask/src/tidy/arrows.rs and ARCHITECTURE.md",
            ));
            continue;
        };
        let in_tests =
            TEST_ARROWS.iter().find(|(name, _)| *name == package).map_or(&[][..], |(_, used)| used);
        for (kind, used) in dependencies(&manifest) {
            let ours = ARROWS.iter().any(|(name, _)| *name == used);
            let tested = kind == "dev-dependencies" && in_tests.contains(&used.as_str());
            if ours && used != package && !tested && !allowed.contains(&used.as_str()) {
                out.push(Finding::new(
                    path,
                    line_of(text, &used),
                    format!("{package} uses {used}"),
                    format!("allowed are {allowed:?}; move the code, or argue for the arrow in the table"),
                ));
            }
        }
    }
}

/// The kinds and names of all dependencies, of every target.
fn dependencies(manifest: &Table) -> Vec<(&'static str, String)> {
    const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let of = |table: &Table| -> Vec<(&'static str, String)> {
        let tables = KINDS.iter().filter_map(|kind| Some((*kind, table.get(*kind)?.as_table()?)));
        let renamed = |(name, value): (&String, &Value)| {
            value.get("package").and_then(Value::as_str).unwrap_or(name).to_owned()
        };
        tables.flat_map(|(kind, t)| t.iter().map(move |entry| (kind, renamed(entry)))).collect()
    };
    let mut names = of(manifest);
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        names.extend(targets.values().filter_map(Value::as_table).flat_map(of));
    }
    names
}

fn line_of(text: &str, name: &str) -> usize {
    text.lines().position(|line| line.trim_start().starts_with(name)).map_or(1, |index| index + 1)
}

/// Each line that brings in an outside crate has a comment above it or beside it.
pub(crate) fn reasons_for_dependencies(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.files.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        let (mut inside, mut above, mut explained) = (false, "", String::new());
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('[') {
                inside = line.ends_with("dependencies]");
            }
            // Only a first line of an entry names a crate; ours need no reason, nor what the root explains.
            let outside = inside && line.contains('=') && line.starts_with(|c: char| c.is_alphabetic());
            let known = line.contains("workspace = true") || line.contains("path = ");
            let name = line.split(['.', ' ', '=']).next().unwrap_or("");
            // A reason holds for the family too: clap, clap_complete, clap_mangen.
            let family = !explained.is_empty() && name.starts_with(&explained);
            if line.contains('#') || above.starts_with('#') {
                explained = name.to_owned();
            } else if outside && !known && !family {
                out.push(Finding::new(
                    path,
                    index + 1,
                    "a dependency without its reason",
                    "say in a comment above it who needs it and what it saves",
                ));
            }
            above = line;
        }
    }
}
