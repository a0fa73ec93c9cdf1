use std::cmp::Ordering;

use foreshard_protocol::{Column, ColumnKind, Row};

use super::query::{MAX_MEMBERS, QueryError};
use super::value::{self, Value};

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
                    value::comparable(&columns[at], false)?;
                    Value::read(kind, text)
                        .ok_or_else(|| QueryError::WrongType(column.clone(), value::name(kind)))
                };
                Ok(match comparison {
                    Comparison::Order(orders, text) => {
                        let one_sided =
                            orders.contains(&Ordering::Less) != orders.contains(&Ordering::Greater);
                        value::comparable(&columns[at], one_sided)?;
                        Bound::Order(at, orders, value(text)?)
                    }
                    Comparison::In(texts) if texts.len() > MAX_MEMBERS => return Err(QueryError::TooComplex),
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

#[cfg(test)]
mod tests {
    use super::*;

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
