//! What one row change means for the rows that copies of a shard hold.

use foreshard_protocol::Row;

use super::image::{Image, Key, Presence};

/// Values that tell a row from all others, as in the row.
pub(crate) type RowIdentity = Vec<Option<String>>;

/// One row of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowDelta {
    pub(crate) key: Key,
    pub(crate) identity: RowIdentity,
    /// As it is now; `None`: not in the instance any more.
    pub(crate) row: Option<Row>,
}

/// Writes the row before and after the change, asked only for what is needed.
pub(crate) trait RowSource {
    /// Identity of the row before; `None` if the log does not tell.
    fn old_identity(&mut self) -> Option<RowIdentity>;
    /// The row after; `None` if a value of it is unknown.
    fn new_row(&mut self) -> Option<Row>;
    /// The identity of a row that was written.
    fn identity_of(&self, row: &Row) -> RowIdentity;
}

/// `None`: what becomes of the rows is not certain. Otherwise a copy from before the change, with these applied in order, has the
/// rows of after it.
pub(crate) fn delta(
    old: Option<&Image>,
    new: Option<&Image>,
    rows: &mut impl RowSource,
) -> Option<Vec<RowDelta>> {
    let mut deltas = Vec::new();
    let mut put = None;
    if let Some(new) = new {
        match new.presence {
            Presence::In => {
                let row = rows.new_row()?;
                put = Some(RowDelta {
                    key: new.key.clone()?,
                    identity: rows.identity_of(&row),
                    row: Some(row),
                });
            }
            Presence::Out => {}
            Presence::Unknown | Presence::Failed(_) | Presence::Unusable => return None,
        }
    }
    if let Some(old) = old {
        match old.presence {
            // A row that perhaps was there is not there now, or is put: either way it is known.
            Presence::In | Presence::Unknown => {
                let (key, identity) = (old.key.clone()?, rows.old_identity()?);
                let stays = put.as_ref().is_some_and(|put| put.key == key && put.identity == identity);
                if !stays {
                    deltas.push(RowDelta { key, identity, row: None });
                }
            }
            Presence::Out => {}
            Presence::Failed(_) | Presence::Unusable => return None,
        }
    }
    deltas.extend(put);
    Some(deltas)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first value of a row is its identity.
    struct Rows {
        old: Option<&'static str>,
        new: Option<&'static str>,
    }

    fn identity(of: Option<&str>) -> Option<RowIdentity> {
        of.map(|id| vec![Some(id.to_owned())])
    }

    impl RowSource for Rows {
        fn old_identity(&mut self) -> Option<RowIdentity> {
            identity(self.old)
        }
        fn new_row(&mut self) -> Option<Row> {
            self.new.map(|id| vec![Some(id.to_owned()), Some("x".into())])
        }
        fn identity_of(&self, row: &Row) -> RowIdentity {
            row[..1].to_vec()
        }
    }

    /// `+k/id` for a row put, `-k/id` for one removed.
    fn words(
        old: Option<(Presence, Option<&str>)>,
        new: Option<(Presence, Option<&str>)>,
        mut rows: Rows,
    ) -> String {
        let image = |(presence, key): (Presence, Option<&str>)| Image {
            presence,
            key: key.map(|key| vec![Some(key.to_owned())]),
        };
        let Some(deltas) = delta(old.map(image).as_ref(), new.map(image).as_ref(), &mut rows) else {
            return "uncertain".into();
        };
        let word = |delta: &RowDelta| {
            let text = |values: &[Option<String>]| values[0].clone().unwrap_or_default();
            let sign = if delta.row.is_some() { '+' } else { '-' };
            format!("{sign}{}/{}", text(&delta.key), text(&delta.identity))
        };
        deltas.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    use Presence::{Failed, In, Out, Unknown};

    fn rows(old: &'static str, new: &'static str) -> Rows {
        let given = |id: &'static str| (!id.is_empty()).then_some(id);
        Rows { old: given(old), new: given(new) }
    }

    #[test]
    fn inserts_updates_and_deletes() {
        assert_eq!(words(None, Some((In, Some("k"))), rows("", "1")), "+k/1");
        assert_eq!(words(Some((In, Some("k"))), None, rows("1", "")), "-k/1");
        assert_eq!(words(Some((In, Some("k"))), Some((In, Some("k"))), rows("1", "1")), "+k/1");
        assert_eq!(words(Some((In, Some("k"))), Some((In, Some("k"))), rows("1", "2")), "-k/1 +k/2");
    }

    #[test]
    fn rows_move_between_instances_and_in_and_out() {
        assert_eq!(words(Some((In, Some("k"))), Some((In, Some("m"))), rows("1", "1")), "-k/1 +m/1");
        assert_eq!(words(Some((In, Some("k"))), Some((Out, None)), rows("1", "1")), "-k/1");
        assert_eq!(words(Some((Out, None)), Some((In, Some("m"))), rows("1", "1")), "+m/1");
    }

    #[test]
    fn a_row_that_perhaps_was_there_is_certain_afterwards() {
        assert_eq!(words(Some((Unknown, Some("k"))), Some((In, Some("k"))), rows("1", "1")), "+k/1");
        assert_eq!(words(Some((Unknown, Some("k"))), Some((Out, None)), rows("1", "1")), "-k/1");
        assert_eq!(words(Some((Unknown, Some("k"))), None, rows("1", "")), "-k/1");
    }

    #[test]
    fn what_is_not_certain_is_not_told() {
        for (old, new, source) in [
            (Some((In, None)), Some((In, Some("k"))), rows("1", "1")),
            (Some((Unknown, None)), Some((In, Some("k"))), rows("1", "1")),
            (Some((In, Some("k"))), None, rows("", "")),
            (Some((In, Some("k"))), Some((In, Some("k"))), rows("1", "")),
            (Some((In, Some("k"))), Some((Unknown, Some("k"))), rows("1", "1")),
            (Some((Failed(0), Some("k"))), Some((In, Some("k"))), rows("1", "1")),
            (None, Some((Failed(0), Some("k"))), rows("", "1")),
        ] {
            assert_eq!(words(old, new, source), "uncertain", "{old:?} {new:?}");
        }
    }
}
