//! What a node is configured with: defaults, then `busway.toml`, then the environment, then flags; the later wins.
//!
//! All of it is read by one table of keys ([`KEYS`]), from which `busway config explain` and docs/config.md are made too.
//! What is wrong is told with its place, and all of it at once: a file is not corrected one line a try. It opens no
//! socket and starts nothing.
//!
//! Invariant: a key that stands in a layer has an effect or is a problem; none is ignored.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

mod build;
mod file;
mod page;
mod table;
mod value;

pub use file::Choice;
pub use page::{explain, page};
pub use table::{Applies, Instance, KEYS, Key, Unset};
pub use value::{Kind, Secret, Value};

use crate::NodeConfig;

/// Problems that are told of one configuration; who has more begins with these.
const PROBLEMS_MAX: usize = 20;

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub cause: String,
    /// Where: `busway.toml:3:9`, `BUSWAY_INDEX`, `--index`.
    pub place: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    pub(crate) fn new(
        cause: impl Into<String>,
        place: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> Problem {
        Problem { cause: cause.into(), place: place.to_string(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {}; {})", self.cause, self.place, self.remedy)
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file.
    File {
        /// Which.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The character in it, from 1.
        column: usize,
    },
    /// A variable of the environment.
    Environment(&'static str),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Origin::Environment(name) | Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// One value, and where it comes from.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which key.
    pub key: &'static Key,
    /// Which of those that the key stands for: the index of a peer, a name; empty where it stands for itself.
    pub instance: String,
    /// Its value; `None` where nobody has set it and it has no default.
    pub value: Option<Value>,
    /// Who said so.
    pub origin: Origin,
}

impl Setting {
    /// The name with its instance: `peers.1`.
    #[must_use]
    pub fn name(&self) -> String {
        self.key.name_of(&self.instance)
    }
}

/// What a configuration is made of.
pub struct Layers<'a> {
    /// Which file.
    pub file: Choice,
    /// The environment.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// What flags said: the name of the key, and the text.
    pub flags: &'a [(&'static str, String)],
}

impl fmt::Debug for Layers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").field("file", &self.file).field("flags", &self.flags).finish_non_exhaustive()
    }
}

/// A configuration that is sound.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the node is started with.
    pub node: NodeConfig,
    /// Every value with its origin, in the order of the table.
    pub settings: Vec<Setting>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// Reads all layers.
///
/// # Errors
/// Everything that is wrong, at least one problem.
///
/// ```
/// use busway_node::config::{Choice, Layers, load};
///
/// let layers = Layers {
///     file: Choice::None,
///     environment: &|name| (name == "BUSWAY_INDEX").then(|| "3".into()),
///     flags: &[("node.listen", "127.0.0.1:4420".to_owned())],
/// };
/// let loaded = load(&layers).expect("a sound configuration");
/// assert_eq!(loaded.node.links.expect("it listens").index, 3);
/// ```
pub fn load(layers: &Layers<'_>) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut merged = Merged::default();
    let mut path = None;
    if let Some((chosen, whose)) = file::choose(&layers.file, layers.environment) {
        let read = file::read(&chosen, whose).map_err(|problem| vec![problem])?;
        merged.is_public = read.is_public;
        file::parse(&chosen, &read.text, &mut |found| merged.take(found), &mut problems);
        path = Some(chosen);
    }
    for key in KEYS {
        let Some(name) = key.environment else { continue };
        // Empty counts as unset, as everywhere.
        let Some(text) = (layers.environment)(name).filter(|text| !text.is_empty()) else { continue };
        let origin = Origin::Environment(name);
        match text.into_string() {
            Ok(text) => merged.read(key, &text, &origin, &mut problems),
            Err(_) => problems.push(Problem::new("the value is not UTF-8", &origin, "write it anew")),
        }
    }
    for (name, text) in layers.flags {
        let key = table::exact(name).expect("flags are named after keys of the table");
        let origin = Origin::Flag(key.flag.unwrap_or(key.name));
        merged.read(key, text, &origin, &mut problems);
    }
    let node = build::node(&merged, &mut problems).map(|node| NodeConfig { file: path.clone(), ..node });
    problems.truncate(PROBLEMS_MAX);
    match node {
        Some(node) if problems.is_empty() => Ok(Loaded { node, settings: merged.settings(), file: path }),
        Some(_) | None => Err(problems),
    }
}

