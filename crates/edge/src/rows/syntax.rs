//! PostgREST's syntax: the parameters of a URL's query, one by one.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use super::filter::{Comparison, Condition, Filter};
use super::query::{MAX_CONDITIONS, MAX_DEPTH, MAX_TIMES, Order, QueryError};

pub(super) fn count(conditions: &mut usize) -> Result<(), QueryError> {
    *conditions += 1;
    if *conditions > MAX_CONDITIONS { Err(QueryError::TooComplex) } else { Ok(()) }
}

pub(super) fn select(text: &str) -> Result<Vec<(String, String)>, QueryError> {
    let bad = || QueryError::Parameter("select".into(), "expected column,column or alias:column");
    let item = |item: &str| {
        let (first, rest) = name(item.trim(), ':')?;
        let column = match rest.strip_prefix(':') {
            None => first.clone(),
            Some(column) => name(column, '\0').filter(|(_, rest)| rest.is_empty())?.0,
        };
        Some((column, first))
    };
    let items = split(text).ok_or_else(bad)?;
    let items: Vec<(String, String)> =
        items.into_iter().map(|text| item(text).ok_or_else(bad)).collect::<Result<_, _>>()?;
    // So that no answer is much larger than the copy it is made of.
    let (mut columns, mut names) = (HashMap::new(), HashSet::new());
    let fits = |(column, alias)| {
        let times = columns.entry(column).or_insert(0);
        *times += 1;
        *times <= MAX_TIMES && names.insert(alias)
    };
    if items.iter().map(|(column, alias)| (column, alias)).all(fits) {
        Ok(items)
    } else {
        Err(QueryError::Parameter(
            "select".into(),
            "the same name is there twice, or the same column more often than that",
        ))
    }
}

pub(super) fn orders(text: &str) -> Result<Vec<Order>, QueryError> {
    let bad = || {
        QueryError::Parameter(
            "order".into(),
            "expected column.asc|desc.nullsfirst|nullslast, comma-separated",
        )
    };
    let items = split(text).ok_or_else(bad)?;
    let mut items: Vec<Order> =
        items.into_iter().map(|text| order(text).ok_or_else(bad)).collect::<Result<_, _>>()?;
    // What is equal by a column is still equal by it when that is named again.
    let mut seen = HashSet::new();
    items.retain(|order| seen.insert(order.column.clone()));
    Ok(items)
}

fn order(text: &str) -> Option<Order> {
    let (column, rest) = name(text.trim(), '.')?;
    let (mut descending, mut nulls_first) = (false, None);
    for part in rest.split('.').skip(1) {
        match part {
            "asc" => descending = false,
            "desc" => descending = true,
            "nullsfirst" => nulls_first = Some(true),
            "nullslast" => nulls_first = Some(false),
            _ => return None,
        }
    }
    Some(Order { column, descending, nulls_first: nulls_first.unwrap_or(descending) })
}

/// A name up to `end`, or up to the end of the text, and what follows it. In quotation marks it may hold anything.
fn name(text: &str, end: char) -> Option<(String, &str)> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut name = String::new();
            let mut chars = quoted.chars();
            loop {
                match chars.next()? {
                    '"' => break (name, chars.as_str()),
                    '\\' => name.push(chars.next()?),
                    c => name.push(c),
                }
            }
        }
        None => {
            let (name, rest) = text.split_at(text.find(end).unwrap_or(text.len()));
            (name.to_owned(), rest)
        }
    };
    (!name.is_empty() && (rest.is_empty() || rest.starts_with(end))).then_some((name, rest))
}

/// The name that the whole text is in quotation marks.
pub(super) fn quoted_name(text: &str) -> Option<String> {
    let (name, rest) = name(text, '.').filter(|_| text.starts_with('"'))?;
    rest.is_empty().then_some(name)
}

