//! Predicates and keys of shards, evaluated on the rows of one physical table while decoding.

use pgrx::pg_sys;

use super::Oid;
use super::context::{Context, Switched};
use super::expression::{Predicate, WantedPredicate, holds, prepare};
use super::relation::Opened;
use super::subtransaction::caught;
use super::value::Encoder;
use crate::output_plugin::image::{Image, Presence};

/// One shard as the evaluator needs it: columns by their number in the physical table, which for a partition may differ from
/// those of the table that the shard names.
pub(crate) struct Wanted<'a> {
    /// Key columns and their types.
    pub(crate) key: Vec<(i16, Oid)>,
    /// The predicate's tree, in numbers of the named table.
    pub(crate) predicate: WantedPredicate<'a>,
    /// Physical number of each column of the named table by its number − 1; 0 where there is none.
    pub(crate) mapping: &'a [i16],
}

/// Evaluates all shards of one table.
pub(crate) struct Evaluator {
    table: Oid,
    old: *mut pg_sys::TupleTableSlot,
    new: *mut pg_sys::TupleTableSlot,
    expressions: *mut pg_sys::ExprContext,
    rules: Vec<Rule>,
    /// Columns that some rule reads, ascending.
    needed: Vec<i16>,
    identity: Identity,
    scratch: Context,
    /// Owns slots and expressions.
    _memory: Context,
}

struct Rule {
    key: Vec<(i16, Encoder)>,
    predicate: Predicate,
}

/// Which columns of a row before an UPDATE or DELETE are in the log.
enum Identity {
    All,
    Columns(Vec<i16>),
}

impl Identity {
    fn holds(&self, attnum: i16) -> bool {
        match self {
            Identity::All => true,
            Identity::Columns(columns) => columns.contains(&attnum),
        }
    }
}

/// A decoded row change.
pub(super) struct Tuples {
    pub(super) old: pg_sys::HeapTuple,
    pub(super) new: pg_sys::HeapTuple,
    pub(super) update: bool,
    pub(super) delete: bool,
}

impl Evaluator {
    /// Prepares all shards of a table; `None` if it is gone. An expression that can't be prepared counts as "may be in the shard".
    pub(crate) fn new(table: Oid, wanted: &[Wanted<'_>]) -> Option<Self> {
        let relation = Opened::unlocked(table)?;
        let memory = Context::new(c"foreshard relation");
        let scratch = Context::new(c"foreshard change");
        let mut needed: Vec<i16> = Vec::new();
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
        let types: Vec<Oid> = unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*relation.0).rd_att) }
            .iter()
            .map(|column| column.atttypid)
            .collect();
        let rules = memory.run(|| {
            wanted
                .iter()
                .map(|shard| Rule {
                    key: shard.key.iter().map(|(attnum, kind)| (*attnum, Encoder::key(*kind))).collect(),
                    predicate: match shard.predicate {
                        WantedPredicate::None => Predicate::None,
                        WantedPredicate::Tree(tree) => prepare(tree, shard.mapping, &types),
                        WantedPredicate::Unusable => Predicate::Broken,
                    },
                })
                .collect::<Vec<_>>()
        });
        for rule in &rules {
            needed.extend(rule.key.iter().map(|(attnum, _)| *attnum));
            if let Predicate::Expression { attnums, .. } = &rule.predicate {
                needed.extend(attnums);
            }
        }
        needed.sort_unstable();
        needed.dedup();
        // SAFETY: the relation is open.
        let identity = unsafe { identity(relation.0) };
        Some(Evaluator { table, old, new, expressions, rules, needed, identity, scratch, _memory: memory })
    }

    /// The table whose rows it reads.
    pub(super) fn table(&self) -> Oid {
        self.table
    }

    /// Calls `each` with the number of every rule and the row before and after, as that rule's shard sees it.
    ///
    /// # Safety
    /// The tuples are rows of this evaluator's table in its present shape, or NULL.
    pub(super) unsafe fn evaluate(
        &mut self,
        tuples: &Tuples,
        mut each: impl FnMut(usize, Option<Image>, Option<Image>),
    ) {
        // SAFETY: slots and tuples agree by contract. The current memory context is one that is reset below.
        unsafe {
            let back = Switched::to(self.scratch.raw());
            let last = self.needed.last().copied().unwrap_or(0);
            let has_old = fill(self.old, tuples.old, last);
            let has_new = fill(self.new, tuples.new, last);
            let absent = if has_new { self.complete(has_old) } else { Vec::new() };
            let Evaluator { old, new, expressions, rules, identity, .. } = self;
            for (number, rule) in rules.iter_mut().enumerate() {
                let after =
                    has_new.then(|| rule.image(*new, *expressions, |attnum| !absent.contains(&attnum)));
                let before = if has_old {
                    Some(rule.image(*old, *expressions, |attnum| identity.holds(attnum)))
                } else if tuples.update && has_new {
                    // No old row in the log says that the identity's columns did not change.
                    let known = |attnum| identity.holds(attnum) && !absent.contains(&attnum);
                    Some(rule.image(*new, *expressions, known))
                } else if tuples.delete || tuples.update {
                    Some(rule.unknown())
                } else {
                    None
                };
                each(number, before, after);
            }
            clear(*old);
            clear(*new);
            pg_sys::MemoryContextReset((**expressions).ecxt_per_tuple_memory);
            drop(back);
        }
        self.scratch.reset();
    }

    /// Values too large for the row are left out of the log where they did not change. Takes them from the old row if it has
    /// them; gives the columns that stay unknown.
    unsafe fn complete(&mut self, has_old: bool) -> Vec<i16> {
        let mut absent = Vec::new();
        for attnum in &self.needed {
            let at = *attnum as usize - 1;
            // SAFETY: both slots were filled up to the last needed column.
            unsafe {
                let (new, old) = (&*self.new, &*self.old);
                if *new.tts_isnull.add(at) || !self.is_left_out(self.new, at) {
                    continue;
                }
                let known = has_old
                    && self.identity.holds(*attnum)
                    && !*old.tts_isnull.add(at)
                    && !self.is_left_out(self.old, at);
                if known {
                    *new.tts_values.add(at) = *old.tts_values.add(at);
                } else {
                    absent.push(*attnum);
                }
            }
        }
        absent
    }

    /// Whether a value is only a pointer into the TOAST table, which can't be followed while decoding.
    unsafe fn is_left_out(&self, slot: *mut pg_sys::TupleTableSlot, at: usize) -> bool {
        // SAFETY: the value is not NULL; a variable-length one points to at least the two bytes that are read of an external one.
        unsafe {
            let descriptor = pgrx::PgTupleDesc::from_pg_unchecked((*slot).tts_tupleDescriptor);
            let Some(column) = descriptor.get(at) else { return false };
            if column.attlen != -1 {
                return false;
            }
            let value: *const u8 = (*(*slot).tts_values.add(at)).cast_mut_ptr();
            const EXTERNAL: u8 = if cfg!(target_endian = "little") { 0x01 } else { 0x80 };
            *value == EXTERNAL && u32::from(*value.add(1)) == pg_sys::vartag_external::VARTAG_ONDISK
        }
    }
}

