use std::cmp::Ordering;

use foreshard_protocol::{Column, ColumnKind, KeyPart, Row};

use super::filter::{Comparison, Condition, Filter, Value, position};

/// A query on the rows of one shard instance, in PostgREST's syntax.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Every row of the answer passes all of them.
    pub filters: Vec<Filter>,
    /// Columns to return, with the names to return them under; all if `None`.
    pub select: Option<Vec<(String, String)>>,
    /// Sort order; the copy's own order if empty.
    pub order: Vec<Order>,
    /// Most rows to return.
    pub limit: Option<usize>,
    /// Rows to leave out at the start.
    pub offset: usize,
}

/// One column of a sort order.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    column: String,
    descending: bool,
    nulls_first: bool,
}

/// What is wrong with a query, in words for whoever wrote it. Never holds a row's values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No such column in the shard.
    #[error("the shard has no column {0:?}")]
    UnknownColumn(String),
    /// The value is not of the column's type.
    #[error("the value for {0:?} is not a valid {1}")]
    WrongType(String, &'static str),
    /// The filter could not be read.
    #[error(
        "{0:?}: expected column=operator.value, with eq, neq, gt, gte, lt, lte, in, is, like or ilike, and not. before it to negate"
    )]
    Filter(String),
    /// `select`, `order`, `limit`, `offset`, `and` or `or` could not be read.
    #[error("{0}: {1}")]
    Parameter(String, &'static str),
    /// A keyed shard needs every key column.
    #[error("the shard is keyed: every key column needs an equality, as in {0}=eq.VALUE")]
    MissingKey(String),
    /// Too many conditions or too deeply nested.
    #[error("the query has more than {MAX_CONDITIONS} conditions, or nests and/or deeper than {MAX_DEPTH}")]
    TooComplex,
}

const MAX_CONDITIONS: usize = 100;
const MAX_DEPTH: usize = 8;

/// The rows and columns a query selects.
pub struct Selected<'a> {
    /// Columns of the answer.
    pub columns: Vec<Column>,
    /// Rows of the answer, in its order.
    pub rows: Vec<std::borrow::Cow<'a, Row>>,
}

impl Query {
    /// Reads the decoded parameters of a URL.
    pub fn parse<'p>(parameters: impl IntoIterator<Item = (&'p str, &'p str)>) -> Result<Self, QueryError> {
        let mut query = Query::default();
        let mut conditions = 0;
        for (name, value) in parameters {
            let whole =
                |text: &str, what| text.parse().map_err(|_| QueryError::Parameter(name.to_owned(), what));
            match name {
                "limit" => query.limit = Some(whole(value, "expected a number of rows, 0 or more")?),
                "offset" => query.offset = whole(value, "expected a number of rows, 0 or more")?,
                "select" if value == "*" => query.select = None,
                "select" => query.select = Some(select(value)?),
                "order" => query.order = value.split(',').map(order).collect::<Result<_, _>>()?,
                "and" | "or" | "not.and" | "not.or" => {
                    query.filters.push(group(&format!("{name}{value}"), 0, &mut conditions)?);
                }
                column => {
                    count(&mut conditions)?;
                    let filter =
                        operation(value).ok_or_else(|| QueryError::Filter(format!("{column}={value}")))?;
                    query.filters.push(filter(column));
                }
            }
        }
        Ok(query)
    }

    /// Takes the equalities on the key columns out of the filters: they choose the instance.
    pub fn take_key(&mut self, key: &[String]) -> Result<Vec<KeyPart>, QueryError> {
        let mut parts = Vec::with_capacity(key.len());
        for column in key {
            let found = self.filters.iter().position(|filter| matches!(filter, Filter::Condition(Condition { column: c, comparison })
                if c == column && matches!(comparison, Comparison::Order([Ordering::Equal], _) | Comparison::Is(None))));
            let Some(at) = found else { return Err(QueryError::MissingKey(column.clone())) };
            let Filter::Condition(Condition { comparison, .. }) = self.filters.remove(at) else { continue };
            let value = if let Comparison::Order(_, text) = comparison { Some(text) } else { None };
            parts.push(KeyPart { column: column.clone(), value });
        }
        Ok(parts)
    }

    /// Whether it selects every row and column as they are.
    pub fn is_everything(&self) -> bool {
        *self == Query::default()
    }

    /// Runs the query.
    pub fn run<'a>(&self, columns: &[Column], rows: &'a [Row]) -> Result<Selected<'a>, QueryError> {
        use std::borrow::Cow;
        let filters: Vec<_> =
            self.filters.iter().map(|filter| filter.bind(columns)).collect::<Result<_, _>>()?;
        let order: Vec<_> = self
            .order
            .iter()
            .map(|order| position(columns, &order.column).map(|at| (at, order)))
            .collect::<Result<_, _>>()?;
        let select = match &self.select {
            None => None,
            Some(names) => {
                Some(names.iter().map(|(name, _)| position(columns, name)).collect::<Result<Vec<_>, _>>()?)
            }
        };
        let passes = |row: &&Row| filters.iter().all(|filter| filter.test(columns, row) == Some(true));
        let mut found: Vec<&Row> = rows.iter().filter(passes).collect();
        if !order.is_empty() {
            found.sort_by(|a, b| {
                let by = |(at, order): &(usize, &Order)| {
                    order.compare(columns[*at].kind, a[*at].as_deref(), b[*at].as_deref())
                };
                order.iter().map(by).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
            });
        }
        let found = found.into_iter().skip(self.offset).take(self.limit.unwrap_or(usize::MAX));
        Ok(match (select, &self.select) {
            (Some(at), Some(names)) => Selected {
                columns: at
                    .iter()
                    .zip(names)
                    .map(|(at, (_, alias))| Column { name: alias.clone(), kind: columns[*at].kind })
                    .collect(),
                rows: found.map(|row| Cow::Owned(at.iter().map(|at| row[*at].clone()).collect())).collect(),
            },
            _ => Selected { columns: columns.to_vec(), rows: found.map(Cow::Borrowed).collect() },
        })
    }
}

