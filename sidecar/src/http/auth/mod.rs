//! Who asks: a signed token that names the function, or nobody where the operator said so.

mod keys;
#[cfg(test)]
mod tests;
mod token;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::header;
use foreshard_protocol::InstanceId;
use serde_json::Value;

use super::Problem;
use super::params::{Fields, text};
use crate::config::{Auth, TokenRules};
use keys::Keys;

/// Decides whether a request may act as a function.
pub(crate) enum Guard {
    /// Loopback or Unix socket, by the operator's word.
    Open,
    /// JSON Web Tokens.
    Tokens(Box<Tokens>),
}

/// The keys in force and what is asked of a token.
pub(crate) struct Tokens {
    rules: TokenRules,
    keys: RwLock<Arc<Keys>>,
}

/// Whoever was admitted, and what that is limited to.
#[derive(Debug, Default)]
pub(crate) struct Bearer {
    /// Key columns that the token pins, with the values it allows.
    pins: Vec<(String, Vec<String>)>,
}

impl Guard {
    pub(crate) fn new(auth: &Auth) -> anyhow::Result<Self> {
        match auth {
            Auth::None => Ok(Guard::Open),
            Auth::Token(rules) => {
                let keys = RwLock::new(Arc::new(Keys::read(&rules.key_file)?));
                Ok(Guard::Tokens(Box::new(Tokens { rules: rules.clone(), keys })))
            }
        }
    }

    /// Files whose change calls for [`Self::reload`].
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match self {
            Guard::Open => Vec::new(),
            Guard::Tokens(tokens) => vec![tokens.rules.key_file.clone()],
        }
    }

    /// Reads the keys again. On an error the former ones stay in force.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        if let Guard::Tokens(tokens) = self {
            let keys = Arc::new(Keys::read(&tokens.rules.key_file)?);
            *tokens.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        Ok(())
    }

    /// Checks that the bearer may act as `function`.
    pub(crate) fn admit(&self, headers: &(impl Fields + ?Sized), function: &str) -> Result<Bearer, Problem> {
        let Guard::Tokens(tokens) = self else { return Ok(Bearer::default()) };
        let claims = tokens.claims(headers)?;
        if claims.sub != "*" && claims.sub != function {
            return Err(Problem::out_of_scope("the token is for another function"));
        }
        let pin = |(column, claim): &(String, String)| {
            let values = claims.others.get(claim).map(texts).unwrap_or_default();
            // The claim that names the function may pin as well.
            let values = if claim == "sub" { vec![claims.sub.clone()] } else { values };
            (column.clone(), values)
        };
        Ok(Bearer { pins: tokens.rules.pins.iter().map(pin).collect() })
    }

    /// Checks that the bearer has any valid token; the function that it is for, if it is for one, and what it is limited to.
    pub(crate) fn admit_any(
        &self,
        headers: &(impl Fields + ?Sized),
    ) -> Result<(Option<String>, Bearer), Problem> {
        let Guard::Tokens(tokens) = self else { return Ok((None, Bearer::default())) };
        let function = tokens.claims(headers)?.sub;
        let bearer = self.admit(headers, &function)?;
        Ok((Some(function).filter(|function| function != "*"), bearer))
    }
}

impl Tokens {
    fn claims(&self, headers: &(impl Fields + ?Sized)) -> Result<token::Claims, Problem> {
        let mut values = headers.values(&header::AUTHORIZATION);
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Problem::unauthorized(None, "send one Authorization: Bearer TOKEN"));
        };
        let token = text(value).and_then(|value| value.split_once(' '));
        let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(Problem::unauthorized(None, "send Authorization: Bearer TOKEN"));
        };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        token::read(token.trim(), &keys, &self.rules)
            .map_err(|reason| Problem::unauthorized(Some("invalid_token"), reason))
    }
}

impl Bearer {
    /// Whether the pins of the token allow this instance.
    pub(crate) fn may_read(&self, instance: &InstanceId) -> Result<(), Problem> {
        for (column, allowed) in &self.pins {
            let part = instance.key.iter().find(|part| part.column == *column);
            if let Some(part) = part
                && !part.value.as_ref().is_some_and(|value| allowed.contains(value))
            {
                return Err(Problem::out_of_scope(format!(
                    "the token does not allow this value of {column}"
                )));
            }
        }
        Ok(())
    }
}

/// A claim's value or values, as the text that a key column's value has.
fn texts(claim: &Value) -> Vec<String> {
    match claim {
        Value::String(text) => vec![text.clone()],
        Value::Number(_) | Value::Bool(_) => vec![claim.to_string()],
        Value::Array(items) => items.iter().filter(|item| !item.is_array()).flat_map(texts).collect(),
        Value::Null | Value::Object(_) => Vec::new(),
    }
}
