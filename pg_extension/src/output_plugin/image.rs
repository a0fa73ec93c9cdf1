//! What one row change means for one shard, from what is known of the row before and after.

use foreshard_protocol::WholeReason;

/// Texts of a row's key columns, in the order of the shard's key; `None` is SQL NULL.
pub(crate) type Key = Vec<Option<String>>;

/// Whether a row is in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is not.
    Out,
    /// It is.
    In,
    /// The predicate needs a column that the log does not hold.
    Unknown,
    /// The predicate raised an ERROR on this row, of this SQLSTATE (an errcodes number).
    Failed(u32),
    /// The predicate can't be evaluated on this table.
    Unusable,
}

/// A row before or after a change, as one shard sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Whether it is in the shard.
    pub(crate) presence: Presence,
    /// Its key; `None` where a key column is unknown. Empty for a shard without key.
    pub(crate) key: Option<Key>,
}

/// What a change does to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Instances that the row was in, or is in now: at most two.
    Keys(Vec<Key>),
    /// All instances, or the only one.
    Whole(WholeReason),
}

/// `None`: the shard does not notice. A row that may be in the shard counts as in it.
pub(crate) fn touch(old: Option<Image>, new: Option<Image>, keyed: bool) -> Option<Touch> {
    let mut keys: Vec<Key> = Vec::new();
    let mut whole: Option<WholeReason> = None;
    for image in [old, new].into_iter().flatten() {
        let reason = match image.presence {
            Presence::Out => continue,
            Presence::In => WholeReason::Rows,
            Presence::Unknown => WholeReason::OldImage,
            Presence::Failed(_) | Presence::Unusable => WholeReason::Evaluation,
        };
        match image.key {
            Some(key) if keyed => {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            // A key that is not known, whatever the predicate says.
            None if reason == WholeReason::Rows => whole = Some(WholeReason::OldImage),
            // A certain change of a shard without key outranks a possible one.
            _ => whole = if whole == Some(WholeReason::Rows) { whole } else { Some(reason) },
        }
    }
    match whole {
        Some(reason) => Some(Touch::Whole(reason)),
        None if keys.is_empty() => None,
        None => Some(Touch::Keys(keys)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(presence: Presence, key: Option<&str>) -> Option<Image> {
        Some(Image { presence, key: key.map(|key| vec![Some(key.to_owned())]) })
    }

    fn unkeyed(presence: Presence) -> Option<Image> {
        Some(Image { presence, key: Some(vec![]) })
    }

    fn keys(keys: &[&str]) -> Option<Touch> {
        Some(Touch::Keys(keys.iter().map(|key| vec![Some((*key).to_owned())]).collect()))
    }

    use Presence::{Failed, In, Out, Unknown};

    #[test]
    fn a_row_outside_before_and_after_is_not_noticed() {
        assert_eq!(touch(image(Out, Some("1")), image(Out, Some("1")), true), None);
        assert_eq!(touch(None, image(Out, None), true), None);
        assert_eq!(touch(image(Out, None), None, true), None);
    }

    #[test]
    fn a_key_move_touches_both_instances() {
        assert_eq!(touch(image(In, Some("1")), image(In, Some("2")), true), keys(&["1", "2"]));
        assert_eq!(touch(image(In, Some("1")), image(In, Some("1")), true), keys(&["1"]));
    }

    #[test]
    fn a_predicate_flip_touches_where_the_row_was_or_is() {
        assert_eq!(touch(image(In, Some("1")), image(Out, Some("2")), true), keys(&["1"]));
        assert_eq!(touch(image(Out, Some("1")), image(In, Some("2")), true), keys(&["2"]));
    }

    #[test]
    fn an_unknown_predicate_with_a_known_key_touches_the_key_only() {
        assert_eq!(touch(image(Unknown, Some("1")), image(Out, Some("1")), true), keys(&["1"]));
        assert_eq!(touch(image(Failed(0), Some("1")), None, true), keys(&["1"]));
    }

    #[test]
    fn an_unknown_key_touches_everything() {
        let old_image = Some(Touch::Whole(WholeReason::OldImage));
        assert_eq!(touch(image(Unknown, None), image(In, Some("1")), true), old_image);
        assert_eq!(touch(image(In, None), None, true), old_image);
        assert_eq!(touch(image(Failed(0), None), None, true), Some(Touch::Whole(WholeReason::Evaluation)));
    }

    #[test]
    fn a_shard_without_key_is_touched_as_a_whole() {
        assert_eq!(touch(unkeyed(Out), unkeyed(In), false), Some(Touch::Whole(WholeReason::Rows)));
        assert_eq!(touch(unkeyed(Unknown), unkeyed(In), false), Some(Touch::Whole(WholeReason::Rows)));
        assert_eq!(touch(unkeyed(In), unkeyed(Unknown), false), Some(Touch::Whole(WholeReason::Rows)));
        assert_eq!(touch(unkeyed(Unknown), None, false), Some(Touch::Whole(WholeReason::OldImage)));
        assert_eq!(touch(unkeyed(Out), None, false), None);
    }
}
