//! The order of rows at the origin, as far as the text of their values tells it.

use std::cmp::Ordering;

use foreshard_protocol::{Comparison, Row};

use super::decimal::Decimal;

/// How two rows are sorted by these columns, ascending with NULL last; `None` where the text of a value does not tell.
pub(crate) fn compare(by: &[(u16, Comparison)], a: &Row, b: &Row) -> Option<Ordering> {
    for (column, comparison) in by {
        let at = usize::from(*column);
        let order = match (a.get(at)?, b.get(at)?) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => values(*comparison, a, b)?,
        };
        if order.is_ne() {
            return Some(order);
        }
    }
    Some(Ordering::Equal)
}

fn values(comparison: Comparison, a: &str, b: &str) -> Option<Ordering> {
    Some(match comparison {
        Comparison::Bytes => a.as_bytes().cmp(b.as_bytes()),
        Comparison::Number => match (a.parse::<i64>(), b.parse::<i64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => Decimal::read(a)?.compare(&Decimal::read(b)?),
        },
        Comparison::Time => moment(a)?.cmp(&moment(b)?),
        Comparison::Opaque => return None,
    })
}

/// Year and the rest of a moment, so that moments sort as these do. Everything behind the year has a fixed width up to the
/// fraction of the second, and the zone is always the same.
fn moment(text: &str) -> Option<(i64, &str)> {
    match text {
        "-infinity" => return Some((i64::MIN, "")),
        "infinity" => return Some((i64::MAX, "")),
        _ => {}
    }
    let (text, before_christ) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let (year, rest) = text.split_once('-')?;
    let year: i64 = year.parse().ok()?;
    let read = year >= 0 && rest.len() >= "MM-DD".len() && rest.as_bytes()[0].is_ascii_digit();
    read.then_some((if before_christ { 1 - year } else { year }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Row {
        values.iter().map(|value| value.map(str::to_owned)).collect()
    }

    #[test]
    fn ascending_in_each_way() {
        for (comparison, ascending) in [
            (
                Comparison::Number,
                vec!["-Infinity", "-10", "-9.5", "0", "1e-3", "9", "10", "1e30", "Infinity", "NaN"],
            ),
            (Comparison::Bytes, vec!["", "A", "Z", "a", "aa", "b", "é"]),
            (
                Comparison::Time,
                vec![
                    "-infinity",
                    "4713-01-01 BC",
                    "0044-03-15T00:00:00 BC",
                    "0001-01-01",
                    "1999-12-31T23:59:59.999999",
                    "2000-01-01T00:00:00+00:00",
                    "9999-12-31",
                    "10000-01-01",
                    "294276-12-31T23:59:59.999999+00:00",
                    "infinity",
                ],
            ),
        ] {
            for (i, a) in ascending.iter().enumerate() {
                for (j, b) in ascending.iter().enumerate() {
                    assert_eq!(values(comparison, a, b), Some(i.cmp(&j)), "{comparison:?} {a} {b}");
                }
            }
        }
    }

    #[test]
    fn columns_in_turn_and_null_last() {
        let by = [(1, Comparison::Bytes), (0, Comparison::Number)];
        let rows = [
            row(&[Some("2"), Some("a")]),
            row(&[Some("10"), Some("a")]),
            row(&[None, Some("a")]),
            row(&[Some("1"), None]),
        ];
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                assert_eq!(compare(&by, a, b), Some(i.cmp(&j)));
            }
        }
    }

    #[test]
    fn what_the_text_does_not_tell_is_said() {
        let rows = [row(&[Some("a")]), row(&[Some("b")])];
        assert_eq!(compare(&[(0, Comparison::Opaque)], &rows[0], &rows[1]), None);
        assert_eq!(compare(&[(0, Comparison::Number)], &rows[0], &rows[1]), None);
        assert_eq!(compare(&[(7, Comparison::Bytes)], &rows[0], &rows[1]), None);
    }
}
