use axum::Json;
use serde_json::{Map, Value, json};

use super::problem::KINDS;

/// `GET /openapi.json`
pub(super) async fn get() -> Json<Value> {
    Json(document())
}

/// What any request may come to, whatever it asks for.
const ANY: [u16; 7] = [400, 405, 408, 413, 414, 431, 503];

fn document() -> Value {
    let function = path("function_id", "a function, as mapped with foreshard.map_function");
    let min_lsn = header(
        "Foreshard-Min-Lsn",
        "never answer with data older than this position, from foreshard.commit_token()",
    );
    let encodings = header("Accept-Encoding", "zstd, gzip");
    let rows = json!({"type": "array", "items": {"type": "object"}});
    let json = |schema: &Value| json!({"application/json": {"schema": schema}});

    let mut formats = json(&rows);
    for kind in ["application/x-ndjson", "application/vnd.apache.arrow.stream", "application/x-bincode"] {
        formats[kind] = json!({});
    }
    let get_rows = |id: &str, what: &str| {
        let unchanged = json!({"description": "the client holds these rows", "headers": said_of_rows()});
        json!({
            "operationId": id,
            "summary": what,
            "description": "Filters as column=operator.value (eq, neq, gt, gte, lt, lte, in, is, like, ilike; not. negates), also in groups and=(…), or=(…). A keyed shard needs every key column with eq.",
            "parameters": [
                function.clone(),
                path("shard", "a shard"),
                query("select", "columns, as a,label:b"),
                query("order", "as a.desc,b"),
                query("limit", "most rows"),
                query("offset", "rows to leave out"),
                query("and", "(a.eq.1,or(…))"),
                query("or", "(a.eq.1,b.is.null)"),
                query("not.and", "the opposite of and"),
                query("not.or", "the opposite of or"),
                min_lsn.clone(),
                header("If-None-Match", "an ETag the client holds"),
                header("Accept", "one of the formats of the answer; JSON if nothing is said"),
                encodings.clone(),
            ],
            "responses": answers("the rows", &formats, Some(said_of_rows()), &[401, 403, 404, 406], &[("304", unchanged)]),
        })
    };
    let by_shard = json!({
        "type": "object",
        "required": ["invocation_id", "lsn", "shards"],
        "properties": {
            "invocation_id": {"type": "string"},
            "lsn": {"type": "string"},
            "shards": {"type": "object", "additionalProperties": {"type": "object", "properties": {"rows": rows, "served_from": {"enum": ["prefetch", "reactive", "origin"]}}}},
        },
    });
    let invoke = json!({
        "operationId": "invoke",
        "summary": "Rows of all shards of the function, one consistent cut; logs one execution",
        "parameters": [function.clone(), min_lsn, header("Accept", "application/json"), encodings],
        "requestBody": {"content": {"application/json": {"schema": {"type": "object", "additionalProperties": false, "properties": {"params": {
            "type": "object",
            "description": "a value for every key column of every shard",
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        }}}}}},
        "responses": answers("the rows by shard", &json(&by_shard), Some(said_of_invocations()), &[401, 403, 404, 406], &[]),
    });
    let shards = json!({
        "operationId": "listShards",
        "summary": "The function's shards and what is held of them here",
        "parameters": [function],
        "responses": answers("the shards", &json(&json!({"type": "object"})), None, &[401, 403, 404], &[]),
    });
    let entries = json!({"type": "object", "properties": {"entries": {"type": "array", "items": {"$ref": "#/components/schemas/ScheduleEntry"}}}});
    let schedule = json!({
        "operationId": "getSchedule",
        "summary": "The schedule in force at this edge, as published",
        "responses": answers("the schedule", &json(&entries), None, &[401], &[]),
    });
    let open = |id: &str, what: &str, content: &str| {
        let responses = answers(what, &json!({content: {}}), None, &[], &[]);
        json!({"operationId": id, "security": [], "responses": responses})
    };
    let mut ready = open("ready", "the stream is followed and copies may be served", "text/plain");
    ready["responses"]["503"]["description"] = "why not, as text; or too many requests are under way".into();
    ready["responses"]["503"]["content"]["text/plain"] = json!({});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "foreshard", "version": env!("CARGO_PKG_VERSION"), "description": "Rows next to the edge function before it runs, never stale."},
        "security": [{"token": []}, {}],
        "paths": {
            "/v1/functions/{function_id}/shards/{shard}/rows": {
                "get": get_rows("getRows", "Rows of one shard the function is mapped to"),
                "head": get_rows("headRows", "What getRows says of these rows, without them"),
            },
            "/v1/functions/{function_id}/invocations": {"post": invoke},
            "/v1/functions/{function_id}/shards": {"get": shards},
            "/v1/schedule": {"get": schedule},
            "/live": {"get": open("live", "the process serves", "text/plain")},
            "/ready": {"get": ready},
            "/metrics": {"get": open("metrics", "Prometheus text format", "text/plain")},
            "/openapi.json": {"get": open("describe", "this document", "application/json")},
            "/": {"get": open("page", "a page for people", "text/html")},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {
                "Problem": {"type": "object", "required": ["type", "title", "status", "detail"], "properties": {"type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}}},
                "ScheduleEntry": {"type": "object", "required": ["function_id", "shard_list", "confidence"], "properties": {"function_id": {"type": "string"}, "shard_list": {"type": "array", "items": {"type": "string"}}, "confidence": {"type": "number"}}},
            },
        },
    })
}

