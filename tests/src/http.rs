//! A small HTTP/1.1 client for a sidecar on a port or a Unix socket, with kept-alive connections.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A loopback address with port, as in `127.0.0.1:8080`.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// The form of the `--listen` flag.
    #[must_use]
    pub fn to_flag(&self) -> String {
        match self {
            Self::Tcp(address) => address.clone(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Response {
    /// The body as JSON; an error shows the start of what it is instead.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{} with a body that is not JSON: {:.200}", self.status, self.text()))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, if it is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client of one server. Any number of requests may run at a time; each has a connection to itself while it runs.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// A client; it connects when it is used.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::new(Vec::new()) }
    }

    /// The server it talks to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// GET, without further headers.
    pub async fn get(&self, path: &str) -> Result<Response> {
        self.request(Method::GET, path, &[], Bytes::new()).await
    }

    /// GET with headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        self.request(Method::GET, path, headers, Bytes::new()).await
    }

    /// POST of a JSON document, with headers.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Result<Response> {
        self.request(Method::POST, path, headers, serde_json::to_vec(body)?.into()).await
    }

    /// `POST /v1/functions/{function}/invocations` with these parameters.
    pub async fn invoke(&self, function: &str, params: &Value, headers: &[(&str, &str)]) -> Result<Response> {
        let path = format!("/v1/functions/{}/invocations", encode_segment(function));
        self.post(&path, headers, &serde_json::json!({ "params": params })).await
    }

    /// `GET /v1/functions/{function}/shards/{shard}/rows` with this query string (without the question mark).
    pub async fn rows(
        &self,
        function: &str,
        shard: &str,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response> {
        let mut path =
            format!("/v1/functions/{}/shards/{}/rows", encode_segment(function), encode_segment(shard));
        if !query.is_empty() {
            path.push('?');
            path.push_str(query);
        }
        self.get_with(&path, headers).await
    }

    /// Any request.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response> {
        let what = format!("{method} {path}");
        self.send(method, path, headers, body).await.with_context(|| what)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response> {
        let mut request = Request::builder().method(&method).uri(path).header(HOST, "localhost");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let mut sender = self.sender().await?;
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle().push(sender);
        Ok(Response { status: head.status, headers: head.headers, body })
    }

    /// A connection that is still open, or a new one.
    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>> {
        loop {
            let kept = self.idle().pop();
            match kept {
                Some(mut sender) => {
                    if sender.ready().await.is_ok() {
                        return Ok(sender);
                    }
                }
                None => return self.connect().await,
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        match &self.endpoint {
            Endpoint::Tcp(address) => {
                let stream =
                    TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
                stream.set_nodelay(true)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(sender)
            }
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .with_context(|| format!("connecting to {}", path.display()))?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(sender)
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Percent-encodes one path segment.
fn encode_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte))
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