/// What differs between two configurations and takes hold at the next start only. Certificates and permissions are
/// exchanged while a node runs, but never taken away: without them it would open itself to everybody.
#[must_use]
pub fn start_only(old: &Loaded, new: &Loaded) -> Vec<&'static Key> {
    let of = |loaded: &Loaded, key: &Key| -> Vec<(String, Option<Value>)> {
        let settings = loaded.settings.iter().filter(|setting| setting.key.name == key.name);
        settings.map(|setting| (setting.instance.clone(), setting.value.clone())).collect()
    };
    let is_set = |loaded, key: &Key| of(loaded, key).iter().any(|(_, value)| value.is_some());
    let stays = |key: &Key| matches!(key.name, "tls.ca" | "acl.RULE.identity");
    let changed = |key: &&Key| match key.applies {
        Applies::Start => of(old, key) != of(new, key),
        Applies::Reload => stays(key) && is_set(old, key) && !is_set(new, key),
    };
    KEYS.iter().filter(changed).collect()
}

/// All layers, the later above the earlier.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    values: BTreeMap<(usize, Order, String), Setting>,
    /// Whether everybody may read the file.
    is_public: bool,
}

/// Instances that are numbers stand in the order of numbers.
type Order = u64;

impl Merged {
    fn take(&mut self, setting: Setting) {
        let order = setting.instance.parse().unwrap_or(0);
        self.values.insert((setting.key.place(), order, setting.instance.clone()), setting);
    }

    /// The text of a variable or a flag.
    fn read(&mut self, key: &'static Key, text: &str, origin: &Origin, problems: &mut Vec<Problem>) {
        let parts: Vec<(String, &str)> = match key.instance {
            Instance::None => vec![(String::new(), text)],
            Instance::Node | Instance::Member | Instance::Rule => {
                let shape =
                    || Problem::new("a part is no NAME=VALUE", origin, "write 1=host-b:4420,2=host-c:4420");
                let part = |part: &'_ str| part.find('=');
                let mut parts = Vec::new();
                for text in text.split(',') {
                    let Some(at) = part(text) else { return problems.push(shape()) };
                    parts.push((text[..at].to_owned(), &text[at + 1..]));
                }
                parts
            }
        };
        for (instance, text) in parts {
            let value = key.instance.check(&instance).and_then(|()| key.kind.read(text));
            match value {
                Ok(value) => {
                    self.take(Setting { key, instance, value: Some(value), origin: origin.clone() });
                }
                Err(cause) => problems.push(Problem::new(cause, origin, key.kind.remedy(key.name))),
            }
        }
    }

    /// Whether everybody may read what was said at `origin`.
    pub(crate) fn can_be_read_by_all(&self, origin: &Origin) -> bool {
        self.is_public && matches!(origin, Origin::File { .. })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Setting> {
        let key = table::exact(name).expect("keys are named as the table names them");
        self.values.get(&(key.place(), 0, String::new()))
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &Setting> {
        let place = table::exact(name).expect("keys are named as the table names them").place();
        self.values
            .range((place, 0, String::new())..(place + 1, 0, String::new()))
            .map(|(_, setting)| setting)
    }

    pub(crate) fn origin(&self, name: &str) -> Origin {
        self.get(name).map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Every setting, those that nobody has set with their defaults.
    fn settings(&self) -> Vec<Setting> {
        let mut all = Vec::new();
        for key in KEYS {
            let before = all.len();
            all.extend(self.all(key.name).cloned());
            if all.len() == before && key.instance == Instance::None {
                let (instance, origin) = (String::new(), Origin::Default);
                all.push(Setting { key, instance, value: key.default_value(), origin });
            }
        }
        // Rules stand at the end of the table, and each is shown whole.
        let rules =
            all.iter().position(|setting| setting.key.instance == Instance::Rule).unwrap_or(all.len());
        all[rules..].sort_by_cached_key(|setting| setting.instance.parse().unwrap_or(0_u64));
        all
    }

    fn value(&self, name: &str) -> Option<Value> {
        let key = table::exact(name).expect("keys are named as the table names them");
        self.get(name).map_or_else(|| key.default_value(), |setting| setting.value.clone())
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            Value::Flag(_)
            | Value::Count(_)
            | Value::Size(_)
            | Value::Addresses(_)
            | Value::Secret(_)
            | Value::Texts(_) => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Count(number) | Value::Size(number) => Some(number),
            Value::Flag(_) | Value::Text(_) | Value::Addresses(_) | Value::Secret(_) | Value::Texts(_) => {
                None
            }
        }
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Flag(true))
    }

    pub(crate) fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        match self.value(name) {
            Some(Value::Addresses(addresses)) => addresses,
            Some(_) | None => Vec::new(),
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::Texts(texts)) => texts,
            Some(_) | None => Vec::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|text| Path::new(&text).to_path_buf())
    }
}

#[cfg(test)]
mod tests;
