//! The kit that end-to-end tests, the demo and the benchmarks share: throwaway PostgreSQL clusters with the extension in
//! them, the project's own programs as child processes, a link with a delay, and a small HTTP client.
//!
//! Everything started here is ended when its value is dropped, and prints its log when a test fails.

mod account;
mod cluster;
pub mod commit_lsns;
mod delay_proxy;
pub mod history;
mod http;
mod port;
mod process;
mod program;
mod server;
mod wait;

pub use cluster::{Cluster, ClusterOptions, EdgeLogin, StopMode};
pub use delay_proxy::DelayProxy;
pub use http::{Client as HttpClient, Endpoint, Response};
pub use process::{ExitedEarly, Process};
pub use program::{Planner, Sidecar, SidecarOptions, foreshard_binary};
pub use server::Server;
pub use wait::eventually;
