//! What the extension knows of shards, functions and edges.

mod definitions;
mod failure;
mod load;
mod rowform;
mod schedule;

pub(crate) use definitions::{Definitions, Dependency, Shard};
pub(crate) use failure::fail;
pub(crate) use load::{
    Edge, Tables, definitions, edge, has_slot, is_defined, mapped_shard, schedules, stored_query,
};
pub(crate) use rowform::RowForm;
pub(crate) use schedule::{POSTGRES_EPOCH, schedule};
