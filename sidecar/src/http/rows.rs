//! `GET /v1/functions/{function_id}/shards/{shard}/rows`

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use foreshard_edge::rows::{Query, to_json, to_ndjson};
use foreshard_edge::{Answer, FunctionShard, Part, Refusal, Request, ServedFrom};
use foreshard_protocol::{Column, InstanceId, Lsn, RowSet, encode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::arrow::to_arrow;
use super::encoding::Encoding;
use super::params::{CACHE_STATUS, FORESHARD_LSN, Fields, Format, SERVER_TIMING, matches, min_lsn};
use super::targets::Known;
use super::{App, Problem};
use crate::serve::Execution;

/// Rows with all that is said of them.
pub(super) struct Rows {
    /// Empty if the client holds it already.
    pub(super) body: Bytes,
    pub(super) not_modified: bool,
    format: Format,
    encoding: Encoding,
    served_from: ServedFrom,
    /// Seconds since the copy was fetched.
    age: u64,
    lsn: Lsn,
    tag: Arc<str>,
    wait: Duration,
}

/// What a request says of the form of its answer.
struct Asked {
    format: Format,
    encoding: Encoding,
    min_lsn: Option<Lsn>,
}

impl Asked {
    fn read(headers: &(impl Fields + ?Sized)) -> Result<Self, Problem> {
        let (format, encoding) = (Format::accepted(headers)?, Encoding::accepted(headers));
        Ok(Asked { format, encoding, min_lsn: min_lsn(headers)? })
    }
}

/// Answers the request for `target`, which is a path of rows (see [`path`]) with its query.
pub(super) async fn get(app: &App, target: &str, headers: &(impl Fields + ?Sized)) -> Result<Rows, Problem> {
    let started = Instant::now();
    if let Some(known) = app.targets.get(target) {
        let bearer = app.guard.admit(headers, &known.function)?;
        let asked = Asked::read(headers)?;
        bearer.may_read(&known.instance)?;
        let again =
            app.shared.with(|core, now| core.answer_again(now, known.version, &known.copy, asked.min_lsn));
        if let Some(answer) = again {
            return rows(app, started, &known, answer, &asked, headers).await;
        }
    }
    let (path_of, query) = target.split_once('?').unwrap_or((target, ""));
    let (function, shard) = path(path_of).ok_or_else(|| Problem::not_found("no rows are at this path"))?;
    let bearer = app.guard.admit(headers, &function)?;
    let asked = Asked::read(headers)?;
    let parameters = parameters(query)?;
    let mut query = Query::parse(parameters.iter().map(|(name, value)| (&**name, &**value)))?;
    let (mut table, mut version) = (String::new(), 0);
    let mut wanted = InstanceId::unkeyed(shard.clone());
    let answer = app.shared.request(|core| {
        let definitions = core.definitions();
        // What is not mapped the core refuses with the right words.
        if let FunctionShard::Mapped(def) = definitions.function_shard(&function, &shard) {
            table.clone_from(&def.source);
            wanted.key = query.take_key(&def.key)?;
        }
        version = definitions.version();
        bearer.may_read(&wanted)?;
        let instances = vec![wanted.clone()];
        Ok::<_, Problem>(Request { function: function.clone(), instances, min_lsn: asked.min_lsn })
    });
    let answer = match answer.await? {
        // An edge is told of shards that functions read; whether there is another of this name only the origin knows.
        Err(Refusal::UnknownShard(shard)) if app.names.knows(&shard).await => Err(Refusal::NotMapped(shard)),
        answer => answer,
    }?;
    let copy = answer.parts.first().ok_or(Refusal::NotReady)?.copy.instance.clone();
    let known = Arc::new(Known { version, function, instance: wanted, copy, table, parameters, query });
    app.targets.keep(target, known.clone());
    rows(app, started, &known, answer, &asked, headers).await
}

async fn rows(
    app: &App,
    started: Instant,
    known: &Known,
    answer: Answer,
    asked: &Asked,
    headers: &(impl Fields + ?Sized),
) -> Result<Rows, Problem> {
    let Answer { lsn, mut parts } = answer;
    let part = parts.pop().ok_or(Refusal::NotReady)?;
    let (plain, etag) = body(&known.query, &part, asked.format)?;
    let encoding = asked.encoding.of(plain.len());
    let tag = encoding.tag(etag.text()).map_or_else(|| etag.text().clone(), Arc::from);
    let not_modified = matches(headers, &tag);
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
        function_id: known.function.clone(),
        started_at: app.shared.clock.now().to_rfc3339(),
        tables: vec![known.table.clone()],
        filters: logged(&known.parameters),
        shards: vec![part.copy.instance.to_string()],
        served_from: part.served_from.as_str(),
        wait_us: wait.as_micros() as u64,
        bytes: body.len() as u64,
    };
    app.logger.log(&app.shared, execution);
    let age = app.shared.mono().saturating_sub(part.copy.fetched_at) / 1_000_000;
    let (format, served_from) = (asked.format, part.served_from);
    Ok(Rows { body, not_modified, format, encoding, served_from, age, lsn, tag, wait })
}

