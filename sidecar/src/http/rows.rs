use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use foreshard_edge::rows::{Query, to_json, to_ndjson};
use foreshard_edge::{Answer, FunctionShard, Part, Refusal, Request, ServedFrom};
use foreshard_protocol::{InstanceId, RowSet, encode};
use percent_encoding::percent_decode_str;

use super::arrow::to_arrow;
use super::encoding::Encoding;
use super::params::{CACHE_STATUS, FORESHARD_LSN, Format, SERVER_TIMING, matches, min_lsn};
use super::{App, Problem};
use crate::serve::Execution;

/// `GET /v1/functions/{function_id}/shards/{shard}/rows`
pub(super) async fn get(app: &App, path: (String, String), request: &Parts) -> Result<Response, Problem> {
    let started = Instant::now();
    let ((function, shard), headers) = (path, &request.headers);
    let bearer = app.guard.admit(headers, &function)?;
    let (format, encoding) = (Format::accepted(headers)?, Encoding::accepted(headers));
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
    let (plain, etag) = body(&query, &part, format)?;
    let encoding = encoding.of(plain.len());
    let tag = encoding.tag(&etag);
    let not_modified = matches(headers, tag.as_deref().unwrap_or(&etag));
    let body = match encoding {
        _ if not_modified => Bytes::new(),
        Encoding::Identity => plain,
        encoding => {
            let made = match &etag {
                // Of the whole copy, which others will ask for, too.
                Tag::OfCopy(etag) => app.compressed.body(&part.copy.instance, etag, encoding, &plain).await,
                Tag::Of(_) => encoding.apply(plain).await,
            };
            made.ok_or(Refusal::Overloaded)?
        }
    };
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
    let etag = tag.map_or_else(|| HeaderValue::from_str(&etag), HeaderValue::try_from);
    out.insert(header::ETAG, etag.map_err(|_| Problem::from(Refusal::NotReady))?);
    if let Some(name) = encoding.header() {
        out.insert(header::CONTENT_ENCODING, name);
    }
    let micros = wait.as_micros();
    out.insert(SERVER_TIMING, text(format!("total;dur={}.{:03}", micros / 1000, micros % 1000))?);
    // Intermediaries must ask again: only the sidecar knows what has changed.
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    out.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding, authorization"));
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

/// An entity tag, and what it is of.
enum Tag {
    /// All rows of a held copy, in its own format.
    OfCopy(Arc<str>),
    /// What this request asked for.
    Of(Arc<str>),
}

impl std::ops::Deref for Tag {
    type Target = str;

    fn deref(&self) -> &str {
        let (Tag::OfCopy(tag) | Tag::Of(tag)) = self;
        tag
    }
}

fn body(query: &Query, part: &Part, format: Format) -> Result<(Bytes, Tag), Problem> {
    let copy = &part.copy;
    if query.is_everything() && format == Format::Json {
        let body = copy.body();
        return Ok((body.json.clone(), Tag::OfCopy(body.etag.clone())));
    }
    let selected = query.run(copy.columns(), &copy.rows)?;
    let (columns, rows) = (selected.columns, selected.rows);
    let each = || rows.iter().map(|row| &**row);
    let bytes = match format {
        Format::Json => to_json(&columns, each()),
        Format::Ndjson => to_ndjson(&columns, each()),
        Format::Arrow => to_arrow(&columns, &each().collect::<Vec<_>>())
            .map_err(|column| Problem::not_in_this_format(&column))?,
        Format::Bincode => encode(&RowSet { columns, rows: rows.into_iter().map(Cow::into_owned).collect() }),
    };
    let body = foreshard_edge::Body::new(bytes);
    Ok((body.json, Tag::Of(body.etag)))
}

/// The decoded parameters of a URL's query.
pub(super) fn parameters(query: &str) -> Result<Vec<(String, String)>, Problem> {
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
