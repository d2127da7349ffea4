//! Somebody who has connected and has not been let in: what it has said, and what it is told.
//!
//! A newcomer has a link of its own, and a cipher once its first bytes are there if links are encrypted. It is nobody
//! until its hello has come; then it is compared with what it has shown. It does not know the others: whether there is
//! room is decided by the membership.
//!
//! Invariant: nothing that a newcomer says goes further than this before it has shown who it is.

use std::net::SocketAddr;

use busway_protocol::{Batch, Link, PeerId, Principal, Time};
use busway_wire::link::{Refusal, RefusalCode};

use crate::runtime::HubConfig;
use crate::runtime::cipher::{Cipher, First, Trouble};
use crate::runtime::{Outbound, Pieces};
use crate::tls::Tls;
use crate::tokens::Tokens;

/// See the head of this file.
pub(super) struct Newcomer {
    pub(super) link: Link<Outbound>,
    pub(super) from: SocketAddr,
    /// Bytes that are not done with; with a cipher, it has them.
    rest: Vec<u8>,
    /// What it will be spoken to with, once it has said something. Before that it costs nothing.
    tls: Option<Tls>,
    cipher: Option<Box<Cipher>>,
    /// What is to be written; `None` while it is.
    batch: Option<Pieces>,
}

/// What a newcomer's bytes came to.
pub(super) enum Heard {
    /// There is more to be said.
    More,
    /// It has said who it is, and shown it.
    Hello(PeerId, Principal),
    /// It is not let in: what it is told of that waits in its link, or is sealed.
    Refused(String),
}

/// Why who shows `what` of somebody else is not let in.
fn another(what: &str, principal: &Principal, identity: PeerId) -> String {
    let id = principal.id().map(|id| format!(", whose id is {id}")).unwrap_or_default();
    format!("the {what} is of {principal}{id}, and it says that it is {identity}")
}

impl Newcomer {
    pub(super) fn new(link: Link<Outbound>, from: SocketAddr, tls: Option<Tls>) -> Self {
        let batch = Some(Pieces(Batch::new()));
        Self { link, from, rest: Vec::new(), tls, cipher: None, batch }
    }

    /// What stands in front of the next bytes that are read.
    pub(super) fn begun(&self) -> &[u8] {
        self.cipher.as_ref().map_or(&self.rest, |cipher| cipher.incoming())
    }

    /// It has said something.
    pub(super) fn hear(&mut self, now: Time, config: &HubConfig, bytes: &mut [u8]) -> Heard {
        if self.cipher.is_none()
            && let Some(tls) = &self.tls
        {
            match Cipher::accept(tls, &config.cluster) {
                Ok(cipher) => self.cipher = Some(Box::new(cipher)),
                Err(reason) => return self.refuse(RefusalCode::Credentials, reason),
            }
        }
        let Some(mut cipher) = self.cipher.take() else {
            if self.tls.is_none() && First::of(bytes) == First::Record {
                let reason = "this node does not speak TLS; give it a certificate, or none to the other";
                return self.refuse(RefusalCode::Credentials, reason.to_owned());
            }
            return self.listen(now, config, bytes);
        };
        let opened = cipher.open(bytes);
        let plain = cipher.take_plain();
        self.cipher = Some(cipher);
        match opened {
            Ok(()) => self.listen(now, config, &plain),
            Err(Trouble::Plain) => {
                self.cipher = None;
                let reason = "this node speaks TLS only; busway cert new makes the certificates";
                self.refuse(RefusalCode::Credentials, reason.to_owned())
            }
            Err(Trouble::Broken(reason)) => Heard::Refused(reason),
            // Nobody was dialed.
            Err(Trouble::Refused(refusal) | Trouble::Stranger(refusal)) => Heard::Refused(refusal.reason),
        }
    }

