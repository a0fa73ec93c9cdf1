//! `foreshard serve` end to end, against a real PostgreSQL.

mod answers;
mod faults;
mod shop;
