//! Who comes in, by the token that it shows, and what the rules allow it. Both may be exchanged while requests run.
//!
//! Without tokens everybody who can connect is `client/http`. It keeps hashes of tokens, and compares with all of them; what was shown stays with its caller, and no text has it.
//!
//! Invariant: once there were tokens, or rules, there are always some.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use busway::{Acl, Deed, Pattern, Principal, Tokens, Topic};

use crate::budget::{Who, place_of};
use crate::refusal::Refusal;

/// What holds at one moment.
#[derive(Debug)]
struct Held {
    tokens: Tokens,
    acl: Option<Acl>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Rights(RwLock<Arc<Held>>);

/// Who asks, as its token or the lack of any says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    who: Principal,
    /// What shows it, so that it can be asked for again.
    token: Option<Shown>,
    /// Where it comes from.
    from: IpAddr,
}

/// A token as it was shown.
#[derive(Clone, PartialEq, Eq)]
struct Shown(String);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl Caller {
    /// For whom it takes room.
    pub(crate) fn who(&self) -> Who {
        match (&self.token, self.from.to_canonical()) {
            (Some(_), _) => Who::Known(self.who.clone()),
            (None, from) if from.is_loopback() => Who::Anybody,
            (None, from) => Who::From(place_of(from)),
        }
    }
}

impl Rights {
    pub(crate) fn new(tokens: Tokens, acl: Option<Acl>) -> Rights {
        Rights(RwLock::new(Arc::new(Held { tokens, acl })))
    }

    fn held(&self) -> Arc<Held> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change(&self, tokens: Tokens, acl: Option<Acl>) {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let tokens = if tokens.is_empty() { held.tokens.clone() } else { tokens };
        let acl = acl.or_else(|| held.acl.clone());
        *held = Arc::new(Held { tokens, acl });
    }

    /// Who shows this; `None` where that is nobody who may come in.
    pub(crate) fn caller(&self, token: Option<&str>, from: IpAddr) -> Option<Caller> {
        let held = self.held();
        if held.tokens.is_empty() {
            let who = Principal::client("http").ok()?;
            return Some(Caller { who, token: None, from });
        }
        let who = held.tokens.who(token?.as_bytes())?.clone();
        Some(Caller { who, token: token.map(|token| Shown(token.to_owned())), from })
    }

    /// Whether it may still come in.
    pub(crate) fn knows(&self, caller: &Caller) -> bool {
        let token = caller.token.as_ref().map(|Shown(token)| token.as_str());
        self.caller(token, caller.from).is_some_and(|now| now.who == caller.who)
    }

    pub(crate) fn allow(&self, caller: &Caller, deed: Deed, topic: &Topic) -> bool {
        match &self.held().acl {
            Some(acl) => acl.allows(&caller.who, deed, topic),
            None => !topic.is_reserved(),
        }
    }

    /// Refuses what is not allowed.
    pub(crate) fn check(&self, caller: &Caller, deed: Deed, topic: &Topic) -> Result<(), Refusal> {
        if self.allow(caller, deed, topic) {
            return Ok(());
        }
        let what = match deed {
            Deed::Publish => "publish",
            Deed::Subscribe => "subscribe to",
            Deed::Push => "push",
            Deed::Request => "ask",
            Deed::Pull => "pull",
            Deed::Answer => "answer",
        };
        let cause = format!("{} may not {what} this topic", caller.who);
        Err(Refusal::denied(cause, format!("topic {topic}")))
    }

    /// Refuses a pattern of which nothing is allowed.
    pub(crate) fn check_pattern(&self, caller: &Caller, pattern: &Pattern) -> Result<(), Refusal> {
        if let Some(topic) = pattern.exact() {
            return self.check(caller, Deed::Subscribe, topic);
        }
        let could = match &self.held().acl {
            Some(acl) => acl.could(&caller.who, Deed::Subscribe, pattern),
            None => true,
        };
        if could {
            return Ok(());
        }
        let cause = format!("{} may subscribe to nothing that this pattern matches", caller.who);
        Err(Refusal::denied(cause, format!("pattern {}", pattern.as_str())))
    }
}
