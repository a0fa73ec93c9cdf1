use std::collections::BTreeSet;

use foreshard_protocol::{CatalogChange, Event, Frame, Lsn, Schedule, WholeReason, Xid, encode};
use pgrx::PgSqlErrorCode;

use super::failures::{Counter, Failed};
use super::image::touch;
use super::options::Options;
use super::sources::{Prepared, Sources, Target};
use super::touched::Touched;
use super::watch::{Interest, Noticed, Watch};
use crate::catalog::{self, Definitions, Tables, fail, schedule};
use crate::pg::change::RowChange;
use crate::pg::scan::View;
use crate::pg::subtransaction::unless_inconsistent;
use crate::pg::{Oid, identity, invalidation, server, unsettled};

/// What a commit record says.
pub(crate) struct Commit {
    /// Top-level transaction id in full width.
    pub(crate) xid: Xid,
    /// Start of the commit record.
    pub(crate) commit_lsn: Lsn,
    /// End of the commit record.
    pub(crate) end_lsn: Lsn,
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) commit_time: i64,
}

/// One consumer's decoding.
///
/// Definitions are those in force after all transactions that were decoded before: the stream is in commit order, and so is
/// what the edge knows. They are not those a row change itself could see. A transaction that began before a shard was created
/// and commits after it must still be told to that shard.
pub(crate) struct Session {
    edge: String,
    deltas: bool,
    /// `None` before the first transaction.
    known: Option<Known>,
    touched: Touched,
    schedules: Vec<Schedule>,
    /// A row of the definitions was changed by this transaction.
    redefined: bool,
    /// Shards that this transaction itself defined or mapped.
    own: BTreeSet<String>,
    altered: Altered,
    /// Predicates that failed on rows of this transaction.
    failed: Failed,
    /// Those of all transactions.
    failures: Counter,
}

struct Known {
    tables: Option<Tables>,
    definitions: Definitions,
    /// Names of the shards that some function may read; looked at for every transaction.
    mapped: BTreeSet<String>,
    sources: Sources,
    /// The first transaction is still running. Its snapshot is that of when it began, and definitions that were committed since
    /// then, but before this session, are not in it.
    tentative: bool,
}

/// Relations that were invalidated since the last commit.
#[derive(Default)]
struct Altered {
    all: bool,
    tables: Vec<Oid>,
}

impl Known {
    fn load() -> Self {
        let tables = Tables::find();
        let definitions = tables.map(definitions_of_then).unwrap_or_default();
        let sources = Sources::of(&definitions);
        let mapped = definitions.mapped().map(|shard| shard.name.clone()).collect();
        Known { tables, definitions, mapped, sources, tentative: true }
    }

    /// Reads the definitions as of this commit and tells what differs.
    fn renew(&mut self) -> Vec<CatalogChange> {
        let mut next = Known::load();
        next.tentative = false;
        next.sources.inherit_shapes(&mut self.sources);
        let changes = self.definitions.changes(&next.definitions);
        *self = next;
        changes
    }

    fn has_edge(&self, edge: &str) -> bool {
        self.tables.is_some_and(|tables| catalog::edge(&tables, edge, View::Catalog).is_some())
    }
}

