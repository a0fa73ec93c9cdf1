//! Rows as functions see them: JSON as `row_to_json` writes it, and queries in PostgREST's syntax.

mod filter;
mod json;
mod order;
mod query;

pub use filter::{Comparison, Condition, Filter};
pub use json::{to_json, to_ndjson};
pub(crate) use order::compare;
pub use query::{Query, QueryError, Selected};
