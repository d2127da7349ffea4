//! The OpenAPI document, the names of metrics and the pages say what there is.

use std::collections::BTreeSet;

use busway::Node;
use busway::metrics::{METRICS, MetricKind};
use busway_http::{COUNTERS, HttpConfig, ROUTES};
use serde_json::Value;

use crate::client::{Events, Place, ask, get, open};

/// Whether a value is what a schema of ours says. It knows the words that ours use.
fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/components/schemas/").ok_or("a reference")?;
        return fits(document, &document["components"]["schemas"][name], value);
    }
    let wrong = || Err(format!("{value} is not {schema}"));
    match schema["type"].as_str() {
        Some("string") if value.is_string() => Ok(()),
        Some("boolean") if value.is_boolean() => Ok(()),
        Some("integer") if value.is_u64() => Ok(()),
        Some("array") => {
            let Some(items) = value.as_array() else { return wrong() };
            items.iter().try_for_each(|item| fits(document, &schema["items"], item))
        }
        Some("object") => {
            let Some(object) = value.as_object() else { return wrong() };
            for name in schema["required"].as_array().into_iter().flatten() {
                if !object.contains_key(name.as_str().unwrap_or_default()) {
                    return Err(format!("{value} has no {name}"));
                }
            }
            for (name, value) in object {
                let known = &schema["properties"][name];
                if known.is_null() && schema["additionalProperties"] == false {
                    return Err(format!("{name} is not in {schema}"));
                }
                if !known.is_null() {
                    fits(document, known, value)?;
                }
            }
            Ok(())
        }
        _ => wrong(),
    }
}

#[test]
fn the_document_describes_every_route_and_what_they_answer() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let at = http.addresses()[0];
    let document = get(at, "/openapi.json").json();
    let paths = document["paths"].as_object().expect("paths");
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, of)| {
            of.as_object().expect("methods").keys().map(move |m| (path.clone(), m.clone()))
        })
        .collect();
    let routes = ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_owned()));
    assert_eq!(described, routes.collect());
    let _subscriber = bus.subscriber("price.tick").open().expect("a subscriber");
    let _node = Node::builder().open(&bus).expect("a node");
    let mut responder = bus.responder("price.tick").open().expect("a responder");
    let _server = std::thread::spawn(move || {
        while let Ok(request) = responder.recv() {
            let _ = request.reply(b"done");
        }
    });
    let mut puller = bus.puller("price.tick").open().expect("a puller");
    let _puller = std::thread::spawn(move || while puller.recv().is_ok() {});
    let put = ask(at, "PUT", "/v1/artifacts/price.image?attribute=a", &[], b"an image");
    assert_eq!(put.status, 200);
    let mut compared = 0;
    for route in ROUTES {
        let path = route
            .path
            .replace("{topic}", "price.tick")
            .replace("{pattern}", "price.tick")
            .replace("{name}", "price.image");
        let body: &[u8] = if route.body { b"x" } else { b"" };
        if route.answer == "text/event-stream" {
            continue;
        }
        let answer = ask(at, &route.method.to_ascii_uppercase(), &path, &[], body);
        assert_eq!(answer.status, 200, "{path}");
        let operation = &document["paths"][route.path][route.method];
        let response = if answer.status == 200 { "200" } else { "default" };
        let schema = &operation["responses"][response]["content"]["application/json"]["schema"];
        if !schema.is_null() {
            fits(&document, schema, &answer.json()).unwrap_or_else(|why| panic!("{path}: {why}"));
            compared += 1;
        }
    }
    let mut events = Events::open(at, "/v1/subscribe/price.*?history=1", &[]);
    let message = events.wait("message").data;
    fits(&document, &document["components"]["schemas"]["Message"], &message).expect("a message");
    let error = get(at, "/nothing").json();
    fits(&document, &document["components"]["schemas"]["Error"], &error).expect("an error");
    println!("evidence: routes={} answers_compared={}", ROUTES.len(), compared + 2);
}

/// Every name of `/metrics`.
fn names() -> BTreeSet<String> {
    let of_bus = METRICS.iter().map(|metric| {
        let suffix = if metric.kind == MetricKind::Counter { "_total" } else { "" };
        format!("busway_{}{suffix}", metric.name)
    });
    of_bus.chain(COUNTERS.iter().map(|counter| counter.name.to_owned())).collect()
}

#[test]
fn metrics_are_those_of_the_tables_and_pages_and_panels_use_no_others() {
    let place = Place::new();
    let bus = place.bus();
    let http = open(&bus, HttpConfig::default());
    let told = get(http.addresses()[0], "/metrics").text();
    let shown: BTreeSet<String> = told
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().expect("a name").to_owned())
        .collect();
    assert_eq!(shown, names());
    let page = include_str!("../../../../docs/http.md");
    for counter in COUNTERS {
        assert!(page.contains(&format!("`{}`", counter.name)), "docs/http.md lacks {}", counter.name);
    }
    for route in ROUTES {
        assert!(
            page.contains(&format!("`{} {}`", route.method.to_uppercase(), route.path)),
            "docs/http.md lacks {}",
            route.path
        );
    }
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut used = 0;
    for (file, text) in [
        ("busway.rules.yml", include_str!("../../../../dist/busway.rules.yml")),
        ("busway.http.rules.yml", include_str!("../../../../dist/busway.http.rules.yml")),
        ("busway.grafana.json", include_str!("../../../../dist/busway.grafana.json")),
        ("docs/http.md", page),
    ] {
        for name in
            text.split(|c| !word(c)).filter(|name| name.starts_with("busway_") && *name != "busway_http")
        {
            assert!(names().contains(name), "{file}: {name} is no name of /metrics");
            used += 1;
        }
    }
    let panels: Value =
        serde_json::from_str(include_str!("../../../../dist/busway.grafana.json")).expect("JSON");
    assert!(panels["panels"].as_array().is_some_and(|panels| panels.len() >= 6));
    println!("evidence: names={} used_in_files={used}", shown.len());
}
