use std::cmp::Ordering;

use foreshard_protocol::{Column, ColumnKind, KeyPart, Row};

use super::filter::{Comparison, Condition, Filter, position};
use super::syntax::{count, group, operation, orders, quoted_name, select};
use super::value::{self, Value};

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
    pub(super) column: String,
    pub(super) descending: bool,
    pub(super) nulls_first: bool,
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
    /// Which values are equal can't be told from their text.
    #[error(
        "{0:?} is {1}, which an edge can't compare: filter it in the function, or make it part of the shard's key or predicate"
    )]
    Incomparable(String, &'static str),
    /// Which value is greater can't be told from their text.
    #[error(
        "{0:?} is {1}, whose order an edge does not know: use eq, neq or in, sort in the function, or make it part of the shard's key or predicate"
    )]
    Unordered(String, &'static str),
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
    #[error(
        "the query has more than {MAX_CONDITIONS} conditions or {MAX_MEMBERS} values in one in.(), or nests and/or deeper than {MAX_DEPTH}"
    )]
    TooComplex,
}

pub(super) const MAX_CONDITIONS: usize = 100;
pub(super) const MAX_DEPTH: usize = 8;
pub(super) const MAX_MEMBERS: usize = 1_000;
/// How often one column may be selected, under different names.
pub(super) const MAX_TIMES: usize = 2;

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
                "order" => query.order = orders(value)?,
                "and" | "or" | "not.and" | "not.or" => {
                    query.filters.push(group(&format!("{name}{value}"), 0, &mut conditions)?);
                }
                column => {
                    count(&mut conditions)?;
                    let filter =
                        operation(value).ok_or_else(|| QueryError::Filter(format!("{column}={value}")))?;
                    query.filters.push(filter(&quoted_name(column).unwrap_or_else(|| column.to_owned())));
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
            .map(|order| {
                let at = position(columns, &order.column)?;
                value::comparable(&columns[at], true)?;
                Ok((at, order))
            })
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
            (vec![("name", "is.NULL")], vec!["11"]),
            (vec![("name", "is.not_null")], vec!["9", "10", "12"]),
            (vec![("name", "not.is.Not_Null")], vec!["11"]),
            (vec![("ok", "is.TRUE")], vec!["9", "12"]),
            (vec![("\"id\"", "eq.9")], vec!["9"]),
            (vec![("and", "(\"id\".gt.9,\"na\\me\".not.eq.\"a,b\")")], vec!["10"]),
            (vec![("order", "\"id\".desc,\"name\""), ("limit", "1")], vec!["12"]),
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
    fn a_name_in_quotation_marks_may_hold_anything() {
        let odd = "a.b,c:\"d(";
        let columns = vec![Column { name: odd.into(), kind: ColumnKind::Int }];
        let rows: Vec<Row> = ["1", "2"].map(|text| vec![Some(text.to_owned())]).into();
        let quoted = "\"a.b,c:\\\"d(\"";
        let (select, order) = (format!("\"x:y\":{quoted},{quoted}"), format!("{quoted}.desc"));
        let group = format!("({quoted}.gt.0,not.and({quoted}.eq.3))");
        let query =
            Query::parse([("select", &*select), ("order", &*order), ("or", &*group), (quoted, "lt.9")]);
        let query = query.unwrap();
        let selected = query.run(&columns, &rows).unwrap();
        assert_eq!(selected.columns.iter().map(|c| &*c.name).collect::<Vec<_>>(), ["x:y", odd]);
        assert_eq!(selected.rows[0][0].as_deref(), Some("2"));
    }

    #[test]
    fn what_only_the_origin_can_compare_is_refused() {
        let kinds = [
            ("m", ColumnKind::Enum),
            ("r", ColumnKind::Opaque),
            ("j", ColumnKind::Json),
            ("u", ColumnKind::Uuid),
        ];
        let columns = kinds.map(|(name, kind)| Column { name: name.into(), kind });
        let rows: [Row; 2] = [
            ["sad", "[1,2)", "[1]", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]
                .map(|text| Some(text.to_owned()))
                .into(),
            vec![None; 4],
        ];
        let run = |name: &str, value: &str| {
            Query::parse([(name, value)]).unwrap().run(&columns, &rows).map(|selected| selected.rows.len())
        };
        for (name, value, found) in [
            ("m", "eq.sad", 1),
            ("m", "neq.ok", 1),
            ("m", "in.(sad,ok)", 1),
            ("r", "is.null", 1),
            ("j", "is.not_null", 1),
            ("u", "in.(A0EEBC999C0B4EF8BB6D6BB9BD380A11)", 1),
            ("u", "gt.a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a10", 1),
            ("order", "u.desc", 2),
        ] {
            assert_eq!(run(name, value), Ok(found), "{name}={value}");
        }
        for (name, value) in [("m", "gt.sad"), ("m", "lte.sad"), ("order", "m")] {
            assert!(matches!(run(name, value), Err(QueryError::Unordered(..))), "{name}={value}");
        }
        for (name, value) in [
            ("order", "u,r.desc"),
            ("order", "j"),
            ("r", "lt.[1,2)"),
            ("r", "eq.[1,2)"),
            ("j", "eq.{1}"),
            ("j", "in.({1})"),
            ("j", "neq.1"),
            ("or", "(r.eq.1,u.is.null)"),
        ] {
            assert!(matches!(run(name, value), Err(QueryError::Incomparable(..))), "{name}={value}");
        }
        assert!(matches!(run("u", "eq.a0eebc99"), Err(QueryError::WrongType(..))));
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
            ("select", "id,id"),
            ("select", "id,again:id,once_more:id"),
            ("select", "x:id,x:name"),
            ("and", "id.eq.1"),
            ("or", "(id"),
        ] {
            assert!(matches!(run(name, value), QueryError::Parameter(..)), "{name}={value}");
        }
        let deep = format!("{}id.eq.1{}", "(or".repeat(20) + "(", ")".repeat(21));
        assert_eq!(run("and", &deep), QueryError::TooComplex);
        assert_eq!(run("id", &format!("in.({}1)", "1,".repeat(MAX_MEMBERS))), QueryError::TooComplex);
        let sorted = Query::parse([("order", "id.desc,name,id.asc,id")]).unwrap();
        assert_eq!(sorted.order.len(), 2, "named again it decides nothing");
    }

    proptest! {
        #[test]
        fn nothing_panics(name in "id|name|and|or|select|order|limit|x", value in "\\PC{0,30}|[a-z.:(),\"\\\\*%_0-9]{0,30}") {
            let (columns, rows) = table();
            if let Ok(query) = Query::parse([(name.as_str(), value.as_str())]) {
                let _ = query.run(&columns, &rows);
            }
        }
    }
}
