//! The OpenAPI document, made of the table of routes.
//!
//! Invariant: every route stands in it, and nothing else.

use serde_json::{Map, Value, json};

use crate::limits::{ATTRIBUTE_BYTES_MAX, RESUME_MAX};
use crate::routes::{NAMED, ROUTES, Route};

/// The most characters of a name: as many as it may have bytes.
const NAME_MAX: usize = 255;

/// The document: OpenAPI 3.1.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let of_path = paths.entry(route.path).or_insert_with(|| json!({}));
        of_path[route.method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Busway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The HTTP door of a Busway node.",
        },
        "paths": paths,
        "components": { "schemas": schemas(), "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    for part in route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        parameters.push(json!({ "name": part, "in": "path", "required": true, "schema": shape(part) }));
    }
    for (name, description) in route.query {
        parameters.push(json!({
            "name": name, "in": "query", "description": description, "schema": shape(name),
        }));
    }
    let error = json!({
        "description": "Refused: what was wrong, where, and what to do",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
    });
    let content = match route.schema {
        Some(name) if route.answer == "application/json" => {
            json!({ route.answer: { "schema": { "$ref": format!("#/components/schemas/{name}") } } })
        }
        _ => json!({ route.answer: {} }),
    };
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": { "200": { "description": "Done", "content": content }, "default": error },
    });
    if route.path == NAMED && matches!(route.method, "get" | "head") {
        operation["responses"]["206"] =
            json!({ "description": "The bytes that Range names", "content": { route.answer: {} } });
        operation["responses"]["304"] =
            json!({ "description": "It has not changed: an id is of these bytes alone" });
    }
    if route.body {
        // One that is empty is a body too.
        operation["requestBody"] = json!({ "required": false, "content": { "*/*": {} } });
    }
    if !route.open {
        // Where the node has no tokens, nobody needs one.
        operation["security"] = json!([{ "token": [] }, {}]);
    }
    operation
}

/// What a parameter of this name may be. These are the grammars of names and times, as expressions that every language has.
fn shape(name: &str) -> Value {
    // No space and no control character; and no dot, which stands between tokens.
    const ANY: &str = r"[^\s\u0000-\u001f\u007f-\u009f]";
    const TOKEN: &str = r"[^\s\u0000-\u001f\u007f-\u009f.]+";
    const WILD: &str = r"(?![*>](?:\.|$))";
    // A name has so many bytes: as many characters of ASCII, or a quarter of them whatever they are.
    let text = |pattern: String| json!({ "type": "string", "minLength": 1, "maxLength": NAME_MAX, "pattern": pattern });
    match name {
        "topic" | "name" => {
            text(format!(r"^(?=[!-~]+$|.{{1,63}}$)(?![\^$]){WILD}{TOKEN}(?:\.{WILD}{TOKEN})*$"))
        }
        "pattern" => text(format!(
            r"^(?=[!-~]+$|.{{1,63}}$)(?!\^*\$)(?:\^{ANY}*|(?![\^])(?!>\.){TOKEN}(?:\.(?!>\.){TOKEN})*)$"
        )),
        "timeout" => {
            json!({ "type": "string", "pattern": r"^(?:0*(?:[0-5]?[0-9]|60)s|0*(?:[1-5]?[0-9]{1,4}|60000)ms)$" })
        }
        "attribute" => {
            json!({ "type": "string", "maxLength": ATTRIBUTE_BYTES_MAX, "pattern": r"^(?:[\u0000-\u007f]*|[\s\S]{0,64})$" })
        }
        "history" => json!({ "type": "integer", "minimum": 0, "maximum": RESUME_MAX }),
        _ => json!({ "type": "string" }),
    }
}

fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false });
    json!({
        "Error": object(&["code", "cause", "place", "remedy"], json!({
            "code": { "type": "string", "pattern": "^BUS-[0-9]{4}$" },
            "cause": text(), "place": text(), "remedy": text(),
        })),
        "Sent": object(&["topic", "source", "sequence"], json!({
            "topic": text(), "source": text(), "sequence": number(), "id": text(),
        })),
        "Put": object(&["topic", "id", "size"], json!({ "topic": text(), "id": text(), "size": number() })),
        "Withdrawn": object(&["withdrawn"], json!({ "withdrawn": number() })),
        "Artifacts": object(&["artifacts", "more"], json!({
            "artifacts": { "type": "array", "items": object(
                &["topic", "id", "size", "node", "here", "own"],
                json!({
                    "topic": text(), "id": text(), "size": number(), "node": number(), "attribute": text(), "attribute_base64": text(),
                    "here": { "type": "boolean" }, "own": { "type": "boolean" },
                }),
            ) },
            "more": { "type": "boolean" },
        })),
        "Health": object(&["ok"], json!({ "ok": { "type": "boolean" } })),
        "Topics": object(&["topics"], json!({
            "topics": { "type": "array", "items": object(
                &["topic", "publishers", "subscribers", "sent"],
                json!({ "topic": text(), "publishers": number(), "subscribers": number(), "sent": number() }),
            ) },
        })),
        "Message": object(
            &["topic", "sequence", "source", "publisher", "time_ns", "size", "content_type"],
            json!({
                "topic": text(), "sequence": number(), "source": text(), "publisher": text(), "time_ns": number(),
                "size": number(), "content_type": text(), "id": text(), "traceparent": text(), "tracestate": text(),
                "body": text(), "body_base64": text(),
            }),
        ),
        "Document": { "type": "object", "required": ["openapi", "info", "paths"] },
    })
}
