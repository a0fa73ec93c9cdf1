//! What the origin and the edge say to each other.
//!
//! The extension (inside PostgreSQL) and the sidecar (at the edge) share these types: identifiers, log positions,
//! snapshots, the frames of the change stream, the parts of a fetch, and the one codec that turns them into bytes.
//! Nothing here knows PostgreSQL's C API or an async runtime.

mod catalog;
mod codec;
mod disk;
mod fetch;
mod frame;
mod ids;
mod lsn;
mod rowset;
mod snapshot;
mod witness;

pub use catalog::{CatalogSnapshot, EdgeName, FunctionId, Mapping, Schedule, ScheduleEntry, ShardDef};
pub use codec::{DecodeError, RowsWriter, Wire, decode, encode};
pub use disk::{DISK_VERSION, KeptCopy, KeptState};
pub use fetch::{
    Column, ColumnKind, Comparison, FetchFailure, FetchHeader, FetchPart, Horizon, Row, RowOrder, fingerprint,
};
pub use frame::{CatalogChange, Deltas, Event, Frame, InstanceRows, KeyChange, RowChange, WholeReason};
pub use ids::{IdError, InstanceId, KeyPart, ShardName};
pub use lsn::{Lsn, ParseLsnError};
pub use rowset::RowSet;
pub use snapshot::{ParseSnapshotError, Snapshot, Xid};
pub use witness::{Delivered, Witness};

/// Version of everything in this crate that crosses the wire. The plugin refuses a consumer that asks for another.
pub const PROTOCOL_VERSION: u16 = 2;
