//! `foreshard serve`: the edge sidecar, put together.

mod control;
mod log;
mod resources;
mod shared;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::{Arg, ArgMatches, Args, FromArgMatches};
use foreshard_edge::EdgeCore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Auth, Config, Mistakes, SECRET, SETTINGS, Setting};
use crate::http::{App, Bound, Compressed, Guard, Https, Targets};
use crate::persist::Keeper;
use crate::{feed, fetch, logging, reload};

pub(crate) use log::{Execution, Logger};
pub(crate) use shared::Shared;

/// Flags of `serve`: `--config`, and every setting that is no secret.
pub(crate) struct ServeArgs {
    config: Option<PathBuf>,
    settings: Vec<(&'static str, Option<String>)>,
}

impl Args for ServeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config").long("config").value_name("FILE").help("TOML file with settings");
        let file = file.value_parser(clap::value_parser!(PathBuf));
        let flags = SETTINGS.iter().filter(|setting| !SECRET.contains(&setting.name));
        flags.fold(command.arg(file), |command, setting| {
            let flag = Arg::new(setting.name).long(setting.name.replace('_', "-")).value_name("VALUE");
            command.arg(flag.help(setting.help).help_heading("Settings"))
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |setting: &Setting| (setting.name, matches.get_one::<String>(setting.name).cloned());
        let flags = SETTINGS.iter().filter(|setting| !SECRET.contains(&setting.name));
        let settings = flags.map(value).collect();
        Ok(ServeArgs { config: matches.get_one("config").cloned(), settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ServeArgs {
    fn load(&self) -> Result<Config, Mistakes> {
        Config::load(self.config.as_deref(), std::env::vars(), &self.settings)
    }
}

/// What the files with keys and certificates make, which are as much part of the configuration as the one that names them.
pub(crate) fn doors(config: &Config) -> Result<(Guard, Option<Https>), Mistakes> {
    match (Guard::new(&config.auth), config.tls.as_ref().map(Https::new).transpose()) {
        (Ok(guard), Ok(https)) => Ok((guard, https)),
        (guard, https) => {
            let mistakes = [("auth_key_file", guard.err()), ("tls_cert", https.err())];
            let told = mistakes.into_iter().filter_map(|(name, error)| Some(format!("{name}: {:#}", error?)));
            Err(Mistakes(told.collect()))
        }
    }
}

/// Runs the sidecar until it is told to stop.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = Arc::new(args.load()?);
    logging::set(&config.log)?;
    // From the first moment on: SIGHUP is no reason to end while the origin is still asked, and a file that may not grow (ulimit -f) is to
    // be an error like a full disk.
    let _handled =
        [SignalKind::hangup(), SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())].map(signal);
    let (guard, https) = doors(&config)?;
    let (guard, https) = (Arc::new(guard), https.map(Arc::new));
    let (orders, ordered) = mpsc::unbounded_channel();
    let shared =
        Arc::new(Shared::new(EdgeCore::new(config.core.clone(), rand::random()), config.clock, orders));
    let keeper =
        config.keep.as_ref().map(|keep| Keeper::open(keep, &config.edge, shared.clone())).transpose()?;
    let keeper = keeper.map(Arc::new);
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
    let app = App {
        shared: shared.clone(),
        logger,
        guard: guard.clone(),
        config: config.clone(),
        compressed: Compressed::default(),
        targets: Targets::default(),
        names: fetch::Names::new(&config),
        process,
    };
    let listener = Bound::open(&config.listen, https.clone()).await?;
    tokio::spawn(reload::watch("log levels", args.config.iter().cloned().collect(), move || {
        logging::set(&args.load()?.log)
    }));
    tokio::spawn(reload::watch("token keys", guard.files(), move || guard.reload()));
    if let Some(https) = https {
        tokio::spawn(reload::watch("certificates", https.files(), move || https.reload()));
    }
    tokio::spawn(fetch::run(config.clone(), shared.clone(), ordered));
    tokio::spawn(control::run(config.clone(), shared.clone(), log));
    tokio::spawn(resources::run(shared.clone()));
    tokio::spawn(tick(shared.clone()));
    if let Some(keeper) = &keeper {
        let (reloaded, steps) = (keeper.clone(), keeper.clone());
        tokio::spawn(reload::watch("keys of the persistent cache", keeper.files(), move || {
            reloaded.reload()
        }));
        tokio::spawn(steps.run());
    }
    let feed = tokio::spawn(feed::run(config.clone(), shared.clone(), keeper.clone()));
    tracing::info!(edge = config.edge, listen = ?config.listen, "serving");
    if config.auth == Auth::None {
        tracing::warn!("requests need no token (auth = none)");
    }
    let end = async move {
        tokio::select! {
            () = stopped() => Ok(()),
            Err(panic) = feed => Err(panic.into()),
        }
    };
    let result = listener.serve(Arc::new(app), end).await;
    if let Some(keeper) = keeper {
        // A successor starts from here.
        tokio::task::spawn_blocking(move || keeper.step()).await?;
    }
    result
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
