//! Reading one token, from bytes that anybody may have sent.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::keys::Keys;
use crate::config::TokenRules;

/// No token that a function carries is longer.
const MAX_TOKEN: usize = 8 << 10;

/// What a valid token says.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    /// The function this token is for; `*` for any.
    pub(super) sub: String,
    /// Seconds since 1970; here so that something else than a number is refused.
    #[serde(rename = "nbf")]
    _not_before: Option<f64>,
    #[serde(flatten)]
    pub(super) others: Map<String, Value>,
}

/// The protected head of a token (RFC 7515). A member that is there twice is an error.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// The claims of a valid token, or why it is not one, in words that hold nothing of it.
pub(super) fn read(token: &str, keys: &Keys, rules: &TokenRules) -> Result<Claims, &'static str> {
    const NOT_VALID: &str = "the token is not valid";
    if token.len() > MAX_TOKEN {
        return Err("the token is too long");
    }
    let head = token.split('.').next().and_then(|head| URL_SAFE_NO_PAD.decode(head).ok()).ok_or(NOT_VALID)?;
    let head: Head = serde_json::from_slice(&head).map_err(|_| NOT_VALID)?;
    if head.crit {
        return Err("the token has extensions (crit) that are not understood");
    }
    let algorithm = match head.alg.as_str() {
        "EdDSA" => Algorithm::EdDSA,
        "ES256" => Algorithm::ES256,
        "HS256" => Algorithm::HS256,
        _ => return Err("the token's algorithm is not EdDSA, ES256 or HS256"),
    };
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[&rules.audience]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = rules.leeway.as_secs();
    for key in keys.candidates(algorithm, head.kid.as_deref()) {
        match decode::<Claims>(token, &key.key, &validation) {
            Ok(token) => return Ok(token.claims),
            // Of another key, perhaps: keys in rotation may lack names.
            Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
            Err(error) => {
                return Err(match error.kind() {
                    ErrorKind::ExpiredSignature => "the token has expired",
                    ErrorKind::ImmatureSignature => "the token is not valid yet",
                    ErrorKind::InvalidAudience => "the token is for another audience",
                    _ => NOT_VALID,
                });
            }
        }
    }
    Err(NOT_VALID)
}
