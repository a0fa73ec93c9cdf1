//! Files that may be replaced while the process runs: certificates, keys, key sets.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Calls `reload` whenever one of the files has been replaced or changed, and at every SIGHUP. Never returns.
///
/// A reload that fails leaves everything as it was: what is half written is read again once it is whole.
pub(crate) async fn watch(what: &'static str, files: Vec<PathBuf>, reload: impl Fn() -> anyhow::Result<()>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = stamp(&files);
    loop {
        tokio::select! {
            _ = look.tick() => if stamp(&files) == before { continue },
            _ = hangup.recv() => {}
        }
        before = stamp(&files);
        match reload() {
            Ok(()) => tracing::info!("{what} read again"),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "{what} can't be used as they are now: the former ones stay"
                );
            }
        }
    }
}

/// What changes when a file is written or replaced. Links are followed: that is how secrets are mounted.
fn stamp(files: &[PathBuf]) -> Vec<Option<(u64, u64, i64, i64)>> {
    let of = |file: &PathBuf| {
        let meta = std::fs::metadata(file).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    };
    files.iter().map(of).collect()
}
