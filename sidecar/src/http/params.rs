//! What a request says in its headers.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use foreshard_protocol::Lsn;
use httparse::Header;

use super::Problem;

pub(crate) const FORESHARD_LSN: HeaderName = HeaderName::from_static("foreshard-lsn");
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const MIN_LSN: HeaderName = HeaderName::from_static("foreshard-min-lsn");

/// Header fields of a request, as whoever read it keeps them.
pub(crate) trait Fields {
    /// The values under a name, in their order.
    fn values(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]>;
}

impl Fields for HeaderMap {
    fn values(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        self.get_all(name).into_iter().map(|value| value.as_bytes())
    }
}

impl Fields for [Header<'_>] {
    fn values(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_str())).map(|field| field.value)
    }
}

/// A value as text, if it is visible ASCII.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    str::from_utf8(value).ok().filter(|_| visible)
}

/// The function that a path names.
pub(super) struct Function(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Function {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let named = path.map_err(|_| Problem::not_found("no function has a name that is not UTF-8"))?;
        Ok(Function(named.0))
    }
}

/// The items of a header that lists what is welcome, in lower case, with their weights.
pub(super) fn weighted(value: &[u8]) -> impl Iterator<Item = (String, f32)> {
    let items = text(value).unwrap_or_default().split(',');
    items.filter_map(|item| {
        let item = item.to_ascii_lowercase();
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        Some((name.to_owned(), weight))
    })
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Ndjson,
    Arrow,
    Bincode,
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Ndjson => "application/x-ndjson",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Bincode => "application/x-bincode",
        }
    }

    /// The acceptable format with the highest weight; JSON where nothing is said.
    pub(crate) fn accepted(headers: &(impl Fields + ?Sized)) -> Result<Self, Problem> {
        let mut best: Option<(Format, f32)> = None;
        let mut said = false;
        for value in headers.values(&header::ACCEPT) {
            for (range, weight) in weighted(value) {
                let format = match &*range {
                    "*/*" | "application/*" | "application/json" => Some(Format::Json),
                    "application/x-ndjson" => Some(Format::Ndjson),
                    "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
                    "application/x-bincode" => Some(Format::Bincode),
                    _ => None,
                };
                said = true;
                if let Some(format) = format
                    && weight > best.map_or(0.0, |(_, best)| best)
                {
                    best = Some((format, weight));
                }
            }
        }
        match best {
            Some((format, _)) => Ok(format),
            None if said => Err(Problem::not_acceptable()),
            None => Ok(Format::Json),
        }
    }
}

/// The position the answer must have reached.
pub(crate) fn min_lsn(headers: &(impl Fields + ?Sized)) -> Result<Option<Lsn>, Problem> {
    let Some(value) = headers.values(&MIN_LSN).next() else { return Ok(None) };
    let lsn = text(value).and_then(|text| text.trim().parse().ok());
    lsn.map(Some).ok_or_else(|| {
        Problem::bad_request("bad-lsn", "Foreshard-Min-Lsn: expected two hexadecimal numbers as in 16/B374D848, from foreshard.commit_token()")
    })
}

/// Whether the client holds this entity already.
pub(crate) fn matches(headers: &(impl Fields + ?Sized), etag: &str) -> bool {
    let tags = headers.values(&header::IF_NONE_MATCH).filter_map(text);
    tags.flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, text.parse().unwrap())])
    }

    #[test]
    fn formats() {
        for (text, format) in [
            ("application/json", Some(Format::Json)),
            ("*/*", Some(Format::Json)),
            ("application/x-ndjson, */*;q=0.1", Some(Format::Ndjson)),
            ("application/x-ndjson;q=0.2, application/json;q=0.9", Some(Format::Json)),
            ("application/vnd.apache.arrow.stream", Some(Format::Arrow)),
            ("text/html, application/x-bincode", Some(Format::Bincode)),
            ("Application/JSON;Q=0.3, application/X-NDJSON ; q=0.7", Some(Format::Ndjson)),
            ("text/html", None),
            ("application/json;q=0", None),
        ] {
            assert_eq!(Format::accepted(&accept(text)).ok(), format, "{text}");
        }
        assert_eq!(Format::accepted(&HeaderMap::new()).ok(), Some(Format::Json));
    }

    #[test]
    fn entity_tags() {
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, "\"a\", W/\"b\"".parse().unwrap())]);
        assert!(matches(&headers, "\"a\"") && matches(&headers, "\"b\"") && !matches(&headers, "\"c\""));
        assert!(!matches(&HeaderMap::new(), "\"a\""));
    }
}
