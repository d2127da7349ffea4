//! Who may publish, subscribe, push, pull, ask and answer what: rules, and the one question that is asked of them.
//!
//! The question is about one topic by its whole name, never about a pattern: what somebody asks for by a wildcard is
//! answered for each topic that exists. So it does not matter how patterns overlap. Where the answer is used, the caller
//! knows; nothing is kept here.
//!
//! Invariant: what a rule that applies denies is denied, whatever others allow and in whatever order they stand; what
//! none allows is denied; a reserved topic is nobody's. Dead letters, which may be of any topic, are for those to pull whom a rule allows it by that name.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use busway_wire::{DEAD_LETTERS, Pattern, Topic};

use crate::principal::{Principal, PrincipalError};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Send messages of a topic to this host.
    Publish,
    /// Get messages of a topic from this host.
    Subscribe,
    /// Give tasks of a topic to pullers of this host.
    Push,
    /// Ask responders of this host about a topic.
    Request,
    /// Take tasks of a topic from pushers of this host, which nobody else then does.
    Pull,
    /// Answer requests of this host about a topic.
    Answer,
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
    /// What they may not publish, push or ask, whatever else allows it.
    pub deny_publish: Vec<Pattern>,
    /// What they may not subscribe to, pull or answer, whatever else allows it.
    pub deny_subscribe: Vec<Pattern>,
    /// What they may push; `None`: what they may publish.
    pub push: Option<Vec<Pattern>>,
    /// What they may ask; `None`: what they may publish.
    pub request: Option<Vec<Pattern>>,
    /// What they may pull; `None`: what they may subscribe to.
    pub pull: Option<Vec<Pattern>>,
    /// What they may answer; `None`: what they may subscribe to.
    pub answer: Option<Vec<Pattern>>,
}

impl Rule {
    /// What it allows and what it denies.
    fn lists(&self, deed: Deed) -> (&[Pattern], &[Pattern]) {
        let (publish, subscribe) = (&self.publish, &self.subscribe);
        let allowed = match deed {
            Deed::Publish => publish,
            Deed::Subscribe => subscribe,
            Deed::Push => self.push.as_ref().unwrap_or(publish),
            Deed::Request => self.request.as_ref().unwrap_or(publish),
            Deed::Pull => self.pull.as_ref().unwrap_or(subscribe),
            Deed::Answer => self.answer.as_ref().unwrap_or(subscribe),
        };
        let denied = match deed {
            Deed::Publish | Deed::Push | Deed::Request => &self.deny_publish,
            Deed::Subscribe | Deed::Pull | Deed::Answer => &self.deny_subscribe,
        };
        (allowed, denied)
    }
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
///     push: None,
///     request: None,
///     pull: Some(vec![]),
///     answer: Some(vec![]),
/// };
/// let acl = Acl::new(vec![rule]);
/// let screen = Principal::client("screen")?;
/// assert!(acl.allows(&screen, Deed::Subscribe, &busway_wire::Topic::new("price.tick")?));
/// assert!(!acl.allows(&screen, Deed::Subscribe, &busway_wire::Topic::new("price.secret")?));
/// assert!(!acl.allows(&screen, Deed::Pull, &busway_wire::Topic::new("price.tick")?));
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
            let (allow, deny) = rule.lists(deed);
            if deny.iter().any(|pattern| pattern.matches(topic)) {
                return false;
            }
            allowed |= allow.iter().any(|pattern| pattern.matches(topic) && names(pattern, deed, topic));
        }
        allowed
    }

    /// The rules that apply to `who`.
    pub fn of<'a>(&'a self, who: &'a Principal) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(|rule| rule.whom.is(who))
    }
}

/// Whether the pattern may allow this: who may pull what a wildcard begins has not been given what no group acknowledged, of whatever topic that was.
fn names(pattern: &Pattern, deed: Deed, topic: &Topic) -> bool {
    let of_any_topic = deed == Deed::Pull && topic.as_str().starts_with(DEAD_LETTERS);
    !of_any_topic || pattern.as_str().trim_start_matches('^').starts_with(DEAD_LETTERS)
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
        acl.of(&self.who).any(|rule| rule.lists(deed).0.iter().any(|allowed| allowed.may_meet(pattern)))
    }

    /// Why it may not, for people.
    #[must_use]
    pub fn refusal(&self, deed: Deed, topic: &Topic) -> String {
        let deed = match deed {
            Deed::Publish => "publish",
            Deed::Subscribe => "subscribe to",
            Deed::Push => "push",
            Deed::Request => "ask",
            Deed::Pull => "pull",
            Deed::Answer => "answer",
        };
        alloc::format!("{} may not {deed} {topic}", self.who).to_owned()
    }
}

#[cfg(test)]
mod tests;
