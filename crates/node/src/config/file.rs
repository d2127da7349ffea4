//! The file: which one, how it is read, and what stands in it, each with its line and column.
//!
//! It is hostile until it is read: no pipe is waited for, no more than [`CONFIG_BYTES_MAX`] is read, and nesting is
//! bounded by the parser. It knows the names and kinds of the table and nothing of what they do.
//!
//! Invariant: everything in the file is taken as a value of a key, or told as a problem.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::table::{KEYS, is_list, is_section, names_in};
use crate::config::{Origin, Problem, Setting};
use crate::near::nearest;

/// Bytes of a configuration: a thousand rules of access, and more than a person reads. More is refused.
const CONFIG_BYTES_MAX: u64 = 256 << 10;

/// The file that is looked for where nobody names one.
const FILE_NAME: &str = "busway.toml";

/// The variable that names one.
const VARIABLE: &str = "BUSWAY_CONFIG";

/// Which file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one; it must be there.
    Named(PathBuf),
    /// The one that `BUSWAY_CONFIG` names, which must be there, else `busway.toml` of the current directory, if there
    /// is one and it is ours or root's: what others leave in a directory does not configure us.
    Found,
    /// None at all.
    None,
}

/// Whether somebody has said that this file is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Yes, whoever it belongs to.
    Named,
    /// It was found, and is to be ours or root's.
    Found,
}

