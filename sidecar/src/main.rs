//! `foreshard`: the edge sidecar (`serve`), the predictive analytics engine (`plan`) and their tools.

mod advise;
mod backtest;
mod clock;
mod config;
mod coredump;
mod doctor;
mod feed;
mod fetch;
#[cfg(test)]
mod fuzzing;
mod http;
mod logging;
mod origin;
mod persist;
mod plan;
mod reload;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

// Answers are built from many small allocations on few threads: a tenth of a cached read's time with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows next to the edge function before it runs, never stale.
#[derive(Parser)]
#[command(name = "foreshard", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The edge sidecar: prefetches what schedules ask for and serves shards to functions
    Serve(serve::ServeArgs),
    /// The predictive analytics engine: learns from the execution log and publishes prefetch schedules
    Plan(plan::PlanArgs),
    /// Says which shards would serve what functions read better, and applies one piece of that advice or takes it back
    Advise(advise::AdviseArgs),
    /// Says why a function is scheduled at an edge, or not
    Explain(Box<plan::ExplainArgs>),
    /// Replays a trace of invocations through the models and scores what they predict
    Backtest(backtest::BacktestArgs),
    /// Checks an origin and says what to fix
    Doctor(doctor::DoctorArgs),
    /// Validates a configuration file, or lists every setting of `serve`
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// It is one of `plan`, not of `serve`
        #[arg(long, requires = "config")]
        plan: bool,
    },
}

/// What BSD's sysexits calls a usage error: the configuration is at fault.
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    if let Err(error) = coredump::forbid() {
        tracing::warn!(%error, "a core file of this process, with rows and keys in it, can't be prevented");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(args).await,
            Command::Plan(args) => plan::run(args).await,
            Command::Advise(args) => advise::run(args).await,
            Command::Explain(args) => plan::explain(*args).await,
            Command::Backtest(args) => backtest::run(args),
            Command::Doctor(args) => doctor::run(args).await,
            Command::Check { config, plan } => check(config, plan),
        }
    });
    // A task that is blocked in the replication library must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<config::Mistakes>() {
        eprintln!("{error}");
        return ExitCode::from(EX_USAGE);
    }
    eprintln!("foreshard: {error:#}");
    ExitCode::FAILURE
}

fn check(file: Option<PathBuf>, plan: bool) -> anyhow::Result<()> {
    let Some(file) = file else {
        for setting in config::SETTINGS {
            println!("{:<22} {:<16} {}", setting.name, setting.default, setting.help);
        }
        return Ok(());
    };
    if plan {
        plan::check(&file)?;
    } else {
        serve::doors(&config::Config::load(Some(&file), std::env::vars(), &[])?)?;
    }
    println!("{}: valid", file.display());
    Ok(())
}
