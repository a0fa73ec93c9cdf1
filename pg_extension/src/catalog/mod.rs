//! What the extension knows of shards, functions and edges.

mod definitions;
mod failure;
mod load;
mod schedule;

pub(crate) use definitions::{Definitions, Shard};
pub(crate) use failure::fail;
pub(crate) use load::{Edge, Tables, definitions, edge, has_slot, mapped_shard, schedules};
pub(crate) use schedule::{POSTGRES_EPOCH, schedule};
