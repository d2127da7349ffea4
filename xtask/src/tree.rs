//! The files of the repository, as one map from path to text; and an incremental copy of them.
//!
//! Build outputs, what .gitignore names as a folder, and links are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Every text file by its path from the root, with `/` between.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, String>,
    /// Every file, text or not.
    pub(crate) names: BTreeSet<String>,
}

impl Tree {
    /// Reads the tree below `root`.
    pub(crate) fn read(root: &Path) -> Result<Tree, Failure> {
        let mut tree = Tree::default();
        for name in names(root)? {
            if let Ok(text) = std::fs::read_to_string(root.join(&name)) {
                tree.files.insert(name.clone(), text);
            }
            tree.names.insert(name);
        }
        Ok(tree)
    }

    /// A tree that exists nowhere but here.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Tree {
        let files: BTreeMap<String, String> =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Tree { names: files.keys().cloned().collect(), files }
    }

    /// The text of `path`.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Every Rust file.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(p, t)| (p.as_str(), t.as_str())).filter(|(p, _)| p.ends_with(".rs"))
    }
}

/// The paths of all files below `root`.
fn names(root: &Path) -> Result<Vec<String>, Failure> {
    let ignored: Vec<String> = std::fs::read_to_string(root.join(".gitignore"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().strip_suffix('/'))
        .map(|name| name.trim_start_matches('/').to_owned())
        .collect();
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(root.join(&folder)).map_err(|e| {
            Failure::new(format!("cannot read {}: {e}", root.join(&folder).display()), "check its mode")
        })?;
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(kind) = entry.file_type() else { continue };
            let path = folder.join(&name);
            if kind.is_dir() {
                if name != ".git" && name != "target" && !ignored.contains(&name) {
                    folders.push(path);
                }
            } else if kind.is_file() && name != ".git" {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Makes the tree at `to` equal to the one at `from`. A file that is equal already keeps its time of change, so
/// that cargo builds only what differs.
pub(crate) fn mirror(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, e: std::io::Error| {
        Failure::new(format!("cannot copy to {}: {e}", path.display()), "free space below target/")
    };
    std::fs::create_dir_all(to).map_err(|e| failed(to, e))?;
    let wanted: BTreeSet<String> = names(from)?.into_iter().collect();
    for name in names(to)? {
        if !wanted.contains(&name) {
            std::fs::remove_file(to.join(&name)).map_err(|e| failed(&to.join(&name), e))?;
        }
    }
    for name in &wanted {
        let (source, copy) = (from.join(name), to.join(name));
        let bytes = std::fs::read(&source).map_err(|e| failed(&source, e))?;
        if std::fs::read(&copy).is_ok_and(|old| old == bytes) {
            continue;
        }
        let folder = copy.parent().unwrap_or(to);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&copy, bytes))
            .map_err(|e| failed(&copy, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_follows_its_source_and_leaves_equal_files_alone() {
        let base = std::env::temp_dir().join(format!("busway-xtask-mirror-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        std::fs::create_dir_all(from.join("a/target")).unwrap();
        std::fs::write(from.join("a/x.rs"), "1").unwrap();
        std::fs::write(from.join("a/target/big"), "no").unwrap();
        std::fs::write(from.join("gone.rs"), "1").unwrap();
        mirror(&from, &to).unwrap();
        let time = std::fs::metadata(to.join("a/x.rs")).unwrap().modified().unwrap();
        std::fs::remove_file(from.join("gone.rs")).unwrap();
        std::fs::write(from.join("new.rs"), "2").unwrap();
        mirror(&from, &to).unwrap();
        assert_eq!(names(&to).unwrap(), ["a/x.rs", "new.rs"]);
        assert_eq!(std::fs::metadata(to.join("a/x.rs")).unwrap().modified().unwrap(), time);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
