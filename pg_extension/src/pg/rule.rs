//! One shard on one table: where a row is, by predicate and key.

use pgrx::pg_sys;

use super::Oid;
use super::datum::same;
use super::expression::{Predicate, holds};
use super::rowencoder::RowEncoder;
use super::side::Side;
use super::subtransaction::caught;
use super::value::Encoder;
use crate::output_plugin::image::{Key, Presence};

pub(super) struct Rule {
    key: Vec<(i16, Encoder)>,
    predicate: Predicate,
    /// Columns of predicate and key.
    pub(super) decisive: Vec<i16>,
    /// The log has all of these of a row before a change.
    pub(super) settled: bool,
    /// Columns that copies show or are sorted by, or that a query reads, if that can be told.
    pub(super) shown: Option<Vec<i16>>,
    /// The replica identity has all of these: an update without an old row in the log left them as they were.
    pub(super) identified: bool,
    pub(super) row: Option<RowEncoder>,
}

/// Which columns of a row before an UPDATE or DELETE are in the log.
pub(super) enum Identity {
    All,
    Columns(Vec<i16>),
}

impl Identity {
    pub(super) fn holds(&self, attnum: i16) -> bool {
        match self {
            Identity::All => true,
            Identity::Columns(columns) => columns.contains(&attnum),
        }
    }
}

impl Rule {
    pub(super) fn new(
        key: &[(i16, Oid)],
        predicate: Predicate,
        shown: Option<Vec<i16>>,
        row: Option<RowEncoder>,
        identity: &Identity,
    ) -> Self {
        let mut decisive: Vec<i16> = key.iter().map(|(attnum, _)| *attnum).collect();
        if let Predicate::Expression { attnums, .. } = &predicate {
            decisive.extend(attnums);
        }
        Rule {
            key: key.iter().map(|(attnum, kind)| (*attnum, Encoder::key(*kind))).collect(),
            settled: decisive.iter().all(|attnum| identity.holds(*attnum)),
            predicate,
            decisive,
            identified: shown
                .as_ref()
                .is_some_and(|shown| shown.iter().all(|attnum| identity.holds(*attnum))),
            shown,
            row,
        }
    }

    /// Whether the row is in the shard.
    ///
    /// # Safety
    /// The side is filled up to the last of the decisive columns.
    pub(super) unsafe fn presence(&self, side: &Side<'_>) -> Presence {
        match &self.predicate {
            Predicate::None => Presence::In,
            Predicate::Broken => Presence::Unusable,
            Predicate::Expression { attnums, .. } if !attnums.iter().all(|attnum| side.knows(*attnum)) => {
                Presence::Unknown
            }
            // SAFETY: by contract.
            Predicate::Expression { state, infallible, .. } => unsafe {
                let (state, expressions) = (*state, side.expressions());
                let held = if *infallible {
                    Ok(holds(state, expressions))
                } else {
                    caught(|| holds(state, expressions))
                };
                match held {
                    Ok(true) => Presence::In,
                    Ok(false) => Presence::Out,
                    Err(state) => Presence::Failed(state),
                }
            },
        }
    }

    /// Of a row of which the log holds nothing.
    pub(super) fn presence_of_nothing(&self) -> Presence {
        match self.predicate {
            Predicate::None => Presence::In,
            Predicate::Broken => Presence::Unusable,
            Predicate::Expression { .. } => Presence::Unknown,
        }
    }

    /// The key of a row that is or may be in the shard; `None` where a key column is unknown.
    ///
    /// # Safety
    /// As for `presence`.
    pub(super) unsafe fn key(&mut self, presence: Presence, side: Option<&Side<'_>>) -> Option<Key> {
        let Some(side) = side else { return self.key.is_empty().then(Vec::new) };
        if presence == Presence::Out || !self.key.iter().all(|(attnum, _)| side.knows(*attnum)) {
            return None;
        }
        // SAFETY: each encoder is of its column's type.
        let value =
            |(attnum, encoder): &mut (i16, Encoder)| unsafe { Some(encoder.text(side.value(*attnum)?)) };
        Some(self.key.iter_mut().map(value).collect())
    }

    /// Whether both rows are known to look the same in a copy: no column that it shows, is sorted by or is keyed by differs.
    ///
    /// # Safety
    /// Both sides have a row.
    pub(super) unsafe fn shows_no_difference(&self, before: &Side<'_>, after: &Side<'_>) -> bool {
        let Some(shown) = &self.shown else { return false };
        let keys = self.key.iter().map(|(attnum, _)| *attnum);
        keys.chain(shown.iter().copied()).all(|attnum| {
            if !before.knows(attnum) || !after.knows(attnum) {
                return false;
            }
            // SAFETY: the sides are filled up to this column before it is read, and are rows of one table.
            unsafe {
                before.reach(attnum);
                after.reach(attnum);
                match (before.value(attnum), after.value(attnum)) {
                    (None, None) => true,
                    (Some(one), Some(other)) => same(one, other, after.storage(attnum)),
                    _ => false,
                }
            }
        })
    }
}

/// # Safety
/// `relation` is open.
pub(super) unsafe fn identity(relation: pg_sys::Relation) -> Identity {
    // SAFETY: by contract. The set is allocated in the current memory context and read at once; column numbers in it are shifted
    // so that system columns fit.
    unsafe {
        match (*(*relation).rd_rel).relreplident as u8 {
            pg_sys::REPLICA_IDENTITY_FULL => Identity::All,
            pg_sys::REPLICA_IDENTITY_NOTHING => Identity::Columns(Vec::new()),
            _ => {
                let set = pg_sys::RelationGetIdentityKeyBitmap(relation);
                let columns = pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att).len() as i16;
                let shift = -pg_sys::FirstLowInvalidHeapAttributeNumber;
                let member = |attnum: &i16| pg_sys::bms_is_member(i32::from(*attnum) + shift, set);
                Identity::Columns((1..=columns).filter(member).collect())
            }
        }
    }
}
