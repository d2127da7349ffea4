//! What a key can hold: how it is read from TOML and from text, how it is shown, and what its range is.
//!
//! A cause says what was found and what can stand there; the place and the remedy are added by who knows them.
//!
//! Invariant: what `show` writes is read back as the same value.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use busway::{Acl, AclRule, Pattern};
use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use crate::size::Size;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number within a range.
    Count {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Bytes: `"64KiB"`, or a whole number.
    Size {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The name of a domain.
    Domain,
    /// Printable text of so many bytes at most.
    Text {
        /// The most.
        bytes_max: usize,
    },
    /// One of these words.
    Choice {
        /// They.
        of: &'static [&'static str],
    },
    /// A path of the file system.
    Path,
    /// A list of `IP:PORT`.
    Addresses,
    /// `HOST:PORT`.
    Endpoint,
    /// Text that nobody is shown.
    Secret {
        /// The most.
        bytes_max: usize,
    },
    /// Whom a rule is about.
    Identity,
    /// A list of patterns of topics.
    Patterns,
    /// A list of names of hosts, without a port.
    Hosts,
    /// A list of origins of pages: `https://HOST:PORT`.
    Origins,
}

/// Text that nobody is shown, in whatever way.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// For who uses it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A value that a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Count`].
    Count(u64),
    /// Of [`Kind::Size`].
    Size(u64),
    /// Of every kind that is text.
    Text(String),
    /// Of [`Kind::Addresses`].
    Addresses(Vec<SocketAddr>),
    /// Of [`Kind::Secret`].
    Secret(Secret),
    /// Of [`Kind::Patterns`], [`Kind::Hosts`] and [`Kind::Origins`].
    Texts(Vec<String>),
}

