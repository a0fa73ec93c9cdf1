//! Bounds of partitions, as `pg_get_expr(relpartbound, oid)` writes them.

/// What a partition holds.
#[derive(Debug, PartialEq)]
pub(super) enum Bounds {
    /// These values.
    List(Vec<String>),
    /// From (included) to (excluded).
    Range(String, String),
}

/// Reads the bounds of a partition by one column; `None` for a default partition, open bounds and NULL.
pub(super) fn parse(text: &str) -> Option<Bounds> {
    let rest = text.strip_prefix("FOR VALUES ")?;
    if let Some(list) = rest.strip_prefix("IN ") {
        return Some(Bounds::List(values(list)?));
    }
    let (from, to) = rest.strip_prefix("FROM ")?.split_once(") TO ")?;
    let (from, to) = (values(&format!("{from})"))?, values(to)?);
    match (from.as_slice(), to.as_slice()) {
        ([from], [to]) => Some(Bounds::Range(from.clone(), to.clone())),
        _ => None,
    }
}

/// `('a', 'it''s', 5)` as texts; `None` if one of them is no constant.
fn values(list: &str) -> Option<Vec<String>> {
    let mut rest = list.strip_prefix('(')?.strip_suffix(')')?;
    let mut values = Vec::new();
    loop {
        let mut value = String::new();
        if let Some(quoted) = rest.strip_prefix('\'') {
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next()? {
                    (_, '\'') if chars.next_if(|(_, c)| *c == '\'').is_some() => value.push('\''),
                    (at, '\'') => break at + 1,
                    (_, c) => value.push(c),
                }
            };
            rest = &quoted[end..];
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            value = rest[..end].to_owned();
            if !matches!(value.as_str(), "true" | "false") && value.parse::<f64>().is_err() {
                return None;
            }
            rest = &rest[end..];
        }
        values.push(value);
        match rest.strip_prefix(", ") {
            Some(more) => rest = more,
            None => return rest.is_empty().then_some(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read() {
        let list = |values: &[&str]| Some(Bounds::List(values.iter().map(|v| (*v).to_owned()).collect()));
        assert_eq!(parse("FOR VALUES IN ('eu', 'it''s, so')"), list(&["eu", "it's, so"]));
        assert_eq!(parse("FOR VALUES IN (1, 2)"), list(&["1", "2"]));
        assert_eq!(
            parse("FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')"),
            Some(Bounds::Range("2024-01-01".into(), "2024-02-01".into()))
        );
        for other in [
            "DEFAULT",
            "FOR VALUES FROM (MINVALUE) TO (5)",
            "FOR VALUES IN (NULL)",
            "FOR VALUES FROM (1, 2) TO (3, 4)",
            "FOR VALUES IN ('open",
            "FOR VALUES WITH (modulus 4, remainder 0)",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
