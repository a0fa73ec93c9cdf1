//! `foreshard plan` end to end, against a real PostgreSQL.

mod backtest;
mod dead;
mod explain;
mod faults;
mod hints;
mod learning;
mod maintenance;
mod measures;
mod shop;
mod state;
