use std::cmp::Ordering;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use foreshard_protocol::{Column, ColumnKind, Row};

use super::query::QueryError;

/// How a column is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    /// `eq`, `neq`, `gt`, `gte`, `lt`, `lte`: one of the orderings listed.
    Order(&'static [Ordering], String),
    /// `in`: equal to one of these.
    In(Vec<String>),
    /// `is.null`, `is.true`, `is.false` (`None` is null).
    Is(Option<bool>),
    /// `like` and, ignoring case, `ilike`; `*` and `%` stand for any text, `_` for one character.
    Like {
        /// The pattern.
        pattern: String,
        /// Whether case is ignored.
        ignore_case: bool,
    },
}

/// A comparison of one column.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Column name.
    pub column: String,
    /// The comparison.
    pub comparison: Comparison,
}

/// A condition on a row. NULL is SQL's: a comparison with it is unknown, and a row passes only if the whole is true.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// One comparison.
    Condition(Condition),
    /// The opposite.
    Not(Box<Filter>),
    /// All of them.
    And(Vec<Filter>),
    /// At least one of them.
    Or(Vec<Filter>),
}

/// A filter whose columns have been found and whose values have been read as their types.
pub(super) enum Bound {
    Order(usize, &'static [Ordering], Value),
    In(usize, Vec<Value>),
    Is(usize, Option<bool>),
    Like(usize, Vec<char>, bool),
    Not(Box<Bound>),
    And(Vec<Bound>),
    Or(Vec<Bound>),
}

/// A value that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Int(i128),
    Decimal(Decimal),
    Bool(bool),
    Text(String),
    Moment(Moment),
}

/// A point in time, microseconds since 1970; the infinities are outermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    Before,
    At(i64),
    After,
}

impl Filter {
    pub(super) fn bind(&self, columns: &[Column]) -> Result<Bound, QueryError> {
        let all =
            |filters: &[Filter]| filters.iter().map(|filter| filter.bind(columns)).collect::<Result<_, _>>();
        match self {
            Filter::Not(inner) => Ok(Bound::Not(Box::new(inner.bind(columns)?))),
            Filter::And(inner) => Ok(Bound::And(all(inner)?)),
            Filter::Or(inner) => Ok(Bound::Or(all(inner)?)),
            Filter::Condition(Condition { column, comparison }) => {
                let at = position(columns, column)?;
                let kind = columns[at].kind;
                let value = |text: &String| {
                    Value::read(kind, text)
                        .ok_or_else(|| QueryError::WrongType(column.clone(), kind_name(kind)))
                };
                Ok(match comparison {
                    Comparison::Order(orders, text) => Bound::Order(at, orders, value(text)?),
                    Comparison::In(texts) => {
                        Bound::In(at, texts.iter().map(value).collect::<Result<_, _>>()?)
                    }
                    Comparison::Is(Some(_)) if kind != ColumnKind::Bool => {
                        return Err(QueryError::WrongType(column.clone(), "boolean"));
                    }
                    Comparison::Is(what) => Bound::Is(at, *what),
                    Comparison::Like { pattern, ignore_case } => {
                        let pattern = if *ignore_case { pattern.to_lowercase() } else { pattern.clone() };
                        Bound::Like(
                            at,
                            pattern.chars().map(|c| if c == '*' { '%' } else { c }).collect(),
                            *ignore_case,
                        )
                    }
                })
            }
        }
    }
}

pub(super) fn position(columns: &[Column], name: &str) -> Result<usize, QueryError> {
    columns
        .iter()
        .position(|column| column.name == name)
        .ok_or_else(|| QueryError::UnknownColumn(name.to_owned()))
}

impl Bound {
    /// True, false, or unknown (`None`).
    pub(super) fn test(&self, columns: &[Column], row: &Row) -> Option<bool> {
        let value = |at: usize| row.get(at)?.as_deref().and_then(|text| Value::read(columns[at].kind, text));
        match self {
            Bound::Order(at, orders, wanted) => {
                value(*at).map(|value| value.compare(wanted).is_some_and(|order| orders.contains(&order)))
            }
            Bound::In(at, wanted) => value(*at)
                .map(|value| wanted.iter().any(|wanted| value.compare(wanted) == Some(Ordering::Equal))),
            Bound::Is(at, None) => Some(row.get(*at).is_none_or(Option::is_none)),
            Bound::Is(at, Some(wanted)) => Some(value(*at) == Some(Value::Bool(*wanted))),
            Bound::Like(at, pattern, ignore_case) => {
                let text = row.get(*at)?.as_ref()?;
                let text = if *ignore_case { text.to_lowercase() } else { text.clone() };
                Some(like(pattern, &text.chars().collect::<Vec<_>>()))
            }
            Bound::Not(inner) => inner.test(columns, row).map(|result| !result),
            Bound::And(inner) => fold(inner.iter().map(|bound| bound.test(columns, row)), false),
            Bound::Or(inner) => fold(inner.iter().map(|bound| bound.test(columns, row)), true),
        }
    }
}

/// SQL's AND (`decisive` false) and OR (`decisive` true) over three-valued results.
fn fold(results: impl Iterator<Item = Option<bool>>, decisive: bool) -> Option<bool> {
    let mut unknown = false;
    for result in results {
        match result {
            Some(result) if result == decisive => return Some(decisive),
            Some(_) => {}
            None => unknown = true,
        }
    }
    if unknown { None } else { Some(!decisive) }
}

