//! `foreshard serve`: the edge sidecar, put together.

mod control;
mod log;
mod resources;
mod shared;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use foreshard_edge::EdgeCore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Auth, Config};
use crate::http::{App, Bound, Guard};
use crate::{feed, fetch};

pub(crate) use log::{Execution, Logger};
pub(crate) use shared::Shared;

/// Flags of `serve`. Every other setting is in the file or the environment; `foreshard check` lists them.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Connection string of the origin, postgresql://USER@HOST:PORT/DATABASE
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// Name of this edge, as registered with foreshard.create_edge
    #[arg(long, value_name = "NAME")]
    edge: Option<String>,
    /// Where functions connect: ADDR:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// none: requests without tokens, on loopback and Unix sockets only
    #[arg(long, value_name = "MODE")]
    auth: Option<String>,
    /// off: ignore schedules and only cache reactively
    #[arg(long, value_name = "on|off")]
    prefetch: Option<String>,
    /// Schedule entries at or below this confidence are dropped
    #[arg(long, value_name = "P")]
    min_confidence: Option<String>,
    /// wall, or replay:T0@W0*RATE to replay a trace
    #[arg(long, value_name = "SPEC")]
    clock: Option<String>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ServeArgs {
    fn load(self) -> Result<Config, crate::config::Mistakes> {
        let flags = [
            ("origin", self.origin),
            ("edge", self.edge),
            ("listen", self.listen),
            ("auth", self.auth),
            ("prefetch", self.prefetch),
            ("min_confidence", self.min_confidence),
            ("clock", self.clock),
        ];
        Config::load(self.config.as_deref(), std::env::vars(), &flags)
    }
}

/// Runs the sidecar until it is told to stop or its edge is dropped.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = Arc::new(args.load()?);
    let guard = Guard::new(&config.auth)?;
    if config.auth == Auth::None {
        tracing::warn!("requests need no token (auth = none)");
    }
    let (orders, ordered) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(EdgeCore::new(config.core.clone()), config.clock, orders));
    match feed::preflight(&config).await {
        Err(error) if error.permanent => bail!("{error}"),
        Err(error) => {
            tracing::warn!(%error, "starting without the origin");
            shared.set_trouble(Some(error.to_string()));
        }
        Ok(()) => {}
    }
    let (logger, log) = log::channel(config.log_buffer);
    let process = format!("{:016x}", rand::random::<u64>());
    let app = App { shared: shared.clone(), logger, guard, config: config.clone(), process };
    let listener = Bound::open(&config.listen).await?;
    tokio::spawn(fetch::run(config.clone(), shared.clone(), ordered));
    tokio::spawn(control::run(config.clone(), shared.clone(), log));
    tokio::spawn(resources::run(shared.clone()));
    tokio::spawn(tick(shared.clone()));
    let feed = tokio::spawn(feed::run(config.clone(), shared.clone()));
    tracing::info!(edge = config.edge, listen = ?config.listen, "serving");
    let edge = config.edge.clone();
    let end = async move {
        tokio::select! {
            () = stopped() => Ok(()),
            result = feed => match result {
                Ok(Ok(())) => Err(anyhow::anyhow!("the origin dropped edge {edge:?}")),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(panic.into()),
            },
        }
    };
    listener.serve(Arc::new(app), end).await
}

/// The core's sense of time.
async fn tick(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(std::time::Duration::from_millis(10));
    loop {
        every.tick().await;
        shared.with(|core, now| core.tick(now));
    }
}

async fn stopped() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stopping");
}
