//! Predicates, keys and rows of shards, evaluated on the rows of one physical table while decoding.
//!
//! This runs for every row change of a table with shards, so a row that concerns none of them must cost next to nothing: only the
//! columns that decide are taken apart, the shards that can't be concerned are ruled out by hash, and nothing is allocated before a
//! shard is hit.

use pgrx::pg_sys;

use super::Oid;
use super::context::{Context, Switched};
use super::equality::{EqualityIndex, IndexedColumn};
use super::expression::{Predicate, WantedPredicate, prepare};
use super::glance::Fixed;
use super::relation::Opened;
use super::rowencoder::{RowEncoder, WantedRow};
use super::rule::{Identity, Rule, identity};
use super::side::{Known, Side};
use crate::output_plugin::delta::delta;
use crate::output_plugin::image::{Image, Presence};
use crate::output_plugin::watch::{Interest, Noticed, Watch};

/// One shard as the evaluator needs it: columns by their number in the physical table, which for a partition may differ from
/// those of the table that the shard names.
pub(crate) struct Wanted<'a> {
    /// Key columns and their types.
    pub(crate) key: Vec<(i16, Oid)>,
    /// The predicate's tree, in numbers of the named table.
    pub(crate) predicate: WantedPredicate<'a>,
    /// Physical number of each column of the named table by its number − 1; 0 where there is none.
    pub(crate) mapping: &'a [i16],
    /// The columns that copies show or are sorted by, or that a query reads, if that can be told.
    pub(crate) shown: Option<Vec<i16>>,
    /// How its rows are written, if changes of rows can be told.
    pub(crate) row: Option<WantedRow>,
}

/// Evaluates all shards of one table.
pub(crate) struct Evaluator {
    table: Oid,
    old: *mut pg_sys::TupleTableSlot,
    new: *mut pg_sys::TupleTableSlot,
    expressions: *mut pg_sys::ExprContext,
    rules: Vec<Rule>,
    /// Rules that no index can rule out.
    always: Vec<usize>,
    index: EqualityIndex,
    /// The index's columns, if they are all that decides and can be looked at where they lie.
    glance: Option<Vec<Fixed>>,
    /// Highest column that a predicate or key reads.
    last: i16,
    /// Columns that anything reads, ascending.
    needed: Vec<i16>,
    identity: Identity,
    absent: Vec<i16>,
    candidates: Vec<usize>,
    /// When each rule was last made a candidate.
    stamps: Vec<u64>,
    stamp: u64,
    scratch: Context,
    /// Owns slots and expressions.
    _memory: Context,
}

/// A decoded row change.
pub(super) struct Tuples {
    pub(super) old: pg_sys::HeapTuple,
    pub(super) new: pg_sys::HeapTuple,
    pub(super) update: bool,
    pub(super) delete: bool,
}

/// What is known of the row before the change.
enum Before<'a> {
    /// There was none.
    Absent,
    /// Nothing is.
    Nothing,
    Row(Side<'a>),
}

