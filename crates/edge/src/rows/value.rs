//! What the text of a value says, compared as PostgreSQL compares values of the type.

use std::cmp::Ordering;
use std::net::IpAddr;

use foreshard_protocol::{Column, ColumnKind};

use super::decimal::Decimal;
use super::moment::{Moment, micros, time_of_day};
use super::query::QueryError;

/// A value that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A number, a time of day, an interval or a hardware address.
    Int(i128),
    Decimal(Decimal),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    Moment(Moment),
    Network(Network),
}

/// What a column is called in errors.
pub(super) fn name(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Int | ColumnKind::Oid => "integer",
        ColumnKind::Number => "number",
        ColumnKind::Bool => "boolean",
        ColumnKind::Json => "JSON, an array or a composite",
        ColumnKind::Text | ColumnKind::Padded => "text",
        ColumnKind::Date => "date, written as 2026-01-31",
        ColumnKind::Timestamp => "timestamp, written as 2026-01-31T12:00:00",
        ColumnKind::TimestampTz => "timestamp, written as 2026-01-31T12:00:00Z or with +02 (in a URL %2B02)",
        ColumnKind::Uuid => "uuid",
        ColumnKind::Bytea => "bytea, written as \\x0a1b",
        ColumnKind::Time => "time, written as 12:00:00",
        ColumnKind::Network => "network address, written as 10.1.2.3 or 10.1.0.0/16",
        ColumnKind::Mac => "hardware address, written as 08:00:2b:01:02:03",
        ColumnKind::Interval => "interval, written as 1 day 12:00:00",
        ColumnKind::Money => "amount of money, written as 1234.50",
        ColumnKind::Enum => "an enum",
        ColumnKind::Opaque => "of a type (a range, a case-insensitive text or the like)",
    }
}

/// Refuses what can't be told from the text of the column's values: which are equal, or, if that matters, which is greater.
pub(super) fn comparable(column: &Column, ordered: bool) -> Result<(), QueryError> {
    let refusal = match column.kind {
        ColumnKind::Json | ColumnKind::Opaque => QueryError::Incomparable,
        ColumnKind::Enum if ordered => QueryError::Unordered,
        _ => return Ok(()),
    };
    Err(refusal(column.name.clone(), name(column.kind)))
}

impl Value {
    /// Reads a value's text as its column's kind; `None` if it is not of that kind.
    pub(super) fn read(kind: ColumnKind, text: &str) -> Option<Value> {
        Some(match kind {
            ColumnKind::Int | ColumnKind::Oid => Value::Int(text.trim().parse().ok()?),
            ColumnKind::Number => Value::Decimal(Decimal::read(text.trim())?),
            ColumnKind::Bool => Value::Bool(match text.trim().to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => true,
                "false" | "f" | "no" | "n" | "off" | "0" => false,
                _ => return None,
            }),
            ColumnKind::Text | ColumnKind::Enum | ColumnKind::Json | ColumnKind::Opaque => {
                Value::Text(text.to_owned())
            }
            ColumnKind::Padded => Value::Text(text.trim_end_matches(' ').to_owned()),
            ColumnKind::Date | ColumnKind::Timestamp | ColumnKind::TimestampTz => {
                Value::Moment(Moment::read(kind, text)?)
            }
            ColumnKind::Uuid => Value::Bytes(uuid(text)?),
            ColumnKind::Bytea => Value::Bytes(bytea(text)?),
            ColumnKind::Time => Value::Int(time_of_day(text)?.into()),
            ColumnKind::Network => Value::Network(Network::read(text.trim())?),
            ColumnKind::Mac => Value::Int(mac(text.trim())?.into()),
            ColumnKind::Interval => Value::Int(interval(text)?),
            ColumnKind::Money => Value::Decimal(money(text.trim())?),
        })
    }

    pub(super) fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Decimal(a), Value::Decimal(b)) => Some(a.compare(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Moment(a), Value::Moment(b)) => Some(a.cmp(b)),
            (Value::Network(a), Value::Network(b)) => Some(a.compare(b)),
            _ => None,
        }
    }
}

/// Pairs of hexadecimal digits as bytes.
fn hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// 32 digits in either case, perhaps in braces, perhaps with a hyphen after any four.
fn uuid(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix('{').map_or(Some(text), |rest| rest.strip_suffix('}'))?;
    let mut digits = String::with_capacity(32);
    for c in text.chars() {
        match c {
            '-' if !digits.is_empty() && digits.len().is_multiple_of(4) && digits.len() < 32 => {}
            c => digits.push(c),
        }
    }
    (digits.len() == 32 && !text.contains("--")).then(|| hex(&digits))?
}

