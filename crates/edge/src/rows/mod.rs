//! Rows as functions see them: JSON as `row_to_json` writes it, and queries in PostgREST's syntax.

mod decimal;
mod filter;
mod json;
mod moment;
mod order;
mod query;
mod syntax;
mod value;

pub use filter::{Comparison, Condition, Filter};
pub use json::{to_json, to_ndjson};
pub(crate) use order::compare;
pub use query::{Query, QueryError, Selected};