impl Order {
    fn compare(&self, kind: ColumnKind, a: Option<&str>, b: Option<&str>) -> Ordering {
        let read = |text: Option<&str>| text.and_then(|text| Value::read(kind, text));
        match (read(a), read(b)) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) if self.nulls_first => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) if self.nulls_first => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => {
                let order = a.compare(&b).unwrap_or(Ordering::Equal);
                if self.descending { order.reverse() } else { order }
            }
        }
    }
}

fn count(conditions: &mut usize) -> Result<(), QueryError> {
    *conditions += 1;
    if *conditions > MAX_CONDITIONS { Err(QueryError::TooComplex) } else { Ok(()) }
}

fn select(text: &str) -> Result<Vec<(String, String)>, QueryError> {
    let bad = || QueryError::Parameter("select".into(), "expected column,column or alias:column");
    let item = |item: &str| match item.trim().split_once(':') {
        Some((alias, column)) if !alias.is_empty() && !column.is_empty() => {
            Ok((column.to_owned(), alias.to_owned()))
        }
        None if !item.trim().is_empty() => Ok((item.trim().to_owned(), item.trim().to_owned())),
        _ => Err(bad()),
    };
    text.split(',').map(item).collect()
}

fn order(text: &str) -> Result<Order, QueryError> {
    let bad = || {
        QueryError::Parameter(
            "order".into(),
            "expected column.asc|desc.nullsfirst|nullslast, comma-separated",
        )
    };
    let mut parts = text.trim().split('.');
    let column = parts.next().filter(|column| !column.is_empty()).ok_or_else(bad)?.to_owned();
    let (mut descending, mut nulls_first) = (false, None);
    for part in parts {
        match part {
            "asc" => descending = false,
            "desc" => descending = true,
            "nullsfirst" => nulls_first = Some(true),
            "nullslast" => nulls_first = Some(false),
            _ => return Err(bad()),
        }
    }
    Ok(Order { column, descending, nulls_first: nulls_first.unwrap_or(descending) })
}

