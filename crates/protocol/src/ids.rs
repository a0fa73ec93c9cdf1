use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

/// Name of a logical shard, as the DBA gave it to `foreshard.create_shard`.
pub type ShardName = String;

/// One key column of one shard instance, with the value in the key type's canonical text form (`None` is SQL NULL).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct KeyPart {
    /// Column name.
    pub column: String,
    /// Canonical text of the value, exactly what the type's output function gives.
    pub value: Option<String>,
}

/// One instance of a shard: the shard itself where it has no key, else the rows that share one key value.
///
/// Text form: `products`, `cart?customer_id=42`, and for several columns `seat?flight=7&row=A%201`, in the order of
/// the shard's definition. A NULL key has no `=`: `cart?customer_id`. Every byte outside `A-Z a-z 0-9 - . _ ~` is
/// written `%XX`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct InstanceId {
    /// The shard.
    pub shard: ShardName,
    /// Values of its key columns, in the order of the definition; empty for a shard without key.
    pub key: Vec<KeyPart>,
}

/// The text was not a shard instance id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// No shard name before `?`, or nothing at all.
    #[error("a shard instance id starts with the name of a shard, as in cart?customer_id=42")]
    NoName,
    /// A `?` or `&` that no column name follows.
    #[error("a key column has no name; write ?column=value&column=value")]
    NoColumn,
    /// A `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("bad percent-encoding; write %XX with two hexadecimal digits, UTF-8")]
    Encoding,
}

impl InstanceId {
    /// The only instance of a shard without key.
    pub fn unkeyed(shard: impl Into<String>) -> Self {
        InstanceId { shard: shard.into(), key: Vec::new() }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(f, &self.shard)?;
        for (i, part) in self.key.iter().enumerate() {
            f.write_str(if i == 0 { "?" } else { "&" })?;
            escape(f, &part.column)?;
            if let Some(value) = &part.value {
                f.write_str("=")?;
                escape(f, value)?;
            }
        }
        Ok(())
    }
}

impl FromStr for InstanceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (shard, query) = match text.split_once('?') {
            Some((shard, query)) => (shard, Some(query)),
            None => (text, None),
        };
        let shard = unescape(shard)?;
        if shard.is_empty() {
            return Err(IdError::NoName);
        }
        let mut key = Vec::new();
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (column, value) = match pair.split_once('=') {
                Some((column, value)) => (unescape(column)?, Some(unescape(value)?)),
                None => (unescape(pair)?, None),
            };
            if column.is_empty() {
                return Err(IdError::NoColumn);
            }
            key.push(KeyPart { column, value });
        }
        Ok(InstanceId { shard, key })
    }
}

fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            f.write_str(char::from(byte).encode_utf8(&mut [0; 4]))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

fn unescape(text: &str) -> Result<String, IdError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let hex =
                rest.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit)).ok_or(IdError::Encoding)?;
            let hex = std::str::from_utf8(hex).map_err(|_| IdError::Encoding)?;
            bytes.push(u8::from_str_radix(hex, 16).map_err(|_| IdError::Encoding)?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| IdError::Encoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_forms() {
        for text in
            ["products", "cart?customer_id=42", "seat?flight=7&row=A%201", "cart?customer_id", "a%3Fb?k="]
        {
            assert_eq!(text.parse::<InstanceId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn null_and_empty_text_differ() {
        let null: InstanceId = "cart?k".parse().unwrap();
        let empty: InstanceId = "cart?k=".parse().unwrap();
        assert_eq!(null.key[0].value, None);
        assert_eq!(empty.key[0].value, Some(String::new()));
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for (text, error) in [
            ("", IdError::NoName),
            ("?k=1", IdError::NoName),
            ("cart?", IdError::NoColumn),
            ("cart?k=1&", IdError::NoColumn),
            ("cart?=1", IdError::NoColumn),
            ("cart?k=%4", IdError::Encoding),
            ("cart?k=%GG", IdError::Encoding),
            ("cart?k=%FF", IdError::Encoding),
        ] {
            assert_eq!(text.parse::<InstanceId>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_id_round_trips(shard in "\\PC{1,12}", key in prop::collection::vec(("\\PC{1,6}", prop::option::of("\\PC{0,12}")), 0..4)) {
            let key = key.into_iter().map(|(column, value)| KeyPart { column, value }).collect();
            let id = InstanceId { shard, key };
            prop_assert_eq!(id.to_string().parse::<InstanceId>(), Ok(id));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}|[a?&=%0-9F]{0,40}") {
            let _ = text.parse::<InstanceId>();
        }
    }
}
