//! The output plugin: row changes in, one frame per transaction that concerns the edge out.

pub(crate) mod delta;
pub(crate) mod failures;
pub(crate) mod image;
pub(crate) mod options;
mod session;
mod sources;
mod touched;
pub(crate) mod watch;

pub(crate) use session::{Commit, Session};