impl Value {
    /// Reads a value's text as its column's kind; `None` if it is not of that kind.
    pub(super) fn read(kind: ColumnKind, text: &str) -> Option<Value> {
        Some(match kind {
            ColumnKind::Int => Value::Int(text.trim().parse().ok()?),
            ColumnKind::Number => Value::Decimal(Decimal::read(text.trim())?),
            ColumnKind::Bool => Value::Bool(match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "on" | "1" => true,
                "false" | "f" | "no" | "off" | "0" => false,
                _ => return None,
            }),
            ColumnKind::Text | ColumnKind::Json => Value::Text(text.to_owned()),
            ColumnKind::Date | ColumnKind::Timestamp | ColumnKind::TimestampTz => {
                Value::Moment(Moment::read(text)?)
            }
        })
    }

    pub(super) fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Decimal(a), Value::Decimal(b)) => Some(a.compare(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Moment(a), Value::Moment(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

impl Moment {
    fn read(text: &str) -> Option<Moment> {
        match text {
            "infinity" => return Some(Moment::After),
            "-infinity" => return Some(Moment::Before),
            _ => {}
        }
        let text = text.trim().replacen(' ', "T", 1);
        if let Ok(date) = text.parse::<NaiveDate>() {
            return Some(Moment::At(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros()));
        }
        if let Ok(time) = text.parse::<NaiveDateTime>() {
            return Some(Moment::At(time.and_utc().timestamp_micros()));
        }
        DateTime::parse_from_rfc3339(&text).ok().map(|time| Moment::At(time.timestamp_micros()))
    }
}

/// A decimal number of any size, exactly: digits without leading or trailing zeros, times a power of ten.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decimal {
    NegInfinity,
    Finite { negative: bool, digits: Vec<u8>, magnitude: i64 },
    Infinity,
    NaN,
}

impl Decimal {
    pub(super) fn read(text: &str) -> Option<Decimal> {
        match text.to_ascii_lowercase().as_str() {
            "nan" => return Some(Decimal::NaN),
            "infinity" | "inf" => return Some(Decimal::Infinity),
            "-infinity" | "-inf" => return Some(Decimal::NegInfinity),
            _ => {}
        }
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(whole) || !plain(fraction) || whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let leading = all.iter().take_while(|digit| **digit == b'0').count();
        let trailing = all.iter().rev().take_while(|digit| **digit == b'0').count();
        if leading == all.len() {
            return Some(Decimal::Finite { negative: false, digits: Vec::new(), magnitude: 0 });
        }
        let magnitude = whole.len() as i64 - leading as i64 + i64::from(exponent);
        Some(Decimal::Finite { negative, digits: all[leading..all.len() - trailing].to_vec(), magnitude })
    }

    /// PostgreSQL's order: NaN is equal to itself and above everything.
    pub(super) fn compare(&self, other: &Decimal) -> Ordering {
        let rank = |value: &Decimal| match value {
            Decimal::NegInfinity => 0,
            Decimal::Finite { .. } => 1,
            Decimal::Infinity => 2,
            Decimal::NaN => 3,
        };
        match (self, other) {
            (
                Decimal::Finite { negative: n1, digits: d1, magnitude: m1 },
                Decimal::Finite { negative: n2, digits: d2, magnitude: m2 },
            ) => {
                let sign = |negative: bool, digits: &[u8]| {
                    if digits.is_empty() { 0 } else { 1 - 2 * i8::from(negative) }
                };
                let (s1, s2) = (sign(*n1, d1), sign(*n2, d2));
                let size = m1.cmp(m2).then_with(|| d1.cmp(d2));
                s1.cmp(&s2).then(if s1 < 0 { size.reverse() } else { size })
            }
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// SQL's LIKE without escape character, in time linear in the text for each `%`.
fn like(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '%' {
            retry = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '_' || pattern[p] == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = retry {
            retry = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '%')
}

fn kind_name(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Int => "integer",
        ColumnKind::Number => "number",
        ColumnKind::Bool => "boolean",
        ColumnKind::Json | ColumnKind::Text => "text",
        ColumnKind::Date => "date",
        ColumnKind::Timestamp | ColumnKind::TimestampTz => "timestamp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::read(text).unwrap()
    }

    #[test]
    fn decimals_compare_exactly() {
        for (a, b, order) in [
            ("1.0", "1", Ordering::Equal),
            ("-0", "0.00", Ordering::Equal),
            ("1e3", "1000.0", Ordering::Equal),
            ("0.1", "0.09999999999999999999999", Ordering::Greater),
            ("-2", "-10", Ordering::Greater),
            ("-2", "1", Ordering::Less),
            ("123456789012345678901234567890", "123456789012345678901234567891", Ordering::Less),
            ("NaN", "Infinity", Ordering::Greater),
            ("-Infinity", "-1e300", Ordering::Less),
        ] {
            assert_eq!(decimal(a).compare(&decimal(b)), order, "{a} {b}");
        }
        for text in ["", ".", "1.2.3", "abc", "1e", "--1", "0x10"] {
            assert_eq!(Decimal::read(text), None, "{text:?}");
        }
    }

    #[test]
    fn moments_of_every_form() {
        let noon = Moment::read("2013-01-01T12:00:00").unwrap();
        assert_eq!(Moment::read("2013-01-01 12:00:00"), Some(noon));
        assert_eq!(Moment::read("2013-01-01T14:00:00+02:00"), Some(noon));
        assert!(Moment::read("2013-01-02").unwrap() > noon && Moment::read("infinity").unwrap() > noon);
        assert_eq!(Moment::read("yesterday"), None);
    }

    #[test]
    fn like_patterns() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        for (pattern, text, matches) in [
            ("a%", "abc", true),
            ("%c", "abc", true),
            ("a_c", "abc", true),
            ("a%c%", "abcbcd", true),
            ("", "", true),
            ("%", "", true),
            ("a", "ab", false),
            ("%x%", "abc", false),
        ] {
            assert_eq!(like(&chars(pattern), &chars(text)), matches, "{pattern} {text}");
        }
    }
}
