//! The contract of an answer while commits overlap: they reach the stream in one order and readers in another, or, while a
//! synchronous standby is absent, reach the stream and no reader at all.

mod ledger;
mod traffic;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, Sidecar, SidecarOptions, commit_lsns, eventually};
use tokio_postgres::Client;

use crate::ledger::Ledger;
use crate::traffic::{Seen, Traffic};

/// Instances of each keyed shard.
const KEYS: u32 = 16;

const SETUP: &str = "
    CREATE TABLE items (xid bigint NOT NULL, k int NOT NULL, flagged boolean NOT NULL, PRIMARY KEY (k, xid));
    CREATE TABLE notes (xid bigint NOT NULL, k int NOT NULL, PRIMARY KEY (k, xid));
    SELECT foreshard.create_shard('items', 'items', key => '{k}');
    SELECT foreshard.create_shard('flagged', 'items', predicate => 'flagged');
    SELECT foreshard.create_shard('notes', 'notes', key => '{k}');
    SELECT foreshard.map_function('page', '{items,notes,flagged}');
";

struct Bench {
    cluster: Cluster,
    sidecar: Sidecar,
    db: Client,
}

impl Bench {
    async fn start(environment: &[(&str, &str)]) -> Result<Self> {
        let cluster = Cluster::with_extension().await?;
        let db = cluster.connect().await?;
        db.batch_execute(SETUP).await?;
        let login = cluster.create_edge("here").await?;
        let mut options = SidecarOptions::of(&login);
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        options.environment = environment.iter().map(owned).collect();
        let sidecar = options.start().await?;
        let shards: Vec<String> = (0..KEYS / 2).map(|k| format!("items?k={k}")).collect();
        let entries = serde_json::json!([{ "function_id": "page", "shard_list": shards, "confidence": 0.9 }]);
        let publish = "SELECT foreshard.publish_schedule('here', now() - interval '1 min', now() + interval '1 hour', $1)";
        db.execute(publish, &[&entries]).await?;
        commit_lsns::start(&db, &["items", "notes"]).await?;
        Ok(Self { cluster, sidecar, db })
    }

    /// Judges all answers; how many there were.
    async fn judge(&self, traffic: Traffic) -> Result<usize> {
        let (committed, seen) = traffic.finish().await?;
        let ends = commit_lsns::read(&self.db).await?;
        let with_end = committed.into_iter().map(|txn| {
            let low = u32::try_from(txn.xid & u64::from(u32::MAX))?;
            Ok((*ends.get(&low).with_context(|| format!("transaction {} is not in the log", txn.xid))?, txn))
        });
        let with_end = with_end.collect::<Result<Vec<_>>>()?;
        let (transactions, answers) = (with_end.len(), seen.len());
        let ledger = Ledger::new(with_end);
        let mut controls = 0;
        for Seen { parts, lsn, min_lsn } in &seen {
            if let Some(fault) = ledger.fault(parts, *lsn) {
                panic!("{fault}");
            }
            assert!(min_lsn.is_none_or(|min| *lsn >= min), "older than Foreshard-Min-Lsn");
            // The judgement has to be able to fail: at the end of the log nearly every answer is outdated.
            controls += usize::from(ledger.fault(parts, u64::MAX).is_some());
        }
        eprintln!(
            "{answers} answers, {transactions} transactions; control: {controls} called outdated at the end of the log"
        );
        ensure!(controls * 10 > answers * 8, "outdated answers pass for right ones");
        Ok(answers)
    }

    async fn synchronous_standby(&self, name: &str) -> Result<()> {
        self.db.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'")).await?;
        self.db.batch_execute("SELECT pg_reload_conf()").await?;
        Ok(())
    }

    /// Until this many writers wait for the standby that is not there.
    async fn hanging(&self, writers: i64) -> Result<()> {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
        eventually("commits hang", Duration::from_secs(20), || async {
            let waiting: i64 = self.db.query_one(query, &[]).await?.get(0);
            Ok((waiting >= writers).then_some(()))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_right_while_commits_overlap() -> Result<()> {
    let bench = Bench::start(&[]).await?;
    let traffic = Traffic::start(&bench.cluster, bench.sidecar.http.endpoint(), 6, 8).await?;
    traffic.wait_for_answers(20_000, Duration::from_secs(120)).await?;
    let answers = bench.judge(traffic).await?;
    assert!(answers >= 20_000, "only {answers} answers");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_right_while_a_synchronous_standby_is_absent() -> Result<()> {
    // Less than how long commits hang: answers from copies go on all the same.
    // Too small a cache for what is asked: row changes keep the copies that it has, so only what was pushed out is fetched.
    let bench = Bench::start(&[
        ("FORESHARD_MAX_STALENESS", "1s"),
        ("FORESHARD_REQUEST_TIMEOUT", "200ms"),
        ("FORESHARD_REACTIVE_BYTES", "2KiB"),
    ])
    .await?;
    let traffic = Traffic::start(&bench.cluster, bench.sidecar.http.endpoint(), 6, 8).await?.tolerant();
    for _ in 0..2 {
        traffic.wait_for_answers(1_000, Duration::from_secs(60)).await?;
        // The stream has these commits; no reader at the origin sees them.
        bench.synchronous_standby("nobody").await?;
        bench.hanging(6).await?;
        traffic.wait_for_answers(150, Duration::from_secs(60)).await?;
        bench.synchronous_standby("").await?;
        bench.hanging(0).await?;
    }
    traffic.wait_for_answers(1_000, Duration::from_secs(60)).await?;
    // Such a fetch is refused, or made up for with the rows that the stream brought.
    let mut met = 0.0;
    for met_it in ["foreshard_rejected_by_snapshot_total", "foreshard_deltas_completed_total"] {
        met += bench.sidecar.metric(met_it).await?;
    }
    bench.judge(traffic).await?;
    assert!(met > 0.0, "no fetch met a transaction that was not visible yet");
    Ok(())
}