/// `operator.value`, as a filter that only lacks its column.
pub(super) fn operation(text: &str) -> Option<impl Fn(&str) -> Filter> {
    let (mut negated, text) = match text.strip_prefix("not.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (operator, value) = text.split_once('.')?;
    let orders: &'static [Ordering] = match operator {
        "eq" => &[Ordering::Equal],
        "neq" => &[Ordering::Less, Ordering::Greater],
        "gt" => &[Ordering::Greater],
        "gte" => &[Ordering::Greater, Ordering::Equal],
        "lt" => &[Ordering::Less],
        "lte" => &[Ordering::Less, Ordering::Equal],
        _ => &[],
    };
    let comparison = match operator {
        _ if !orders.is_empty() => Comparison::Order(orders, value.to_owned()),
        "in" => Comparison::In(list(value.strip_prefix('(')?.strip_suffix(')')?)?),
        "is" => Comparison::Is(match value.to_ascii_lowercase().as_str() {
            "null" | "unknown" => None,
            "not_null" => {
                negated = !negated;
                None
            }
            "true" => Some(true),
            "false" => Some(false),
            _ => return None,
        }),
        "like" | "ilike" => Comparison::Like { pattern: value.to_owned(), ignore_case: operator == "ilike" },
        _ => return None,
    };
    Some(move |column: &str| {
        let filter =
            Filter::Condition(Condition { column: column.to_owned(), comparison: comparison.clone() });
        if negated { Filter::Not(Box::new(filter)) } else { filter }
    })
}

/// `a,b,"c,d"`; inside quotes a backslash escapes.
fn list(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let mut items = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' if quoted => items.last_mut()?.push(chars.next()?),
            ',' if !quoted => items.push(String::new()),
            c => items.last_mut()?.push(c),
        }
    }
    (!quoted).then_some(items)
}

/// `and(…)`, `or(…)`, `not.and(…)`, `not.or(…)` with conditions `column.operator.value` or further groups inside.
pub(super) fn group(text: &str, depth: usize, conditions: &mut usize) -> Result<Filter, QueryError> {
    let bad =
        || QueryError::Parameter("and/or".into(), "expected (column.operator.value,…), groups may nest");
    if depth >= MAX_DEPTH {
        return Err(QueryError::TooComplex);
    }
    let (negated, body) = match text.strip_prefix("not.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (is_and, body) = match (body.strip_prefix("and"), body.strip_prefix("or")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(bad()),
    };
    let body = body.strip_prefix('(').and_then(|body| body.strip_suffix(')')).ok_or_else(bad)?;
    let mut members = Vec::new();
    for item in split(body).ok_or_else(bad)? {
        let opens = ["and(", "or(", "not.and(", "not.or("].iter().any(|head| item.starts_with(head));
        if opens {
            members.push(group(item, depth + 1, conditions)?);
        } else {
            count(conditions)?;
            let (column, rest) = name(item, '.').ok_or_else(bad)?;
            let rest = unquoted(rest.strip_prefix('.').ok_or_else(bad)?);
            members.push(operation(&rest).ok_or_else(|| QueryError::Filter(item.to_owned()))?(&column));
        }
    }
    let filter = if is_and { Filter::And(members) } else { Filter::Or(members) };
    Ok(if negated { Filter::Not(Box::new(filter)) } else { filter })
}

/// `eq."a,b"` as `eq.a,b`: inside a group, quotation marks keep a value together.
fn unquoted(text: &str) -> std::borrow::Cow<'_, str> {
    let quoted =
        text.split_once(".\"").and_then(|(operator, rest)| Some((operator, rest.strip_suffix('"')?)));
    match quoted.and_then(|(operator, value)| Some((operator, list(&format!("\"{value}\""))?))) {
        Some((operator, values)) if values.len() == 1 => format!("{operator}.{}", values[0]).into(),
        _ => text.into(),
    }
}

/// Splits at commas that are outside parentheses and quotes.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut depth, mut quoted, mut escaped, mut from, mut items) = (0_u32, false, false, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '\\' if quoted && !escaped => {
                escaped = true;
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.checked_sub(1)?,
            ',' if !quoted && depth == 0 => {
                items.push(&text[from..i]);
                from = i + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    items.push(&text[from..]);
    (depth == 0 && !quoted).then_some(items)
}