impl Kind {
    /// In words, with its range.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Kind::Flag => "true or false".to_owned(),
            Kind::Count { min, max: u64::MAX } => format!("a whole number from {min} on"),
            Kind::Count { min, max } => format!("a whole number, {min} to {max}"),
            Kind::Size { min, max } => {
                format!("a size, {} to {}", Size(min).exact(), Size(max).exact())
            }
            Kind::Domain => {
                "1 to 64 of the characters A-Z a-z 0-9 . _ -, not beginning with . or -".to_owned()
            }
            Kind::Text { bytes_max } | Kind::Secret { bytes_max } => {
                format!("text of 1 to {bytes_max} bytes")
            }
            Kind::Choice { of: [one] } => format!("\"{one}\", and nothing else"),
            Kind::Choice { of } => {
                of.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Kind::Path => "a path".to_owned(),
            Kind::Addresses => "a list of addresses, each IP:PORT".to_owned(),
            Kind::Endpoint => "HOST:PORT".to_owned(),
            Kind::Identity => "*, node/*, client/*, node/INDEX or client/NAME".to_owned(),
            Kind::Patterns => "a list of patterns of topics".to_owned(),
            Kind::Hosts => "a list of names of hosts, without ports".to_owned(),
            Kind::Origins => "a list of origins, each http://HOST, https://HOST or with :PORT".to_owned(),
        }
    }

    /// What to write instead of a wrong value.
    #[must_use]
    pub fn remedy(self, name: &str) -> String {
        let example = match self {
            Kind::Flag => "true",
            Kind::Count { .. } => "1",
            Kind::Size { .. } => "\"64MiB\"",
            Kind::Domain => "\"default\"",
            Kind::Text { .. } => "\"host-a\"",
            Kind::Choice { of } => {
                let first = of.first().copied().unwrap_or_default();
                return format!("write \"{first}\"; busway config explain {name}");
            }
            Kind::Path => "\"/etc/busway/name\"",
            Kind::Addresses => "[\"127.0.0.1:4420\"]",
            Kind::Endpoint => "\"host-b:4420\"",
            Kind::Secret { .. } => "a long random text between quotes",
            Kind::Identity => "\"client/*\"",
            Kind::Patterns => "[\"price.>\"]",
            Kind::Hosts => "[\"bus.example\"]",
            Kind::Origins => "[\"https://board.example\"]",
        };
        format!("write {}, for example {example}; busway config explain {name}", self.describe())
    }

    /// Reads what a variable or a flag says. A list is separated by commas.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(self, text: &str) -> Result<Value, String> {
        match self {
            Kind::Flag => match text {
                "true" | "1" => Ok(Value::Flag(true)),
                "false" | "0" => Ok(Value::Flag(false)),
                other => Err(format!("{} is neither true nor false", shown(other))),
            },
            Kind::Count { .. } => {
                let number =
                    text.parse().map_err(|_| format!("{} is no whole number of 64 bits", shown(text)))?;
                self.number(number)
            }
            Kind::Size { .. } => self.number(text.parse::<Size>()?.0),
            Kind::Addresses => text.split(',').map(address).collect::<Result<_, _>>().map(Value::Addresses),
            Kind::Secret { .. } => self.text(text).map(Secret).map(Value::Secret),
            Kind::Patterns => text.split(',').map(pattern).collect::<Result<_, _>>().map(Value::Texts),
            Kind::Hosts => text.split(',').map(host_name).collect::<Result<_, _>>().map(Value::Texts),
            Kind::Origins => text.split(',').map(origin).collect::<Result<_, _>>().map(Value::Texts),
            Kind::Domain
            | Kind::Text { .. }
            | Kind::Choice { .. }
            | Kind::Path
            | Kind::Endpoint
            | Kind::Identity => self.text(text).map(Value::Text),
        }
    }

    /// Reads what the file says; what is wrong is told with the byte where it begins, in a list that of the item.
    pub(super) fn take(self, value: &Spanned<DeValue<'_>>) -> Result<Value, (usize, String)> {
        match (self, value.get_ref()) {
            (Kind::Addresses, DeValue::Array(items)) => {
                each(items, |item| address(string(item, "an address")?)).map(Value::Addresses)
            }
            (Kind::Patterns, DeValue::Array(items)) => {
                each(items, |item| pattern(string(item, "a pattern")?)).map(Value::Texts)
            }
            (Kind::Hosts, DeValue::Array(items)) => {
                each(items, |item| host_name(string(item, "a name")?)).map(Value::Texts)
            }
            (Kind::Origins, DeValue::Array(items)) => {
                each(items, |item| origin(string(item, "an origin")?)).map(Value::Texts)
            }
            (_, one) => self.take_one(one).map_err(|cause| (value.span().start, cause)),
        }
    }

    fn take_one(self, value: &DeValue<'_>) -> Result<Value, String> {
        match (self, value) {
            (Kind::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (Kind::Count { .. } | Kind::Size { .. }, DeValue::Integer(number)) => {
                self.number(integer(number)?)
            }
            (Kind::Size { .. }, DeValue::String(text)) => self.read(text),
            (Kind::Secret { .. }, DeValue::String(text)) => self.text(text).map(Secret).map(Value::Secret),
            (
                Kind::Domain
                | Kind::Text { .. }
                | Kind::Choice { .. }
                | Kind::Path
                | Kind::Endpoint
                | Kind::Identity,
                DeValue::String(text),
            ) => self.text(text).map(Value::Text),
            (_, other) => Err(format!("{} stands where {} belongs", article(other), self.describe())),
        }
    }

    fn number(self, number: u64) -> Result<Value, String> {
        match self {
            Kind::Count { min, max } if (min..=max).contains(&number) => Ok(Value::Count(number)),
            Kind::Size { min, max } if (min..=max).contains(&number) => Ok(Value::Size(number)),
            Kind::Size { .. } => {
                Err(format!("{} is out of range: it is {}", Size(number).exact(), self.describe()))
            }
            _ => Err(format!("{number} is out of range: it is {}", self.describe())),
        }
    }

    fn text(self, text: &str) -> Result<String, String> {
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        match self {
            Kind::Domain => busway::check_domain_name(text).map_err(|error| error.to_string())?,
            Kind::Text { bytes_max } | Kind::Secret { bytes_max } => {
                if text.len() > bytes_max {
                    return Err(format!("it has {} bytes of at most {bytes_max}", text.len()));
                }
                if text.chars().any(char::is_control) {
                    return Err("it has a control character".to_owned());
                }
            }
            Kind::Choice { of } if !of.contains(&text) => {
                return Err(format!("{} cannot be: it is {}", shown(text), self.describe()));
            }
            Kind::Endpoint => endpoint(text)?,
            Kind::Identity => identity(text)?,
            Kind::Path if text.contains('\0') => return Err("it has a NUL".to_owned()),
            // It would be shown as a path is.
            Kind::Path if text.contains("-----BEGIN") => {
                return Err("it is what a file should hold, and no path".to_owned());
            }
            Kind::Path
            | Kind::Choice { .. }
            | Kind::Flag
            | Kind::Count { .. }
            | Kind::Size { .. }
            | Kind::Addresses
            | Kind::Patterns
            | Kind::Hosts
            | Kind::Origins => {}
        }
        Ok(text.to_owned())
    }
}

