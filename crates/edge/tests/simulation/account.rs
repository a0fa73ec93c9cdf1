//! What is kept of a run: counts, and the account of all that happened where it is wanted.

use foreshard_edge::Stats;

/// What a world went through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) transactions: u64,
    pub(crate) answers: u64,
    pub(crate) from_copies: u64,
    pub(crate) beyond: u64,
    pub(crate) several_parts: u64,
    pub(crate) refused: u64,
    pub(crate) invalidated: u64,
    pub(crate) rejected_by_snapshot: u64,
    pub(crate) repeated: u64,
    pub(crate) resets: u64,
    pub(crate) edge_kills: u64,
    pub(crate) crashes: u64,
    pub(crate) slots_lost: u64,
    pub(crate) restores: u64,
    pub(crate) regrown: u64,
    pub(crate) deltas_applied: u64,
    pub(crate) deltas_completed: u64,
    pub(crate) deltas_refused: u64,
    pub(crate) promoted: u64,
    /// Answers read at the origin while nothing proved the stream to be fresh.
    pub(crate) without_stream: u64,
    /// Of everything that happened, in order.
    pub(crate) fingerprint: u64,
}

impl Summary {
    /// Sums up worlds; the fingerprint is of one world only.
    pub(crate) fn add(&mut self, other: &Summary) {
        self.transactions += other.transactions;
        self.answers += other.answers;
        self.from_copies += other.from_copies;
        self.beyond += other.beyond;
        self.several_parts += other.several_parts;
        self.refused += other.refused;
        self.invalidated += other.invalidated;
        self.rejected_by_snapshot += other.rejected_by_snapshot;
        self.repeated += other.repeated;
        self.resets += other.resets;
        self.edge_kills += other.edge_kills;
        self.crashes += other.crashes;
        self.slots_lost += other.slots_lost;
        self.restores += other.restores;
        self.regrown += other.regrown;
        self.deltas_applied += other.deltas_applied;
        self.deltas_completed += other.deltas_completed;
        self.deltas_refused += other.deltas_refused;
        self.promoted += other.promoted;
        self.without_stream += other.without_stream;
    }

    /// Adds what the core of one process counted.
    pub(crate) fn add_process(&mut self, stats: &Stats) {
        self.invalidated += stats.invalidated;
        self.rejected_by_snapshot += stats.rejected_by_snapshot;
        self.repeated += stats.frames_repeated;
        self.resets += stats.resets;
        self.deltas_applied += stats.deltas_applied;
        self.deltas_completed += stats.deltas_completed;
        self.deltas_refused += stats.deltas_refused.values().sum::<u64>();
        self.promoted += stats.promoted;
    }
}

/// What becomes of the account of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// Nothing: putting it into words takes longer than the run.
    Dropped,
    /// Its fingerprint is taken, to tell whether two runs are the same.
    Fingerprint,
    /// The same, and it is printed.
    Printed,
}
