use std::borrow::Cow;
use std::time::Instant;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use foreshard_edge::rows::{Query, to_json, to_ndjson};
use foreshard_edge::{Answer, FunctionShard, Part, Refusal, Request, ServedFrom};
use foreshard_protocol::InstanceId;
use percent_encoding::percent_decode_str;

use super::params::{CACHE_STATUS, FORESHARD_LSN, Format, SERVER_TIMING, matches, min_lsn};
use super::{App, Problem};
use crate::serve::Execution;

/// `GET /v1/functions/{function_id}/shards/{shard}/rows`
pub(super) async fn get(app: &App, path: (String, String), request: &Parts) -> Result<Response, Problem> {
    let started = Instant::now();
    let ((function, shard), headers) = (path, &request.headers);
    let bearer = app.guard.admit(headers, &function)?;
    let format = Format::accepted(headers)?;
    let min_lsn = min_lsn(headers)?;
    let parameters = parameters(request.uri.query().unwrap_or_default())?;
    let mut query = Query::parse(parameters.iter().map(|(name, value)| (&**name, &**value)))?;
    let mut table = String::new();
    let asked = app.shared.request(|core| {
        let instance = match core.definitions().function_shard(&function, &shard) {
            FunctionShard::Mapped(def) => {
                table.clone_from(&def.source);
                InstanceId { shard: shard.clone(), key: query.take_key(&def.key)? }
            }
            // The core refuses it with the right words.
            _ => InstanceId::unkeyed(shard.clone()),
        };
        bearer.may_read(&instance)?;
        Ok::<_, Problem>(Request { function: function.clone(), instances: vec![instance], min_lsn })
    });
    let Answer { lsn, mut parts } = asked.await??;
    let part = parts.pop().ok_or(Refusal::NotReady)?;
    let (body, etag) = body(&query, &part, format)?;
    let wait = started.elapsed();
    let execution = || Execution {
        function_id: function,
        started_at: app.shared.clock.now().to_rfc3339(),
        tables: vec![table],
        filters: parameters.into_iter().map(|(name, value)| (name, value.into())).collect(),
        shards: vec![part.copy.instance.to_string()],
        served_from: part.served_from.as_str(),
        wait_us: wait.as_micros() as u64,
        bytes: body.len() as u64,
    };
    app.logger.log(&app.shared, execution);
    let not_modified = matches(headers, &etag);
    let mut response = Response::new(if not_modified { Body::empty() } else { Body::from(body) });
    if not_modified {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let age = app.shared.mono().saturating_sub(part.copy.fetched_at) / 1_000_000;
    let out = response.headers_mut();
    out.reserve(12);
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    out.insert(CACHE_STATUS, cache_status(part.served_from));
    out.insert(header::AGE, age.into());
    let text = |text: String| HeaderValue::try_from(text).map_err(|_| Problem::from(Refusal::NotReady));
    out.insert(FORESHARD_LSN, text(lsn.to_string())?);
    out.insert(header::ETAG, text(etag.into_owned())?);
    let micros = wait.as_micros();
    out.insert(SERVER_TIMING, text(format!("total;dur={}.{:03}", micros / 1000, micros % 1000))?);
    // Intermediaries must ask again: only the sidecar knows what has changed.
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    out.insert(header::VARY, HeaderValue::from_static("accept, authorization"));
    Ok(response)
}

/// Function and shard, if the path is one of rows.
pub(super) fn path(path: &str) -> Option<(String, String)> {
    let (function, rest) = path.strip_prefix("/v1/functions/")?.split_once('/')?;
    let shard = rest.strip_prefix("shards/")?.strip_suffix("/rows")?;
    if function.is_empty() || shard.is_empty() || shard.contains('/') {
        return None;
    }
    let decode = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    Some((decode(function)?, decode(shard)?))
}

pub(super) fn cache_status(served_from: ServedFrom) -> HeaderValue {
    HeaderValue::from_static(match served_from {
        ServedFrom::Prefetch => "foreshard-prefetch; hit",
        ServedFrom::Reactive => "foreshard-reactive; hit",
        ServedFrom::Origin => "foreshard; fwd=miss",
    })
}

fn body<'a>(query: &Query, part: &'a Part, format: Format) -> Result<(bytes::Bytes, Cow<'a, str>), Problem> {
    let copy = &part.copy;
    if query.is_everything() && format == Format::Json {
        let body = copy.body();
        return Ok((body.json.clone(), Cow::Borrowed(&*body.etag)));
    }
    let selected = query.run(&copy.columns, &copy.rows)?;
    let rows = selected.rows.iter().map(|row| &**row);
    let text = match format {
        Format::Json => to_json(&selected.columns, rows),
        Format::Ndjson => to_ndjson(&selected.columns, rows),
    };
    let body = foreshard_edge::Body::new(text);
    Ok((body.json, Cow::Owned(body.etag.to_string())))
}

/// The decoded parameters of a URL's query.
fn parameters(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let bad = |_| Problem::bad_request("bad-filter", "the query holds bytes that are not UTF-8");
    let decode = |text: &str| -> Result<String, Problem> {
        let plus = text.replace('+', " ");
        Ok(percent_decode_str(&plus).decode_utf8().map_err(bad)?.into_owned())
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}
