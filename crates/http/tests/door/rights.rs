//! Who may do what: tokens, rules, and that nothing of what one may not have is told.

use busway::{Acl, AclRule, Tokens};
use busway_http::{HttpConfig, ROUTES};

use crate::client::{Events, LIMIT, Moment, Place, ask, get, open};

const READER: &str = "a-reader's-token-3f81";
const WRITER: &str = "a-writer's-token-77c2";

fn tokens() -> Tokens {
    let mut tokens = Tokens::default();
    tokens.add("reader", READER).expect("a token");
    tokens.add("writer", WRITER).expect("a token");
    tokens
}

/// A reader of prices but for one, and a writer of everything.
fn rules() -> Acl {
    let list =
        |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<String>>();
    let reader = AclRule {
        identity: "client/reader".to_owned(),
        subscribe: list(&["price.*"]),
        deny_subscribe: list(&["price.secret"]),
        request: Some(list(&["time.now"])),
        ..AclRule::default()
    };
    let writer =
        AclRule { identity: "client/writer".to_owned(), publish: list(&[">"]), ..AclRule::default() };
    Acl::new([reader, writer]).expect("rules")
}

fn config() -> HttpConfig {
    HttpConfig { tokens: tokens(), acl: Some(rules()), ..HttpConfig::default() }
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

#[test]
fn every_route_that_could_show_or_take_a_message_asks_for_a_token_and_for_the_right() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, config());
    let at = http.addresses()[0];
    let _secret = bus.publisher("price.secret").open().expect("a publisher");
    for route in ROUTES {
        let (method, path) = (route.method.to_ascii_uppercase(), route.path);
        let path = path.replace("{topic}", "price.secret").replace("{pattern}", "price.secret");
        let path = path.replace("{name}", "price.secret");
        let body: &[u8] = if route.body { b"x" } else { b"" };
        let answer = |headers: &[&str]| ask(at, &method, &path, headers, body);
        let wrong = [vec![], vec!["authorization: Bearer wrong"], vec!["authorization: Bearer "]];
        for headers in wrong {
            let status = answer(&headers).status;
            assert_eq!(status == 401, !route.open, "{path} {headers:?}: {status}");
        }
        if route.path.contains('{') {
            let denied = answer(&[&bearer(READER)]);
            assert_eq!(denied.status, 403, "{path}");
            assert!(method == "HEAD" || denied.code() == "BUS-0115", "{path}");
        }
    }
    let refused = get(at, "/v1/topics");
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    let listed = |token: &str| ask(at, "GET", "/v1/topics", &[&bearer(token)], &[]).text();
    assert!(!listed(READER).contains("secret"), "not even its name");
    assert!(listed(WRITER).contains("price.secret"));
    let basic = ask(at, "GET", "/v1/topics", &["authorization: Basic eDp5"], &[]);
    assert_eq!(basic.status, 400);
}

#[test]
fn a_wildcard_gives_what_is_allowed_by_its_whole_name_and_no_loss_of_the_rest() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, config());
    let at = http.addresses()[0];
    let mut secret = bus.publisher("price.secret").slots_max(32).open().expect("a publisher");
    let mut open_one = bus.publisher("price.tick").slots_max(32).open().expect("a publisher");
    let (reader, writer) = (bearer(READER), bearer(WRITER));
    for pattern in [">", "price.*", "price.>", "^price"] {
        let mut events = Events::open(at, &format!("/v1/subscribe/{pattern}"), &[&reader]);
        let ready = events.wait("ready");
        assert!(!ready.id.contains(&secret.id().to_string()), "not even that it is there");
        for _ in 0..200 {
            secret.try_send(b"nobody's business").expect("sent");
        }
        open_one.send(b"17").expect("sent");
        let event = events.next().expect("what is allowed comes");
        assert_eq!(
            (&event.data["topic"], &event.data["body"]),
            (&"price.tick".into(), &"17".into()),
            "{pattern}"
        );
        assert!(!event.id.contains(&secret.id().to_string()));
    }
    for (headers, pattern, wanted) in
        [(&reader, "news.>", 403), (&writer, "price.*", 403), (&reader, "price.*", 200)]
    {
        let events = Events::open(at, &format!("/v1/subscribe/{pattern}"), &[headers]);
        assert_eq!(events.status, wanted, "{pattern}");
    }
    // Asking is a right of its own, and so is each of the others.
    assert_eq!(ask(at, "POST", "/v1/request/time.now", &[&reader], b"x").status, 503);
    assert_eq!(ask(at, "POST", "/v1/request/time.then", &[&reader], b"x").status, 403);
    assert_eq!(ask(at, "POST", "/v1/publish/time.now", &[&reader], b"x").status, 403);
    assert_eq!(ask(at, "POST", "/v1/publish/time.now", &[&writer], b"x").status, 200);
}

#[test]
fn a_token_that_is_taken_away_ends_its_streams_and_the_last_are_never_taken_away() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, config());
    let at = http.addresses()[0];
    let mut publisher = bus.publisher("price.tick").open().expect("a publisher");
    let reader = bearer(READER);
    let mut events = Events::open(at, "/v1/subscribe/price.*", &[&reader]);
    events.wait("ready");
    let mut without = Tokens::default();
    without.add("writer", WRITER).expect("a token");
    http.set_rights(without, None);
    let deadline = Moment::now() + LIMIT;
    let mut got = 0;
    loop {
        publisher.send(b"not for it").expect("sent");
        match events.next() {
            Some(event) => got += usize::from(event.name == "message"),
            None => break,
        }
        assert!(Moment::now() < deadline, "it ends");
    }
    assert_eq!(got, 0, "nothing more is given");
    assert_eq!(ask(at, "GET", "/v1/topics", &[&reader], &[]).status, 401);
    http.set_rights(Tokens::default(), None);
    assert_eq!(get(at, "/v1/topics").status, 401, "those of before hold on");
    let writer = bearer(WRITER);
    assert_eq!(
        ask(at, "GET", "/v1/subscribe/price.tick", &[&writer], &[]).status,
        403,
        "and so do the rules"
    );
}

#[test]
fn no_answer_and_no_count_holds_a_token_or_a_body() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, config());
    let at = http.addresses()[0];
    let body = b"the-body-5d1e";
    let mut all = String::new();
    for route in ROUTES.iter().filter(|route| !route.answer.contains("event-stream")) {
        let path = route.path.replace("{topic}", "price.secret").replace("{pattern}", "price.secret");
        let path = path.replace("{name}", "price.secret");
        for token in [READER, WRITER, "guess-9a0b"] {
            let headers = [bearer(token), format!("sec-websocket-protocol: busway.bearer.{token}")];
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let body: &[u8] = if route.body { body } else { b"" };
            let answer = ask(at, &route.method.to_ascii_uppercase(), &path, &headers, body);
            all.push_str(&format!("{:?} {}\n", answer.headers, answer.text()));
        }
    }
    all.push_str(&http.metrics());
    all.push_str(&format!("{http:?}"));
    for secret in [READER, WRITER, "guess-9a0b", "the-body-5d1e"] {
        assert!(!all.contains(secret), "{secret}");
    }
}
