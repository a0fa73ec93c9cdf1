//! `foreshard plan` end to end, against a real PostgreSQL.

mod explain;
mod faults;
mod learning;
mod measures;
mod shop;
