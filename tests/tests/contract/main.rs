//! The contract of an answer, under fire: an answer with `Foreshard-Lsn: L` holds every transaction on its shards that
//! committed at or before L, all of its shards are one state of the origin, and stamps never go back.
//!
//! Writers with overlapping transactions move rows between instances, flip predicates, truncate, roll back (also to
//! savepoints) and prepare; readers ask all the while, over a slow link. Every answer is then compared with the history.

mod faults;
mod readers;
mod writers;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreshard_tests::history::{History, Row, RowKey, Split, Verdict, View, went_back};
use foreshard_tests::{
    Cluster, ClusterOptions, DelayProxy, Sidecar, SidecarOptions, StopMode, commit_lsns, eventually,
};
use tokio_postgres::Client;

use crate::readers::{Readers, Seen};
use crate::writers::{Record, Writers};

/// Owners: instances of the keyed shard.
const OWNERS: i64 = 12;

/// One way, between sidecar and origin: enough for a commit to arrive while a fetch is under way.
const ONE_WAY: Duration = Duration::from_millis(4);

const TABLE: &str = "
    CREATE TABLE items (
        id      bigint PRIMARY KEY,
        owner   int NOT NULL,
        visible boolean NOT NULL,
        kind    text NOT NULL,
        amount  numeric(12, 2),
        noted   timestamptz,
        note    text,
        rev     bigint NOT NULL
    );
    ALTER TABLE items REPLICA IDENTITY FULL;
    INSERT INTO items SELECT n, n % 12, n % 3 <> 0, CASE n % 5 WHEN 0 THEN 'hot' ELSE 'cold' END, n / 8.0, now(), 'first', 0
    FROM generate_series(1, 120) AS n;
    SELECT foreshard.create_shard('owned', 'items', predicate => 'visible', key => '{owner}');
    SELECT foreshard.create_shard('hot', 'items', predicate => $$kind = 'hot' AND visible$$, columns => '{id,owner,amount,rev}');
    SELECT foreshard.create_shard('everything', 'items');
    SELECT foreshard.map_function('page', '{owned,hot}');
    SELECT foreshard.map_function('report', '{everything}');
";

fn views() -> Vec<View> {
    let visible = |row: &Row| row["visible"] == true;
    let hot = |row: &Row| row["visible"] == true && row["kind"] == "hot";
    vec![
        View { name: "owned", table: "items", holds: visible, split: Split::Key(&["owner"]), columns: None },
        View {
            name: "hot",
            table: "items",
            holds: hot,
            split: Split::Key(&[]),
            columns: Some(&["id", "owner", "amount", "rev"]),
        },
        View { name: "everything", table: "items", holds: |_| true, split: Split::Key(&[]), columns: None },
    ]
}

/// What a run is made of.
struct Bench {
    cluster: Cluster,
    // Keeps the link between the two.
    link: DelayProxy,
    sidecar: Sidecar,
    before: Vec<(&'static str, RowKey, Row)>,
}

impl Bench {
    async fn start() -> Result<Self> {
        Self::start_with(Vec::new()).await
    }

