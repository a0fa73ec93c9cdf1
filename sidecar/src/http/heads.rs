//! Heads of requests, looked at before hyper gets them. What hyper refuses itself it refuses without a word: here it is a problem
//! document, and the limits are met to the byte.
//!
//! [`Heads`] follows a connection's messages just far enough to know where the next head starts, and lets a head pass once it is
//! whole and hyper will take it. Of a bad one nothing passes: the connection is ended in good order, and its last words are the
//! answer.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use axum::http::{Method, Uri};
use bytes::{Buf, BytesMut};
use httparse::{Error, Request, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::Problem;

/// Header fields of a request.
pub(super) const MOST_FIELDS: usize = 256;
/// What hyper has room for in a target, and in the name of a field.
const LONGEST_TARGET: usize = u16::MAX as usize - 1;
/// Bytes that are read at once.
const READ: usize = 8 << 10;

/// Bounds of a head.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) head: usize,
    pub(super) url: usize,
}

/// A connection as hyper reads it.
pub(super) struct Heads<S> {
    inner: S,
    bounds: Bounds,
    read: BytesMut,
    /// How many bytes of `read` have been looked at and may pass.
    pass: usize,
    /// How many bytes behind them have been looked at and are not a whole head.
    seen: usize,
    next: Next,
    /// The answer to a bad head, or what of it is still to be sent.
    answer: Option<BytesMut>,
    refused: Arc<AtomicBool>,
}

/// What comes next on a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    Head,
    /// So many bytes of a body.
    Body(u64),
    Chunked(Chunk),
    /// Nothing that concerns anybody: the connection ends with the message.
    Rest,
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Chunk {
    Size(u64),
    /// What follows the size on its line.
    Extension(u64),
    Data(u64),
    DataEnd,
    /// Fields behind the last chunk; whether the line has anything on it.
    Trailer(bool),
}

impl<S> Heads<S> {
    /// `read` is what has been read already.
    pub(super) fn new(inner: S, read: BytesMut, bounds: Bounds) -> Self {
        let refused = Arc::default();
        Heads { inner, bounds, read, pass: 0, seen: 0, next: Next::Head, answer: None, refused }
    }

    /// Becomes true once nothing more will pass, and the connection has to be ended for the answer to be sent.
    pub(super) fn refused(&self) -> Arc<AtomicBool> {
        self.refused.clone()
    }

    /// Looks at what has been read; afterwards something may pass, or more has to be read.
    fn look(&mut self) {
        while self.pass == 0 && !self.read.is_empty() && self.answer.is_none() {
            match self.next {
                Next::Rest => self.pass = self.read.len(),
                Next::Body(left) => {
                    self.pass = self.read.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - self.pass as u64;
                    self.next = if left == 0 { Next::Head } else { Next::Body(left) };
                }
                Next::Chunked(chunk) => (self.pass, self.next) = chunks(chunk, &self.read),
                Next::Head => {
                    // Empty lines in front of a request are nothing.
                    let empty = self.read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                    if self.seen == 0 && empty > 0 {
                        self.read.advance(empty);
                        continue;
                    }
                    // A head ends with a line; looking at each piece of a long line would take time that grows with its square.
                    let new = &self.read[self.seen..];
                    if self.seen > 0 && self.read.len() <= self.bounds.head && !new.contains(&b'\n') {
                        self.seen = self.read.len();
                        return;
                    }
                    match head(&self.read, self.bounds) {
                        Ok(Some((length, next))) => (self.pass, self.seen, self.next) = (length, 0, next),
                        Ok(None) => {
                            self.seen = self.read.len();
                            return;
                        }
                        Err(problem) => {
                            self.answer = Some(written(&problem));
                            self.refused.store(true, Ordering::Relaxed);
                        }
                    }
                }
            }
        }
    }
}