impl Evaluator {
    /// Prepares all shards of a table; `None` if it is gone. An expression that can't be prepared counts as "may be in the shard".
    pub(crate) fn new(table: Oid, wanted: &[Wanted<'_>]) -> Option<Self> {
        let relation = Opened::unlocked(table)?;
        let memory = Context::new(c"foreshard relation");
        let scratch = Context::new(c"foreshard change");
        // SAFETY: the descriptor is copied, with its defaults for columns added later, into memory that this value owns; so are
        // slots and expressions.
        let (old, new, expressions) = memory.run(|| unsafe {
            let descriptor = pg_sys::CreateTupleDescCopyConstr((*relation.0).rd_att);
            (
                pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple),
                pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple),
                pg_sys::CreateStandaloneExprContext(),
            )
        });
        // SAFETY: the relation is open.
        let (types, identity): (Vec<Oid>, _) = unsafe {
            let columns = pgrx::PgTupleDesc::from_pg_unchecked((*relation.0).rd_att);
            (columns.iter().map(|column| column.atttypid).collect(), identity(relation.0))
        };
        let (mut always, mut index, mut rules) = (Vec::new(), EqualityIndex::default(), Vec::new());
        let (mut last, mut needed) = (0, Vec::new());
        memory.run(|| {
            for (number, shard) in wanted.iter().enumerate() {
                let mut predicate = match shard.predicate {
                    WantedPredicate::None => Predicate::None,
                    WantedPredicate::Tree(tree) => prepare(tree, shard.mapping, &types),
                    WantedPredicate::Unusable => Predicate::Broken,
                };
                match predicate.take_demand() {
                    Some(demand) => index.add(number, demand),
                    None => always.push(number),
                }
                let row = shard.row.as_ref().and_then(RowEncoder::new);
                let rule = Rule::new(&shard.key, predicate, shard.shown.clone(), row, &identity);
                last = rule.decisive.iter().copied().fold(last, i16::max);
                needed.extend(rule.decisive.iter().chain(rule.shown.iter().flatten()).copied());
                needed.extend(rule.row.iter().flat_map(RowEncoder::attnums));
                rules.push(rule);
            }
        });
        needed.sort_unstable();
        needed.dedup();
        // SAFETY: the relation is open.
        let columns = unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*relation.0).rd_att) };
        let told = |column: &IndexedColumn| identity.holds(column.attnum);
        let glance = (always.is_empty() && index.columns().iter().all(told))
            .then(|| index.columns().iter().map(|column| column.fixed(&columns)).collect())
            .flatten();
        let stamps = vec![0; rules.len()];
        Some(Evaluator {
            table,
            old,
            new,
            expressions,
            rules,
            always,
            index,
            glance,
            last,
            needed,
            identity,
            absent: Vec::new(),
            candidates: Vec::new(),
            stamps,
            stamp: 0,
            scratch,
            _memory: memory,
        })
    }

    /// The table whose rows it reads.
    pub(super) fn table(&self) -> Oid {
        self.table
    }

    /// Whether the rows of a rule's shard can be written.
    pub(crate) fn writes_rows(&self, rule: usize) -> bool {
        self.rules.get(rule).is_some_and(|rule| rule.row.is_some())
    }

    /// Tells `watch` of every rule whose shard the change may concern.
    ///
    /// # Safety
    /// The tuples are rows of this evaluator's table in its present shape, or NULL.
    pub(super) unsafe fn evaluate(&mut self, tuples: &Tuples, watch: &mut impl Watch) {
        // SAFETY: slots and tuples agree by contract, and tuples are not looked at after this call. The current memory context is
        // one that is reset below.
        unsafe {
            if self.concerns_nobody(tuples) {
                return;
            }
            let back = Switched::to(self.scratch.raw());
            let new = Side::fill(self.new, tuples.new, self.last);
            let old = Side::fill(self.old, tuples.old, self.last);
            self.absent.clear();
            if new && has_left_out(tuples.new) {
                self.complete(old);
            }
            let used = self.evaluate_sides(new, old, tuples, watch);
            drop(back);
            if used {
                pg_sys::MemoryContextReset((*self.expressions).ecxt_per_tuple_memory);
                self.scratch.reset();
            }
        }
    }

    /// Whether no rule can be satisfied by the row, neither before nor after the change; false where a glance can't tell.
    ///
    /// # Safety
    /// As for `evaluate`.
    unsafe fn concerns_nobody(&self, tuples: &Tuples) -> bool {
        let Some(glance) = &self.glance else { return false };
        let row = if tuples.delete { tuples.old } else { tuples.new };
        if row.is_null() {
            return false;
        }
        glance.iter().zip(self.index.columns()).all(|(fixed, column)| {
            let elsewhere = |tuple: pg_sys::HeapTuple| {
                // SAFETY: by contract; not NULL.
                tuple.is_null() || unsafe { fixed.value(tuple) }.is_some_and(|seen| column.rules_out(&seen))
            };
            // Without an old row in the log these columns, all of the identity, did not change.
            elsewhere(tuples.new) && elsewhere(tuples.old)
        })
    }

    /// True if memory of PostgreSQL was used.
    ///
    /// # Safety
    /// The slots are filled where `new` and `old` say so.
    unsafe fn evaluate_sides(
        &mut self,
        new: bool,
        old: bool,
        tuples: &Tuples,
        watch: &mut impl Watch,
    ) -> bool {
        let Evaluator { index, always, candidates, stamps, stamp, rules, absent, identity, .. } = self;
        let after = new.then(|| Side::new(self.new, self.expressions, Known::All { absent }));
        let before = if old {
            Before::Row(Side::new(self.old, self.expressions, Known::Identity { identity, absent: &[] }))
        } else if tuples.update && new {
            // No old row in the log says that the identity's columns did not change.
            Before::Row(Side::new(self.new, self.expressions, Known::Identity { identity, absent }))
        } else if tuples.update || tuples.delete {
            Before::Nothing
        } else {
            Before::Absent
        };
        *stamp += 1;
        candidates.clear();
        candidates.extend_from_slice(always);
        for column in index.columns() {
            let mut add = |rules: &[usize]| {
                for rule in rules {
                    if stamps[*rule] != *stamp {
                        stamps[*rule] = *stamp;
                        candidates.push(*rule);
                    }
                }
            };
            // SAFETY: the column is among the decisive ones, up to which the slots were filled.
            unsafe {
                if let Some(after) = &after {
                    after.matching(column, &mut add);
                }
                match &before {
                    Before::Absent => {}
                    Before::Nothing => add(&column.rules),
                    // The very row that was just looked up.
                    Before::Row(before) if !old && absent.is_empty() && before.knows(column.attnum) => {}
                    Before::Row(before) => before.matching(column, &mut add),
                }
            }
        }
        let used = !candidates.is_empty();
        for number in &*candidates {
            let rule = &mut rules[*number];
            let interest = watch.interest(*number);
            if interest == Interest::None {
                continue;
            }
            // SAFETY: as above; rows are filled further where needed.
            unsafe {
                let new_presence = after.as_ref().map(|side| rule.presence(side));
                let old_presence = match &before {
                    Before::Absent => None,
                    Before::Nothing => Some(rule.presence_of_nothing()),
                    Before::Row(_) if !old && rule.settled && absent.is_empty() => new_presence,
                    Before::Row(side) => Some(rule.presence(side)),
                };
                if let (_, Some(Presence::Failed(state))) | (Some(Presence::Failed(state)), _) =
                    (old_presence, new_presence)
                {
                    watch.failed(*number, state);
                }
                let out =
                    |presence: &Option<Presence>| presence.is_none_or(|presence| presence == Presence::Out);
                if out(&old_presence) && out(&new_presence) {
                    continue;
                }
                if let (Before::Row(before), Some(after), true) = (&before, &after, old || rule.identified)
                    && (old_presence, new_presence) == (Some(Presence::In), Some(Presence::In))
                    && rule.shows_no_difference(before, after)
                {
                    continue;
                }
                let image = |rule: &mut Rule, presence: Option<Presence>, side: Option<&Side<'_>>| {
                    presence.map(|presence| Image { presence, key: rule.key(presence, side) })
                };
                let before = match &before {
                    Before::Row(side) => Some(side),
                    Before::Absent | Before::Nothing => None,
                };
                let old = image(rule, old_presence, before);
                let new = image(rule, new_presence, after.as_ref());
                let rows = match &mut rule.row {
                    Some(encoder) if interest == Interest::Rows => delta(
                        old.as_ref(),
                        new.as_ref(),
                        &mut super::side::Writer { encoder, before, after: after.as_ref() },
                    ),
                    _ => None,
                };
                watch.noticed(*number, Noticed { old, new, rows });
            }
        }
        used
    }

    /// Values too large for the row are left out of the log where they did not change. Takes them from the old row if it has
    /// them; notes the columns that stay unknown.
    ///
    /// # Safety
    /// The slot of the new row is filled, and that of the old one if `has_old`.
    unsafe fn complete(&mut self, has_old: bool) {
        // SAFETY: both slots are filled up to the last column that is looked at.
        unsafe {
            let last = self.needed.last().copied().unwrap_or(0);
            super::side::deform(self.new, last);
            if has_old {
                super::side::deform(self.old, last);
            }
            for attnum in &self.needed {
                let at = *attnum as usize - 1;
                let (new, old) = (&*self.new, &*self.old);
                if *new.tts_isnull.add(at) || !is_left_out(self.new, at) {
                    continue;
                }
                let known = has_old
                    && self.identity.holds(*attnum)
                    && !*old.tts_isnull.add(at)
                    && !is_left_out(self.old, at);
                if known {
                    *new.tts_values.add(at) = *old.tts_values.add(at);
                } else {
                    self.absent.push(*attnum);
                }
            }
        }
    }
}

/// Whether a tuple may hold values that are only pointers into the TOAST table.
unsafe fn has_left_out(tuple: pg_sys::HeapTuple) -> bool {
    // SAFETY: a tuple has a header.
    unsafe { u32::from((*(*tuple).t_data).t_infomask) & pg_sys::HEAP_HASEXTERNAL != 0 }
}

/// Whether a value is only a pointer into the TOAST table, which can't be followed while decoding.
unsafe fn is_left_out(slot: *mut pg_sys::TupleTableSlot, at: usize) -> bool {
    // SAFETY: the value is not NULL.
    unsafe {
        let descriptor = pgrx::PgTupleDesc::from_pg_unchecked((*slot).tts_tupleDescriptor);
        let Some(column) = descriptor.get(at) else { return false };
        column.attlen == -1 && super::side::is_moved(*(*slot).tts_values.add(at))
    }
}