impl Session {
    /// Raises an ERROR unless the session's role may follow the edge, and from this slot.
    pub(crate) fn check(options: &Options, slot: &str) {
        let Some(tables) = Tables::find() else {
            fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                "extension foreshard is not installed in this database",
                "Run CREATE EXTENSION foreshard in it, or connect to the database that has it.",
            );
        };
        let edge = catalog::edge(&tables, &options.edge, View::Catalog);
        // The same words for "no such edge" and "not yours", so that names can't be probed.
        let allowed = match &edge {
            Some(edge) => identity::may_act_as(identity::session_role(), edge.role),
            None => false,
        };
        if !allowed {
            let code = match edge {
                None if identity::may_act_as(identity::session_role(), None) => {
                    PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT
                }
                _ => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            };
            fail(
                code,
                format!("edge \"{}\" does not exist or is not this role's", options.edge),
                "Register it: SELECT foreshard.create_edge(name, role => …), with the role that the sidecar connects as.",
            );
        }
        // Reading it would take away what that edge has not been told.
        let another = edge.is_some_and(|edge| edge.slot_name != slot);
        if another && catalog::has_slot(&tables, slot, View::Catalog) {
            fail(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("replication slot \"{slot}\" is another edge's, not edge \"{}\"'s", options.edge),
                "Each edge reads its own slot: SELECT foreshard.edge_slot(name) tells it.",
            );
        }
    }

    /// Raises an ERROR if the session's role may no longer follow the edge.
    pub(crate) fn check_role(&self) {
        let role = identity::session_role();
        let edge = Tables::find().and_then(|tables| catalog::edge(&tables, &self.edge, View::Catalog));
        // An edge that is gone is told as such.
        let allowed = edge.is_none_or(|edge| identity::may_act_as(role, edge.role));
        if !allowed || !identity::may_replicate(role) {
            fail(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("this session's role may no longer follow edge \"{}\"", self.edge),
                "Give it back the edge's role and REPLICATION, or connect as a role that has both.",
            );
        }
    }

    /// Raises an ERROR if the slot about to be made is named for an edge that does not exist: one that was dropped a moment ago
    /// would leave a slot behind that nobody reads and nobody drops.
    pub(crate) fn check_slot(name: &str) {
        let Some(tables) = Tables::find().filter(|_| name.starts_with("foreshard_")) else { return };
        server::wait_for_writers(tables.edge);
        if !catalog::has_slot(&tables, name, View::Catalog) {
            fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("no edge has the replication slot \"{name}\""),
                "Names that begin with foreshard_ are those of edges: SELECT foreshard.edge_slot(name) tells an edge's.",
            );
        }
    }

    /// For the consumer of `slot`.
    pub(crate) fn new(options: Options, slot: String) -> Self {
        Session {
            edge: options.edge,
            deltas: options.deltas,
            known: None,
            touched: Touched::default(),
            schedules: Vec::new(),
            redefined: false,
            own: BTreeSet::new(),
            altered: Altered::default(),
            failed: Failed::new(),
            failures: Counter::of(slot),
        }
    }

    /// A transaction is about to be replayed. True if PostgreSQL's memory was used.
    pub(crate) fn begin(&mut self) -> bool {
        // What an ERROR may have left of a transaction that is decoded again; clearing a map costs something even if it is empty.
        if !self.is_idle() {
            self.touched = Touched::default();
            self.schedules.clear();
            self.redefined = false;
        }
        self.failures.write_if_due();
        if !self.own.is_empty() || !self.failed.is_empty() {
            self.own.clear();
            self.failed.clear();
        }
        let first = self.known.is_none();
        if first {
            self.known = Some(Known::load());
        }
        self.absorb_invalidations();
        first
    }

    /// One row changed. True if PostgreSQL's memory was used for it.
    pub(crate) fn change(&mut self, row: &RowChange<'_>) -> bool {
        self.absorb_invalidations();
        let Some(known) = &mut self.known else { return false };
        let table = row.table();
        if let Some(prepared) = known.sources.at_hand(table) {
            prepared.evaluate(row, &mut self.touched, &mut self.failed, self.deltas);
            return false;
        }
        if let Some(tables) = &known.tables {
            if tables.defines(table) {
                self.redefined = true;
                let own = &mut self.own;
                if table == tables.shard {
                    row.new_row(|row| own.extend(row.text(1)));
                } else if table == tables.mapping {
                    row.new_row(|row| own.extend(row.text(3)));
                }
                return true;
            } else if tables.schedules == table {
                let edge = &self.edge;
                let schedules = &mut self.schedules;
                row.new_row(|row| {
                    if row.text(2).as_ref() == Some(edge) {
                        schedules.extend(schedule(row));
                    }
                });
                return true;
            }
        }
        if !known.sources.concerns(table) {
            return false;
        }
        match known.sources.prepared(table) {
            Some(prepared) => prepared.evaluate(row, &mut self.touched, &mut self.failed, self.deltas),
            // The row's own table can't be looked at: that must not happen, and must not be missed if it does.
            None => {
                for shard in known.sources.shards_on(table) {
                    self.touched.whole(shard, WholeReason::Evaluation);
                }
            }
        }
        true
    }

    /// Tables were truncated.
    pub(crate) fn truncate(&mut self, tables: &[Oid]) {
        self.absorb_invalidations();
        let Some(known) = &self.known else { return };
        for table in tables {
            for shard in known.sources.shards_on(*table) {
                self.touched.whole(shard, WholeReason::Truncate);
            }
        }
    }

    /// Whether the transaction, now complete, may have anything to tell: most have not, and for them that is all that is asked.
    pub(crate) fn has_news(&mut self) -> bool {
        self.absorb_invalidations();
        let tentative = self.known.as_ref().is_some_and(|known| known.tentative);
        let altered = self.altered.all || !self.altered.tables.is_empty();
        tentative || altered || !self.is_idle() || !self.failed.is_empty()
    }

    /// The transaction is complete: its frame, encoded, unless nothing in it concerns the edge.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Option<Vec<u8>> {
        self.absorb_invalidations();
        if !self.failed.is_empty() {
            self.failures.add(commit.commit_lsn, commit.commit_time, std::mem::take(&mut self.failed));
        }
        let known = self.known.as_mut()?;
        let mut events = Vec::new();

        for shard in altered_shards(&mut known.sources, &self.altered, known.tentative) {
            self.touched.whole(&shard, WholeReason::Ddl);
        }
        // A session begins with everything invalidated; that alone is no news for the edge.
        let tables_altered = self.altered.all && !known.tentative
            || known
                .tables
                .is_some_and(|tables| self.altered.tables.iter().any(|table| tables.defines(*table)));
        if self.redefined || tables_altered || known.tentative {
            let tentative = known.tentative;
            let changes = known.renew();
            // What this transaction did not define itself was committed after it began, yet before this session: its rows were
            // evaluated without it, and the edge may have copies that do not hold them.
            let unseen = changes.iter().filter_map(|change| match change {
                CatalogChange::Shard(shard) if tentative && !self.own.contains(&shard.name) => {
                    Some(&shard.name)
                }
                _ => None,
            });
            for shard in unseen {
                self.touched.whole(shard, WholeReason::Coarsened);
            }
            if self.redefined || tables_altered {
                let defined = changes.iter().any(|change| matches!(change, CatalogChange::Shard(_)));
                events.extend(changes.into_iter().map(Event::Catalog));
                if defined {
                    let mut unsettled = unsettled::invisible_commits();
                    unsettled.retain(|xid| *xid != commit.xid);
                    events.extend((!unsettled.is_empty()).then_some(Event::Unsettled(unsettled)));
                }
                // Without the extension there is no telling, and the edge may come back with it.
                if known.tables.is_some() && !known.has_edge(&self.edge) {
                    events.push(Event::Catalog(CatalogChange::EdgeDropped));
                }
            }
        }
        self.altered = Altered::default();

        let (definitions, mapped) = (&known.definitions, &known.mapped);
        events.extend(self.touched.take(|shard| {
            let shard = definitions.shards.get(shard)?;
            mapped.contains(&shard.name).then_some((shard.key.as_slice(), shard.generation))
        }));
        events.extend(self.schedules.drain(..).map(Event::Schedule));
        (!events.is_empty()).then(|| {
            encode(&Frame {
                xid: commit.xid,
                commit_lsn: commit.commit_lsn,
                end_lsn: commit.end_lsn,
                commit_time: commit.commit_time,
                events,
            })
        })
    }

    /// Nothing of this transaction has to be told.
    fn is_idle(&self) -> bool {
        self.touched.is_empty() && self.schedules.is_empty() && !self.redefined
    }

    fn absorb_invalidations(&mut self) {
        let Some(invalidated) = invalidation::take() else { return };
        let Some(known) = &mut self.known else { return };
        if invalidated.all {
            known.sources.forget_all();
            self.altered.all = true;
        }
        for table in invalidated.relations {
            let ours = known.tables.is_some_and(|tables| tables.defines(table));
            if (ours || known.sources.depends_on(table)) && !self.altered.tables.contains(&table) {
                self.altered.tables.push(table);
            }
            known.sources.forget(table);
        }
    }
}