/// Length of the head at the start of `bytes`, and what follows it; `None` if it is not whole.
fn head(bytes: &[u8], bounds: Bounds) -> Result<Option<(usize, Next)>, Problem> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) if length <= bounds.head => length,
        Ok(Status::Partial) if bytes.len() <= bounds.head => return Ok(None),
        Ok(_) => return Err(too_large(bytes, bounds)),
        Err(Error::TooManyHeaders) => return Err(Problem::many_fields(MOST_FIELDS)),
        Err(error) => return Err(Problem::bad_head(words(error))),
    };
    let target = request.path.unwrap_or_default();
    if target.len() > LONGEST_TARGET {
        return Err(Problem::long_url(bounds.url.min(LONGEST_TARGET)));
    }
    let method = request.method.unwrap_or_default();
    if Method::from_bytes(method.as_bytes()).is_err() || Uri::try_from(target).is_err() {
        return Err(Problem::bad_head("the request line is not METHOD /path HTTP/1.1"));
    }
    if request.headers.iter().any(|field| field.name.len() > LONGEST_TARGET) {
        return Err(Problem::large_head(bounds.head));
    }
    Ok(Some((length, body(&request)?)))
}

/// What follows a head: by the rules of RFC 9112, 6.3, as hyper has them.
fn body(request: &Request<'_, '_>) -> Result<Next, Problem> {
    let (mut chunked, mut length) = (None, None);
    let (mut closing, mut staying) = (false, request.version == Some(1));
    for field in &*request.headers {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let has = |word: &str| {
            let mut words = field.value.split(|byte| *byte == b',');
            words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        if is("transfer-encoding") {
            if request.version != Some(1) {
                return Err(Problem::bad_head("HTTP/1.0 has no Transfer-Encoding"));
            }
            let last = field.value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            chunked = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        } else if is("content-length") && chunked.is_none() {
            let digits =
                Some(field.value).filter(|value| !value.is_empty() && value.iter().all(u8::is_ascii_digit));
            let read = digits.and_then(|digits| str::from_utf8(digits).ok()?.parse::<u64>().ok());
            // The two largest numbers are hyper's names for bodies without a known length.
            match read.filter(|read| *read < u64::MAX - 1) {
                Some(read) if length.is_none_or(|length| length == read) => length = Some(read),
                _ => return Err(Problem::bad_head("Content-Length is not one number")),
            }
        } else if is("connection") {
            closing |= has("close");
            staying |= has("keep-alive");
        }
    }
    Ok(match (chunked, length) {
        (Some(false), _) => return Err(Problem::bad_head("the last Transfer-Encoding is not chunked")),
        _ if closing || !staying || request.method == Some("CONNECT") => Next::Rest,
        (Some(true), _) => Next::Chunked(Chunk::Size(0)),
        (None, Some(length)) if length > 0 => Next::Body(length),
        _ => Next::Head,
    })
}

/// How many of these bytes belong to a chunked body, and what follows them. Whether the body is right is for hyper to say.
fn chunks(mut chunk: Chunk, bytes: &[u8]) -> (usize, Next) {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        chunk = match (chunk, byte) {
            (Chunk::Data(left), _) => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += here;
                let left = left - here as u64;
                chunk = if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) };
                continue;
            }
            (Chunk::Size(size), _) if digit.is_some() && size < 1 << 56 => {
                Chunk::Size(size << 4 | digit.unwrap_or_default())
            }
            (Chunk::Size(0) | Chunk::Extension(0), b'\n') => Chunk::Trailer(false),
            (Chunk::Size(size) | Chunk::Extension(size), b'\n') => Chunk::Data(size),
            (Chunk::Size(size) | Chunk::Extension(size), _) => Chunk::Extension(size),
            (Chunk::DataEnd, b'\r') => Chunk::DataEnd,
            (Chunk::DataEnd, b'\n') => Chunk::Size(0),
            (Chunk::DataEnd, _) => return (bytes.len(), Next::Rest),
            (Chunk::Trailer(false), b'\n') => return (at + 1, Next::Head),
            (Chunk::Trailer(_), b'\n') => Chunk::Trailer(false),
            (Chunk::Trailer(any), byte) => Chunk::Trailer(any || byte != b'\r'),
        };
        at += 1;
    }
    (at, Next::Chunked(chunk))
}