impl Value {
    /// As it stands in a file.
    #[must_use]
    pub fn show(&self) -> String {
        match self {
            Value::Flag(flag) => flag.to_string(),
            Value::Count(number) => number.to_string(),
            Value::Size(bytes) => quote(&Size(*bytes).exact()),
            Value::Text(text) => quote(text),
            Value::Secret(_) => "\"(hidden)\"".to_owned(),
            Value::Addresses(addresses) => list(addresses.iter().map(ToString::to_string)),
            Value::Texts(texts) => list(texts.iter().cloned()),
        }
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| quote(&item)).collect();
    format!("[{}]", items.join(", "))
}

/// A basic string of TOML.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(control)).expect("a String takes everything");
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A value that is wrong, cut to what fits a line.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(60).collect();
    format!("'{}'", cut.escape_debug())
}

fn integer(number: &DeInteger<'_>) -> Result<u64, String> {
    let text = number.as_str();
    u64::from_str_radix(text.trim_start_matches('+'), number.radix())
        .map_err(|_| format!("{text} is no whole number from 0 on that fits 64 bits"))
}

fn string<'a>(value: &'a DeValue<'_>, what: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{} stands in a list where {what} belongs", article(value)))
}

fn article(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {name}")
}

/// Every item of a list, or the first that is wrong with the byte where it begins.
fn each<T>(
    items: &[Spanned<DeValue<'_>>],
    read: impl Fn(&DeValue<'_>) -> Result<T, String>,
) -> Result<Vec<T>, (usize, String)> {
    items.iter().map(|item| read(item.get_ref()).map_err(|cause| (item.span().start, cause))).collect()
}

fn pattern(text: &str) -> Result<String, String> {
    let wrong = |error| format!("{} is no pattern: {error}", shown(text));
    Pattern::parse(text).map(|_| text.to_owned()).map_err(wrong)
}

fn identity(text: &str) -> Result<(), String> {
    let rule = AclRule { identity: text.to_owned(), ..AclRule::default() };
    Acl::new([rule]).map(|_| ()).map_err(|_| format!("{} is no identity", shown(text)))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        format!(
            "{} is no address to listen at: it is IP:PORT, as in 127.0.0.1:4420 or [::1]:4420",
            shown(text)
        )
    })
}

/// The longest name of a host, by the rules of the name service.
const HOST_BYTES_MAX: usize = 253;

/// The name of a host that a browser may call us by.
fn host_name(text: &str) -> Result<String, String> {
    endpoint(&format!("{text}:1")).map(|()| text.to_ascii_lowercase()).map_err(|_| {
        format!("{} is no name of a host: write it without a scheme and without a port", shown(text))
    })
}

/// The origin of a page, as a browser says it.
fn origin(text: &str) -> Result<String, String> {
    let wrong =
        || format!("{} is no origin: it is http:// or https:// and a host, without a path", shown(text));
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or_else(wrong)?;
    let of_port = endpoint(rest);
    if of_port.is_err() {
        host_name(rest).map_err(|_| wrong())?;
    }
    Ok(text.to_ascii_lowercase())
}

fn endpoint(text: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{} is no HOST:PORT: {why}", shown(text)));
    let Some((host, port)) = text.rsplit_once(':') else { return wrong("the port is missing") };
    if !matches!(port.parse::<u16>(), Ok(1..)) {
        return wrong("the port is a number from 1 to 65535");
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some(bare) = bare {
        return if bare.parse::<std::net::Ipv6Addr>().is_ok() {
            Ok(())
        } else {
            wrong("in brackets stands an IPv6 address")
        };
    }
    let portable = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match host {
        "" => wrong("the host is missing"),
        host if host.len() > HOST_BYTES_MAX => wrong("the name of a host has at most 253 bytes"),
        host if host.contains(':') => wrong("an IPv6 address stands in brackets, [::1]:4420"),
        host if !host.chars().all(portable) => wrong("a host has letters, digits, dots and dashes"),
        _ => Ok(()),
    }
}
