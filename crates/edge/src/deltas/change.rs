use std::cmp::Ordering;

use foreshard_protocol::{Row, RowChange, RowOrder};

use super::Refused;
use crate::copy::Layout;
use crate::rows::compare;

/// Carries one change out. Gives the row that went, and where the new one stands.
pub(crate) fn change(
    layout: &Layout,
    rows: &mut Vec<Row>,
    change: &RowChange,
) -> Result<(Option<Row>, Option<usize>), Refused> {
    match change {
        RowChange::Remove { identity } => {
            if identity.len() != layout.identity.len() {
                return Err(Refused::Malformed);
            }
            let found = find(layout, rows, |at| identity[at].as_deref());
            Ok((found.map(|at| rows.remove(at)), None))
        }
        RowChange::Put { row } => {
            let whole = row.len() == layout.columns.len();
            if !whole || layout.identity.iter().any(|column| usize::from(*column) >= row.len()) {
                return Err(Refused::Malformed);
            }
            let found = find(layout, rows, |at| row[usize::from(layout.identity[at])].as_deref());
            if let Some(at) = found
                && keeps_place(layout, &rows[at], row)
            {
                return Ok((Some(std::mem::replace(&mut rows[at], row.clone())), Some(at)));
            }
            let gone = found.map(|at| rows.remove(at));
            let at = place(layout, rows, row)?;
            rows.insert(at, row.clone());
            Ok((gone, Some(at)))
        }
    }
}

/// The row whose identity has these values. `value` gives the value of each column of the identity.
fn find<'v>(layout: &Layout, rows: &[Row], value: impl Fn(usize) -> Option<&'v str>) -> Option<usize> {
    let same = |row: &Row| {
        let mut columns = layout.identity.iter().enumerate();
        columns.all(|(at, column)| row.get(usize::from(*column)).map(Option::as_deref) == Some(value(at)))
    };
    // Rows in the order of their identity need not all be looked at.
    if let RowOrder::By(by) = &layout.order
        && by.iter().all(|(column, _)| layout.identity.contains(column))
        && let Some(width) = rows.first().map(Vec::len)
    {
        let mut probe: Row = vec![None; width];
        for (at, column) in layout.identity.iter().enumerate() {
            *probe.get_mut(usize::from(*column))? = value(at).map(str::to_owned);
        }
        if let Some(at) = search(by, rows, &probe) {
            return at.ok().filter(|at| same(&rows[*at]));
        }
    }
    rows.iter().position(same)
}

/// Where a row is, or would be; `None` where the order does not tell.
fn search(
    by: &[(u16, foreshard_protocol::Comparison)],
    rows: &[Row],
    probe: &Row,
) -> Option<Result<usize, usize>> {
    let mut known = true;
    let found = rows.binary_search_by(|row| {
        compare(by, row, probe).unwrap_or_else(|| {
            known = false;
            Ordering::Equal
        })
    });
    known.then_some(found)
}

/// Whether the new row stands where the old one stood.
fn keeps_place(layout: &Layout, old: &Row, new: &Row) -> bool {
    match &layout.order {
        RowOrder::Unsorted | RowOrder::Hidden => layout.order == RowOrder::Unsorted,
        RowOrder::By(by) => by.iter().all(|(column, _)| {
            let at = usize::from(*column);
            old.get(at) == new.get(at)
        }),
    }
}

/// Where a new row belongs.
fn place(layout: &Layout, rows: &[Row], row: &Row) -> Result<usize, Refused> {
    match &layout.order {
        RowOrder::Unsorted => Ok(rows.len()),
        RowOrder::Hidden => Err(Refused::Order),
        // One row alone is sorted, however its values compare.
        RowOrder::By(_) if rows.is_empty() => Ok(0),
        RowOrder::By(by) => match search(by, rows, row) {
            Some(Err(at)) => Ok(at),
            // Two rows at one place: what was read and what was streamed do not belong together.
            Some(Ok(_)) => Err(Refused::Malformed),
            None => Err(Refused::Order),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use foreshard_protocol::{Column, ColumnKind, Comparison};
    use proptest::prelude::*;

    use super::*;

    fn layout(order: RowOrder) -> Layout {
        let column = |name: &str| Column { name: name.into(), kind: ColumnKind::Text };
        Layout::new(1, vec![column("id"), column("v")], vec![0], order)
    }

    fn by(comparison: Comparison) -> RowOrder {
        RowOrder::By(vec![(0, comparison)])
    }

    fn row(id: &str, value: &str) -> Row {
        vec![Some(id.into()), Some(value.into())]
    }

    fn put(id: &str, value: &str) -> RowChange {
        RowChange::Put { row: row(id, value) }
    }

    fn remove(id: &str) -> RowChange {
        RowChange::Remove { identity: vec![Some(id.into())] }
    }

    #[test]
    fn rows_are_replaced_in_place_put_in_order_and_removed() {
        let layout = layout(by(Comparison::Number));
        let mut rows = vec![row("2", "a"), row("10", "b")];
        for one in [put("10", "c"), put("9", "d"), put("11", "e"), remove("2"), remove("7")] {
            change(&layout, &mut rows, &one).unwrap();
        }
        assert_eq!(rows, [row("9", "d"), row("10", "c"), row("11", "e")]);
    }

    #[test]
    fn what_has_no_known_place_is_refused_but_known_rows_are_replaced() {
        let opaque = layout(by(Comparison::Opaque));
        let mut rows = vec![row("b", "1"), row("a", "2")];
        change(&opaque, &mut rows, &put("a", "3")).unwrap();
        change(&opaque, &mut rows, &remove("b")).unwrap();
        assert_eq!(rows, [row("a", "3")]);
        assert_eq!(change(&opaque, &mut rows, &put("c", "4")), Err(Refused::Order));
        let mut alone = vec![];
        change(&opaque, &mut alone, &put("c", "4")).unwrap();
        assert_eq!(alone, [row("c", "4")]);
        let hidden = layout(RowOrder::Hidden);
        assert_eq!(change(&hidden, &mut rows, &put("a", "5")), Err(Refused::Order));
    }

    #[test]
    fn nonsense_is_refused() {
        let layout = layout(by(Comparison::Number));
        let mut rows = vec![row("1", "a"), row("2", "b")];
        for nonsense in [
            RowChange::Put { row: vec![Some("1".into())] },
            RowChange::Remove { identity: vec![] },
            // The same place, but another text.
            put("1.0", "x"),
        ] {
            assert_eq!(change(&layout, &mut rows, &nonsense), Err(Refused::Malformed), "{nonsense:?}");
        }
    }

    proptest! {
        #[test]
        fn as_a_sorted_map_would(steps in prop::collection::vec((0_i64..40, prop::option::of(0_u8..9)), 0..80), unsorted in any::<bool>()) {
            let order = if unsorted { RowOrder::Unsorted } else { by(Comparison::Number) };
            let layout = layout(order);
            let (mut rows, mut map) = (Vec::new(), BTreeMap::new());
            for (id, value) in steps {
                let id = id - 20;
                match value {
                    Some(value) => {
                        change(&layout, &mut rows, &put(&id.to_string(), &value.to_string())).unwrap();
                        map.insert(id, value);
                    }
                    None => {
                        change(&layout, &mut rows, &remove(&id.to_string())).unwrap();
                        map.remove(&id);
                    }
                }
            }
            let mut expected: Vec<Row> = map.iter().map(|(id, value)| row(&id.to_string(), &value.to_string())).collect();
            if unsorted {
                rows.sort();
                expected.sort();
            }
            prop_assert_eq!(rows, expected);
        }
    }
}
