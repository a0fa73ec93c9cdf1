//! Filters as they are logged.

/// A filter on one column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Filter {
    /// The column has this value.
    Equal(String),
    /// The column has one of these values.
    OneOf(Vec<String>),
    /// At least this value, or above it.
    From(String),
    /// At most this value, or below it.
    To(String),
}

/// Values that a list may have.
const LONGEST_LIST: usize = 50;
/// What is no column in the query syntax.
const RESERVED: [&str; 6] = ["select", "order", "limit", "offset", "and", "or"];
const OTHER_OPERATORS: [&str; 14] = [
    "neq",
    "is",
    "like",
    "ilike",
    "not",
    "match",
    "imatch",
    "fts",
    "cs",
    "cd",
    "ov",
    "sl",
    "isdistinct",
    "or",
];

impl Filter {
    /// Reads a logged filter, if it is one that shards can be made of: an operator in PostgREST's syntax, or a bare
    /// parameter value.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let Some((operator, value)) = text.split_once('.') else {
            return Some(Filter::Equal(text.to_owned()));
        };
        match operator {
            "eq" => Some(Filter::Equal(value.to_owned())),
            "gt" | "gte" => Some(Filter::From(value.to_owned())),
            "lt" | "lte" => Some(Filter::To(value.to_owned())),
            "in" => {
                let list = value.strip_prefix('(')?.strip_suffix(')')?;
                // Quoted items may hold commas: too clever for a proposal.
                let mut items: Vec<String> = list.split(',').map(str::to_owned).collect();
                items.sort_unstable();
                items.dedup();
                (!list.contains('"') && items.len() <= LONGEST_LIST).then_some(Filter::OneOf(items))
            }
            _ if OTHER_OPERATORS.contains(&operator) => None,
            // A value with a dot, as in 1.5.
            _ => Some(Filter::Equal(text.to_owned())),
        }
    }
}

/// The filters of one read: the column and the filter, also of those in a plain `and=(…)`.
pub(super) fn filters(logged: &[(String, String)]) -> impl Iterator<Item = (&str, Filter)> {
    logged.iter().flat_map(|(name, value)| {
        let several: Vec<(&str, Filter)> = match name.as_str() {
            "and" => conjunction(value).unwrap_or_default(),
            reserved if RESERVED.contains(&reserved) => Vec::new(),
            column => Filter::parse(value).map(|f| (column, f)).into_iter().collect(),
        };
        several
    })
}

/// The parts of `(a.gte.1,a.lt.5)`, if none of them is a group, a list or quoted.
fn conjunction(text: &str) -> Option<Vec<(&str, Filter)>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    if inner.contains(['(', ')', '"']) {
        return None;
    }
    let part = |part| -> Option<(&str, Filter)> {
        let (column, filter) = str::split_once(part, '.')?;
        Some((column, Filter::parse(filter)?))
    };
    Some(inner.split(',').filter_map(part).collect())
}

/// The columns that a read asks for, filters by and orders by; `None` if it asks for all.
pub(super) fn named_columns(logged: &[(String, String)]) -> Option<Vec<&str>> {
    let select = logged.iter().find(|(name, _)| name == "select").map(|(_, value)| value.as_str())?;
    let mut columns: Vec<&str> = select.split(',').map(str::trim).collect();
    for (name, value) in logged {
        match name.as_str() {
            "order" => columns.extend(value.split(',').map(|o| o.split('.').next().unwrap_or(o).trim())),
            // What a group names is not looked into: it may be anything.
            "and" | "or" => return None,
            reserved if RESERVED.contains(&reserved) => {}
            column => columns.push(column),
        }
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_they_are_logged() {
        let equal = |v: &str| Some(Filter::Equal(v.to_owned()));
        assert_eq!(Filter::parse("eq.open"), equal("open"));
        assert_eq!(Filter::parse("42"), equal("42"));
        assert_eq!(Filter::parse("1.5"), equal("1.5"));
        assert_eq!(Filter::parse("gte.7"), Some(Filter::From("7".into())));
        assert_eq!(Filter::parse("in.(2,1,2)"), Some(Filter::OneOf(vec!["1".into(), "2".into()])));
        assert_eq!(Filter::parse("in.(1"), None);
        assert_eq!((Filter::parse("neq.3"), Filter::parse("is.null")), (None, None));
    }

    #[test]
    fn groups_of_plain_conditions_count_and_others_do_not() {
        let read = |name: &str, value: &str| {
            let logged = [(name.to_owned(), value.to_owned())];
            filters(&logged).map(|(column, filter)| (column.to_owned(), filter)).collect::<Vec<_>>()
        };
        assert_eq!(
            read("and", "(day.gte.1,day.lt.5)"),
            [("day".into(), Filter::From("1".into())), ("day".into(), Filter::To("5".into()))]
        );
        assert_eq!(read("and", "(or(a.eq.1,b.eq.2))"), []);
        assert_eq!(read("or", "(a.eq.1,b.eq.2)"), []);
        assert_eq!(read("select", "a,b"), []);
    }

    #[test]
    fn named_columns_are_all_that_a_read_needs() {
        let logged = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
        };
        let some =
            logged(&[("select", "id, name"), ("order", "price.desc"), ("kind", "eq.x"), ("limit", "5")]);
        assert_eq!(named_columns(&some), Some(vec!["id", "name", "price", "kind"]));
        assert_eq!(named_columns(&logged(&[("kind", "eq.x")])), None);
        assert_eq!(named_columns(&logged(&[("select", "id"), ("or", "(a.eq.1)")])), None);
    }
}
