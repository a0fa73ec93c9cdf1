//! The fence: all `unsafe` of the extension, each block with the reason why it is sound.
//!
//! What holds everywhere here. PostgreSQL is single-threaded per process, so nothing needs synchronisation. An ERROR raised
//! in C arrives as a Rust panic (pgrx guards every call), runs destructors, and becomes an ERROR again at the `#[pg_guard]`
//! boundary. Memory that PostgreSQL allocates belongs to a memory context; values kept across calls are in Rust's heap or
//! in a context that the keeper owns.
#![allow(unsafe_code)]

pub(crate) mod casts;
pub(crate) mod change;
pub(crate) mod context;
mod datum;
mod equality;
pub(crate) mod evaluator;
pub(crate) mod expression;
mod ffi;
mod glance;
pub(crate) mod identity;
pub(crate) mod invalidation;
mod linger;
mod load;
pub(crate) mod log;
mod plugin;
pub(crate) mod predicate;
pub(crate) mod query;
pub(crate) mod relation;
pub(crate) mod rights;
pub(crate) mod rowencoder;
pub(crate) mod rowkey;
pub(crate) mod rows;
mod rule;
pub(crate) mod scan;
pub(crate) mod server;
mod settings;
pub(crate) mod settled;
mod side;
pub(crate) mod subtransaction;
pub(crate) mod trampoline;
pub(crate) mod typeshape;
pub(crate) mod unsettled;
pub(crate) mod value;

/// A relation, type or role by its number in PostgreSQL's catalogs.
pub(crate) type Oid = pgrx::pg_sys::Oid;
