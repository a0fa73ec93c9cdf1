//! The extension foreshard inside PostgreSQL.
//!
//! `api` holds the functions that SQL can call, `output_plugin` turns row changes into shard events, `catalog` is what both
//! know of the definitions, `query` which changes concern a query. They are safe code. Everything that touches PostgreSQL's C interface is in `pg`, the only
//! module where `unsafe` is allowed.

mod api;
mod catalog;
mod datetime;
mod number_hash;
mod output_plugin;
mod pg;
mod query;

pgrx::pg_module_magic!();
