//! Who asks: a signed token that names the function, or nobody where the operator said so.

use std::path::Path;

use anyhow::{Context, bail};
use axum::http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

use super::Problem;
use crate::config::Auth;

/// Decides whether a request may act as a function.
pub(crate) enum Guard {
    /// Loopback or Unix socket, by the operator's word.
    Open,
    /// JSON Web Tokens.
    Token(Box<Keys>),
}

pub(crate) struct Keys {
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    /// The function this token is for; `*` for any.
    sub: String,
}

/// Shorter shared secrets can be guessed.
const LEAST_SECRET: usize = 32;

impl Guard {
    pub(crate) fn new(auth: &Auth) -> anyhow::Result<Self> {
        match auth {
            Auth::None => Ok(Guard::Open),
            Auth::Token { key_file, audience } => Ok(Guard::Token(Box::new(Keys::read(key_file, audience)?))),
        }
    }

    /// Checks that the bearer may act as `function`.
    pub(crate) fn admit(&self, headers: &HeaderMap, function: &str) -> Result<(), Problem> {
        match self.claims(headers)? {
            Some(claims) if claims.sub != "*" && claims.sub != function => {
                Err(Problem::forbidden("the token is for another function"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the bearer has any valid token.
    pub(crate) fn admit_any(&self, headers: &HeaderMap) -> Result<(), Problem> {
        self.claims(headers).map(drop)
    }

    fn claims(&self, headers: &HeaderMap) -> Result<Option<Claims>, Problem> {
        let Guard::Token(keys) = self else { return Ok(None) };
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let token = token.ok_or_else(|| Problem::unauthorized("send Authorization: Bearer TOKEN"))?;
        let decoded = decode::<Claims>(token, &keys.key, &keys.validation);
        decoded.map(|data| Some(data.claims)).map_err(|_| Problem::unauthorized("the token is not valid"))
    }
}

impl Keys {
    fn read(file: &Path, audience: &str) -> anyhow::Result<Self> {
        let shown = file.display();
        let bytes = std::fs::read(file).with_context(|| format!("auth_key_file {shown} cannot be read"))?;
        let (key, algorithm) = if bytes.starts_with(b"-----BEGIN") {
            DecodingKey::from_ed_pem(&bytes)
                .map(|key| (key, Algorithm::EdDSA))
                .or_else(|_| DecodingKey::from_ec_pem(&bytes).map(|key| (key, Algorithm::ES256)))
                .with_context(|| {
                    format!("auth_key_file {shown} holds no Ed25519 or P-256 public key in PEM")
                })?
        } else {
            let secret = bytes.trim_ascii();
            if secret.len() < LEAST_SECRET {
                bail!("auth_key_file {shown}: a shared secret needs at least {LEAST_SECRET} bytes");
            }
            (DecodingKey::from_secret(secret), Algorithm::HS256)
        };
        // One key, one algorithm: a token can't choose a weaker one.
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.validate_nbf = true;
        Ok(Keys { key, validation })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn guard() -> Guard {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{SECRET}").unwrap();
        Guard::new(&Auth::Token { key_file: file.path().into(), audience: "foreshard".into() }).unwrap()
    }

    fn bearer(claims: &serde_json::Value, secret: &str) -> HeaderMap {
        let token = encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    #[test]
    fn only_a_valid_token_for_the_function_is_admitted() {
        let guard = guard();
        let good = json!({"sub": "f", "aud": "foreshard", "exp": 4_000_000_000_u64});
        assert!(guard.admit(&bearer(&good, SECRET), "f").is_ok());
        assert!(
            guard
                .admit(
                    &bearer(&json!({"sub": "*", "aud": "foreshard", "exp": 4_000_000_000_u64}), SECRET),
                    "g"
                )
                .is_ok()
        );
        assert!(guard.admit(&bearer(&good, SECRET), "g").is_err());
        assert!(guard.admit(&HeaderMap::new(), "f").is_err());
        for (bad, secret) in [
            (good, "another-secret-another-secret-123"),
            (json!({"sub": "f", "aud": "foreshard", "exp": 1_000_000_000_u64}), SECRET),
            (json!({"sub": "f", "aud": "other", "exp": 4_000_000_000_u64}), SECRET),
            (json!({"sub": "f", "aud": "foreshard"}), SECRET),
            (json!({"aud": "foreshard", "exp": 4_000_000_000_u64}), SECRET),
        ] {
            assert!(guard.admit(&bearer(&bad, secret), "f").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_short_secret_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "short").unwrap();
        assert!(Guard::new(&Auth::Token { key_file: file.path().into(), audience: "a".into() }).is_err());
    }
}
