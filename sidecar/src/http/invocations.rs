use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use foreshard_edge::{EdgeCore, Refusal, Request, ServedFrom};
use foreshard_protocol::{InstanceId, KeyPart};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::encoding::Encoding;
use super::params::{CACHE_STATUS, FORESHARD_LSN, Format, Function, SERVER_TIMING, min_lsn};
use super::rows::cache_status;
use super::{App, Problem};
use crate::serve::Execution;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invocation {
    #[serde(default)]
    params: Map<String, Value>,
}

/// From here on not every whole number is a `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// `POST /v1/functions/{function_id}/invocations`
pub(super) async fn post(
    State(app): State<Arc<App>>,
    Function(function): Function,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let started = Instant::now();
    let bearer = app.guard.admit(&headers, &function)?;
    if Format::accepted(&headers)? != Format::Json {
        return Err(Problem::not_acceptable());
    }
    let min_lsn = min_lsn(&headers)?;
    let params = read(&body)?;
    let mut tables = Vec::new();
    let asked = app.shared.request(|core| {
        let instances = instances(core, &function, &params, &mut tables)?;
        instances.iter().try_for_each(|instance| bearer.may_read(instance))?;
        Ok::<_, Problem>(Request { function: function.clone(), instances, min_lsn })
    });
    let answer = asked.await??;
    let invocation_id = format!("{}-{}", app.process, COUNT.fetch_add(1, Ordering::Relaxed));
    let mut out = Vec::new();
    out.extend_from_slice(
        format!("{{\"invocation_id\":\"{invocation_id}\",\"lsn\":\"{}\",\"shards\":{{", answer.lsn)
            .as_bytes(),
    );
    let mut worst = ServedFrom::Prefetch;
    let mut shards = Vec::with_capacity(answer.parts.len());
    for (i, part) in answer.parts.iter().enumerate() {
        worst = worst.max(part.served_from);
        let instance = part.copy.instance.to_string();
        let shard = instance.parse::<InstanceId>().map(|id| id.shard).unwrap_or_default();
        out.extend_from_slice(if i > 0 { b"," } else { b"" });
        out.extend_from_slice(&serde_json::to_vec(&shard).unwrap_or_default());
        out.extend_from_slice(b":{\"rows\":");
        out.extend_from_slice(&part.copy.body().json);
        out.extend_from_slice(format!(",\"served_from\":\"{}\"}}", part.served_from.as_str()).as_bytes());
        shards.push(instance);
    }
    out.extend_from_slice(b"}}");
    let wait = started.elapsed();
    let execution = || Execution {
        function_id: function,
        started_at: app.shared.clock.now().to_rfc3339(),
        tables,
        filters: params
            .into_iter()
            .map(|(name, value)| (name, text(&value).map_or(Value::Null, Value::from)))
            .collect(),
        shards,
        served_from: worst.as_str(),
        wait_us: wait.as_micros() as u64,
        bytes: out.len() as u64,
    };
    app.logger.log(&app.shared, execution);
    let encoding = Encoding::accepted(&headers).of(out.len());
    let body = encoding.apply(out.into()).await.ok_or(Refusal::Overloaded)?;
    let mut response = Response::new(body.into());
    let set = response.headers_mut();
    if let Some(name) = encoding.name() {
        set.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    set.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    set.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set.insert(CACHE_STATUS, HeaderValue::from_static(cache_status(worst)));
    let value = |text: String| HeaderValue::try_from(text).map_err(|_| Problem::from(Refusal::NotReady));
    set.insert(FORESHARD_LSN, value(answer.lsn.to_string())?);
    set.insert(SERVER_TIMING, value(format!("total;dur={:.3}", wait.as_secs_f64() * 1e3))?);
    Ok(response)
}

fn read(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let shape = "expected {\"params\": {\"column\": value}} with strings, numbers, booleans or null";
    // Of an array serde would take the elements for the fields.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let invocation: Invocation = Some(body)
        .filter(|_| is_object)
        .and_then(|body| serde_json::from_slice(body).ok())
        .ok_or_else(|| Problem::bad_request("bad-body", format!("the body: {shape}")))?;
    for (name, value) in &invocation.params {
        if value.is_array() || value.is_object() {
            return Err(Problem::bad_request("bad-body", format!("params.{name}: {shape}")));
        }
        // Beyond this, several numbers of the document are one of ours.
        if value.is_f64() && value.as_f64().is_some_and(|number| number.abs() >= EXACT) {
            let detail = format!("params.{name}: a number as large as this has to be a string");
            return Err(Problem::bad_request("bad-body", detail));
        }
    }
    Ok(invocation.params)
}

/// All instances of the function for these parameters.
fn instances(
    core: &EdgeCore,
    function: &str,
    params: &Map<String, Value>,
    tables: &mut Vec<String>,
) -> Result<Vec<InstanceId>, Problem> {
    if !core.definitions().ready() {
        return Err(Refusal::NotReady.into());
    }
    let shards = core.definitions().shards_of(function).ok_or(Refusal::UnknownFunction)?;
    let mut instances = Vec::with_capacity(shards.len());
    for shard in shards {
        let Some(def) = core.definitions().shard(shard) else {
            return Err(Refusal::UnknownShard(shard.clone()).into());
        };
        let part = |column: &String| match params.get(column) {
            Some(value) => Ok(KeyPart { column: column.clone(), value: text(value) }),
            None => Err(Problem::bad_request(
                "missing-key",
                format!("params.{column} is missing: it is a key column of shard {shard:?}"),
            )),
        };
        let key = def.key.iter().map(part).collect::<Result<_, _>>()?;
        instances.push(InstanceId { shard: shard.clone(), key });
        if !tables.contains(&def.source) {
            tables.push(def.source.clone());
        }
    }
    Ok(instances)
}

/// The text of a scalar; `None` for null. JSON does not tell whole numbers from others: `7.0` is 7, which every type of number
/// takes.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(match number.as_f64() {
            // Below 2^53, and so the same number.
            Some(whole) if number.is_f64() && whole.fract() == 0.0 => (whole as i64).to_string(),
            _ => number.to_string(),
        }),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(body: &str) -> Option<Vec<Option<String>>> {
        let params = read(body.as_bytes()).map_err(|problem| assert_eq!(problem.status(), 400)).ok()?;
        Some(params.values().map(text).collect())
    }

    #[test]
    fn bodies() {
        let some = |text: &str| Some(text.to_owned());
        for body in ["", " \n", "{}", "{\"params\": {}}"] {
            assert_eq!(params(body), Some(vec![]), "{body}");
        }
        let body = "{\"params\": {\"a\": 7.0, \"b\": -2e3, \"c\": 0.5, \"d\": 18446744073709551615, \"e\": null, \"f\": true, \"g\": \"7.0\", \"h\": -0.0}}";
        let texts = ["7", "-2000", "0.5", "18446744073709551615", "", "true", "7.0", "0"];
        let mut expected: Vec<_> = texts.map(some).into();
        expected[4] = None;
        assert_eq!(params(body), Some(expected));
        for body in [
            "[{\"customer_id\": 3}]",
            "[]",
            "null",
            "7",
            "{\"params\": []}",
            "{\"params\": {\"a\": [1]}}",
            "{\"params\": {\"a\": {}}}",
            "{\"param\": {}}",
            "{\"params\": {\"a\": 36893488147419103232}}",
            "{\"params\": {\"a\": 1e16}}",
            "{",
        ] {
            assert_eq!(params(body), None, "{body}");
        }
    }
}