/// `\x` and digits with blanks between the bytes, or bytes as they are with `\\` and `\ooo`.
fn bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        return digits
            .split_ascii_whitespace()
            .map(hex)
            .collect::<Option<Vec<_>>>()
            .map(|parts| parts.concat());
    }
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, used) = match tail {
            _ if byte != b'\\' => (byte, 0),
            [b'\\', ..] => (b'\\', 1),
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), 3)
            }
            _ => return None,
        };
        bytes.push(byte);
        rest = &tail[used..];
    }
    Some(bytes)
}

/// 6 bytes, or 8. The former are compared as the 8 that PostgreSQL makes of them, which changes nothing among themselves.
fn mac(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
    let bytes = hex(&digits)?;
    let bytes: [u8; 8] = match bytes[..] {
        [a, b, c, d, e, f] => [a, b, c, 0xFF, 0xFE, d, e, f],
        _ => bytes.try_into().ok()?,
    };
    Some(u64::from_be_bytes(bytes))
}

/// As the style `postgres` writes it, in microseconds; a month has 30 days and a day 24 hours when intervals are compared.
fn interval(text: &str) -> Option<i128> {
    const SECOND: i128 = 1_000_000;
    const DAY: i128 = 86_400 * SECOND;
    let mut words = text.split_ascii_whitespace().peekable();
    match text.trim() {
        "infinity" => return Some(i128::MAX),
        "-infinity" => return Some(i128::MIN),
        _ => words.peek()?,
    };
    let mut sum = 0;
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (sign, time) = match word.strip_prefix('-') {
                Some(rest) => (-1, rest),
                None => (1, word.strip_prefix('+').unwrap_or(word)),
            };
            let mut parts = time.split(':');
            let whole = |text: &str| text.parse::<u32>().ok().map(i128::from);
            let (hours, minutes) = (whole(parts.next()?)?, whole(parts.next()?)?);
            let (seconds, fraction) =
                parts.next().map_or(("0", ""), |text| text.split_once('.').unwrap_or((text, "")));
            let seconds = whole(seconds)?;
            if parts.next().is_some() || minutes > 59 || seconds > 59 {
                return None;
            }
            sum += sign * (((hours * 60 + minutes) * 60 + seconds) * SECOND + i128::from(micros(fraction)?));
            continue;
        }
        let count = i128::from(word.parse::<i64>().ok()?);
        sum += count
            * match words.next()?.to_ascii_lowercase().as_str() {
                "year" | "years" => 360 * DAY,
                "mon" | "mons" | "month" | "months" => 30 * DAY,
                "week" | "weeks" => 7 * DAY,
                "day" | "days" => DAY,
                "hour" | "hours" => 3600 * SECOND,
                "min" | "mins" | "minute" | "minutes" => 60 * SECOND,
                "sec" | "secs" | "second" | "seconds" => SECOND,
                _ => return None,
            };
    }
    Some(sum)
}

/// `-$1,234.50`, with or without sign, dollar and commas.
fn money(text: &str) -> Option<Decimal> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let amount = text.strip_prefix('$').unwrap_or(text).replace(',', "");
    let plain = amount.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    // PostgreSQL would round further digits.
    let cents = amount.split_once('.').is_none_or(|(_, cents)| cents.len() <= 2);
    if !plain || !cents {
        return None;
    }
    Decimal::read(&if negative { format!("-{amount}") } else { amount })
}

/// An inet or cidr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// Whether it is IPv6.
    six: bool,
    /// The address, its first bit the highest.
    address: u128,
    /// Bits of the netmask.
    bits: u32,
}

impl Network {
    fn read(text: &str) -> Option<Network> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let (six, address, most) = match address.parse().ok()? {
            IpAddr::V4(address) => (false, u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (true, address.to_bits(), 128),
        };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
        (bits <= most).then_some(Network { six, address, bits })
    }

