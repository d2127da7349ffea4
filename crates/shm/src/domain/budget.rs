//! The default byte budget of a domain: a quarter of the memory that this process may use.
//!
//! Memory is what the machine has or what a cgroup leaves of it, version 1 or 2, own or inherited:
//! the least counts. A container that cannot see its cgroup falls back to the machine's.
//!
//! Does not watch for changes: a budget is set once, by whoever makes the domain.
//!
//! Invariant: files of the kernel are read as text of a stranger: what cannot be understood is left out.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// A quarter: the domain is one guest of the machine among others.
const SHARE: u64 = 4;

/// What is assumed where the kernel does not say: small, so that nothing is promised that is not there.
const UNKNOWN_MEMORY: u64 = 1 << 30;

/// Bytes that a domain made by this process may use by default.
#[must_use]
pub fn default_budget() -> u64 {
    let read = |path: &Path| fs::read_to_string(path).ok();
    memory_limit(&read) / SHARE
}

/// Bytes that this process may commit, whatever its domain would allow: half of the memory that it may use. A domain
/// that was made outside knows nothing of this process's cgroup, which kills rather than refuses; the other half is
/// for everything else the process does.
#[must_use]
pub fn process_limit() -> u64 {
    let read = |path: &Path| fs::read_to_string(path).ok();
    memory_limit(&read) / 2
}

/// The memory of this process in bytes, as far as the files that `read` knows tell.
fn memory_limit(read: &dyn Fn(&Path) -> Option<String>) -> u64 {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total_of(&text)).unwrap_or(UNKNOWN_MEMORY);
    let group = cgroup_limit(read).unwrap_or(u64::MAX);
    machine.min(group)
}

/// `MemTotal` in bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The least limit of this process's cgroups and their ancestors.
fn cgroup_limit(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    groups.lines().filter_map(Group::parse).filter_map(|group| group.limit(&mounts, read)).min()
}

/// The file that holds a limit, and the type of file system that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A line of `/proc/self/cgroup` that can limit memory.
#[derive(Debug)]
struct Group<'a> {
    version: Version,
    path: &'a str,
}

impl<'a> Group<'a> {
    /// `4:memory:/a/b` is version 1, `0::/a/b` is version 2.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if hierarchy == "0" && controllers.is_empty() {
            return Some(Self { version: Version::Two, path });
        }
        let memory = controllers.split(',').any(|controller| controller == "memory");
        memory.then_some(Self { version: Version::One, path })
    }

    /// The least limit from the group up to where its hierarchy is mounted.
    fn limit(&self, mounts: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
        let (top, mut directory) = mounts.lines().find_map(|line| self.directory(line))?;
        let mut least = None;
        // Each turn takes one component off, and the path had a bounded number of them.
        loop {
            let file = match self.version {
                Version::One => "memory.limit_in_bytes",
                Version::Two => "memory.max",
            };
            // "max" is no number and no limit; version 1 says so with a number near 2^63.
            let limit = read(&directory.join(file)).and_then(|text| text.trim().parse::<u64>().ok());
            least = least.into_iter().chain(limit).min();
            if directory == top || !directory.pop() {
                return least;
            }
        }
    }

    /// Where the hierarchy of this group is mounted by this line of `mountinfo`, and the group in it.
    fn directory(&self, mount: &str) -> Option<(PathBuf, PathBuf)> {
        let (before, after) = mount.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, top) = (unescaped(before.next()?), PathBuf::from(unescaped(before.next()?)));
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let ours = match self.version {
            Version::One => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
            Version::Two => kind == "cgroup2",
        };
        if !ours {
            return None;
        }
        // In a container the mount shows a subtree (`root`); a group outside it is not to be seen, and
        // then the top of what we see is the best there is. `..` would lead out of it.
        let inside = Path::new(self.path).strip_prefix(&root).unwrap_or(Path::new(""));
        let plain = inside.components().all(|component| matches!(component, Component::Normal(_)));
        let directory = if plain { top.join(inside) } else { top.clone() };
        Some((top, directory))
    }
}

/// `mountinfo` writes space, tab, newline and backslash as three octal digits.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests;
