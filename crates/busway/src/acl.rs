//! Who may publish, subscribe, push, pull, ask and answer what across links, as a program says it.
//!
//! A rule is text: to whom it applies, and patterns. What the rules mean is decided in `busway_protocol::Acl`, and asked
//! for each topic by its whole name, so that overlapping wildcards open nothing. Programs of one host share one memory
//! and one trust; rules are about other hosts.
//!
//! Invariant: a rule that cannot be read makes no list of rules, rather than a list without it.

use busway_protocol::{Deed, Principal, Rule, Whom};
use busway_wire::limits::ACL_PATTERNS_MAX;
use busway_wire::{Pattern, Topic};

use crate::error::{Code, Error};

/// One rule: to whom it applies, and what they may and may not do. What is denied is denied, whatever else is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclRule {
    /// `*`, `node/*`, `client/*`, `node/INDEX` or `client/NAME`: the name in a certificate or of a token; where neither
    /// is asked for, the client's id.
    pub identity: String,
    /// Patterns of topics that they may publish to this host.
    pub publish: Vec<String>,
    /// Patterns of topics that they may get from this host.
    pub subscribe: Vec<String>,
    /// Patterns of topics that they may neither publish nor push nor ask.
    pub deny_publish: Vec<String>,
    /// Patterns of topics that they may neither get nor pull nor answer.
    pub deny_subscribe: Vec<String>,
    /// Patterns of topics of which they may give tasks to pullers of this host. `None`: what this rule lets them publish.
    pub push: Option<Vec<String>>,
    /// Patterns of topics about which they may ask responders of this host. `None`: what this rule lets them publish.
    pub request: Option<Vec<String>>,
    /// Patterns of topics of which they may take tasks of this host, which nobody else then does. `None`: what this rule lets them get.
    pub pull: Option<Vec<String>>,
    /// Patterns of topics about which they may answer requests of this host. `None`: what this rule lets them get.
    pub answer: Option<Vec<String>>,
}

/// Who may publish, subscribe, push, pull, ask and answer what across links. Where there is one, what no rule allows is denied.
///
/// ```
/// use busway::{Acl, AclRule};
///
/// let nodes = AclRule { identity: "node/*".into(), publish: vec![">".into()], subscribe: vec![">".into()], ..AclRule::default() };
/// let screens = AclRule {
///     identity: "client/*".into(),
///     subscribe: vec!["price.>".into()],
///     deny_subscribe: vec!["price.internal.>".into()],
///     // They read prices, and do no work and answer nothing in anybody's place.
///     pull: Some(vec![]),
///     answer: Some(vec![]),
///     ..AclRule::default()
/// };
/// let acl = Acl::new([nodes, screens])?;
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(busway_protocol::Acl);

impl Acl {
    /// Of these rules, whose order means nothing. Without any, nobody may do anything.
    ///
    /// # Errors
    /// [`Code::BadSetting`] for an identity that is none, and for more than 4 096 patterns; [`Code::BadPattern`].
    pub fn new(rules: impl IntoIterator<Item = AclRule>) -> Result<Acl, Error> {
        let mut read = Vec::new();
        let mut count = 0_usize;
        for (at, rule) in rules.into_iter().enumerate() {
            let place = format!("rule {} of the permissions", at + 1);
            let whom: Whom = rule.identity.parse().map_err(|_| {
                let cause = format!("`{}` is no identity", rule.identity.escape_debug());
                Error::new(Code::BadSetting, cause)
                    .at(place.clone())
                    .remedy("write *, node/*, client/*, node/INDEX or client/NAME")
            })?;
            let lists = [&rule.publish, &rule.subscribe, &rule.deny_publish, &rule.deny_subscribe];
            let of_work = [&rule.push, &rule.request, &rule.pull, &rule.answer];
            let all = lists.into_iter().chain(of_work.into_iter().flatten());
            count += 1 + all.map(Vec::len).sum::<usize>();
            if count > ACL_PATTERNS_MAX {
                let cause = format!("the permissions have more than {ACL_PATTERNS_MAX} rules and patterns");
                return Err(Error::new(Code::BadSetting, cause).at(place).remedy("use wildcards"));
            }
            let patterns = |list: &[String]| -> Result<Vec<Pattern>, Error> {
                let one = |text: &String| {
                    Pattern::parse(text).map_err(|error| Error::bad_pattern(error).at(place.clone()))
                };
                list.iter().map(one).collect()
            };
            let own = |list: &Option<Vec<String>>| list.as_deref().map(patterns).transpose();
            read.push(Rule {
                whom,
                publish: patterns(&rule.publish)?,
                subscribe: patterns(&rule.subscribe)?,
                deny_publish: patterns(&rule.deny_publish)?,
                deny_subscribe: patterns(&rule.deny_subscribe)?,
                push: own(&rule.push)?,
                request: own(&rule.request)?,
                pull: own(&rule.pull)?,
                answer: own(&rule.answer)?,
            });
        }
        Ok(Acl(busway_protocol::Acl::new(read)))
    }

    /// Whether `who` may do this with messages of `topic`. A reserved topic is nobody's. For a door of your own that knows who asks: links ask for themselves.
    ///
    /// ```
    /// use busway::{Acl, AclRule, Deed, Principal, Topic};
    ///
    /// let rule = AclRule { identity: "client/lamp".into(), publish: vec!["lamps.*".into()], ..AclRule::default() };
    /// let acl = Acl::new([rule])?;
    /// let lamp = Principal::client("lamp").expect("a name");
    /// assert!(acl.allows(&lamp, Deed::Publish, &Topic::new("lamps.one")?));
    /// assert!(!acl.allows(&lamp, Deed::Subscribe, &Topic::new("lamps.one")?));
    /// # Ok::<(), busway::Error>(())
    /// ```
    #[must_use]
    pub fn allows(&self, who: &Principal, deed: Deed, topic: &Topic) -> bool {
        self.0.allows(who, deed, topic)
    }

    /// Whether `who` may do this with some topic that the pattern matches. `false`: with none. What it may is asked for each topic.
    #[must_use]
    pub fn could(&self, who: &Principal, deed: Deed, pattern: &Pattern) -> bool {
        busway_protocol::Permits::new(who.clone(), Some(&self.0)).could(deed, pattern)
    }

    pub(crate) fn rules(&self) -> &busway_protocol::Acl {
        &self.0
    }
}