/// The path that `choice` leads to, and whether somebody has named it.
pub(super) fn choose(
    choice: &Choice,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Option<(PathBuf, Whose)> {
    match choice {
        Choice::None => None,
        Choice::Named(path) => Some((path.clone(), Whose::Named)),
        Choice::Found => {
            if let Some(named) = environment(VARIABLE).filter(|named| !named.is_empty()) {
                return Some((PathBuf::from(named), Whose::Named));
            }
            let path = PathBuf::from(FILE_NAME);
            path.symlink_metadata().is_ok().then_some((path, Whose::Found))
        }
    }
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    /// Whether everybody may read it.
    pub(super) is_public: bool,
}

/// Reads the file. Whose it is and who may read it is asked of what was opened: the path may lead elsewhere by then.
pub(super) fn read(path: &Path, whose: Whose) -> Result<Text, Problem> {
    let remedy = match whose {
        Whose::Named => "name a file that can be read",
        Whose::Found => "make it readable, or name another with --config",
    };
    let wrong = |error: std::io::Error| {
        Problem::new(format!("the file cannot be read: {error}"), path.display(), remedy)
    };
    let opened = match whose {
        Whose::Named => open(path, OFlags::empty()).map_err(|errno| wrong(errno.into()))?,
        Whose::Found => open_found(path, &wrong)?,
    };
    let file = File::from(opened);
    let about = file.metadata().map_err(wrong)?;
    if whose == Whose::Found {
        is_ours(about.uid(), path)?;
    }
    if !about.is_file() {
        return Err(Problem::new("it is not a regular file", path.display(), remedy));
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(Problem::new(
            format!("the file has more than {} KiB", CONFIG_BYTES_MAX >> 10),
            path.display(),
            "a configuration is smaller; name the right file",
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let (line, column) = position(&error.as_bytes()[..at], at);
        Problem::new(
            "the file is not UTF-8",
            format_args!("{}:{line}:{column}", path.display()),
            "save it as UTF-8 text",
        )
    })?;
    Ok(Text { text, is_public: about.mode() & 0o007 != 0 })
}

/// Without waiting: a pipe that nobody writes to would be waited for.
fn open(path: &Path, how: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::NONBLOCK | OFlags::CLOEXEC | how, Mode::empty())
}

/// A file that nobody has named. A link to it is ours too, or who left it there would choose among our files.
fn open_found(path: &Path, wrong: &dyn Fn(std::io::Error) -> Problem) -> Result<OwnedFd, Problem> {
    let unreadable = |errno: Errno| wrong(errno.into());
    match open(path, OFlags::NOFOLLOW) {
        Err(Errno::LOOP) => {}
        opened => return opened.map_err(unreadable),
    }
    let link = open(path, OFlags::PATH | OFlags::NOFOLLOW).map_err(unreadable)?;
    is_ours(rustix::fs::fstat(&link).map_err(unreadable)?.st_uid, path)?;
    let target = rustix::fs::readlinkat(&link, "", Vec::new()).map_err(unreadable)?;
    let target = OsString::from_vec(target.into_bytes());
    open(&path.with_file_name(target), OFlags::empty()).map_err(unreadable)
}

fn is_ours(uid: u32, path: &Path) -> Result<(), Problem> {
    let ours = rustix::process::geteuid().as_raw();
    if uid == ours || uid == 0 {
        return Ok(());
    }
    Err(Problem::new(
        format!("it belongs to uid {uid}, neither to us ({ours}) nor to root"),
        path.display(),
        "name it if it is meant: --config ./busway.toml",
    ))
}

/// What stands in it.
pub(super) fn parse(path: &Path, text: &str, take: &mut dyn FnMut(Setting), problems: &mut Vec<Problem>) {
    let mut reader = Reader { path, text, take, problems };
    match DeTable::parse(text) {
        Ok(table) => reader.table(&mut Vec::new(), table.get_ref()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            // The parser's own words may repeat what the file says.
            let cause: String = error.message().chars().take(200).collect();
            reader.wrong(
                at,
                format!("this is no TOML: {cause}"),
                "see https://toml.io, or busway config explain",
            );
        }
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    take: &'a mut dyn FnMut(Setting),
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, path: &mut Vec<String>, table: &DeTable<'_>) {
        for (name, value) in table {
            path.push(name.get_ref().to_string());
            self.entry(path, name.span().start, value);
            path.pop();
        }
    }

    fn entry(&mut self, path: &mut Vec<String>, at: usize, value: &Spanned<DeValue<'_>>) {
        let found = KEYS.iter().find_map(|key| key.matches(path).map(|instance| (key, instance)));
        if let Some((key, instance)) = found {
            let read = key.instance.check(&instance).map_err(|cause| (at, cause));
            let read = read.and_then(|()| key.kind.take(value));
            match read {
                Ok(value) => {
                    let origin = self.origin(at);
                    (self.take)(Setting { key, instance, value: Some(value), origin });
                }
                Err((at, cause)) => {
                    let cause = format!("{}: {cause}", printable(&path.join(".")));
                    self.wrong(at, cause, &key.kind.remedy(key.name));
                }
            }
            return;
        }
        match value.get_ref() {
            list if is_list(path) => self.list(path, at, list),
            DeValue::Table(table) if is_section(path) => self.table(path, table),
            _ if is_section(path) => {
                let name = path.join(".");
                let cause = format!("{name} is a section, and no value can stand there");
                self.wrong(at, cause, &format!("write [{name}] on a line of its own; busway config explain"));
            }
            _ => self.unknown(path, at),
        }
    }

    /// The rules of a list. Whom each is about it has to say: one that is about nobody would be ignored.
    fn list(&mut self, path: &mut Vec<String>, at: usize, list: &DeValue<'_>) {
        let name = path.join(".");
        let remedy = format!("write [[{name}]], and below it identity = \"client/*\"; busway config explain");
        let DeValue::Array(rules) = list else {
            return self.wrong(at, format!("{name} is a list of rules"), &remedy);
        };
        if rules.is_empty() {
            self.wrong(at, format!("{name} has no rules: it would allow nothing to nobody"), &remedy);
        }
        for (index, rule) in rules.iter().enumerate() {
            let at = rule.span().start;
            match rule.get_ref() {
                DeValue::Table(table) => {
                    if !table.iter().any(|(name, _)| name.get_ref() == "identity") {
                        let cause = format!("rule {} of {name} does not say to whom it applies", index + 1);
                        self.wrong(at, cause, &remedy);
                    }
                    path.push((index + 1).to_string());
                    self.table(path, table);
                    path.pop();
                }
                _ => self.wrong(at, format!("rule {} of {name} is no table", index + 1), &remedy),
            }
        }
    }

    fn unknown(&mut self, path: &[String], at: usize) {
        let (name, section) = path.split_last().expect("an entry has a name");
        let known = names_in(section);
        let near = nearest(name, known.iter().copied());
        // Or the right name in the wrong section.
        let elsewhere =
            KEYS.iter().map(|key| key.name).find(|key| key.rsplit('.').next() == Some(name.as_str()));
        let remedy = match (near, elsewhere) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, Some(elsewhere)) => format!("did you mean {elsewhere}?"),
            (None, None) => format!("what there is: {}", known.join(", ")),
        };
        let cause = format!("no key or section is called {}", printable(&path.join(".")));
        self.wrong(at, cause, &remedy);
    }

    fn origin(&self, at: usize) -> Origin {
        let (line, column) = position(self.text.as_bytes(), at);
        Origin::File { path: self.path.to_path_buf(), line, column }
    }

    fn wrong(&mut self, at: usize, cause: String, remedy: &str) {
        // A file of a million wrong keys costs what its first ones do.
        if self.problems.len() < super::PROBLEMS_MAX {
            let origin = self.origin(at);
            self.problems.push(Problem::new(cause, origin, remedy));
        }
    }
}

/// A name of the file in a line for people.
fn printable(name: &str) -> String {
    let cut: String = name.chars().take(80).collect();
    cut.escape_debug().to_string()
}

/// Line and character, both from 1.
fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    // Continuation bytes are no characters of their own.
    let column = before[begin..].iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
    (line, column)
}
