//! A query reduced to what decides which changes concern it.

use std::collections::BTreeSet;
use std::rc::Rc;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// A column of a relation of the query `depth` levels further out, 0 being this one. Relations are counted from 0, columns
    /// from 1.
    Column {
        /// Levels further out.
        depth: usize,
        /// Index into that level's relations.
        relation: usize,
        /// Number of the column.
        column: i16,
    },
    /// A parameter of the shard, counted from 0.
    Parameter(usize),
}

/// One condition of a conjunction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fact {
    /// Relations of its own level that it reads, in subqueries too.
    pub(crate) relations: BTreeSet<usize>,
    /// Relations of which a row that is all NULL makes it not true.
    pub(crate) not_null: BTreeSet<usize>,
    /// The two items that it says have the same text (or are both NULL).
    pub(crate) equal: Option<(Item, Item)>,
    /// Its expression tree, if it can be a shard predicate over its only relation.
    pub(crate) predicate: Option<String>,
}

/// What a WHERE or ON clause says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quals {
    /// All of them hold.
    pub(crate) facts: Vec<Rc<Fact>>,
    /// Subqueries in them.
    pub(crate) subqueries: Vec<Level>,
}

/// How relations are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// One relation, by its index.
    Relation(usize),
    /// FROM with WHERE, or an inner join.
    Inner(Vec<Join>, Quals),
    /// Rows of the first side stay without a partner: LEFT JOIN, or RIGHT JOIN turned round.
    Left(Box<Join>, Box<Join>, Quals),
    /// Rows of both sides stay without a partner.
    Full(Box<Join>, Box<Join>, Quals),
}

/// An entry of a range table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// A table by its OID.
    Table(u32),
    /// A subquery in FROM, or an arm of a set operation.
    Subquery(Level),
    /// A reference to a WITH query of the level that is so many levels further out, by its index there.
    Cte {
        /// Levels further out.
        depth: usize,
        /// Index into that level's WITH queries.
        index: usize,
    },
    /// Anything else, with the subqueries in it.
    Other(Vec<Level>),
}

/// A WITH query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cte {
    /// What it is.
    pub(crate) level: Level,
    /// Whether it is read in one place, and not by itself.
    pub(crate) single: bool,
}

/// A column that a level gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Where its value is taken from unchanged.
    pub(crate) item: Option<Item>,
    /// Whether a condition on it may as well be applied to the rows that the level reads.
    pub(crate) filterable: bool,
}

/// A SELECT, at any depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// The range table.
    pub(crate) relations: Vec<Relation>,
    /// FROM and WHERE.
    pub(crate) join: Join,
    /// WITH queries.
    pub(crate) ctes: Vec<Cte>,
    /// The columns it gives.
    pub(crate) outputs: Vec<Output>,
    /// UNION, INTERSECT or EXCEPT of its relations.
    pub(crate) set_operation: bool,
    /// GROUPING SETS, ROLLUP or CUBE turn columns into NULL.
    pub(crate) grouping_sets: bool,
    /// Subqueries outside FROM and WHERE.
    pub(crate) subqueries: Vec<Level>,
}
