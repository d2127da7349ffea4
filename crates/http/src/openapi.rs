//! The OpenAPI document, made of the table of routes.
//!
//! Invariant: every route stands in it, and nothing else.

use serde_json::{Map, Value, json};

use crate::routes::{ROUTES, Route};

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
        parameters
            .push(json!({ "name": part, "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    for (name, description) in route.query {
        parameters.push(json!({
            "name": name, "in": "query", "description": description, "schema": { "type": "string" },
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
    if route.body {
        operation["requestBody"] = json!({ "required": true, "content": { "*/*": {} } });
    }
    if !route.open {
        // Where the node has no tokens, nobody needs one.
        operation["security"] = json!([{ "token": [] }, {}]);
    }
    operation
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
