//! Who somebody is, once that has been shown: a node or a client of this cluster, by the name in its certificate.
//!
//! An `Identity` is what a hello says; a principal is what a certificate or a token proves. Permissions are given to
//! principals. Nothing here knows certificates: their name comes in as text.
//!
//! Invariant: two principals are the same if and only if their texts are.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

use busway_wire::limits::PROCESS_NAME_BYTES_MAX;
use busway_wire::link::Identity;
use busway_wire::named_client_id;

/// Who somebody has shown to be.
///
/// ```
/// use busway_protocol::Principal;
/// let sensor: Principal = "client/sensor-7".parse().expect("a principal");
/// assert_eq!(sensor.uri("north"), "busway://north/client/sensor-7");
/// assert_eq!(Principal::of_uri("north", "busway://north/client/sensor-7"), Some(sensor));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A node, by its index.
    Node {
        /// From 0.
        index: u8,
    },
    /// A client, by a name; one that is a number is the client's id. All others have ids from
    /// [`Principal::NAMED_ID_MIN`] on that their names decide, so that no two are taken for each other.
    Client {
        /// 1 to 64 of `A-Z a-z 0-9 . _ -`; digits alone are a number below [`Principal::NAMED_ID_MIN`], in one spelling.
        name: String,
    },
}

/// A text that names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrincipalError;

impl fmt::Display for PrincipalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an identity is node/INDEX or client/NAME, with a name of letters, digits, `.`, `_` and `-`; \
             one of digits alone is a number below 9223372036854775808 without a leading zero",
        )
    }
}

impl core::error::Error for PrincipalError {}

impl Principal {
    /// The smallest id of a client whose name is no number: the upper half of all ids is theirs.
    pub const NAMED_ID_MIN: u64 = 1 << 63;

    /// Who a hello says it is, where nothing has to be shown.
    #[must_use]
    pub fn of_identity(identity: Identity) -> Principal {
        match identity {
            Identity::Node { index } => Principal::Node { index },
            Identity::Client { id } => Principal::Client { name: alloc::format!("{id}") },
        }
    }

    /// A client of this name.
    ///
    /// # Errors
    /// The name is none.
    pub fn client(name: &str) -> Result<Principal, PrincipalError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > PROCESS_NAME_BYTES_MAX || !name.bytes().all(plain) {
            return Err(PrincipalError);
        }
        // One text for each id.
        let same = |number: u64| number < Self::NAMED_ID_MIN && alloc::format!("{number}") == name;
        if is_number(name) && !name.parse().is_ok_and(same) {
            return Err(PrincipalError);
        }
        Ok(Principal::Client { name: name.to_owned() })
    }

    /// The id of a client: the number that its name is, else one of [`Principal::NAMED_ID_MIN`] or more that its name alone
    /// decides, on every node alike. A node has none.
    ///
    /// ```
    /// use busway_protocol::Principal;
    /// let id = |name| Principal::client(name).expect("a name").id();
    /// assert_eq!(id("42"), Some(42));
    /// assert!(id("lamp") >= Some(Principal::NAMED_ID_MIN) && id("lamp") != id("door"));
    /// ```
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        match self {
            Principal::Node { .. } => None,
            Principal::Client { name } if is_number(name) => name.parse().ok(),
            Principal::Client { name } => Some(named_client_id(name)),
        }
    }

    /// Whether it may say this of itself: its own index, or its own id.
    #[must_use]
    pub fn may_be(&self, identity: Identity) -> bool {
        match (self, identity) {
            (Principal::Node { index }, Identity::Node { index: said }) => *index == said,
            // A number that is misspelt is nobody's name.
            (Principal::Client { name }, Identity::Client { id }) => {
                self.id() == Some(id) && (!is_number(name) || alloc::format!("{id}") == *name)
            }
            (Principal::Node { .. }, Identity::Client { .. })
            | (Principal::Client { .. }, Identity::Node { .. }) => false,
        }
    }

    /// The name in a certificate of this cluster.
    #[must_use]
    pub fn uri(&self, cluster: &str) -> String {
        let mut uri = String::from(SCHEME);
        escape(cluster, &mut uri);
        uri.push('/');
        uri.push_str(&alloc::format!("{self}"));
        uri
    }

    /// Who the name in a certificate is in this cluster; `None` if it is nobody of it.
    #[must_use]
    pub fn of_uri(cluster: &str, uri: &str) -> Option<Principal> {
        let mut start = String::from(SCHEME);
        escape(cluster, &mut start);
        uri.strip_prefix(start.as_str())?.strip_prefix('/')?.parse().ok()
    }
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

