//! What the evaluation of a row change and the bookkeeping of a transaction tell each other.

use super::delta::RowDelta;
use super::image::Image;

/// What still matters of a shard in this transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Nothing: all of it is told to be invalid.
    None,
    /// Which instances are touched.
    Keys,
    /// What becomes of the rows.
    Rows,
}

/// A row change that a shard notices.
#[derive(Debug)]
pub(crate) struct Noticed {
    /// The row before; `None` if there was none.
    pub(crate) old: Option<Image>,
    /// The row after; `None` if there is none.
    pub(crate) new: Option<Image>,
    /// What it means for the rows of the instances, if that is asked for and certain.
    pub(crate) rows: Option<Vec<RowDelta>>,
}

/// Takes what is noticed; rules are numbered as they were given to the evaluator.
pub(crate) trait Watch {
    /// Asked before a rule is evaluated.
    fn interest(&self, rule: usize) -> Interest;
    /// The rule's shard may be concerned.
    fn noticed(&mut self, rule: usize, noticed: Noticed);
    /// The rule's predicate raised an ERROR of this SQLSTATE (an errcodes number) on the row before or after; told once per change.
    fn failed(&mut self, rule: usize, state: u32);
}