fn parameter(place: &str, name: &str, what: &str) -> Value {
    json!({"name": name, "in": place, "required": place == "path", "description": what, "schema": {"type": "string"}})
}

fn path(name: &str, what: &str) -> Value {
    parameter("path", name, what)
}

fn query(name: &str, what: &str) -> Value {
    parameter("query", name, what)
}

fn header(name: &str, what: &str) -> Value {
    parameter("header", name, what)
}

fn said_of_invocations() -> Value {
    json!({
        "Foreshard-Lsn": {"description": "the answer holds every transaction on these shards that committed at or before it", "schema": {"type": "string"}},
        "Cache-Status": {"description": "RFC 9211: foreshard-prefetch; hit, foreshard-reactive; hit, or foreshard; fwd=miss", "schema": {"type": "string"}},
        "Server-Timing": {"schema": {"type": "string"}},
        "Content-Encoding": {"schema": {"enum": ["zstd", "gzip"]}},
        "Cache-Control": {"schema": {"type": "string"}},
        "Vary": {"schema": {"type": "string"}},
    })
}

fn said_of_rows() -> Value {
    let mut said = said_of_invocations();
    said["ETag"] = json!({"schema": {"type": "string"}});
    said["Age"] = json!({"description": "seconds since the rows were read at the origin", "schema": {"type": "integer"}});
    said
}

/// The answer wanted, the errors of every request, and those of this one.
fn answers(
    what: &str,
    content: &Value,
    headers: Option<Value>,
    errors: &[u16],
    more: &[(&str, Value)],
) -> Value {
    let mut all = Map::new();
    let mut wanted = json!({"description": what, "content": content});
    if let Some(headers) = headers {
        wanted["headers"] = headers;
    }
    all.insert("200".into(), wanted);
    all.extend(more.iter().map(|(status, answer)| ((*status).to_owned(), answer.clone())));
    let mut statuses = [&ANY, errors].concat();
    statuses.sort_unstable();
    all.extend(statuses.into_iter().map(|status| (status.to_string(), error(status))));
    all.into()
}

fn error(status: u16) -> Value {
    let kinds: Vec<String> = KINDS
        .iter()
        .filter(|(of, _)| *of == status)
        .map(|(_, kind)| format!("urn:foreshard:problem:{kind}"))
        .collect();
    let what = match status {
        400 => "bad filter, missing key, wrong type, or not HTTP",
        401 => "no token, or one that is not valid",
        403 => "the function may not read this, or the token not this key",
        404 => "no such function or shard",
        405 => "not with this method",
        406 => "no such format",
        408 => "the body did not arrive in time",
        413 => "the body, or what is asked for, is too large",
        414 => "the URL is too long",
        431 => "the head is too large",
        _ => "nothing fresh enough can be given now",
    };
    let schema = json!({"allOf": [{"$ref": "#/components/schemas/Problem"}, {"properties": {"type": {"enum": kinds}}}]});
    let mut answer =
        json!({"description": what, "content": {"application/problem+json": {"schema": schema}}});
    let said = match status {
        401 | 403 => Some(("WWW-Authenticate", "what is wrong with the token, as in RFC 6750")),
        405 => Some(("Allow", "the methods there are")),
        503 => Some(("Retry-After", "when to ask again")),
        _ => None,
    };
    if let Some((name, what)) = said {
        answer["headers"] = json!({name: {"description": what, "schema": {"type": "string"}}});
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{ROWS, routes};
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let described: BTreeSet<(&str, &str)> = paths
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().keys().map(|method| (&**path, &**method)))
            .collect();
        let there = routes().into_iter().map(|(path, method, _)| (path, method));
        assert_eq!(described, there.chain([(ROWS, "get"), (ROWS, "head")]).collect());
    }

    #[test]
    fn every_kind_of_problem_is_described_here_and_in_the_reference() {
        let document = document();
        let mut described = BTreeSet::new();
        for operation in document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|item| item.as_object().unwrap().values())
        {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let schema = &answer["content"]["application/problem+json"]["schema"];
                let kinds = schema["allOf"][1]["properties"]["type"]["enum"].as_array();
                assert!(kinds.is_none_or(|kinds| !kinds.is_empty()), "{status}");
                for kind in kinds.into_iter().flatten() {
                    let kind = kind.as_str().unwrap().rsplit(':').next().unwrap();
                    described.insert((status.parse().unwrap(), kind));
                }
            }
        }
        assert_eq!(described, KINDS.into_iter().collect());
        let reference = include_str!("../../../docs/reference-http.md");
        for (status, kind) in KINDS {
            let said = |line: &str| line.contains(&format!("`{kind}`")) && line.contains(&status.to_string());
            assert!(reference.lines().any(said), "{status} {kind}");
        }
    }
}
