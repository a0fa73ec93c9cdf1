//! What the process says on standard error, and how much of it.

use std::sync::OnceLock;

use tracing_subscriber::layer::Layered;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The replication library reports every acknowledgement at the level of the day's events.
pub(crate) const USUAL: &str = "info,pg_walstream=warn";

type Formatted = Layered<
    fmt::Layer<Registry, fmt::format::DefaultFields, fmt::format::Format, fn() -> std::io::Stderr>,
    Registry,
>;

static LEVELS: OnceLock<reload::Handle<EnvFilter, Formatted>> = OnceLock::new();

/// To be called once, first of all: `FORESHARD_LOG` counts, or the usual.
pub(crate) fn start() {
    let levels = EnvFilter::try_from_env("FORESHARD_LOG").unwrap_or_else(|_| EnvFilter::new(USUAL));
    let stderr: fn() -> std::io::Stderr = std::io::stderr;
    let builder = tracing_subscriber::fmt().with_env_filter(levels).with_writer(stderr).with_ansi(false);
    // A log that can't be written must not end what writes it.
    let builder = builder.log_internal_errors(false).with_filter_reloading();
    // A second call finds it set, and changes nothing.
    let _ = LEVELS.set(builder.reload_handle());
    builder.init();
}

/// Whether these are tracing directives, such as `debug` or `info,foreshard::feed=trace`.
pub(crate) fn checked(levels: &str) -> Result<String, String> {
    match EnvFilter::try_new(levels) {
        Ok(_) => Ok(levels.to_owned()),
        Err(error) => Err(format!("expected levels such as debug or info,foreshard=trace: {error}")),
    }
}

/// From now on this much is said.
pub(crate) fn set(levels: &str) -> anyhow::Result<()> {
    if let Some(handle) = LEVELS.get() {
        handle.reload(EnvFilter::try_new(levels)?)?;
    }
    Ok(())
}
