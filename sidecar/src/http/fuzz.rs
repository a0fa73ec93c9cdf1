//! Paths, queries and headers that anybody may send.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use foreshard_edge::rows::{Query, to_json, to_ndjson};
use foreshard_protocol::{Column, ColumnKind, InstanceId, Row};

use super::encoding::Encoding;
use super::params::{Format, matches, min_lsn};
use super::{arrow, direct, rows};
use crate::fuzzing::fuzz;

#[test]
fn fuzz_filters() {
    let kinds = [
        ("id", ColumnKind::Int),
        ("price", ColumnKind::Number),
        ("ok", ColumnKind::Bool),
        ("name", ColumnKind::Text),
        ("day", ColumnKind::Date),
        ("at", ColumnKind::TimestampTz),
    ];
    let columns = kinds.map(|(name, kind)| Column { name: name.into(), kind });
    let row = |values: [&str; 6]| -> Row { values.iter().map(|text| Some((*text).to_owned())).collect() };
    let table = [
        row(["1", "1.5", "true", "a,b", "2024-01-01", "2024-01-01T00:00:00+00:00"]),
        row(["2", "NaN", "false", "\u{e9}%_", "infinity", "-infinity"]),
        vec![None; 6],
    ];
    let samples = [
        "id=eq.1&price=gt.1.5e3&ok=is.true&name=ilike.*A_*&select=id,x:name&order=at.desc.nullsfirst,id&limit=5&offset=1",
        "or=(id.eq.1,not.and(price.lt.NaN,name.in.(\"a,b\",c)))&name=not.like.%25&day=gte.2024-01-01",
        "id=in.(1,2,3)&at=lte.2024-01-01T00%3A00%3A00%2B02:00&name=is.null",
        "not.or=(name.eq.\"x\\\"y\",id.neq.2)",
    ]
    .map(|text| text.as_bytes().to_vec());
    let words: [&[u8]; 12] = [
        b"not.",
        b"and(",
        b"or=(",
        b")",
        b"%",
        b"%00",
        b"\"",
        b"\\",
        b"in.(",
        b"infinity",
        b"1e999999999",
        b"&",
    ];
    fuzz("filters", &samples, &words, |input| {
        let text = String::from_utf8_lossy(input);
        let _ = rows::path(&text);
        let _ = text.parse::<InstanceId>();
        let Ok(parameters) = rows::parameters(&text) else { return false };
        let parsed = Query::parse(parameters.iter().map(|(name, value)| (&**name, &**value)));
        let Ok(mut query) = parsed else { return false };
        let _ = query.take_key(&["id".to_owned()]);
        let Ok(selected) = query.run(&columns, &table) else { return true };
        assert!(selected.rows.len() <= table.len().min(query.limit.unwrap_or(usize::MAX)));
        let each = || selected.rows.iter().map(|row| &**row);
        let json: serde_json::Value = serde_json::from_slice(&to_json(&selected.columns, each())).unwrap();
        assert_eq!(json.as_array().unwrap().len(), selected.rows.len());
        assert_eq!(
            to_ndjson(&selected.columns, each()).iter().filter(|b| **b == b'\n').count(),
            selected.rows.len()
        );
        arrow::to_arrow(&selected.columns, &each().collect::<Vec<_>>()).unwrap();
        true
    });
}

#[test]
fn fuzz_headers() {
    let samples = ["application/json;q=0.5, */*", "gzip;q=0, zstd", "16/B374D848", "W/\"a\", \"b\", *"]
        .map(|text| text.as_bytes().to_vec());
    let words: [&[u8]; 6] = [b"q=", b",", b"W/", b"FFFFFFFF/FFFFFFFF", b"NaN", b"1e400"];
    let lsn = HeaderName::from_static("foreshard-min-lsn");
    let names = [header::ACCEPT, header::ACCEPT_ENCODING, lsn, header::IF_NONE_MATCH];
    fuzz("headers", &samples, &words, |input| {
        let Ok(value) = HeaderValue::from_bytes(input) else { return false };
        let headers = HeaderMap::from_iter(names.iter().cloned().map(|name| (name, value.clone())));
        let position = min_lsn(&headers);
        let _ = Encoding::accepted(&headers).of(input.len());
        let _ = matches(&headers, "\"b\"");
        Format::accepted(&headers).is_ok() || position.is_ok()
    });
}

/// What is answered without a framework is what hyper would have read, to the byte, and leaves the connection open.
#[test]
fn fuzz_heads() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let samples = [
        "GET /v1/functions/f/shards/s/rows?id=eq.7 HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
        "GET /v1/functions/a%20b/shards/s/rows HTTP/1.1\r\nhost: x\r\nIf-None-Match: \"a\"\r\nConnection: keep-alive\r\n\r\n",
        "GET /v1/functions/f/shards/s/rows HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        "GET /v1/functions/f/shards/s/rows HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec());
    let words: [&[u8]; 16] = [
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive, close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Content-Length: 0\r\n",
        b"content-length : 1\r\n",
        b"Transfer-Encoding:chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"#",
        b"%00",
        b"\0",
        b" folded\r\n",
    ];
    fuzz("heads", &samples, &words, |input| {
        let Some((target, fields, length)) = direct::read(input) else { return false };
        let heard = runtime.block_on(heard_by_hyper(&input[..length]));
        assert_eq!(heard, Some((target, fields)));
        true
    });
}

/// Target and fields of the request that these bytes are, if hyper reads one with nothing after it and keeps the connection.
async fn heard_by_hyper(bytes: &[u8]) -> Option<(String, direct::NamedValues)> {
    use std::sync::{Arc, Mutex};

    use axum::body::Body;
    use hyper::body::Body as _;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (mut client, server) = tokio::io::duplex(64 << 10);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = heard.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let fields = request.headers().iter();
        let fields: direct::NamedValues =
            fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        let simple = request.method() == hyper::Method::GET
            && request.version() == hyper::Version::HTTP_11
            && request.body().is_end_stream();
        noted.lock().unwrap().push(simple.then(|| (request.uri().to_string(), fields)));
        async { Ok::<_, std::convert::Infallible>(hyper::Response::new(Body::empty())) }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
    client.write_all(bytes).await.ok()?;
    // Heard only if the connection is still open after the first.
    client.write_all(b"GET /second HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answers = Vec::new();
    let _ = tokio::join!(serving, client.read_to_end(&mut answers));
    let mut heard = std::mem::take(&mut *heard.lock().unwrap()).into_iter();
    let (first, second) = (heard.next()??, heard.next()??);
    (second.0 == "/second").then_some(first)
}
