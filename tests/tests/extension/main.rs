//! The extension on a real PostgreSQL, through SQL only: what DBAs call, what the plugin decodes, what a fetch gives.

mod api;
mod bad_input;
mod ddl;
mod decoding;
mod deltas;
mod health;
mod lifecycle;
mod log;
mod model;
mod order;
mod origin;
mod queries;
mod query_model;
mod rights;
mod upgrade;
mod values;
