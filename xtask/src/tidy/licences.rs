//! Where the dependencies come from and under which licence, as cargo knows it.

use std::process::Stdio;

use crate::json;
use crate::tidy::Finding;
use crate::tree::Tree;
use crate::workspace;

/// Licences that ask for no more than a notice.
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "CC0-1.0",
    "0BSD",
    // Boost's: asks for its notice in source form only. xxhash-rust has it.
    "BSL-1.0",
];
/// The fuzzer's runtime (LLVM) adds this one; nothing that is shipped links it.
const ALLOWED_IN_FUZZ: &[&str] = &["NCSA"];
/// Rivals bring these: what they link is measured, never shipped. option-ext and attohttpc have the first, webpki-roots the second.
const ALLOWED_IN_PEERS: &[&str] = &["MPL-2.0", "CDLA-Permissive-2.0"];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks each workspace of the repository. An outer one whose crates were never fetched is only noted.
pub(crate) fn check(tree: &Tree, out: &mut Vec<Finding>) {
    sources(tree, out);
    let gossipsub = "bench/peers/gossipsub/Cargo.toml";
    for manifest in ["Cargo.toml", "bench/Cargo.toml", "bench/peers/Cargo.toml", gossipsub, "fuzz/Cargo.toml"]
    {
        if !tree.names.contains(manifest) {
            continue;
        }
        let Some(metadata) = metadata(manifest) else {
            let cause = "its dependencies are not here, so their licences were not checked";
            let remedy = format!("cargo fetch --manifest-path {manifest}");
            out.push(match manifest {
                "Cargo.toml" => Finding::new(manifest, 1, cause, "cargo fetch --locked"),
                _ => Finding::note(manifest, 1, cause, remedy),
            });
            continue;
        };
        packages(manifest, &metadata, out);
        if manifest == "Cargo.toml" {
            vectors(&metadata, out);
        }
    }
}

/// What is shipped sums payloads with what the processor can: it only does where a crate that is shipped asks for it, and
/// where a test alone does, every measurement of tests is right and every user has the slow one.
pub(crate) fn vectors(metadata: &serde_json::Value, out: &mut Vec<Finding>) {
    let packages = json::list(metadata, "packages").iter();
    let shipped = packages.filter(|package| json::text(package, "name") == "busway");
    let mut named = shipped.flat_map(|package| json::list(package, "dependencies"));
    let asks = named.any(|dependency| {
        json::text(dependency, "name") == "twox-hash"
            && json::text(dependency, "kind").is_empty()
            && json::list(dependency, "features").iter().any(|feature| feature == "std")
    });
    if !asks {
        let cause = "payloads are summed without vectors in what is shipped";
        let remedy = "name twox-hash with `std` under [dependencies]";
        out.push(Finding::new("crates/busway/Cargo.toml", 1, cause, remedy));
    }
}

/// Every locked package comes from crates.io.
pub(crate) fn sources(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.files.iter().filter(|(path, _)| path.ends_with("Cargo.lock")) {
        for (index, line) in text.lines().enumerate() {
            let Some(source) = line.strip_prefix("source = ") else { continue };
            if source.trim_matches('"') != CRATES_IO {
                out.push(Finding::new(path, index + 1, format!("a package from {source}"), "only crates.io"));
            }
        }
    }
}

fn metadata(manifest: &str) -> Option<serde_json::Value> {
    let mut command = workspace::cargo();
    command.args(["metadata", "--format-version", "1", "--locked", "--offline", "--manifest-path", manifest]);
    // What is built on the platform that we support; the crates of others are never fetched.
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = command.stdin(Stdio::null()).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

pub(crate) fn packages(manifest: &str, metadata: &serde_json::Value, out: &mut Vec<Finding>) {
    let here = match manifest {
        "fuzz/Cargo.toml" => ALLOWED_IN_FUZZ,
        "bench/peers/Cargo.toml" | "bench/peers/gossipsub/Cargo.toml" => ALLOWED_IN_PEERS,
        _ => &[],
    };
    // A package without a source is ours.
    for package in json::list(metadata, "packages").iter().filter(|p| !json::text(p, "source").is_empty()) {
        let (name, licence) = (json::text(package, "name"), json::text(package, "license"));
        let allowed = |id: &str| ALLOWED.contains(&id) || here.contains(&id);
        if licence.is_empty() || !permits(licence, &allowed) {
            out.push(Finding::new(
                manifest,
                1,
                format!("{name} is under `{licence}`"),
                format!("use another crate; allowed are {}", ALLOWED.join(", ")),
            ));
        }
    }
}

/// Whether an SPDX expression can be met with allowed licences. `/` is the old way to write OR.
fn permits(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let expression = expression.replace('/', " OR ");
    if let Some(parts) = split(&expression, " OR ") {
        return parts.iter().any(|part| permits(part, allowed));
    }
    if let Some(parts) = split(&expression, " AND ") {
        return parts.iter().all(|part| permits(part, allowed));
    }
    let one = expression.trim();
    match one.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => permits(inner, allowed),
        None => allowed(one),
    }
}

/// The parts between `word` outside all brackets; None where there is no such word.
fn split<'a>(text: &'a str, word: &str) -> Option<Vec<&'a str>> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_i32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ if depth == 0 && text[at..].starts_with(word) => {
                parts.push(&text[from..at]);
                from = at + word.len();
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (parts.len() > 1).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::permits;

    #[test]
    fn licence_expressions_are_weighed() {
        let allowed = |id: &str| ["MIT", "Apache-2.0", "Unicode-3.0"].contains(&id);
        for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
            assert!(permits(good, &allowed), "{good}");
        }
        for bad in ["MPL-2.0", "MIT AND GPL-3.0", "(MPL-2.0 OR GPL-3.0) AND MIT", ""] {
            assert!(!permits(bad, &allowed), "{bad}");
        }
    }
}
