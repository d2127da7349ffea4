//! Tokens: what a client shows that has no certificate, and what a node keeps of those that it accepts.
//!
//! A node keeps hashes: who reads its memory or its files of state finds no token. It compares with all of them, each
//! in the same time whatever it is, so that nobody learns a token by asking how long a refusal takes.
//!
//! Invariant: nothing shows a token, in no log and no `Debug`.

use std::fmt;

use busway_protocol::Principal;
use busway_wire::limits::{LINK_TOKEN_BYTES_MAX, LINK_TOKENS_MAX};

use crate::error::{Code, Error};

/// A token of our own, as it is sent.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a token)")
    }
}

impl Secret {
    pub(crate) fn new(token: &str) -> Self {
        Self(token.to_owned())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Why it is no token: a line end or a space in one comes from how its file was written, and an empty one opens
    /// every door that somebody forgot to close.
    pub(crate) fn check(&self) -> Result<(), String> {
        let visible = self.0.bytes().all(|byte| byte.is_ascii_graphic());
        if self.0.is_empty() || self.0.len() > LINK_TOKEN_BYTES_MAX || !visible {
            return Err(format!(
                "a token is 1 to {LINK_TOKEN_BYTES_MAX} visible ASCII characters without spaces"
            ));
        }
        Ok(())
    }
}

/// The tokens that a node, or another door, accepts, and whose they are. It keeps their hashes.
///
/// ```
/// let mut tokens = busway::Tokens::default();
/// tokens.add("lamp", "correct-horse")?;
/// assert_eq!(tokens.who(b"correct-horse").map(ToString::to_string), Some("client/lamp".to_owned()));
/// assert!(tokens.who(b"wrong").is_none());
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Tokens(Vec<(Principal, blake3::Hash)>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(principal, _)| principal)).finish()
    }
}

impl Tokens {
    /// One more; `name` is a client's, or `node/INDEX`.
    pub(crate) fn accept(&mut self, name: &str, token: &Secret) -> Result<(), String> {
        token.check()?;
        let principal = if name.contains('/') { name.parse() } else { Principal::client(name) }
            .map_err(|error| error.to_string())?;
        if self.0.len() >= LINK_TOKENS_MAX {
            return Err(format!("there are more than {LINK_TOKENS_MAX} tokens"));
        }
        if self.who(token.bytes()).is_some() {
            return Err(format!("the token of {principal} is that of somebody else too"));
        }
        self.0.push((principal, blake3::hash(token.bytes())));
        Ok(())
    }

    /// One more, of the client of this name, or of `node/INDEX`.
    ///
    /// # Errors
    /// [`Code::BadCredentials`] for a name that is none, for what is no token (1 to 1 024 visible ASCII characters), for that of somebody else, and for more than
    /// 4 096 of them.
    pub fn add(&mut self, name: &str, token: &str) -> Result<(), Error> {
        self.accept(name, &Secret::new(token)).map_err(|cause| {
            Error::new(Code::BadCredentials, cause)
                .at(format!("the token of {}", name.escape_debug()))
                .remedy("give each member a token of its own: 1 to 1024 visible ASCII characters")
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose token this is. It takes the same time whatever it is.
    #[must_use]
    pub fn who(&self, token: &[u8]) -> Option<&Principal> {
        let shown = blake3::hash(token);
        let mut found = None;
        // All of them, and hashes compare in constant time.
        for (principal, hash) in &self.0 {
            if *hash == shown {
                found = Some(principal);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, Tokens};

    #[test]
    fn a_token_is_its_owners_and_what_is_none_is_refused() {
        let mut tokens = Tokens::default();
        tokens.accept("lamp", &Secret::new("one")).unwrap();
        tokens.accept("node/3", &Secret::new("two")).unwrap();
        assert_eq!(tokens.who(b"one").unwrap().to_string(), "client/lamp");
        assert_eq!(tokens.who(b"two").unwrap().to_string(), "node/3");
        for wrong in [&b""[..], b"On", b"one ", b"onetwo", b"three"] {
            assert!(tokens.who(wrong).is_none());
        }
        for wrong in ["", " ", "a b", "a\n", "\u{e9}", "one", &"x".repeat(1_025)] {
            assert!(tokens.accept("other", &Secret::new(wrong)).is_err(), "{wrong:?}");
        }
        for name in ["", "node/", "node/64x", "a/b", "a b"] {
            assert!(tokens.accept(name, &Secret::new("fine")).is_err(), "{name:?}");
        }
        assert_eq!(
            format!("{tokens:?} {:?}", Secret::new("one")),
            "[Client { name: \"lamp\" }, Node { index: 3 }] (a token)"
        );
    }

    #[test]
    fn tokens_have_a_bound() {
        let mut tokens = Tokens::default();
        let accepted =
            (0..5_000).filter(|n| tokens.accept("x", &Secret::new(&format!("t{n}"))).is_ok()).count();
        assert_eq!(accepted, busway_wire::limits::LINK_TOKENS_MAX);
    }
}
