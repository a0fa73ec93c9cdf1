//! `foreshard advise` end to end: a database whose best shards are known by construction, read through a sidecar before and
//! after.

mod applied;
mod command;
mod found;
mod shop;
mod unasked;
