//! Rows as functions see them: JSON as `row_to_json` writes it, and queries in PostgREST's syntax.

mod filter;
mod json;
mod query;

pub use filter::{Comparison, Condition, Filter};
pub use json::{to_json, to_ndjson};
pub use query::{Query, QueryError, Selected};