/// How a name in a certificate begins that is meant for us.
const SCHEME: &str = "busway://";

/// The name of a cluster is any text; in a URI all but letters, digits and `-._~` is `%` and two hexadecimal digits.
fn escape(text: &str, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
            out.extend(['%', digit(byte >> 4), digit(byte)]);
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Node { index } => write!(f, "node/{index}"),
            Principal::Client { name } => write!(f, "client/{name}"),
        }
    }
}

impl core::str::FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Principal, PrincipalError> {
        if let Some(index) = text.strip_prefix("node/") {
            // One text for each index: neither a sign nor a leading zero.
            let number: u8 = index.parse().map_err(|_| PrincipalError)?;
            let same = alloc::format!("{number}") == index;
            return if same { Ok(Principal::Node { index: number }) } else { Err(PrincipalError) };
        }
        Principal::client(text.strip_prefix("client/").ok_or(PrincipalError)?)
    }
}

#[cfg(test)]
mod tests {
    use super::Principal;
    use busway_wire::link::Identity;

    #[test]
    fn the_name_in_a_certificate_is_that_of_one_cluster_and_has_one_spelling() {
        let node = Principal::Node { index: 7 };
        assert_eq!(node.uri("a b/c"), "busway://a%20b%2Fc/node/7");
        assert_eq!(Principal::of_uri("a b/c", "busway://a%20b%2Fc/node/7"), Some(node));
        for (cluster, uri) in [
            ("north", "busway://south/node/7"),
            ("north", "busway://north2/node/7"),
            ("north", "busway://north/node/07"),
            ("north", "busway://north/node/+7"),
            ("north", "busway://north/node/256"),
            ("north", "busway://north/node/7/"),
            ("north", "busway://north/client/"),
            ("north", "busway://north/client/042"),
            ("north", "busway://north/client/9223372036854775808"),
            ("north", "busway://north/client/99999999999999999999"),
            ("north", "busway://north/client/a/b"),
            ("north", "busway://north/client/a b"),
            ("north", "https://north/node/7"),
            ("north", "BUSWAY://north/node/7"),
            ("", "busway://north/node/7"),
        ] {
            assert_eq!(Principal::of_uri(cluster, uri), None, "{cluster} {uri}");
        }
    }

    #[test]
    fn a_certificate_allows_its_own_index_or_id_only() {
        let node = Principal::Node { index: 7 };
        assert!(node.may_be(Identity::Node { index: 7 }));
        assert!(!node.may_be(Identity::Node { index: 8 }) && !node.may_be(Identity::Client { id: 7 }));
        let numbered = Principal::client("42").expect("a name");
        assert!(numbered.may_be(Identity::Client { id: 42 }));
        assert!(
            !numbered.may_be(Identity::Client { id: 43 }) && !numbered.may_be(Identity::Node { index: 42 })
        );
        let named = Principal::client("sensor").expect("a name");
        for id in [0, 1, 42, Principal::NAMED_ID_MIN - 1] {
            assert!(
                !named.may_be(Identity::Client { id }),
                "{id} is that of a client whose name is a number"
            );
        }
        let own = named.id().expect("a client has one");
        assert_eq!(own, 18_292_605_600_254_587_077, "on every node and in every version the same");
        assert!(own >= Principal::NAMED_ID_MIN && named.may_be(Identity::Client { id: own }));
        for id in [Principal::NAMED_ID_MIN, own ^ 1, u64::MAX] {
            assert!(!named.may_be(Identity::Client { id }), "{id} is that of another name, if of any");
        }
        let misspelt = Principal::Client { name: "042".into() };
        assert!(!misspelt.may_be(Identity::Client { id: 42 }));
    }
}
