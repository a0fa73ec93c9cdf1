//! The extension on a real PostgreSQL, through SQL only: what DBAs call, what the plugin decodes, what a fetch gives.

mod api;
mod bad_input;
mod bad_queries;
mod ddl;
mod decoding;
mod deltas;
mod errors;
mod failures;
mod fuzz;
mod glance;
mod health;
mod isolation;
mod lifecycle;
mod log;
mod model;
mod order;
mod origin;
mod queries;
mod query_model;
mod regress;
mod rights;
mod upgrade;
mod values;
mod waiting;