impl Prepared {
    /// Notes what a row change does to the shards of its table.
    fn evaluate(&mut self, row: &RowChange<'_>, touched: &mut Touched, failed: &mut Failed, deltas: bool) {
        let mut notes = Notes { targets: &self.targets, touched, failed, deltas };
        row.evaluate(&mut self.evaluator, &mut notes);
    }
}

/// Takes down what the evaluator notices.
struct Notes<'a> {
    targets: &'a [Target],
    touched: &'a mut Touched,
    failed: &'a mut Failed,
    deltas: bool,
}

impl Watch for Notes<'_> {
    fn interest(&self, rule: usize) -> Interest {
        let target = &self.targets[rule];
        let rows = self.deltas && target.form.is_some();
        if self.touched.is_empty() {
            return if rows { Interest::Rows } else { Interest::Keys };
        }
        self.touched.interest(&target.shard.name, rows)
    }

    fn noticed(&mut self, rule: usize, noticed: Noticed) {
        let target = &self.targets[rule];
        let shard = &target.shard.name;
        if let (Some(rows), Some(form)) = (noticed.rows, target.form) {
            self.touched.note_rows(shard, form, rows);
        } else if let Some(touch) = touch(noticed.old, noticed.new, target.keyed) {
            self.touched.note(shard, touch);
        }
    }

    fn failed(&mut self, rule: usize, state: u32) {
        let shard = &self.targets[rule].shard;
        match self.failed.get_mut(&shard.name) {
            Some((_, rows, last)) => (*rows, *last) = (*rows + 1, state),
            None => {
                self.failed.insert(shard.name.clone(), (shard.generation, 1, state));
            }
        }
    }
}

/// PostgreSQL keeps old rows of catalogs for slots, but no dropped tables: once the extension is gone, so are its definitions of before,
/// and a table that the snapshot shows has no entry at present.
fn definitions_of_then(tables: Tables) -> Definitions {
    unless_inconsistent(|| catalog::definitions(&tables, View::Catalog)).unwrap_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the slot begins before extension foreshard was dropped, and the definitions of then are gone",
            "Drop the slot with foreshard.drop_edge or pg_drop_replication_slot: the edge begins anew with an empty one.",
        )
    })
}

fn altered_shards(sources: &mut Sources, altered: &Altered, everything: bool) -> Vec<String> {
    if altered.all || everything {
        sources.reshaped(None)
    } else if altered.tables.is_empty() {
        Vec::new()
    } else {
        sources.reshaped(Some(&altered.tables))
    }
}