    /// Plain bytes, from the first that is not done with.
    fn listen(&mut self, now: Time, config: &HubConfig, bytes: &[u8]) -> Heard {
        let (consumed, greeted) = match self.link.receive(now, bytes) {
            Ok((consumed, event)) => (consumed, event.is_some()),
            Err(reason) => return Heard::Refused(reason.to_string()),
        };
        match &mut self.cipher {
            Some(cipher) => cipher.keep(bytes.to_vec(), consumed),
            None => self.rest = bytes.get(consumed..).unwrap_or_default().to_vec(),
        }
        let Some(hello) = self.link.hello().filter(|_| greeted) else { return Heard::More };
        let identity = hello.identity;
        match self.principal(identity, &hello.token, &config.tokens) {
            Ok(principal) => Heard::Hello(identity, principal),
            Err(reason) => self.refuse(RefusalCode::Credentials, reason),
        }
    }

    /// Who it has shown to be: by its certificate, else by its token, else, where nobody has to show anything, who it
    /// says it is.
    fn principal(&self, identity: PeerId, token: &[u8], tokens: &Tokens) -> Result<Principal, String> {
        let encrypted = self.cipher.is_some();
        let certified = self.cipher.as_ref().map_or(Ok(None), |cipher| cipher.principal())?;
        if let Some(principal) = certified {
            if principal.may_be(identity) {
                return Ok(principal);
            }
            return Err(another("certificate", &principal, identity));
        }
        let is_node = matches!(identity, PeerId::Node { .. });
        if encrypted && (is_node || tokens.is_empty()) {
            return Err(format!("{identity} shows no certificate; give it one of the cluster's CA"));
        }
        if !encrypted && tokens.is_empty() {
            return Ok(Principal::of_identity(identity));
        }
        if token.is_empty() {
            return Err(format!(
                "{identity} shows neither a certificate nor a token; give it one that is accepted"
            ));
        }
        match tokens.who(token) {
            Some(principal) if principal.may_be(identity) => Ok(principal.clone()),
            Some(principal) => Err(another("token", principal, identity)),
            None => Err(format!("the token of {identity} is not one that is accepted")),
        }
    }

    /// It is told why it is not let in.
    fn refuse(&mut self, code: RefusalCode, reason: String) -> Heard {
        self.link.refuse(Refusal::new(code, &reason, 0));
        Heard::Refused(reason)
    }

    /// What is to be written now; `None` if there is nothing, or a write is under way.
    pub(super) fn outgoing(&mut self) -> Option<Pieces> {
        let mut pieces = self.batch.take()?;
        if pieces.0.is_empty()
            && let Some(cipher) = &mut self.cipher
        {
            // Only what the handshake has to say, which cannot fail.
            let _ = cipher.seal(&mut pieces.0);
        }
        self.back(pieces)
    }

    /// The last that it is told, if it can be told anything.
    pub(super) fn farewell(&mut self, now: Time) -> Option<Pieces> {
        let mut pieces = self.batch.take()?;
        let sealed = match &mut self.cipher {
            Some(cipher) if cipher.is_ready() => {
                self.link.transmit(now, &mut pieces.0);
                cipher.seal(&mut pieces.0)
            }
            // In the middle of a handshake nothing can be said but an alert.
            Some(cipher) if !cipher.is_silent() => cipher.seal(&mut pieces.0),
            Some(_) | None => {
                self.link.transmit(now, &mut pieces.0);
                Ok(())
            }
        };
        if sealed.is_err() {
            return None;
        }
        self.back(pieces)
    }

    fn back(&mut self, pieces: Pieces) -> Option<Pieces> {
        if pieces.0.is_empty() {
            self.batch = Some(pieces);
            return None;
        }
        Some(pieces)
    }

    /// So much of it was written.
    pub(super) fn written(&mut self, mut pieces: Pieces, count: usize) {
        pieces.0.advance(count);
        self.batch = Some(pieces);
    }

    /// It is let in: its link, its cipher, and the bytes that are not done with.
    pub(super) fn into_parts(self) -> (Link<Outbound>, Option<Box<Cipher>>, Vec<u8>) {
        let rest = self.begun().to_vec();
        (self.link, self.cipher, rest)
    }
}

#[cfg(test)]
mod tests;
