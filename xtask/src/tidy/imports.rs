//! No file that nothing imports: rustc never sees such a file, and it rots unseen.

use crate::source;
use crate::tidy::Finding;
use crate::tree::Tree;

/// Each Rust file is a root that cargo knows, or a module of the file that may declare it.
pub(crate) fn no_orphans(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, _) in tree.rust().filter(|(path, _)| !is_root(tree, path)) {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let declaration = format!("mod {};", file.trim_end_matches(".rs"));
        let parents = [
            format!("{folder}.rs"),
            format!("{folder}/lib.rs"),
            format!("{folder}/main.rs"),
            format!("{folder}/mod.rs"),
        ];
        let declared = |parent: &String| {
            tree.text(parent)
                .is_some_and(|text| !source::lines_with(&source::code(text), &declaration).is_empty())
        };
        // A path attribute or an include names the file itself.
        let named = || tree.rust().any(|(other, text)| other != path && text.contains(&format!("{file}\"")));
        if !parents.iter().any(declared) && !in_tests_folder(tree, folder, &declaration) && !named() {
            out.push(Finding::new(
                path,
                1,
                "no file declares this module",
                format!("write `{declaration}` in its parent, or delete the file"),
            ));
        }
    }
}

/// tests/*.rs, tests/*/main.rs (examples, benches alike), src/bin/*.rs, and the roots of src.
fn is_root(tree: &Tree, path: &str) -> bool {
    let parts: Vec<&str> = path.rsplit('/').collect();
    let parent = parts.get(1).copied().unwrap_or("");
    let grandparent = parts.get(2).copied().unwrap_or("");
    let in_src = parent == "src" && ["lib.rs", "main.rs"].contains(&parts[0]);
    let folders = ["tests", "examples", "benches", "fuzz_targets"];
    let cargo_folder = folders.contains(&parent) || (parts[0] == "main.rs" && folders.contains(&grandparent));
    // A folder `tests` inside src is a module like any other.
    let target = cargo_folder && !path.contains("/src/");
    let binary = parent == "bin" && grandparent == "src";
    in_src || target || binary || path.ends_with("build.rs") || named_in_manifest(tree, path)
}

fn named_in_manifest(tree: &Tree, path: &str) -> bool {
    tree.files.iter().filter(|(manifest, _)| manifest.ends_with("Cargo.toml")).any(|(manifest, text)| {
        let folder = manifest.trim_end_matches("Cargo.toml");
        path.strip_prefix(folder).is_some_and(|inside| text.contains(&format!("path = \"{inside}\"")))
    })
}

/// tests/story/part.rs and tests/common/part.rs belong to any test root beside their folder.
fn in_tests_folder(tree: &Tree, folder: &str, declaration: &str) -> bool {
    let Some((above, _)) = folder.rsplit_once('/') else { return false };
    if !above.ends_with("tests") && !above.ends_with("examples") {
        return false;
    }
    tree.rust().any(|(path, text)| path.starts_with(above) && text.contains(declaration))
}