impl Rows {
    pub(super) fn status(&self) -> StatusCode {
        if self.not_modified { StatusCode::NOT_MODIFIED } else { StatusCode::OK }
    }

    /// The header fields of the answer, all but those that every answer has.
    pub(super) fn fields(&self, mut put: impl FnMut(HeaderName, &[u8])) {
        let mut number = Number { room: [0; 64] };
        put(header::CONTENT_TYPE, self.format.content_type().as_bytes());
        put(CACHE_STATUS, cache_status(self.served_from).as_bytes());
        put(header::AGE, number.write(format_args!("{}", self.age)));
        put(FORESHARD_LSN, number.write(format_args!("{}", self.lsn)));
        put(header::ETAG, self.tag.as_bytes());
        if let Some(name) = self.encoding.name() {
            put(header::CONTENT_ENCODING, name.as_bytes());
        }
        let micros = self.wait.as_micros();
        let timing = format_args!("total;dur={}.{:03}", micros / 1000, micros % 1000);
        put(SERVER_TIMING, number.write(timing));
        // Intermediaries must ask again: only the sidecar knows what has changed.
        put(header::CACHE_CONTROL, b"private, no-cache");
        put(header::VARY, b"accept, accept-encoding, authorization");
    }
}

impl IntoResponse for Rows {
    fn into_response(self) -> Response {
        let body = if self.not_modified { Body::empty() } else { Body::from(self.body.clone()) };
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.reserve(12);
        self.fields(|name, value| {
            // Every value is ASCII of our own making.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.insert(name, value);
            }
        });
        response
    }
}

/// Room for a number or two as text.
struct Number {
    room: [u8; 64],
}

impl Number {
    fn write(&mut self, text: std::fmt::Arguments<'_>) -> &[u8] {
        let mut rest = &mut self.room[..];
        let written = rest.write_fmt(text).map(|()| rest.len());
        &self.room[..written.map_or(0, |left| self.room.len() - left)]
    }
}

/// Whether a path is one of rows.
pub(super) fn is_path(path: &str) -> bool {
    segments(path).is_some()
}

fn segments(path: &str) -> Option<(&str, &str)> {
    let (function, rest) = path.strip_prefix("/v1/functions/")?.split_once('/')?;
    let shard = rest.strip_prefix("shards/")?.strip_suffix("/rows")?;
    (!function.is_empty() && !shard.is_empty() && !shard.contains('/')).then_some((function, shard))
}

/// Filters by name; several on one column as a list.
fn logged(parameters: &[(String, String)]) -> Map<String, Value> {
    let mut filters = Map::new();
    for (name, value) in parameters {
        let value = Value::from(value.clone());
        match filters.get_mut(name) {
            None => drop(filters.insert(name.clone(), value)),
            Some(Value::Array(several)) => several.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    filters
}

/// Function and shard, if the path is one of rows.
pub(super) fn path(path: &str) -> Option<(String, String)> {
    let (function, shard) = segments(path)?;
    let decode = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    Some((decode(function)?, decode(shard)?))
}

pub(super) fn cache_status(served_from: ServedFrom) -> &'static str {
    match served_from {
        ServedFrom::Prefetch => "foreshard-prefetch; hit",
        ServedFrom::Reactive => "foreshard-reactive; hit",
        ServedFrom::Origin => "foreshard; fwd=miss",
    }
}

/// An entity tag, and what it is of.
enum Tag {
    /// All rows of a held copy, in its own format.
    OfCopy(Arc<str>),
    /// What this request asked for.
    Of(Arc<str>),
}

impl Tag {
    fn text(&self) -> &Arc<str> {
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
        Format::Bincode => {
            let written = |column: Column| Column { kind: column.kind.written(), ..column };
            let columns = columns.into_iter().map(written).collect();
            encode(&RowSet { columns, rows: rows.into_iter().map(Cow::into_owned).collect() })
        }
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