    /// With settings of the sidecar.
    async fn start_with(environment: Vec<(String, String)>) -> Result<Self> {
        let cluster = ClusterOptions::new()?.setting("max_prepared_transactions", "20").start().await?;
        let db = cluster.connect().await?;
        db.batch_execute("CREATE EXTENSION foreshard").await?;
        db.batch_execute(TABLE).await?;
        let login = cluster.create_edge("here").await?;
        let link = DelayProxy::start(SocketAddr::from(([127, 0, 0, 1], cluster.port())), ONE_WAY).await?;
        let origin = link.url(&login.url, cluster.port());
        let sidecar = SidecarOptions { environment, ..SidecarOptions::new("here", &origin) }.start().await?;
        schedule(&db).await?;
        commit_lsns::start(&db, &["items"]).await?;
        let rows = db.query("SELECT id, row_to_json(items)::text FROM items", &[]).await?;
        let parse = |row: &tokio_postgres::Row| {
            Ok(("items", RowKey::Number(row.get(0)), serde_json::from_str(row.get(1)).context("a row")?))
        };
        let before = rows.iter().map(parse).collect::<Result<_>>()?;
        Ok(Self { cluster, link, sidecar, before })
    }
}

/// Half of the instances are prefetched, so that both caches and the origin answer.
async fn schedule(db: &Client) -> Result<()> {
    let mut shards: Vec<String> = (0..OWNERS / 2).map(|owner| format!("owned?owner={owner}")).collect();
    shards.push("hot".to_owned());
    let entries = serde_json::json!([{ "function_id": "page", "shard_list": shards, "confidence": 0.9 }]);
    let publish =
        "SELECT foreshard.publish_schedule('here', now() - interval '1 min', now() + interval '1 hour', $1)";
    db.execute(publish, &[&entries]).await?;
    Ok(())
}

/// Compares everything that was seen with what had committed. `runs` are the answers of one sidecar process each.
async fn judge(bench: &Bench, record: &Record, runs: &[Vec<Seen>]) -> Result<()> {
    let lsns = commit_lsns::read(&bench.cluster.connect().await?).await?;
    let mut history = History::new(views(), bench.before.iter().cloned());
    for commit in &record.commits {
        let lsn =
            lsns.get(&commit.xid).with_context(|| format!("transaction {} is not in the log", commit.xid))?;
        history.commit(*lsn, &commit.changes);
    }
    let (mut controls, mut called_stale) = (0, 0);
    let mut mistakes = Vec::new();
    for seen in runs.iter().flatten() {
        let verdict = history.judge(&seen.answer);
        if !matches!(verdict, Verdict::Right { .. }) {
            mistakes.push(describe(seen, &verdict, &history, record));
        }
        assert!(seen.min_lsn.is_none_or(|min| seen.answer.lsn >= min), "older than Foreshard-Min-Lsn");
        if let Some(outdated) = history.outdated(&seen.answer) {
            controls += 1;
            called_stale += usize::from(matches!(history.judge(&outdated), Verdict::Stale { .. }));
        }
    }
    let answers: usize = runs.iter().map(Vec::len).sum();
    let shown = mistakes.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
    assert!(mistakes.is_empty(), "{} of {answers} answers are not as promised:\n{shown}", mistakes.len());
    for run in runs {
        let stamps: Vec<_> = run.iter().map(|seen| seen.stamp).collect();
        assert_eq!(went_back(&stamps), [] as [usize; 0], "stamps went back");
    }
    let from = |source: &str| runs.iter().flatten().filter(|seen| seen.source == source).count();
    let (prefetch, reactive, origin) = (from("prefetch"), from("reactive"), from("origin"));
    eprintln!(
        "{answers} answers ({prefetch} prefetch, {reactive} reactive, {origin} origin), {} commits; control: {called_stale} of {controls} outdated answers called stale",
        record.commits.len()
    );
    ensure!(prefetch > 0 && reactive > 0 && origin > 0, "not every way of answering was used");
    // The judgement has to be able to fail: an answer with the stamp of the commit that outdated it is called stale, unless
    // a later state looks the same by chance.
    ensure!(called_stale * 10 > controls * 9, "outdated answers pass for right ones");
    Ok(())
}

/// A wrong answer in words: what it is, its stamp, and the commits around it.
fn describe(seen: &Seen, verdict: &Verdict, history: &History, record: &Record) -> String {
    let parts: Vec<&str> = seen.answer.parts.iter().map(|(id, _)| id.as_str()).collect();
    let mut text = format!("{verdict:?}: {parts:?} from {} stamped {:X}", seen.source, seen.answer.lsn);
    let around = match verdict {
        Verdict::Stale { lacks, promised } => *lacks..=*promised,
        // It shows a part of the next commit, most likely.
        _ => history.promised(seen.answer.lsn)..=history.promised(seen.answer.lsn) + 1,
    };
    for number in around {
        if let Some(commit) = number.checked_sub(1).and_then(|at| record.commits.get(at)) {
            let rows: Vec<&RowKey> = commit.changes.iter().map(|change| &change.key).take(5).collect();
            let lsn = history.commit_lsn(number).unwrap_or_default();
            text.push_str(&format!(
                "\n    commit {number} of transaction {} at {lsn:X}: {rows:?}",
                commit.xid
            ));
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_holds_what_had_committed_by_its_stamp() -> Result<()> {
    let bench = Bench::start().await?;
    let writers = Writers::new(&bench.before);
    let readers = Readers::new(bench.sidecar.http.endpoint().clone(), writers.clone());
    let readers = readers.spawn(12);
    writers.run(&bench.cluster, 4, 1_500).await?;
    let seen = readers.finish().await?;
    assert!(seen.len() >= 20_000, "only {} answers", seen.len());
    judge(&bench, &*writers.record().await, &[seen]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_sidecar_and_a_crashed_origin_lose_no_change() -> Result<()> {
    let mut bench = Bench::start().await?;
    let writers = Writers::new(&bench.before);
    let mut runs = Vec::new();
    for fault in ["sidecar killed", "origin crashed", "link cut", "sidecar killed", "origin restarted"] {
        let readers =
            Readers::new(bench.sidecar.http.endpoint().clone(), writers.clone()).tolerant().spawn(4);
        writers.run(&bench.cluster, 4, 100).await?;
        let goes_on = writers.clone();
        match fault {
            "sidecar killed" => {
                bench.sidecar.kill()?;
                runs.push(readers.finish().await?);
                // What commits while nobody listens must not be missed by whoever listens next.
                goes_on.run(&bench.cluster, 2, 50).await?;
                bench.sidecar.start_again().await?;
                continue;
            }
            "link cut" => {
                bench.link.cut();
                goes_on.run(&bench.cluster, 2, 50).await?;
                bench.link.restore();
            }
            "origin crashed" => bench.cluster.restart(StopMode::Immediate).await?,
            _ => bench.cluster.restart(StopMode::Fast).await?,
        }
        follows_again(&bench, &writers).await?;
        goes_on.run(&bench.cluster, 4, 100).await?;
        runs.push(readers.finish().await?);
    }
    judge(&bench, &*writers.record().await, &runs).await
}

/// Waits until the sidecar answers with everything that has committed so far.
async fn follows_again(bench: &Bench, writers: &Writers) -> Result<()> {
    let token = writers.token.load(Ordering::SeqCst);
    let min = format!("{:X}/{:X}", token >> 32, token & 0xffff_ffff);
    eventually("the sidecar follows the origin again", Duration::from_secs(60), || async {
        // The origin may be asked instead of the stream.
        let ready = bench.sidecar.http.get("/ready").await?;
        ensure!(ready.status == 200, "{}", ready.text());
        let params = serde_json::json!({ "owner": 0 });
        let answer = bench.sidecar.http.invoke("page", &params, &[("Foreshard-Min-Lsn", &min)]).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(Some(()))
    })
    .await
}