    /// IPv4 first; then by the bits that both netmasks cover, the netmask, and the whole address.
    fn compare(&self, other: &Network) -> Ordering {
        let covered = |network: &Network| {
            network.address.checked_shr(128 - self.bits.min(other.bits)).unwrap_or_default()
        };
        let by_family = self.six.cmp(&other.six);
        by_family
            .then_with(|| covered(self).cmp(&covered(other)))
            .then_with(|| self.bits.cmp(&other.bits))
            .then_with(|| self.address.cmp(&other.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_in_every_spelling() {
        for (kind, texts) in [
            (ColumnKind::Int, vec!["7", " 7 ", "+7", "007"]),
            (ColumnKind::Bool, vec!["true", "T", " yes", "1"]),
            (ColumnKind::Padded, vec!["ab", "ab   "]),
            (
                ColumnKind::Uuid,
                vec![
                    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                    "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
                    "a0eebc999c0b4ef8bb6d6bb9bd380a11",
                ],
            ),
            (ColumnKind::Bytea, vec!["\\xdeadbe5c", "\\xDEAD BE5C", "\\336\\255\\276\\\\"]),
            (ColumnKind::Time, vec!["12:30:00", "12:30", "12:30:00.000"]),
            (ColumnKind::Network, vec!["10.1.2.3", "10.1.2.3/32"]),
            (ColumnKind::Network, vec!["2001:db8::1", "2001:DB8:0::0:1/128"]),
            (ColumnKind::Mac, vec!["08:00:2b:01:02:03", "08002B-010203", "08:00:2b:ff:fe:01:02:03"]),
            (
                ColumnKind::Interval,
                vec!["1 mon", "30 days", "29 days 24:00:00", "2 mons -30 days", "1 day 696:00"],
            ),
            (ColumnKind::Interval, vec!["00:00:00", "1 day -24:00:00"]),
            (ColumnKind::Money, vec!["$1,234.50", "1234.5", "$1234.50"]),
        ] {
            for text in &texts {
                let (one, other) = (Value::read(kind, texts[0]).unwrap(), Value::read(kind, text));
                assert_eq!(
                    other.and_then(|other| one.compare(&other)),
                    Some(Ordering::Equal),
                    "{kind:?} {text}"
                );
            }
        }
    }

    #[test]
    fn ascending_as_the_origin_sorts() {
        for (kind, texts) in [
            (ColumnKind::Oid, vec!["9", "10", "4294967295"]),
            (ColumnKind::Padded, vec!["", "a", "a b  ", "ab "]),
            (ColumnKind::Bytea, vec!["\\x", "\\x00", "\\x0a", "\\x0a00", "\\xa0"]),
            (ColumnKind::Time, vec!["00:00:00", "09:59:59.999999", "10:00:00", "24:00:00"]),
            (
                ColumnKind::Network,
                vec![
                    "0.0.0.0/0",
                    "9.0.0.0/8",
                    "10.0.0.0/8",
                    "10.1.0.0/8",
                    "10.0.0.0/9",
                    "10.0.0.1",
                    "10.0.0.10",
                    "192.168.1.5",
                    "::/0",
                    "2001:db8::1",
                    "2001:db8::a",
                ],
            ),
            (ColumnKind::Mac, vec!["00:00:00:00:00:0a", "08:00:2b:01:02:03", "08:00:2b:01:02:04"]),
            (
                ColumnKind::Interval,
                vec![
                    "-infinity",
                    "-1 days",
                    "-00:00:00.5",
                    "00:00:10",
                    "9 days",
                    "10 days",
                    "1 year",
                    "1 year 6 days",
                    "infinity",
                ],
            ),
            (ColumnKind::Money, vec!["-$1,000.00", "-$0.05", "$0.00", "$9.00", "$10.00", "$1,000.00"]),
        ] {
            let read: Vec<_> = texts.iter().map(|text| Value::read(kind, text).unwrap()).collect();
            for (i, a) in read.iter().enumerate() {
                for (j, b) in read.iter().enumerate() {
                    assert_eq!(a.compare(b), Some(i.cmp(&j)), "{kind:?} {} {}", texts[i], texts[j]);
                }
            }
        }
    }

    #[test]
    fn what_is_not_of_the_kind_is_refused() {
        for (kind, texts) in [
            (ColumnKind::Int, vec!["", "7.0", "x"]),
            (
                ColumnKind::Uuid,
                vec![
                    "",
                    "a0eebc99",
                    "-0eebc999c0b4ef8bb6d6bb9bd380a111",
                    "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
                    "é",
                ],
            ),
            (ColumnKind::Bytea, vec!["\\x1", "\\xgg", "\\9", "\\"]),
            (ColumnKind::Time, vec!["12", "12:61", "noon"]),
            (ColumnKind::Network, vec!["10.1", "10.0.0.1/33", "x"]),
            (ColumnKind::Mac, vec!["08:00", "x"]),
            (ColumnKind::Interval, vec!["", "1", "1 moon", "1.5 days", "1:2:3:4", "1:60"]),
            (ColumnKind::Money, vec!["", "1.005", "€5", "1e3"]),
        ] {
            for text in texts {
                assert_eq!(Value::read(kind, text), None, "{kind:?} {text:?}");
            }
        }
    }
}
