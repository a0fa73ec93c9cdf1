use axum::Json;
use serde_json::{Value, json};

/// `GET /openapi.json`
pub(super) async fn get() -> Json<Value> {
    Json(document())
}

fn document() -> Value {
    let path = |name: &str, what: &str| json!({"name": name, "in": "path", "required": true, "description": what, "schema": {"type": "string"}});
    let query = |name: &str, what: &str| json!({"name": name, "in": "query", "required": false, "description": what, "schema": {"type": "string"}});
    let header = |name: &str, what: &str| json!({"name": name, "in": "header", "required": false, "description": what, "schema": {"type": "string"}});
    let function = path("function_id", "a function, as mapped with foreshard.map_function");
    let min_lsn = header(
        "Foreshard-Min-Lsn",
        "never answer with data older than this position, from foreshard.commit_token()",
    );
    let problem = json!({"description": "an error", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}});
    let ok = |what: &str, schema: Value| json!({"200": {"description": what, "content": {"application/json": {"schema": schema}}}, "default": problem});
    let rows = json!({"type": "array", "items": {"type": "object"}});
    let answer_headers = json!({
        "Foreshard-Lsn": {"description": "the answer holds every transaction on these shards that committed at or before it", "schema": {"type": "string"}},
        "Cache-Status": {"description": "RFC 9211: foreshard-prefetch; hit, foreshard-reactive; hit, or foreshard; fwd=miss", "schema": {"type": "string"}},
        "ETag": {"schema": {"type": "string"}},
        "Age": {"description": "seconds since the rows were read at the origin", "schema": {"type": "integer"}},
        "Server-Timing": {"schema": {"type": "string"}},
        "Content-Encoding": {"schema": {"enum": ["zstd", "gzip"]}},
    });
    let mut rows_responses = ok("the rows", rows.clone());
    rows_responses["200"]["headers"] = answer_headers;
    for kind in ["application/x-ndjson", "application/vnd.apache.arrow.stream", "application/x-bincode"] {
        rows_responses["200"]["content"][kind] = json!({});
    }
    rows_responses["304"] = json!({"description": "the client holds these rows"});
    for (status, what) in [
        ("400", "bad filter, missing key, wrong type"),
        ("401", "no token, or one that is not valid"),
        ("403", "the function may not read this shard, or the token not this key"),
        ("404", "no such function or shard"),
        ("406", "no such format"),
        ("503", "nothing fresh enough can be given now; Retry-After says when to ask again"),
    ] {
        let mut answer = problem.clone();
        answer["description"] = what.into();
        rows_responses[status] = answer;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "foreshard", "version": env!("CARGO_PKG_VERSION"), "description": "Rows next to the edge function before it runs, never stale."},
        "security": [{"token": []}, {}],
        "paths": {
            "/v1/functions/{function_id}/shards/{shard}/rows": {"get": {
                "operationId": "getRows",
                "summary": "Rows of one shard the function is mapped to",
                "description": "Filters as column=operator.value (eq, neq, gt, gte, lt, lte, in, is, like, ilike; not. negates), also in groups and=(…), or=(…). A keyed shard needs every key column with eq.",
                "parameters": [function, path("shard", "a shard"), query("select", "columns, as a,label:b"), query("order", "as a.desc,b"), query("limit", "most rows"), query("offset", "rows to leave out"), query("and", "(a.eq.1,or(…))"), query("or", "(a.eq.1,b.is.null)"), min_lsn, header("If-None-Match", "an ETag the client holds"), header("Accept-Encoding", "zstd, gzip")],
                "responses": rows_responses,
            }},
            "/v1/functions/{function_id}/invocations": {"post": {
                "operationId": "invoke",
                "summary": "Rows of all shards of the function, one consistent cut; logs one execution",
                "parameters": [function, min_lsn],
                "requestBody": {"content": {"application/json": {"schema": {"type": "object", "properties": {"params": {"type": "object"}}}}}},
                "responses": ok("the rows by shard", json!({
                    "type": "object",
                    "required": ["invocation_id", "lsn", "shards"],
                    "properties": {
                        "invocation_id": {"type": "string"},
                        "lsn": {"type": "string"},
                        "shards": {"type": "object", "additionalProperties": {"type": "object", "properties": {"rows": rows, "served_from": {"enum": ["prefetch", "reactive", "origin"]}}}},
                    },
                })),
            }},
            "/v1/functions/{function_id}/shards": {"get": {"operationId": "listShards", "summary": "The function's shards and what is held of them here", "parameters": [function], "responses": ok("the shards", json!({"type": "object"}))}},
            "/v1/schedule": {"get": {"operationId": "getSchedule", "summary": "The schedule in force at this edge, as published", "responses": ok("the schedule", json!({"type": "object", "properties": {"entries": {"type": "array", "items": {"$ref": "#/components/schemas/ScheduleEntry"}}}}))}},
            "/live": {"get": {"operationId": "live", "security": [], "responses": {"200": {"description": "the process serves"}}}},
            "/ready": {"get": {"operationId": "ready", "security": [], "responses": {"200": {"description": "the stream is followed and copies may be served"}, "503": {"description": "why not"}}}},
            "/metrics": {"get": {"operationId": "metrics", "security": [], "responses": {"200": {"description": "Prometheus text format"}}}},
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
