//! The table in words: `busway config explain`, and docs/config.md.
//!
//! Invariant: every key of the table stands in both.

use std::fmt::Write;

use crate::config::table::{self, Applies, KEYS, Key, Unset};
use crate::near::nearest;

impl Key {
    fn unset_words(&self) -> String {
        match (self.unset, self.default_value()) {
            (Unset::Words(words), _) => format!("not set: {words}"),
            (Unset::Value(text), None) => text.to_owned(),
            (Unset::Value(_), Some(value)) => value.show(),
        }
    }

    fn applies_words(&self) -> &'static str {
        match self.applies {
            Applies::Start => "at start",
            Applies::Reload => "at SIGHUP too",
        }
    }

    /// What help says of the flag of this key.
    ///
    /// ```
    /// let key = &busway_node::config::KEYS[0];
    /// assert!(key.help().ends_with("[env: BUSWAY_DOMAIN] [default: \"default\"]"));
    /// ```
    #[must_use]
    pub fn help(&self) -> String {
        let mut help = self.sentence.to_owned();
        if let Some(name) = self.environment {
            write!(help, " [env: {name}]").expect("a String takes everything");
        }
        if let Some(value) = self.default_value() {
            write!(help, " [default: {}]", value.show()).expect("a String takes everything");
        }
        help
    }
}

/// Some lines about one key.
///
/// # Errors
/// The name that was meant, if one is near.
///
/// ```
/// use busway_node::config::explain;
///
/// assert!(explain("peers.1").expect("a key").starts_with("peers.INDEX\n"));
/// assert_eq!(explain("node.indx"), Err(Some("node.index")));
/// ```
pub fn explain(name: &str) -> Result<String, Option<&'static str>> {
    let Some(key) = table::meant(name) else {
        let whole = nearest(name, KEYS.iter().map(|key| key.name));
        let last = |key: &&Key| key.name.rsplit('.').next() == Some(name);
        return Err(KEYS.iter().find(last).map(|key| key.name).or(whole));
    };
    let or = |text: Option<&'static str>| text.unwrap_or("-");
    Ok(format!(
        "{}\n  {}\n  holds:       {}\n  default:     {}\n  variable:    {}\n  flag:        {}\n  takes hold:  {}",
        key.name,
        key.sentence,
        key.kind.describe(),
        key.unset_words(),
        or(key.environment),
        or(key.flag),
        key.applies_words(),
    ))
}

const HEAD: &str = "\
# Configuration: `busway.toml`

<!-- Made by `busway config explain --page`; a test compares it. -->

`busway up` is configured by four layers, of which the later wins, key by key: defaults, the file, the environment, flags.
The file is the one that `--config FILE` names, else the one that `BUSWAY_CONFIG` names, else `busway.toml` of the current
directory, if there is one and it belongs to us or to root. A named file must be there. No other command reads it.

```toml
[node]
index = 0
cluster = \"prices\"
listen = [\"127.0.0.1:4420\"]

[peers]
1 = \"host-b:4420\"
2 = \"host-c:4420\"

[tls]
ca = \"pki/ca.pem\"
cert = \"pki/node-0.pem\"
key = \"pki/node-0.key\"

[[acl]]
identity = \"node/*\"
publish = [\">\"]
subscribe = [\">\"]

[[acl]]
identity = \"client/*\"
subscribe = [\"price.*\"]
deny_subscribe = [\"price.internal\"]
pull = []
answer = []

[flows]
advert = { in_flight = 100000, bytes = \"64MiB\", workers = 1, when_full = \"coalesce\" }
```

`busway config check [FILE]` says what is wrong, each with line and column, `busway config show [FILE]` what holds and who said
so, `busway config explain [KEY]` what there is. A key that is not known is an error, never ignored. An empty variable counts as unset. Sizes are `64KiB`, `32MiB`, `1GiB` or bytes; a list in a
variable is separated by commas, `BUSWAY_PEERS` is `1=host-b:4420,2=host-c:4420`. Of `[peers]` each entry is a key: a flag for
one peer leaves the others as the file has them. A file has at most 256 KiB. Each `[[acl]]` is a rule; they are numbered from 1
where they are shown, and their order means nothing. Where there is any, what none allows is denied. Without a list of its own the right to
`push` or `request` is that to `publish`, the right to `pull` or `answer` that to `subscribe`, rule by rule; what is denied is denied for both.
Dead letters (`dead-letters.GROUP`) may be of any topic: a rule allows to pull them by that name (`dead-letters.*`), and by no pattern that begins with a wildcard.

SIGHUP (`systemctl reload`) makes the node read all of it again: what stands below with *at SIGHUP too* takes hold, and a
configuration with any mistake changes nothing. A change of any other key is named in the log; it takes hold at the next start. A
`[tls]` or `[[acl]]` that is gone holds until then too, and is named: no omission opens a running node.

| key | holds | default | variable | flag | takes hold |
| --- | --- | --- | --- | --- | --- |
";

/// docs/config.md.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let code = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| format!("`{text}`"));
    for key in KEYS {
        let default = match key.unset {
            Unset::Words(words) => words.to_owned(),
            Unset::Value(_) => format!("`{}`", key.unset_words()),
        };
        writeln!(
            page,
            "| `{}` | {} | {default} | {} | {} | {} |",
            key.name,
            key.kind.describe(),
            code(key.environment),
            code(key.flag),
            key.applies_words(),
        )
        .expect("a String takes everything");
    }
    page.push('\n');
    for key in KEYS {
        writeln!(page, "- `{}`: {}.", key.name, key.sentence).expect("a String takes everything");
    }
    page
}
