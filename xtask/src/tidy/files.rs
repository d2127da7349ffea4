//! Rules about one source file at a time: `unsafe`, its head, its lengths, its locks.

use crate::source;
use crate::tidy::Finding;
use crate::tree::Tree;

/// The files that may hold `unsafe`, each with what it needs it for. A file without any must leave the list.
pub(crate) const UNSAFE: &[(&str, &str)] = &[
    ("crates/shm/src/sys/place.rs", "reserves addresses for a mapping"),
    ("crates/shm/src/sys/memfd.rs", "maps and unmaps files; the promise of `Shared`"),
    ("crates/shm/src/sys/heap.rs", "what memfd.rs is under Miri: shares in an allocation"),
    ("crates/shm/src/sys/credentials.rs", "SO_PEERCRED, of which rustix cannot say 0"),
    ("crates/shm/src/view.rs", "references into a mapping, checked when they are made"),
    ("crates/shm/src/layout.rs", "says which structures are valid for any bytes"),
    ("crates/shm/src/claims/file.rs", "says so for the structures of the claims file"),
    ("crates/shm/src/domain.rs", "says so for the header of the domain segment"),
    ("crates/shm/src/slot.rs", "prefetches the next slot, which no safe function does"),
    ("crates/shm/src/tray.rs", "hands out places that it uses again when nobody has them"),
    ("crates/shm/src/ring.rs", "writes a payload into a chunk that is ours alone"),
    ("crates/shm/src/life.rs", "the robust list, which only the kernel reads"),
    ("crates/shm/src/fork.rs", "pthread_atfork"),
    ("crates/shm/src/sys/memfd/tests.rs", "tries what the kernel must refuse"),
    ("crates/shm/tests/descriptors.rs", "maps as a hostile peer would, past every check of ours"),
    ("crates/shm/tests/format.rs", "reads private fields at the offsets that FORMAT.md gives"),
    ("crates/shm/tests/steps/child.rs", "forks, traces and kills"),
    ("crates/shm/src/life/tests.rs", "forks, to be killed"),
    ("crates/shm/src/fork/tests.rs", "forks"),
    ("crates/busway/tests/fork.rs", "forks"),
    ("crates/busway/tests/allocations.rs", "an allocator that counts"),
    ("crates/io/src/backlog.rs", "SIOCOUTQ and SO_MEMINFO, which rustix leaves out"),
    ("crates/io/src/least.rs", "SO_RCVLOWAT, which rustix leaves out"),
    ("crates/python/src/message.rs", "the buffer protocol, which is a pair of C functions"),
    ("crates/python/src/artifact.rs", "the same, for artifacts"),
    ("crates/python/src/loan.rs", "the same, for what can be written"),
    ("crates/python/src/fork.rs", "maps pages at addresses where a child may look"),
    ("bench/src/stage.rs", "maps the stage that the processes of a measurement share"),
    ("bench/src/floor/flag.rs", "fills and reads plain shared memory, as nobody would who has a bus"),
    ("bench/src/floor/rings.rs", "maps and fetches ten thousand rings, as nobody would who has a bus"),
    ("bench/src/bus/count.rs", "an allocator that counts"),
    ("bench/src/bus/steps.rs", "lets a process go step by step"),
];

const FILE_LINES_MAX: usize = 1000;
const FILE_LINES_AIM: usize = 500;
// As in clippy.toml, which does not reach the outer workspaces.
const FUNCTION_LINES_MAX: usize = 70;

/// `unsafe` stands only in the files of the list, and each of these needs it.
pub(crate) fn unsafe_only_where_listed(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.rust() {
        let lines = source::lines_with(&source::code(text), "unsafe");
        let listed = UNSAFE.iter().any(|(file, _)| *file == path);
        match lines.first() {
            Some(line) if !listed => out.push(Finding::new(
                path,
                *line,
                "`unsafe` in a file that is not on the list",
                "use what crates/shm/src/sys.rs offers, or argue for the file in xtask/src/tidy/files.rs",
            )),
            None if listed => out.push(Finding::new(
                path,
                1,
                "it is on the list of files with `unsafe` and has none",
                "take it off the list in xtask/src/tidy/files.rs",
            )),
            _ => {}
        }
    }
    for (path, _) in UNSAFE.iter().filter(|(path, _)| !tree.names.contains(*path)) {
        out.push(Finding::note(
            "xtask/src/tidy/files.rs",
            1,
            format!("{path} is on the list of files with `unsafe` and does not exist"),
            "take it off the list",
        ));
    }
}

/// Each source file begins with what it is.
pub(crate) fn heads(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.rust().filter(|(path, _)| path.contains("/src/")) {
        if !text.starts_with("//!") {
            out.push(Finding::new(
                path,
                1,
                "the file does not begin with `//!`",
                "say what it is, what it does not do, and its invariant",
            ));
        }
    }
}

/// Walls for files and functions.
pub(crate) fn lengths(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.rust() {
        let count = text.lines().count();
        if count > FILE_LINES_MAX {
            let cause = format!("{count} lines; the wall is {FILE_LINES_MAX}");
            out.push(Finding::new(path, count, cause, "one noun a file: find the second noun"));
        } else if count > FILE_LINES_AIM {
            let cause = format!("{count} lines; the aim is 200 to {FILE_LINES_AIM}");
            out.push(Finding::note(path, count, cause, "look for a second noun in it"));
        }
        for function in source::functions(text).iter().filter(|f| f.length > FUNCTION_LINES_MAX) {
            out.push(Finding::new(
                path,
                function.line,
                format!(
                    "`{}` has {} lines; the wall is {FUNCTION_LINES_MAX}",
                    function.name, function.length
                ),
                "let the parent decide and leaves compute",
            ));
        }
    }
}

/// The files that run once a message take no lock: a killed holder would stop the others.
pub(crate) fn no_lock_on_the_data_path(tree: &Tree, out: &mut Vec<Finding>) {
    for (path, text) in tree.rust().filter(|(path, _)| on_the_data_path(path)) {
        let code = source::code(text);
        for lock in ["Mutex", "RwLock", "Condvar"] {
            for line in source::lines_with(&code, lock) {
                out.push(Finding::new(
                    path,
                    line,
                    format!("`{lock}` on the data path"),
                    "one writer a word: publish with a release store",
                ));
            }
        }
    }
}

fn on_the_data_path(path: &str) -> bool {
    let Some(name) = path.strip_prefix("crates/shm/src/") else { return false };
    let noun = name.split(['/', '.']).next().unwrap_or("");
    // A model stands in for the kernel under loom and is never shipped.
    let model = name.ends_with("/model.rs");
    let production = !name.ends_with("tests.rs") && !name.contains("/tests/") && !model;
    // `seat` is not among them: its lock guards the list of seats, which a publisher copies when its version has
    // changed, and takes otherwise only to mark a row that it has waited for.
    let data = noun.starts_with("ring")
        || noun.starts_with("row")
        || matches!(noun, "bell" | "slot" | "recycle" | "hold");
    production && data
}
