//! The functions that SQL can call; `sql/` declares them by their symbols.

mod edge;
mod failures;
mod fetch;
mod hints;
mod instances;
mod predicate;
mod query;
mod statement;
mod token;
mod unread;

pub(crate) use fetch::fetch;
pub(crate) use query::caller_query;
