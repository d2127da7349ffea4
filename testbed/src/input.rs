//! What a run with real input shares: a tar of the library folder of the Rust toolchain, and a tree of files.
//!
//! The tree is made of a seed: each of its files from a few bytes to some megabytes, most of them small, as trees of sources have them. The tar is made of what is on this
//! machine, so it differs from one to the other.
//!
//! Invariant: the same seed makes the same tree.

use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::Failure;

/// The largest that a node keeps in memory, and that is not in its store: what comes whole.
pub(crate) const WHOLE_BYTES_MAX: u64 = 256 << 10;
const SEED: u64 = 5;
/// Files of the tree, and its bytes.
const TREE: (u64, u64) = (5_000, 300_000_000);
const TREE_BRIEF: (u64, u64) = (500, 20_000_000);
/// The tar of a brief run has no more than this, of files that are no larger than the second.
const TAR_BRIEF_BYTES: u64 = 10_000_000;
const TAR_BRIEF_FILE_BYTES: u64 = 4_000_000;
/// Files of a folder.
const FOLDER: u64 = 100;

/// What is shared, below one directory.
#[derive(Debug)]
pub(crate) struct Input {
    /// Each file by its path from there, in order, and its size.
    pub(crate) files: Vec<(String, u64)>,
    pub(crate) tar_bytes: u64,
}

impl Input {
    /// Makes it in a directory that is not there yet.
    pub(crate) fn make(directory: &Path, brief: bool) -> Result<Self, Failure> {
        std::fs::create_dir_all(directory)?;
        make_tree(&directory.join("tree"), if brief { TREE_BRIEF } else { TREE })?;
        make_tar(directory, brief)?;
        let files = files(directory)?;
        let tar_bytes = files.iter().find(|(path, _)| path == "library.tar").map_or(0, |(_, size)| *size);
        Ok(Self { files, tar_bytes })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }

    /// How many come whole, and their bytes.
    pub(crate) fn whole(&self) -> (usize, u64) {
        let whole = self.files.iter().map(|(_, size)| *size).filter(|size| *size <= WHOLE_BYTES_MAX);
        whole.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
    }
}

/// The files below a directory, by their paths from there, in order, and their sizes.
pub(crate) fn files(directory: &Path) -> Result<Vec<(String, u64)>, Failure> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(directory.join(&folder))? {
            let entry = entry?;
            let (path, kind) = (folder.join(entry.file_name()), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let path = path.into_os_string().into_string();
                let path = path.map_err(|path| format!("{}: not text", path.display()))?;
                files.push((path, entry.metadata()?.len()));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The path of a file below a directory, as somebody else names it; none where that leads elsewhere.
pub(crate) fn below(directory: &Path, named: &[u8]) -> Option<PathBuf> {
    let named = Path::new(std::str::from_utf8(named).ok()?);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    (named.components().count() > 0 && named.components().all(plain)).then(|| directory.join(named))
}

fn make_tree(directory: &Path, (count, bytes): (u64, u64)) -> Result<(), Failure> {
    let mut random = fastrand::Rng::with_seed(SEED);
    // The middle of three throws is frequent: most files have some ten thousand bytes, and few have a million.
    let raw: Vec<f64> =
        (0..count).map(|_| (13.0 * (random.f64() + random.f64() + random.f64()) / 3.0).exp2()).collect();
    #[expect(clippy::cast_precision_loss, reason = "some hundred million")]
    let scale = bytes as f64 / raw.iter().sum::<f64>();
    let mut left = bytes;
    for (index, raw) in (0..count).zip(raw) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a size of some millions"
        )]
        let size = if index + 1 == count { left } else { ((raw * scale) as u64).min(left) };
        left -= size;
        let folder = directory.join(format!("{:02}", index / FOLDER));
        std::fs::create_dir_all(&folder)?;
        let mut body = vec![0; usize::try_from(size)?];
        random.fill(&mut body);
        std::fs::write(folder.join(format!("{index:05}")), body)?;
    }
    Ok(())
}

/// Of the files of the toolchain's library folder, in the order of their names.
fn make_tar(directory: &Path, brief: bool) -> Result<(), Failure> {
    let told = Command::new("rustc").args(["--print", "sysroot"]).output();
    let told = told.map_err(|error| format!("cannot start rustc: {error}; install Rust"))?;
    let library = Path::new(std::str::from_utf8(&told.stdout)?.trim()).join("lib");
    let mut chosen = files(&library)?;
    if brief {
        let mut left = TAR_BRIEF_BYTES;
        chosen.retain(|(_, size)| {
            let fits = *size <= TAR_BRIEF_FILE_BYTES && *size <= left;
            left -= if fits { *size } else { 0 };
            fits
        });
    }
    let names: String = chosen.iter().map(|(path, _)| format!("{path}\n")).collect();
    let list = directory.with_extension("list");
    std::fs::write(&list, names)?;
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&library).arg("-cf").arg(directory.join("library.tar")).arg("-T").arg(&list);
    let ended = tar.output().map_err(|error| format!("cannot start tar: {error}; install it"))?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("tar: {}", String::from_utf8_lossy(&ended.stderr).trim()).into())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::below;

    #[test]
    fn what_others_name_lies_below_the_directory_or_nowhere() {
        let out = Path::new("out");
        assert_eq!(below(out, b"tree/00/1"), Some(PathBuf::from("out/tree/00/1")));
        for wrong in [&b""[..], b"/etc/passwd", b"../x", b"tree/../../x", b".", b"\xff"] {
            assert_eq!(below(out, wrong), None, "{wrong:?}");
        }
    }
}
