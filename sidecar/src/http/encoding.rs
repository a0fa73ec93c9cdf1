//! Compressed bodies.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::header;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use lru::LruCache;

use super::params::{Fields, weighted};

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Smaller bodies are sent as they are: a packet is a packet.
const WORTH_IT: usize = 1024;
/// Larger ones are compressed where they don't keep others waiting.
const LONG: usize = 64 << 10;
/// Compressed bodies that are kept, in bytes.
const KEPT: usize = 32 << 20;
/// Both are fast at these levels; higher ones gain little on rows.
const GZIP_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;

impl Encoding {
    /// The best encoding that the client takes.
    pub(super) fn accepted(headers: &(impl Fields + ?Sized)) -> Self {
        // Of those that are equally welcome the first of these.
        let mut said = [(Encoding::Zstd, None), (Encoding::Gzip, None), (Encoding::Identity, None)];
        let mut others = None;
        for value in headers.values(&header::ACCEPT_ENCODING) {
            for (name, weight) in weighted(value) {
                let of = match &*name {
                    "zstd" => &mut said[0].1,
                    "gzip" => &mut said[1].1,
                    "identity" => &mut said[2].1,
                    "*" => &mut others,
                    _ => continue,
                };
                *of = Some(weight);
            }
        }
        // What is not named is as welcome as `*`; by that name everybody can read gzip. Bytes as they are always do.
        if said[1].1.is_none() {
            said[1].1 = others;
        } else if said[0].1.is_none() {
            said[0].1 = others;
        }
        let mut best = (Encoding::Identity, 0.0);
        for (encoding, weight) in said {
            if let Some(weight) = weight.filter(|weight| *weight > best.1) {
                best = (encoding, weight);
            }
        }
        best.0
    }

    /// For a body of this length.
    pub(super) fn of(self, length: usize) -> Self {
        if length < WORTH_IT { Encoding::Identity } else { self }
    }

    /// Its name in headers; none for bytes as they are.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Encoding::Identity => None,
            Encoding::Gzip => Some("gzip"),
            Encoding::Zstd => Some("zstd"),
        }
    }

    /// A strong entity tag is one of the bytes that are sent.
    pub(super) fn tag(self, etag: &str) -> Option<String> {
        let name = self.name()?;
        Some(format!("{}-{name}\"", etag.strip_suffix('"').unwrap_or(etag)))
    }

    /// The body in this encoding; as it is, if that fails for lack of memory.
    pub(super) async fn apply(self, body: Bytes) -> Option<Bytes> {
        if self == Encoding::Identity {
            return Some(body);
        }
        if body.len() < LONG {
            return self.compress(&body);
        }
        tokio::task::spawn_blocking(move || self.compress(&body)).await.ok()?
    }

    fn compress(self, body: &[u8]) -> Option<Bytes> {
        match self {
            Encoding::Identity => Some(Bytes::copy_from_slice(body)),
            Encoding::Gzip => {
                let out = Vec::with_capacity(body.len() / 4);
                let mut writer = GzEncoder::new(out, Compression::new(GZIP_LEVEL));
                writer.write_all(body).ok()?;
                writer.finish().ok().map(Bytes::from)
            }
            Encoding::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL).ok().map(Bytes::from),
        }
    }
}

/// Instance, entity tag and encoding: an instance never gets another one's bytes, whatever its rows hash to.
type Key = (Arc<str>, Arc<str>, Encoding);

/// Compressed bodies of whole copies, the ones that are asked for again and again.
pub(crate) struct Compressed(Mutex<(LruCache<Key, Bytes>, usize)>);

impl Default for Compressed {
    fn default() -> Self {
        Compressed(Mutex::new((LruCache::unbounded(), 0)))
    }
}

impl Compressed {
    /// The body in this encoding, from here if it has been compressed before.
    pub(super) async fn body(
        &self,
        instance: &Arc<str>,
        etag: &Arc<str>,
        encoding: Encoding,
        body: &Bytes,
    ) -> Option<Bytes> {
        let key = (instance.clone(), etag.clone(), encoding);
        if let Some(kept) = self.lock().0.get(&key) {
            return Some(kept.clone());
        }
        let made = encoding.apply(body.clone()).await?;
        if made.len() <= KEPT / 8 {
            let mut kept = self.lock();
            kept.1 += made.len();
            if let Some(before) = kept.0.put(key, made.clone()) {
                kept.1 -= before.len();
            }
            while kept.1 > KEPT
                && let Some((_, oldest)) = kept.0.pop_lru()
            {
                kept.1 -= oldest.len();
            }
        }
        Some(made)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (LruCache<Key, Bytes>, usize)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    #[test]
    fn the_best_of_what_is_accepted() {
        let accepted = |text: &str| {
            Encoding::accepted(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, text.parse().unwrap())]))
        };
        for (text, encoding) in [
            ("gzip", Encoding::Gzip),
            ("gzip, deflate, br, zstd", Encoding::Zstd),
            ("zstd;q=0.5, gzip", Encoding::Gzip),
            ("GZIP;q=0.1", Encoding::Gzip),
            ("gzip;q=0", Encoding::Identity),
            ("*", Encoding::Gzip),
            ("br", Encoding::Identity),
            ("", Encoding::Identity),
            ("zstd;q=x", Encoding::Zstd),
            ("identity;q=1, gzip;q=0.5", Encoding::Identity),
            ("gzip, identity", Encoding::Gzip),
            ("identity;q=0.5, *;q=0.1", Encoding::Identity),
            ("gzip;q=0, *", Encoding::Zstd),
            ("identity;q=0, gzip;Q=0.1", Encoding::Gzip),
        ] {
            assert_eq!(accepted(text), encoding, "{text}");
        }
        assert_eq!(Encoding::accepted(&HeaderMap::new()), Encoding::Identity);
    }

    #[tokio::test]
    async fn bodies_read_back_and_the_store_stays_within_its_size() {
        use std::io::Read;
        let text = Bytes::from("rows and rows ".repeat(20_000));
        let zstd = Encoding::Zstd.apply(text.clone()).await.unwrap();
        assert_eq!(zstd::bulk::decompress(&zstd, text.len()).unwrap(), text);
        let gzip = Encoding::Gzip.apply(text.clone()).await.unwrap();
        let mut read = String::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_string(&mut read).unwrap();
        assert_eq!(read.as_bytes(), text);
        assert!(zstd.len() * 10 < text.len() && gzip.len() * 10 < text.len());

        let store = Compressed::default();
        let noise: Bytes = (0..3 << 20).map(|_| rand::random::<u8>()).collect();
        for i in 0..15 {
            let (instance, etag) = (Arc::from(format!("i{i}")), Arc::from("\"e\""));
            assert!(store.body(&instance, &etag, Encoding::Gzip, &noise).await.is_some());
        }
        let (kept, bytes) = &*store.lock();
        assert_eq!(*bytes, kept.iter().map(|(_, body)| body.len()).sum::<usize>());
        assert!(*bytes <= KEPT && kept.len() >= 5, "{bytes}");
    }
}
