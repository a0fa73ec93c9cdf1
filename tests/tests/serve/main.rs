//! `foreshard serve` end to end, against a real PostgreSQL.

mod answers;
mod beyond;
mod certificates;
mod direct;
mod failover;
mod faults;
mod formats;
mod https;
mod limits;
mod many;
mod origin_tls;
mod outages;
mod past;
mod persistence;
mod queries;
mod reload;
mod secrets;
mod shop;
mod tokens;
