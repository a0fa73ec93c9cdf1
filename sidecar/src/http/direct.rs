//! Connections of functions that ask for rows and nothing else: answered here, without an HTTP framework in between.
//!
//! Reading such a request and writing its answer through a framework costs more than finding the rows. Here only what is
//! simple is taken: a GET for rows in HTTP/1.1 whose head has arrived whole, without a body and without wishes about the
//! connection. At the first request that is anything else the connection goes to hyper, with every byte not yet answered, and
//! stays there: whatever is unusual, partial, slow or wrong is hyper's, with its limits.

use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use httparse::{Header, Request, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use super::heads::{Bounds, Heads};
use super::rows::{self, Rows};
use super::server::Desk;

/// Bytes that are read at once.
const READ: usize = 8 << 10;
/// Bytes of further requests that are taken in while one is answered.
const AHEAD: usize = 8 << 10;
/// Shorter bodies are copied behind their head, which costs less than sending two pieces.
const COPIED: usize = 16 << 10;
/// Header fields of a request that is simple.
const FIELDS: usize = 32;

/// Answers requests for rows until the connection ends (then `None`) or asks for something else: then the stream, with
/// what has been read of that.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    desk: &Desk,
    idle: Duration,
    bounds: Bounds,
    closing: impl Future<Output = ()>,
) -> Option<Heads<S>> {
    let mut read = BytesMut::with_capacity(READ);
    let mut ahead = BytesMut::new();
    let mut out = Vec::with_capacity(2 * READ);
    let mut date = Date::default();
    let (mut answered, mut answered_before) = (0_u64, 0_u64);
    let (mut closing, mut timer) = (std::pin::pin!(closing), std::pin::pin!(sleep(idle)));
    loop {
        while !read.is_empty() {
            let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
            let found = simple(&read, &mut fields).filter(|(.., length)| *length <= bounds.head);
            let Some((target, fields, length)) = found else {
                return Some(Heads::new(stream, read, bounds));
            };
            let answer = {
                let mut answering = std::pin::pin!(desk.rows(target, fields));
                tokio::select! {
                    biased;
                    answer = &mut answering => answer,
                    () = gone(&mut stream, &mut ahead) => return None,
                }
            };
            out.clear();
            let sent = match answer {
                Ok(rows) => send(&mut stream, &rows, &mut out, &mut date).await,
                Err(problem) => send_other(&mut stream, problem.into_response(), &mut out, &mut date).await,
            };
            if sent.is_err() {
                return None;
            }
            answered += 1;
            read.advance(length);
            if !ahead.is_empty() {
                read.unsplit(ahead.split());
            }
        }
        read.clear();
        read.reserve(READ);
        let over = tokio::select! {
            biased;
            got = stream.read_buf(&mut read) => !got.is_ok_and(|length| length > 0),
            () = &mut closing => true,
            () = &mut timer => {
                // Setting the timer anew for each request would cost more than a longer wait now and then.
                timer.set(sleep(idle));
                std::mem::replace(&mut answered_before, answered) == answered
            }
        };
        if over {
            // TLS says farewell here. Whether it arrives is nobody's concern any more.
            drop(stream.shutdown().await);
            return None;
        }
    }
}

/// Target, header fields and length of the first request, if it is one of those answered here.
fn simple<'b, 'h>(
    read: &'b [u8],
    room: &'h mut [MaybeUninit<Header<'b>>],
) -> Option<(&'b str, &'h [Header<'b>], usize)> {
    let mut request = Request::new(&mut []);
    let Ok(Status::Complete(length)) = request.parse_with_uninit_headers(read, room) else { return None };
    let (Some("GET"), Some(target), Some(1)) = (request.method, request.path, request.version) else {
        return None;
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&byte);
    if !target.bytes().all(plain) || !rows::is_path(target.split_once('?').map_or(target, |(path, _)| path)) {
        return None;
    }
    let fields: &'h [Header<'b>] = request.headers;
    fields.iter().all(harmless).then_some((target, fields, length))
}

/// Names in lower case with their values.
#[cfg(test)]
pub(super) type NamedValues = Vec<(String, Vec<u8>)>;

/// [`simple`], for comparison with what hyper reads: target, fields with lower-case names in hyper's order, and length.
#[cfg(test)]
pub(super) fn read(bytes: &[u8]) -> Option<(String, NamedValues, usize)> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS];
    let (target, fields, length) = simple(bytes, &mut room)?;
    let mut map = axum::http::HeaderMap::new();
    for field in fields {
        map.append(
            HeaderName::try_from(field.name).ok()?,
            axum::http::HeaderValue::from_bytes(field.value).ok()?,
        );
    }
    let fields = map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    Some((target.to_owned(), fields, length))
}

/// Whether a field says nothing about a body, this connection or the next answer.
fn harmless(field: &Header<'_>) -> bool {
    const OTHERS: [HeaderName; 6] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::EXPECT,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
    ];
    let is = |name: &HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
    if is(&header::CONNECTION) {
        return field.value.eq_ignore_ascii_case(b"keep-alive");
    }
    !OTHERS.iter().any(is)
}

/// Reads on, within bounds, until the client has gone.
async fn gone(stream: &mut (impl AsyncRead + Unpin), ahead: &mut BytesMut) {
    while ahead.len() < AHEAD {
        ahead.reserve(AHEAD);
        if !stream.read_buf(ahead).await.is_ok_and(|length| length > 0) {
            return;
        }
    }
    std::future::pending().await
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    rows: &Rows,
    out: &mut Vec<u8>,
    date: &mut Date,
) -> io::Result<()> {
    out.extend_from_slice(if rows.not_modified {
        b"HTTP/1.1 304 Not Modified\r\n"
    } else {
        b"HTTP/1.1 200 OK\r\n"
    });
    rows.fields(|name, value| field(out, &name, value));
    if !rows.not_modified {
        length(out, rows.body.len());
    }
    date.write(out);
    out.extend_from_slice(b"\r\n");
    if rows.body.len() < COPIED {
        out.extend_from_slice(&rows.body);
        stream.write_all(out).await?;
    } else {
        stream.write_all_buf(&mut Buf::chain(&out[..], &rows.body[..])).await?;
    }
    stream.flush().await
}

/// Sends an answer that was made for hyper: an error.
async fn send_other(
    stream: &mut (impl AsyncWrite + Unpin),
    response: Response,
    out: &mut Vec<u8>,
    date: &mut Date,
) -> io::Result<()> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let reason = head.status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()).as_bytes());
    for (name, value) in &head.headers {
        field(out, name, value.as_bytes());
    }
    length(out, body.len());
    date.write(out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
    stream.write_all(out).await?;
    stream.flush().await
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn length(out: &mut Vec<u8>, length: usize) {
    field(out, &header::CONTENT_LENGTH, length.to_string().as_bytes());
}

/// The Date field, put together once a second.
#[derive(Default)]
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn write(&mut self, out: &mut Vec<u8>) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if second != self.second || self.text.is_empty() {
            *self = Date { second, text: httpdate::fmt_http_date(now) };
        }
        field(out, &header::DATE, self.text.as_bytes());
    }
}
