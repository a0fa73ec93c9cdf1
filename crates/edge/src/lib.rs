//! What an edge decides, without doing any I/O.
//!
//! Stream frames, fetch results, requests, schedules and ticks go in; answers, fetches to start and positions to
//! acknowledge come out. Time is an argument. That makes the contract of an answer testable by simulation:
//! an answer that carries position `L` holds every transaction on its shards whose commit is at or before `L`.
//!
//! The shell around it (`sidecar`) owns sockets, tasks and clocks.

mod agenda;
mod agent;
mod beyond;
mod cache;
mod changes;
mod config;
mod copy;
mod core;
mod definitions;
mod deltas;
mod flights;
mod landing;
mod lookup;
mod now;
mod pump;
mod refetch;
mod requests;
mod restart;
mod retrace;
pub mod rows;
mod stats;
mod stream;
mod views;
mod warm;

pub use agent::Resources;
pub use config::EdgeConfig;
pub use copy::{Body, Layout, ShardCopy};
pub use core::{Action, EdgeCore, Fetched, FetchedInstance, FlightId, FlightOrder};
pub use definitions::{Definitions, FunctionShard};
pub use deltas::Refused;
pub use now::Now;
pub use requests::{Answer, Part, Refusal, Reply, Request, RequestId, ServedFrom};
pub use stats::Stats;
pub use warm::DurableStep;
