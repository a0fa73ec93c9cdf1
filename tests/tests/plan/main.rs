//! `foreshard plan` end to end, against a real PostgreSQL.

mod faults;
mod learning;
mod shop;
