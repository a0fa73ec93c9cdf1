//! Errors as RFC 9457 problem documents. Never a row's value, never a credential.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use foreshard_edge::Refusal;
use foreshard_edge::rows::QueryError;
use foreshard_protocol::FetchFailure;
use serde::Serialize;

/// Every kind of problem there is, with its status.
pub(super) const KINDS: [(u16, &str); 22] = [
    (400, "bad-filter"),
    (400, "wrong-type"),
    (400, "missing-key"),
    (400, "bad-lsn"),
    (400, "bad-body"),
    (400, "bad-head"),
    (401, "unauthorized"),
    (403, "forbidden"),
    (404, "unknown-function"),
    (404, "unknown-shard"),
    (404, "not-found"),
    (405, "method"),
    (406, "not-acceptable"),
    (408, "slow"),
    (413, "too-large"),
    (414, "too-large"),
    (431, "too-large"),
    (503, "not-ready"),
    (503, "origin-unavailable"),
    (503, "timed-out"),
    (503, "overloaded"),
    (503, "broken-shard"),
];

/// An error answer.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    /// Stable name of the kind of error.
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &'static str, detail: impl Into<String>) -> Self {
        debug_assert!(KINDS.contains(&(status.as_u16(), kind)), "{status} {kind} is in no description");
        let r#type = format!("urn:foreshard:problem:{kind}");
        Problem { r#type, title, status: status.as_u16(), detail: detail.into(), headers: Vec::new() }
    }

    pub(crate) fn bad_request(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, "The request is malformed", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here", detail)
    }

    /// `allow` says which methods are; the router knows by itself.
    pub(crate) fn method(allow: Option<&'static str>) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let problem = Self::new(status, "method", "The method is not allowed here", "see /openapi.json");
        match allow {
            Some(methods) => problem.with(header::ALLOW, methods),
            None => problem,
        }
    }

    /// `error` as in RFC 6750; none if there was no token at all.
    pub(crate) fn unauthorized(error: Option<&'static str>, detail: impl Into<String>) -> Self {
        let challenge = match error {
            Some("invalid_token") => "Bearer realm=\"foreshard\", error=\"invalid_token\"",
            _ => "Bearer realm=\"foreshard\"",
        };
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed", detail)
            .with(header::WWW_AUTHENTICATE, challenge)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The function may not read this", detail)
    }

    /// The token is good, but not for this.
    pub(crate) fn out_of_scope(detail: impl Into<String>) -> Self {
        Self::forbidden(detail)
            .with(header::WWW_AUTHENTICATE, "Bearer realm=\"foreshard\", error=\"insufficient_scope\"")
    }

    pub(crate) fn long_url(most: usize) -> Self {
        let detail = format!("the path with its query is longer than {most} bytes");
        Self::new(StatusCode::URI_TOO_LONG, "too-large", "Too large", detail)
    }

    /// A request whose head is not HTTP; the connection ends with this answer.
    pub(super) fn bad_head(detail: impl Into<String>) -> Self {
        Self::bad_request("bad-head", detail).with(header::CONNECTION, "close")
    }

    /// As [`Self::bad_head`].
    pub(super) fn large_head(most: usize) -> Self {
        let detail = format!("request line and header fields together are longer than {most} bytes");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "too-large", "Too large", detail).with(header::CONNECTION, "close")
    }

    /// As [`Self::bad_head`].
    pub(super) fn many_fields(most: usize) -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let detail = format!("there are more than {most} header fields");
        Self::new(status, "too-large", "Too large", detail).with(header::CONNECTION, "close")
    }

    pub(crate) fn slow_body() -> Self {
        let detail = "the body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "slow", "The request took too long", detail)
            .with(header::CONNECTION, "close")
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    pub(crate) fn not_acceptable() -> Self {
        let detail = "rows come as application/json, application/x-ndjson, application/vnd.apache.arrow.stream or \
                      application/x-bincode; invocations as application/json";
        Self::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", "No such format", detail)
    }

    /// One of the columns has a value that the format has no room for.
    pub(crate) fn not_in_this_format(column: &str) -> Self {
        let detail =
            format!("a value of column {column:?} can't be written in this format; ask for application/json");
        Self::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", "No such format", detail)
    }

    /// The rest of such a body is not waited for: the connection ends with this answer.
    pub(crate) fn large_body(most: usize) -> Self {
        Self::too_large(format!("the body is larger than {most} bytes")).with(header::CONNECTION, "close")
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
    }

    fn unavailable(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, "No fresh answer can be given now", detail)
            .with(header::RETRY_AFTER, "1")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownFunction => Problem::new(
                StatusCode::NOT_FOUND,
                "unknown-function",
                "No such function",
                "no function of this name is mapped; run SELECT foreshard.map_function(function_id, shards)",
            ),
            Refusal::UnknownShard(shard) => Problem::new(
                StatusCode::NOT_FOUND,
                "unknown-shard",
                "No such shard",
                format!("there is no shard {shard:?}; see SELECT name FROM foreshard.shards"),
            ),
            Refusal::NotMapped(shard) => {
                Problem::forbidden(format!("the function is not mapped to shard {shard:?}"))
            }
            Refusal::KeyMismatch { shard, key } => Problem::bad_request(
                "missing-key",
                format!("shard {shard:?} needs the key columns {}", key.join(", ")),
            ),
            Refusal::Failed { instance, failure, message } => failed(&instance, failure, &message),
            Refusal::NotReady => {
                Problem::unavailable("not-ready", "definitions are not loaded yet; see /ready")
            }
            Refusal::OriginUnavailable => Problem::unavailable(
                "origin-unavailable",
                "the origin is out of reach and nothing held is fresh enough",
            ),
            Refusal::TimedOut => {
                Problem::unavailable("timed-out", "stream and origin did not get there in time")
            }
            Refusal::Overloaded => Problem::unavailable("overloaded", "too many requests are under way"),
        }
    }
}

fn failed(instance: &str, failure: FetchFailure, message: &str) -> Problem {
    match failure {
        FetchFailure::UnknownShard => Refusal::UnknownShard(instance.to_owned()).into(),
        // The mapping that let it be asked for is gone since, and perhaps the function.
        FetchFailure::NotMapped => Problem::new(
            StatusCode::NOT_FOUND,
            "unknown-shard",
            "No such shard",
            format!("no function is mapped to shard {instance:?} any more"),
        ),
        FetchFailure::KeyMismatch => Problem::bad_request("missing-key", message),
        FetchFailure::KeyType => {
            Problem::bad_request("wrong-type", "a key value is not of its column's type")
        }
        FetchFailure::TooLarge => {
            Problem::too_large("the shard instance is larger than the origin gives out at once")
        }
        FetchFailure::Broken => {
            tracing::error!(instance, message, "a shard can't be read at the origin");
            Problem::unavailable(
                "broken-shard",
                "the shard can't be read at the origin; SELECT * FROM foreshard.health() there says why",
            )
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let kind = match &error {
            QueryError::WrongType(..) => "wrong-type",
            QueryError::MissingKey(_) => "missing-key",
            _ => "bad-filter",
        };
        Problem::bad_request(kind, error.to_string())
    }
}

impl Problem {
    pub(super) const MEDIA_TYPE: &str = "application/problem+json";

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn document(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.document()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Self::MEDIA_TYPE));
        headers.extend(self.headers);
        response
    }
}
