//! What documents say about the tree: the paths that they name, and the compiler they ask for.

use toml::Table;

use crate::tidy::Finding;
use crate::tree::Tree;

/// Documents whose every path must exist.
const WITH_PATHS: &[&str] = &[
    "ARCHITECTURE.md",
    "README.md",
    "README.zh-CN.md",
    "FORMAT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/origins.md",
];

// Only what is surely a path of ours: a user's `orders.json` is none.
const ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".sh", "/"];

/// Each path in backticks or in a link exists.
pub(crate) fn paths_exist(tree: &Tree, out: &mut Vec<Finding>) {
    for document in WITH_PATHS {
        let Some(text) = tree.text(document) else {
            let remedy = "every reader looks for it: write it";
            out.push(Finding::note(document, 1, "this document does not exist", remedy));
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            for path in paths(line).filter(|path| !exists(tree, document, path)) {
                out.push(Finding::new(
                    document,
                    index + 1,
                    format!("`{path}` does not exist"),
                    "say where it lies now, or take the sentence out",
                ));
            }
        }
    }
}

fn paths(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    let linked = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    quoted.chain(linked).filter_map(|text| {
        let path = text.split('#').next()?.trim_start_matches("./");
        let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
        let ours = ENDINGS.iter().any(|ending| path.len() > ending.len() && path.ends_with(ending));
        let outside = path.starts_with('/') || path.starts_with("..") || path.starts_with("target/");
        (plain && ours && !outside).then_some(path)
    })
}

/// From the root, beside the document, or as the end of exactly such a path (`ring/tests.rs`).
fn exists(tree: &Tree, document: &str, path: &str) -> bool {
    let beside = document.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/{path}"));
    let path = path.trim_end_matches('/');
    let (inner, below) = (format!("/{path}"), format!("{path}/"));
    tree.names.iter().any(|name| {
        name == path
            || name == beside.trim_end_matches('/')
            || name.starts_with(&below)
            || name.ends_with(&inner)
            || name.contains(&format!("{inner}/"))
    })
}

/// Each `Rust 1.N` in a README is the `rust-version` of the workspace.
pub(crate) fn msrv(tree: &Tree, out: &mut Vec<Finding>) {
    let manifest = tree.text("Cargo.toml").and_then(|text| text.parse::<Table>().ok());
    let wanted =
        manifest.as_ref().and_then(|m| m.get("workspace")?.get("package")?.get("rust-version")?.as_str());
    let Some(wanted) = wanted else {
        out.push(Finding::new("Cargo.toml", 1, "no rust-version", "rust-version = \"1.N\""));
        return;
    };
    for readme in ["README.md", "README.zh-CN.md"] {
        let Some(text) = tree.text(readme) else { continue };
        let mut said = false;
        for (index, line) in text.lines().enumerate() {
            for rest in line.split("Rust 1.").skip(1) {
                let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
                said = true;
                if format!("1.{minor}") != wanted {
                    let cause = format!("Rust 1.{minor}, but Cargo.toml says {wanted}");
                    out.push(Finding::new(readme, index + 1, cause, format!("Rust {wanted}")));
                }
            }
        }
        if !said {
            let remedy = format!("write that Rust {wanted} is needed");
            out.push(Finding::new(readme, 1, "it does not say which Rust is needed", remedy));
        }
    }
}