/// `operator.value`, as a filter that only lacks its column.
fn operation(text: &str) -> Option<impl Fn(&str) -> Filter> {
    let (negated, text) = match text.strip_prefix("not.") {
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
        "is" => Comparison::Is(match value {
            "null" | "unknown" => None,
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
fn group(text: &str, depth: usize, conditions: &mut usize) -> Result<Filter, QueryError> {
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
            let (column, rest) = item.split_once('.').ok_or_else(bad)?;
            let rest = unquoted(rest);
            members.push(operation(&rest).ok_or_else(|| QueryError::Filter(item.to_owned()))?(column));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> (Vec<Column>, Vec<Row>) {
        let column = |name: &str, kind| Column { name: name.into(), kind };
        let columns = vec![
            column("id", ColumnKind::Int),
            column("name", ColumnKind::Text),
            column("ok", ColumnKind::Bool),
        ];
        let row = |id: &str, name: Option<&str>, ok: Option<&str>| {
            vec![Some(id.to_owned()), name.map(str::to_owned), ok.map(str::to_owned)]
        };
        let rows = vec![
            row("9", Some("nine"), Some("true")),
            row("10", Some("ten"), Some("false")),
            row("11", None, None),
            row("12", Some("a,b"), Some("true")),
        ];
        (columns, rows)
    }

    fn ids(parameters: &[(&str, &str)]) -> Vec<String> {
        let (columns, rows) = table();
        let query = Query::parse(parameters.iter().copied()).unwrap();
        let selected = query.run(&columns, &rows).unwrap();
        selected.rows.iter().map(|row| row[0].clone().unwrap()).collect()
    }

    #[test]
    fn operators() {
        for (parameters, expected) in [
            (vec![("id", "eq.9")], vec!["9"]),
            (vec![("id", "neq.9")], vec!["10", "11", "12"]),
            (vec![("id", "gt.9"), ("id", "lte.11")], vec!["10", "11"]),
            (vec![("id", "in.(12,9)")], vec!["9", "12"]),
            (vec![("name", "in.(\"a,b\",ten)")], vec!["10", "12"]),
            (vec![("name", "is.null")], vec!["11"]),
            (vec![("name", "not.is.null")], vec!["9", "10", "12"]),
            (vec![("name", "not.eq.nine")], vec!["10", "12"]),
            (vec![("ok", "is.true")], vec!["9", "12"]),
            (vec![("ok", "not.is.true")], vec!["10", "11"]),
            (vec![("name", "like.*e*")], vec!["9", "10"]),
            (vec![("name", "ilike.TE_")], vec!["10"]),
            (vec![("or", "(id.eq.9,and(id.gt.10,name.is.null))")], vec!["9", "11"]),
            (vec![("or", "(name.eq.\"a,b\",name.in.(\"ten\",x))")], vec!["10", "12"]),
            (vec![("and", "(name.not.eq.\"a,b\",name.neq.\"q\\\"),(\")")], vec!["9", "10"]),
            (vec![("ok", "is.unknown")], vec!["11"]),
            (vec![("not.or", "(id.eq.9,id.eq.10)")], vec!["11", "12"]),
            (vec![("order", "id.desc"), ("limit", "2")], vec!["12", "11"]),
            (vec![("order", "name"), ("offset", "1")], vec!["9", "10", "11"]),
            (vec![("order", "name.desc")], vec!["11", "10", "9", "12"]),
            (vec![("order", "name.desc.nullslast"), ("limit", "1")], vec!["10"]),
            (vec![("limit", "0")], vec![]),
        ] {
            assert_eq!(ids(&parameters), expected, "{parameters:?}");
        }
    }

    #[test]
    fn select_renames_and_reorders() {
        let (columns, rows) = table();
        let query = Query::parse([("select", "label:name,id"), ("id", "eq.9")]).unwrap();
        let selected = query.run(&columns, &rows).unwrap();
        assert_eq!(selected.columns.iter().map(|c| &*c.name).collect::<Vec<_>>(), ["label", "id"]);
        assert_eq!(*selected.rows[0], vec![Some("nine".to_owned()), Some("9".to_owned())]);
    }

    #[test]
    fn the_key_is_taken_out() {
        let key = ["id".to_owned(), "name".to_owned()];
        let mut query = Query::parse([("name", "is.null"), ("ok", "is.true"), ("id", "eq.9")]).unwrap();
        let parts = query.take_key(&key).unwrap();
        assert_eq!(parts[0].value.as_deref(), Some("9"));
        assert_eq!(parts[1].value, None);
        assert_eq!(query.filters.len(), 1);
        assert_eq!(query.take_key(&key), Err(QueryError::MissingKey("id".into())));
    }

    #[test]
    fn mistakes_are_named() {
        let (columns, rows) = table();
        let run = |name: &str, value: &str| {
            Query::parse([(name, value)])
                .and_then(|query| query.run(&columns, &rows).map(|s| s.rows.len()))
                .unwrap_err()
        };
        assert_eq!(run("nope", "eq.1"), QueryError::UnknownColumn("nope".into()));
        assert_eq!(run("id", "eq.x"), QueryError::WrongType("id".into(), "integer"));
        assert_eq!(run("id", "is.true"), QueryError::WrongType("id".into(), "boolean"));
        for (name, value) in
            [("id", "9"), ("id", "foo.9"), ("id", "in.9"), ("id", "is.maybe"), ("id", "not.9"), ("id", "")]
        {
            assert!(matches!(run(name, value), QueryError::Filter(_)), "{name}={value}");
        }
        for (name, value) in [
            ("limit", "-1"),
            ("offset", "x"),
            ("order", ""),
            ("order", "id.up"),
            ("select", "a,"),
            ("and", "id.eq.1"),
            ("or", "(id"),
        ] {
            assert!(matches!(run(name, value), QueryError::Parameter(..)), "{name}={value}");
        }
        let deep = format!("{}id.eq.1{}", "(or".repeat(20) + "(", ")".repeat(21));
        assert_eq!(run("and", &deep), QueryError::TooComplex);
    }

    proptest! {
        #[test]
        fn nothing_panics(name in "id|name|and|or|select|order|limit|x", value in "\\PC{0,30}|[a-z.(),\"\\\\*%_0-9]{0,30}") {
            let (columns, rows) = table();
            if let Ok(query) = Query::parse([(name.as_str(), value.as_str())]) {
                let _ = query.run(&columns, &rows);
            }
        }
    }
}
