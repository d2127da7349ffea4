//! Who may publish and subscribe what: rules, and the one question that is asked of them.
//!
//! The question is about one topic by its whole name, never about a pattern: what somebody asks for by a wildcard is
//! answered for each topic that exists. So it does not matter how patterns overlap. Where the answer is used, the caller
//! knows; nothing is kept here.
//!
//! Invariant: what a rule that applies denies is denied, whatever others allow and in whatever order they stand; what
//! none allows is denied; a reserved topic is nobody's.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use busway_wire::{Pattern, Topic};

use crate::principal::{Principal, PrincipalError};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Send messages of a topic to this host.
    Publish,
    /// Get messages of a topic from this host.
    Subscribe,
}

/// To whom a rule applies: `*`, `node/*`, `client/*`, `node/INDEX` or `client/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// To everybody.
    Anybody,
    /// To every node.
    Nodes,
    /// To every client.
    Clients,
    /// To one.
    One(Principal),
}

impl core::str::FromStr for Whom {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Whom, PrincipalError> {
        match text {
            "*" => Ok(Whom::Anybody),
            "node/*" => Ok(Whom::Nodes),
            "client/*" => Ok(Whom::Clients),
            one => one.parse().map(Whom::One),
        }
    }
}

impl Whom {
    fn is(&self, principal: &Principal) -> bool {
        match (self, principal) {
            (Whom::Anybody, _)
            | (Whom::Nodes, Principal::Node { .. })
            | (Whom::Clients, Principal::Client { .. }) => true,
            (Whom::One(one), principal) => one == principal,
            (Whom::Nodes, Principal::Client { .. }) | (Whom::Clients, Principal::Node { .. }) => false,
        }
    }
}

/// What those to whom it applies may do, and may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// To whom it applies.
    pub whom: Whom,
    /// What they may publish.
    pub publish: Vec<Pattern>,
    /// What they may subscribe to.
    pub subscribe: Vec<Pattern>,
    /// What they may not publish, whatever else allows it.
    pub deny_publish: Vec<Pattern>,
    /// What they may not subscribe to, whatever else allows it.
    pub deny_subscribe: Vec<Pattern>,
}

/// All rules. Without any, nobody may do anything.
///
/// ```
/// use busway_protocol::{Acl, Deed, Principal, Rule};
/// let rule = Rule {
///     whom: "client/*".parse()?,
///     publish: vec![],
///     subscribe: vec!["price.*".parse()?],
///     deny_publish: vec![],
///     deny_subscribe: vec!["price.secret".parse()?],
/// };
/// let acl = Acl::new(vec![rule]);
/// let screen = Principal::client("screen")?;
/// assert!(acl.allows(&screen, Deed::Subscribe, &busway_wire::Topic::new("price.tick")?));
/// assert!(!acl.allows(&screen, Deed::Subscribe, &busway_wire::Topic::new("price.secret")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl(Vec<Rule>);

impl Acl {
    /// Of these rules; their order means nothing.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Acl {
        Acl(rules)
    }

    /// Whether `who` may do this with messages of `topic`.
    #[must_use]
    pub fn allows(&self, who: &Principal, deed: Deed, topic: &Topic) -> bool {
        if is_reserved(topic.as_str()) {
            return false;
        }
        let mut allowed = false;
        for rule in self.0.iter().filter(|rule| rule.whom.is(who)) {
            let (allow, deny) = match deed {
                Deed::Publish => (&rule.publish, &rule.deny_publish),
                Deed::Subscribe => (&rule.subscribe, &rule.deny_subscribe),
            };
            if deny.iter().any(|pattern| pattern.matches(topic)) {
                return false;
            }
            allowed |= allow.iter().any(|pattern| pattern.matches(topic));
        }
        allowed
    }

    /// The rules that apply to `who`.
    pub fn of<'a>(&'a self, who: &'a Principal) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(|rule| rule.whom.is(who))
    }
}

/// Names that begin with a dollar sign are the bus's own, and stay on their host.
fn is_reserved(text: &str) -> bool {
    text.starts_with('$')
}

/// What one peer may do: the rules there are, and who it is. Without rules it may do everything but what is reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permits {
    who: Principal,
    /// The rules that apply to it.
    acl: Option<Acl>,
}

impl Permits {
    /// Of this peer.
    #[must_use]
    pub fn new(who: Principal, acl: Option<&Acl>) -> Permits {
        let acl = acl.map(|acl| Acl(acl.of(&who).cloned().collect()));
        Permits { who, acl }
    }

    /// Whose they are.
    #[must_use]
    pub fn who(&self) -> &Principal {
        &self.who
    }

    /// Whether it may do this with messages of `topic`.
    #[must_use]
    pub fn allow(&self, deed: Deed, topic: &Topic) -> bool {
        match &self.acl {
            Some(acl) => acl.allows(&self.who, deed, topic),
            None => !is_reserved(topic.as_str()),
        }
    }

    /// Whether it may do this with a topic that the pattern matches. `false`: with none; what it may is asked for each topic by its name.
    #[must_use]
    pub fn could(&self, deed: Deed, pattern: &Pattern) -> bool {
        if is_reserved(pattern.as_str()) {
            return false;
        }
        let Some(acl) = &self.acl else { return true };
        acl.of(&self.who).any(|rule| {
            let allowed = match deed {
                Deed::Publish => &rule.publish,
                Deed::Subscribe => &rule.subscribe,
            };
            allowed.iter().any(|allowed| allowed.may_meet(pattern))
        })
    }

    /// Why it may not, for people.
    #[must_use]
    pub fn refusal(&self, deed: Deed, topic: &Topic) -> String {
        let deed = match deed {
            Deed::Publish => "publish",
            Deed::Subscribe => "subscribe to",
        };
        alloc::format!("{} may not {deed} {topic}", self.who).to_owned()
    }
}

#[cfg(test)]
mod tests;
