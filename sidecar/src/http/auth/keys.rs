//! The keys that tokens are checked with.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// One key. It serves one algorithm: a token can't choose a weaker one.
pub(super) struct Key {
    kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Every key in force.
pub(super) struct Keys(Vec<Key>);

/// Shorter shared secrets can be guessed.
const LEAST_SECRET: usize = 32;
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END PUBLIC KEY-----";
/// More keys than any rotation needs.
const MOST_KEYS: usize = 100;

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<JsonKey>,
}

/// What of RFC 7517 matters here.
#[derive(Deserialize)]
struct JsonKey {
    kty: String,
    crv: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    kid: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Keys {
    /// Reads a JSON Web Key Set, PEM public keys, or a shared secret. Errors never hold what is in the file.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        let bytes = std::fs::read(file).with_context(|| format!("auth_key_file {shown} cannot be read"))?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        Self::parse(bytes.trim_ascii()).with_context(|| format!("auth_key_file {shown}"))
    }

    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let keys = if bytes.starts_with(b"{") {
            key_set(bytes)?
        } else if bytes.windows(BEGIN.len()).any(|window| window == BEGIN.as_bytes()) {
            let text = std::str::from_utf8(bytes).context("not UTF-8")?;
            // Whatever stands around the blocks is somebody's remark.
            let blocks = text.match_indices(BEGIN).map(|(at, _)| {
                let rest = &text[at..];
                rest.find(END).map_or(rest, |end| &rest[..end + END.len()])
            });
            blocks.map(pem).collect::<anyhow::Result<_>>()?
        } else {
            ensure!(
                !is_public(bytes),
                "this looks like a public key, which everybody has: as a shared secret it would let everybody in. Expected a JSON Web Key Set, PEM public keys, or a shared secret on one line"
            );
            vec![secret(None, bytes)?]
        };
        ensure!((1..=MOST_KEYS).contains(&keys.len()), "expected 1 to {MOST_KEYS} keys that can be used");
        Ok(Keys(keys))
    }

    /// Keys that may have signed a token with this head: of its algorithm, and of its name where both have one.
    pub(super) fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Key> {
        let named = move |key: &Key| match (key.kid.as_deref(), kid) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.0.iter().filter(move |key| key.algorithm == algorithm && named(key))
    }
}

/// Whether this is a public key in a form that is not read here: OpenSSH's, an array of keys, several lines of something, or DER.
fn is_public(bytes: &[u8]) -> bool {
    let word = bytes.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
    let names = [&b"ssh-"[..], b"ecdsa-", b"sk-", b"-----", b"---- ", b"["];
    let der = bytes.first() == Some(&0x30)
        && bytes.get(1).map(|length| usize::from(*length) + 2) == Some(bytes.len());
    let text = std::str::from_utf8(bytes).is_ok_and(|text| text.lines().count() > 1);
    names.iter().any(|name| word.starts_with(name)) || der || text
}

fn pem(block: &str) -> anyhow::Result<Key> {
    DecodingKey::from_ed_pem(block.as_bytes())
        .map(|key| Key { kid: None, algorithm: Algorithm::EdDSA, key })
        .or_else(|_| {
            let key = DecodingKey::from_ec_pem(block.as_bytes())?;
            Ok(Key { kid: None, algorithm: Algorithm::ES256, key })
        })
        .map_err(|_: jsonwebtoken::errors::Error| {
            anyhow::anyhow!("expected Ed25519 or P-256 public keys in PEM")
        })
}

fn secret(kid: Option<String>, secret: &[u8]) -> anyhow::Result<Key> {
    ensure!(secret.len() >= LEAST_SECRET, "a shared secret needs at least {LEAST_SECRET} bytes");
    Ok(Key { kid, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) })
}

fn key_set(bytes: &[u8]) -> anyhow::Result<Vec<Key>> {
    // The parser's words may repeat what it read.
    let Ok(set) = serde_json::from_slice::<KeySet>(bytes) else {
        bail!("expected a JSON Web Key Set, {{\"keys\": [{{\"kty\": …}}]}}");
    };
    let mut keys = Vec::with_capacity(set.keys.len().min(MOST_KEYS));
    for (i, key) in set.keys.into_iter().enumerate() {
        match usable(key).with_context(|| format!("key {}", i + 1))? {
            Some(key) => keys.push(key),
            None => tracing::info!(
                key = i + 1,
                "a key of the set is of a kind that is not used here and is left out"
            ),
        }
    }
    Ok(keys)
}

/// `None` for a key of another kind or purpose: a set may be shared with others.
fn usable(key: JsonKey) -> anyhow::Result<Option<Key>> {
    let JsonKey { kty, crv, alg, r#use, kid, x, y, k } = key;
    if r#use.is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    let says = |name: &str| alg.as_deref().is_none_or(|alg| alg == name);
    Ok(Some(match (kty.as_str(), crv.as_deref()) {
        ("OKP", Some("Ed25519")) if says("EdDSA") || says("Ed25519") => {
            let x = x.context("x is missing")?;
            let key =
                DecodingKey::from_ed_components(&x).map_err(|_| anyhow::anyhow!("x is not base64url"))?;
            Key { kid, algorithm: Algorithm::EdDSA, key }
        }
        ("EC", Some("P-256")) if says("ES256") => {
            let (x, y) = (x.context("x is missing")?, y.context("y is missing")?);
            let key = DecodingKey::from_ec_components(&x, &y);
            Key {
                kid,
                algorithm: Algorithm::ES256,
                key: key.map_err(|_| anyhow::anyhow!("x or y is not base64url"))?,
            }
        }
        ("oct", _) if says("HS256") => {
            let decoded = URL_SAFE_NO_PAD.decode(k.context("k is missing")?.trim_end_matches('='));
            secret(kid, &decoded.map_err(|_| anyhow::anyhow!("k is not base64url"))?)?
        }
        _ => return Ok(None),
    }))
}
