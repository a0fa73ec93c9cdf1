//! Where the origin is, and how the way to it is protected.

mod address;
mod tls;

pub(crate) use address::OriginAddress;
pub(crate) use tls::{Protection, refused_by_tls};