/// The URL, or all of it.
fn too_large(bytes: &[u8], bounds: Bounds) -> Problem {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(1);
    match words.next() {
        Some(target) if target.len() > bounds.url || line.len() == bytes.len() => {
            Problem::long_url(bounds.url)
        }
        _ => Problem::large_head(bounds.head),
    }
}

fn words(error: Error) -> &'static str {
    match error {
        Error::HeaderName => "the name of a header field has a character that is not allowed",
        Error::HeaderValue => "the value of a header field has a character that is not allowed",
        Error::NewLine => "a line does not end as lines do",
        Error::Version => "the versions spoken here are HTTP/1.0 and HTTP/1.1",
        _ => "the request line is not METHOD /path HTTP/1.1",
    }
}

/// The bytes of the last answer on a connection.
fn written(problem: &Problem) -> BytesMut {
    let (status, body) = (problem.status(), problem.document());
    let reason = status.canonical_reason().unwrap_or_default();
    let date = httpdate::fmt_http_date(SystemTime::now());
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {}\r\nconnection: close\r\ncontent-length: {}\r\ndate: {date}\r\n\r\n",
        status.as_str(),
        Problem::MEDIA_TYPE,
        body.len(),
    );
    BytesMut::from(&[head.as_bytes(), &body].concat()[..])
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            this.look();
            if this.pass > 0 {
                let count = this.pass.min(buf.remaining());
                buf.put_slice(&this.read.split_to(count));
                this.pass -= count;
                return Poll::Ready(Ok(()));
            }
            if this.answer.is_some() {
                // Whoever polls sees `refused` and ends the connection.
                return Poll::Pending;
            }
            this.read.reserve(READ);
            let reading = pin!(this.inner.read_buf(&mut this.read));
            if ready!(reading.poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while let Some(answer) = this.answer.as_mut().filter(|answer| !answer.is_empty()) {
            let sent = ready!(Pin::new(&mut this.inner).poll_write(cx, answer))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            answer.advance(sent);
        }
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Request;
    use axum::response::Response;
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use tokio::io::AsyncWriteExt;

    use super::super::server::converse;
    use super::*;

    const BOUNDS: Bounds = Bounds { head: 9000, url: 500 };
    const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";
    const LAST: &str = "GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    /// Path and length of the body, as hyper has read them.
    async fn echo(request: Request<Incoming>) -> Response {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
        Response::new(Body::from(format!("{path} {body:?}")))
    }

    /// All that is answered to these bytes, which come so many at once; the statuses and the bodies.
    async fn said(input: &[u8], piece: usize) -> (Vec<u16>, String) {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let stream = Heads::new(server, BytesMut::new(), BOUNDS);
        let never = std::pin::pin!(std::future::pending());
        let serving = converse(stream, BOUNDS, Duration::from_secs(30), echo, never);
        let asking = async {
            for piece in input.chunks(piece) {
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.unwrap();
            String::from_utf8(answers).unwrap()
        };
        let (_, text) = tokio::join!(serving, asking);
        let statuses =
            text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
        (statuses.collect(), text)
    }

    #[tokio::test]
    async fn a_bad_head_is_answered_with_a_document() {
        let long = |count| "x".repeat(count);
        for (input, status, kind) in [
            ("garbage\r\n\r\n".to_owned(), 400, "bad-head"),
            ("\u{16}\u{3}\u{1}\u{2}".into(), 400, "bad-head"),
            ("GET / HTTP/3.7\r\n\r\n".into(), 400, "bad-head"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400, "bad-head"),
            ("GET http:///x HTTP/1.1\r\n\r\n".into(), 400, "bad-head"),
            ("GET / HTTP/1.1\r\na b: c\r\n\r\n".into(), 400, "bad-head"),
            ("GET / HTTP/1.1\r\na: \u{1}\r\n\r\n".into(), 400, "bad-head"),
            ("POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n".into(), 400, "bad-head"),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".into(), 400, "bad-head"),
            ("POST / HTTP/1.1\r\ncontent-length: 18446744073709551615\r\n\r\n".into(), 400, "bad-head"),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n".into(), 400, "bad-head"),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n".into(), 400, "bad-head"),
            (format!("GET /{} HTTP/1.1\r\n\r\n", long(20_000)), 414, "too-large"),
            (format!("GET /{}", long(20_000)), 414, "too-large"),
            (format!("GET /{} HTTP/1.1\r\na: {}", long(600), long(20_000)), 414, "too-large"),
            (format!("GET / HTTP/1.1\r\na: {}", long(20_000)), 431, "too-large"),
            (format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", long(20_000)), 431, "too-large"),
            (format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(257)), 431, "too-large"),
        ] {
            for piece in [1, 100, usize::MAX] {
                let (statuses, text) = said(input.as_bytes(), piece).await;
                assert_eq!(statuses, [status], "{input:.60} {text}");
                let whole = text.contains("content-type: application/problem+json\r\n")
                    && text.contains("connection: close\r\n")
                    && text.contains(&format!("\"urn:foreshard:problem:{kind}\""));
                assert!(whole, "{input:.60} {text}");
            }
        }
    }

    #[tokio::test]
    async fn the_bound_holds_to_the_byte() {
        let head = |length: usize| {
            let head = "GET / HTTP/1.1\r\nconnection: close\r\na: ";
            format!("{head}{}\r\n\r\n", "x".repeat(length - head.len() - 4))
        };
        for piece in [997, usize::MAX] {
            assert_eq!(said(head(9000).as_bytes(), piece).await.0, [200]);
            assert_eq!(said(head(9001).as_bytes(), piece).await.0, [431]);
        }
        let many = format!("GET / HTTP/1.1\r\nconnection: close\r\n{}\r\n", "a: b\r\n".repeat(255));
        assert_eq!(said(many.as_bytes(), usize::MAX).await.0, [200]);
    }

    #[tokio::test]
    async fn heads_are_found_behind_bodies() {
        let chunked = "POST /c HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n5;x=\"y\"\r\na\r\n\r\n\r\n00A\r\n0123456789\r\n0\r\nt: u\r\n\r\n";
        let sized = "POST /s HTTP/1.1\r\ncontent-length: 12\r\n\r\nnot HTTP\r\n\r\n";
        for piece in [1, 7, usize::MAX] {
            for (input, statuses, has) in [
                (
                    format!("{GET}\r\n{sized}{chunked}{GET}{LAST}"),
                    &[200; 5][..],
                    ["/s Ok(12)", "/c Ok(15)", "/last Ok(0)"],
                ),
                (
                    format!("{chunked}{chunked}{sized}no\r\n\r\n{LAST}"),
                    &[200, 200, 200, 400],
                    ["/s Ok(12)", "/c Ok(15)", "bad-head"],
                ),
                (
                    format!("GET /old HTTP/1.0\r\nconnection: keep-alive\r\n\r\n{GET}no\r\n\r\n"),
                    &[200, 200, 400],
                    ["/old Ok(0)", "/a Ok(0)", "bad-head"],
                ),
                (format!("{GET}{LAST}no\r\n\r\n"), &[200, 200], ["/a Ok(0)", "/last Ok(0)", "200 OK"]),
            ] {
                let (found, text) = said(input.as_bytes(), piece).await;
                assert_eq!(found, statuses, "{input} {text}");
                assert!(has.iter().all(|has| text.contains(has)), "{input} {text}");
            }
        }
    }
}
