//! A history of faults: while functions read and writers write, processes are killed, connections ended and links cut, and
//! whatever is answered all the while is judged like everything else.
//!
//! Sixty seconds unless `FORESHARD_SOAK_SECONDS` says more (`make soak`: ten minutes); `FORESHARD_SOAK_SEED` chooses the faults.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use foreshard_tests::{StopMode, eventually};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::readers::{Readers, Reading, Seen};
use crate::writers::Writers;
use crate::{Bench, follows_again, judge};

/// What can happen.
const FAULTS: [Fault; 10] = [
    Fault::DiskFull,
    Fault::FileTorn,
    Fault::WalsenderEnded,
    Fault::ConnectionsEnded,
    Fault::OriginCrashed,
    Fault::LinkCut,
    Fault::LinkReset,
    Fault::LinkHalfOpen,
    Fault::LinkSlow,
    // The first: what was kept is found again.
    Fault::SidecarKilled,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    SidecarKilled,
    /// The sidecar's disk takes nothing more.
    DiskFull,
    /// The sidecar is killed, and half of what it kept is gone.
    FileTorn,
    WalsenderEnded,
    ConnectionsEnded,
    OriginCrashed,
    LinkCut,
    LinkReset,
    LinkHalfOpen,
    LinkSlow,
}

/// Bytes per second of a link that has collapsed.
const COLLAPSED: u64 = 40_000;
/// One cluster lives this long; a longer run takes one after another, so that what is remembered stays small.
const ROUND: Duration = Duration::from_secs(60);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn readers(bench: &Bench, writers: &Writers) -> Reading {
    Readers::new(bench.sidecar.http.endpoint().clone(), writers.clone()).tolerant().spawn(3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_through_a_history_of_faults() -> Result<()> {
    let seconds = number("FORESHARD_SOAK_SECONDS", ROUND.as_secs());
    let seed = number("FORESHARD_SOAK_SEED", 1);
    let (mut answers, mut faults, mut left) = (0, BTreeMap::new(), Duration::from_secs(seconds));
    for round in 0.. {
        let within = left.min(ROUND);
        answers += live(seed + round, within, &mut faults).await?;
        left -= within;
        if left.is_zero() {
            break;
        }
    }
    let count: usize = faults.values().sum();
    eprintln!(
        "seed {seed}: {answers} answers, {count} faults {faults:?}, as many recoveries, 0 violations in {seconds} s"
    );
    ensure!(faults.len() == FAULTS.len(), "not every fault has happened");
    Ok(())
}

/// One cluster and its faults. Gives the number of answers.
async fn live(seed: u64, within: Duration, faults: &mut BTreeMap<Fault, usize>) -> Result<usize> {
    let mut rng = StdRng::seed_from_u64(seed);
    let kept = tempfile::tempdir()?;
    let set = |name: &str, value: &str| (format!("FORESHARD_{name}"), value.to_owned());
    let keep = [
        set("CACHE_DIR", &kept.path().to_string_lossy()),
        set("CACHE_KEY", &"5e".repeat(32)),
        set("CACHE_INTERVAL", "20ms"),
    ];
    let file = kept.path().join("copies");
    let mut bench = Bench::start_with(keep.to_vec()).await?;
    let writers = Writers::new(&bench.before);
    let mut reading = readers(&bench, &writers);
    let mut runs: Vec<Vec<Seen>> = Vec::new();
    let began = Instant::now();
    // Each of them once, then as they come.
    let mut line = FAULTS.to_vec();
    while began.elapsed() < within || !line.is_empty() {
        let fault = line.pop().unwrap_or_else(|| *FAULTS.choose(&mut rng).unwrap_or(&Fault::LinkCut));
        writers.run(&bench.cluster, 4, rng.random_range(10..60)).await?;
        let meanwhile = rng.random_range(5..40);
        match fault {
            Fault::SidecarKilled | Fault::FileTorn => {
                bench.sidecar.kill()?;
                runs.push(reading.finish().await?);
                writers.run(&bench.cluster, 2, meanwhile).await?;
                if fault == Fault::FileTorn && file.exists() {
                    let half = std::fs::metadata(&file)?.len() / 2;
                    std::fs::File::options().write(true).open(&file)?.set_len(half)?;
                }
                bench.sidecar.start_again().await?;
                reading = readers(&bench, &writers);
            }
            Fault::DiskFull => {
                let before = bench.sidecar.metric("foreshard_cache_failures_total").await?;
                bench.sidecar.process().limit_files(Some(0))?;
                writers.run(&bench.cluster, 2, meanwhile).await?;
                eventually("the disk is noticed", Duration::from_secs(60), || async {
                    let failures = bench.sidecar.metric("foreshard_cache_failures_total").await?;
                    Ok((failures > before).then_some(()))
                })
                .await?;
                bench.sidecar.process().limit_files(None)?;
            }
            Fault::WalsenderEnded => end(&bench, "backend_type = 'walsender'").await?,
            Fault::ConnectionsEnded => end(&bench, "usename = 'edge_here'").await?,
            Fault::OriginCrashed => bench.cluster.restart(StopMode::Immediate).await?,
            Fault::LinkReset => bench.link.reset(),
            Fault::LinkCut | Fault::LinkHalfOpen | Fault::LinkSlow => {
                match fault {
                    Fault::LinkCut => bench.link.cut(),
                    Fault::LinkHalfOpen => bench.link.stall(),
                    _ => bench.link.throttle(Some(COLLAPSED)),
                }
                writers.run(&bench.cluster, 2, meanwhile).await?;
                bench.link.restore();
            }
        }
        follows_again(&bench, &writers).await?;
        *faults.entry(fault).or_default() += 1;
    }
    runs.push(reading.finish().await?);
    judge(&bench, &*writers.record().await, &runs).await?;
    let log = bench.sidecar.log_text();
    for noticed in ["the persistent cache is thrown away", "copies were kept"] {
        ensure!(log.contains(noticed), "it was never noticed: {noticed}");
    }
    Ok(runs.iter().map(Vec::len).sum())
}

/// Ends server processes, as an administrator or a fault would.
async fn end(bench: &Bench, which: &str) -> Result<()> {
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which} AND pid <> pg_backend_pid()"
    );
    bench.cluster.connect().await?.query(&sql, &[]).await?;
    Ok(())
}