impl Rule {
    unsafe fn image(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        expressions: *mut pg_sys::ExprContext,
        known: impl Fn(i16) -> bool,
    ) -> Image {
        let presence = match &self.predicate {
            Predicate::None => Presence::In,
            Predicate::Broken => Presence::Failed,
            Predicate::Expression { attnums, .. } if !attnums.iter().all(|attnum| known(*attnum)) => {
                Presence::Unknown
            }
            // SAFETY: the slot is filled with every column that the expression reads.
            Predicate::Expression { state, infallible, .. } => unsafe {
                (*expressions).ecxt_scantuple = slot;
                let (state, infallible) = (*state, *infallible);
                let held = if infallible {
                    Ok(holds(state, expressions))
                } else {
                    caught(|| holds(state, expressions))
                };
                match held {
                    Ok(true) => Presence::In,
                    Ok(false) => Presence::Out,
                    Err(_) => Presence::Failed,
                }
            },
        };
        let key = if presence == Presence::Out || !self.key.iter().all(|(attnum, _)| known(*attnum)) {
            None
        } else {
            // SAFETY: the slot is filled with every key column, and each encoder is of its column's type.
            let value = |(attnum, encoder): &mut (i16, Encoder)| unsafe {
                let at = *attnum as usize - 1;
                let null = *(*slot).tts_isnull.add(at);
                (!null).then(|| encoder.text(*(*slot).tts_values.add(at)))
            };
            Some(self.key.iter_mut().map(value).collect())
        };
        Image { presence, key }
    }

    /// A row of which the log holds nothing.
    fn unknown(&self) -> Image {
        let presence = match self.predicate {
            Predicate::None => Presence::In,
            _ => Presence::Unknown,
        };
        Image { presence, key: self.key.is_empty().then(Vec::new) }
    }
}

/// Puts a tuple into a slot with its first `columns` taken apart; false if there is none.
unsafe fn fill(slot: *mut pg_sys::TupleTableSlot, tuple: pg_sys::HeapTuple, columns: i16) -> bool {
    if tuple.is_null() {
        return false;
    }
    // SAFETY: the slot does not free the tuple; it is cleared before the tuple goes away.
    unsafe {
        pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        if columns > 0 {
            pg_sys::slot_getsomeattrs_int(slot, i32::from(columns));
        }
    }
    true
}

/// # Safety
/// `relation` is open.
unsafe fn identity(relation: pg_sys::Relation) -> Identity {
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

/// What `ExecClearTuple` does, an inline function in PostgreSQL's headers.
unsafe fn clear(slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: a slot with the operations of its kind, called through a guarded pointer.
    unsafe {
        if let Some(clear) = (*(*slot).tts_ops).clear {
            pg_sys::ffi::pg_guard_ffi_boundary(|| clear(slot));
        }
    }
}
