//! Random transactions, decoded: whatever instance a transaction changed, its frame names it. Never too little.
//!
//! `FORESHARD_SEED` repeats one run, `FORESHARD_TRANSACTIONS` makes it longer.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use foreshard_protocol::{Event, Frame};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::origin::Origin;

/// Name, table, condition, key.
const SHARDS: [(&str, &str, &str, Option<&str>); 9] = [
    ("whole", "a", "true", None),
    ("by_k", "a", "true", Some("k")),
    ("by_id", "a", "true", Some("id")),
    ("open", "a", "s = 'open'", None),
    ("open_k", "a", "s = 'open'", Some("k")),
    ("big_k", "a", "length(big) > 3000", Some("k")),
    ("ratio", "a", "k <> 0 AND 12 / k > 3", Some("k")),
    ("p_k", "p", "true", Some("k")),
    ("p_open_k", "p", "s = 'open' OR k IS NULL", Some("k")),
];

const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, gone int, k int, s text, big text, n int);
    ALTER TABLE a DROP COLUMN gone, ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE p (id int PRIMARY KEY, k int, s text, n int) PARTITION BY RANGE (id);
    CREATE TABLE p1 (n int, s text, x int, k int, id int NOT NULL); ALTER TABLE p1 DROP COLUMN x;
    ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (20);
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (20) TO (40);";

const FULL: &str = "ALTER TABLE a REPLICA IDENTITY FULL; ALTER TABLE p1 REPLICA IDENTITY FULL; ALTER TABLE p2 REPLICA IDENTITY FULL";
const NOTHING: &str = "ALTER TABLE a REPLICA IDENTITY NOTHING; ALTER TABLE p1 REPLICA IDENTITY NOTHING";
const INDEX: &str = "UPDATE a SET k = 0, s = ''; ALTER TABLE a ALTER k SET NOT NULL, ALTER s SET NOT NULL;
    CREATE UNIQUE INDEX a_identity ON a (k, s, id); ALTER TABLE a REPLICA IDENTITY USING INDEX a_identity";

/// Content of every instance: its rows, hashed, by shard and key.
type State = BTreeMap<(String, String), String>;

async fn state(origin: &Origin) -> Result<State> {
    let queries: Vec<String> = SHARDS
        .iter()
        .map(|(shard, table, condition, key)| {
            let key = key.map_or("''".to_owned(), |key| format!("coalesce({key}::text, 'NULL')"));
            format!(
                "SELECT '{shard}', {key} AS k, md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t WHERE {condition} GROUP BY 2"
            )
        })
        .collect();
    let rows = origin.db.query(&queries.join(" UNION ALL "), &[]).await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

fn changed(before: &State, after: &State) -> BTreeSet<(String, String)> {
    let differs = |id: &&(String, String)| before.get(*id) != after.get(*id);
    before.keys().chain(after.keys()).filter(differs).cloned().collect()
}

fn told(frame: &Frame, shard: &str, key: &str) -> bool {
    frame.events.iter().any(|event| match event {
        Event::Shard { shard: name, change } if name == shard => change
            .keys()
            .is_none_or(|mut keys| keys.any(|parts| parts[0].value.as_deref().unwrap_or("NULL") == key)),
        _ => false,
    })
}

fn statement(rng: &mut StdRng, columns: &mut u32) -> String {
    let table = if rng.random_bool(0.7) { "a" } else { "p" };
    let (low, high) = (rng.random_range(0..40), rng.random_range(0..6));
    let some = format!("id BETWEEN {low} AND {}", low + high);
    let k = if rng.random_bool(0.9) {
        rng.random_range(-3..6).to_string()
    } else {
        "coalesce(NULL::int, 0)".to_owned()
    };
    let s = ["open", "paid", "x"][rng.random_range(0..3)];
    match rng.random_range(0..100) {
        0..30 => {
            let big = if table == "a" && rng.random_bool(0.5) { ", big) SELECT g, v, s, b" } else { ") SELECT g, v, s" };
            format!(
                "INSERT INTO {table} (id, k, s{big} FROM generate_series({low}, least(39, {})) g, (VALUES ({k}, '{s}', repeat('{s}', 2000))) f (v, s, b)
                 ON CONFLICT DO NOTHING",
                low + high
            )
        }
        30..45 => format!("UPDATE {table} SET k = {k} WHERE {some}"),
        45..60 => format!("UPDATE {table} SET s = '{s}' WHERE {some}"),
        60..70 => format!("UPDATE {table} SET n = coalesce(n, 0) + 1 WHERE {some}"),
        70..75 => format!("UPDATE a SET big = repeat('{s}', {}) WHERE {some}", rng.random_range(1..3000)),
        75..83 => {
            let target = rng.random_range(0..40);
            format!(
                "UPDATE {table} SET id = {target} WHERE id = {low} AND NOT EXISTS (SELECT FROM {table} WHERE id = {target})"
            )
        }
        83..94 => format!("DELETE FROM {table} WHERE {some}"),
        94 => format!("TRUNCATE {table}"),
        95 => "TRUNCATE p2".to_owned(),
        96 => {
            *columns += 1;
            format!("ALTER TABLE {table} ADD COLUMN c{columns} int DEFAULT {columns}", columns = *columns)
        }
        97 => "ALTER TABLE p DETACH PARTITION p2; INSERT INTO p2 (id, k) VALUES (30, 1) ON CONFLICT DO NOTHING; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (20) TO (40)".to_owned(),
        _ => format!("SAVEPOINT s; DELETE FROM {table}; ROLLBACK TO s"),
    }
}

async fn run(identity: &str) -> Result<()> {
    let seed: u64 =
        std::env::var("FORESHARD_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap_or(0));
    let transactions: usize =
        std::env::var("FORESHARD_TRANSACTIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(250);
    println!("FORESHARD_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut define = format!("{TABLES}{identity};");
    for (shard, table, condition, key) in SHARDS {
        let key = key.map_or("NULL".to_owned(), |key| format!("'{{{key}}}'"));
        define += &format!("SELECT foreshard.create_shard('{shard}', '{table}', $${condition}$$, {key});");
    }
    let origin = Origin::followed(&define).await?;
    let mut before = state(&origin).await?;
    let mut waiting = BTreeMap::new();
    let mut columns = 0;
    for number in 1..=transactions {
        let statements: Vec<String> =
            (0..rng.random_range(1..4)).map(|_| statement(&mut rng, &mut columns)).collect();
        let script = statements.join("; ");
        origin.db.batch_execute(&format!("BEGIN; {script}")).await.with_context(|| script.clone())?;
        let xid: i64 = origin.value("SELECT pg_current_xact_id()::text::bigint").await?;
        origin.db.batch_execute(if rng.random_bool(0.9) { "COMMIT" } else { "ROLLBACK" }).await?;
        let after = state(&origin).await?;
        waiting.insert(xid.unsigned_abs(), (script, changed(&before, &after)));
        before = after;
        // Many in one decoding session, or few.
        if rng.random_bool(0.1) || number == transactions {
            let frames: BTreeMap<u64, Frame> =
                origin.frames().await?.into_iter().map(|frame| (frame.xid, frame)).collect();
            for (xid, (script, changed)) in std::mem::take(&mut waiting) {
                let frame = frames.get(&xid);
                for (shard, key) in changed {
                    let named = frame.is_some_and(|frame| told(frame, &shard, &key));
                    assert!(named, "{shard} {key} changed by: {script}\n{frame:?}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_missed_with_full_old_rows() -> Result<()> {
    run(FULL).await
}

#[tokio::test]
async fn nothing_is_missed_with_the_primary_key_only() -> Result<()> {
    run("").await
}

#[tokio::test]
async fn nothing_is_missed_without_old_rows() -> Result<()> {
    run(NOTHING).await
}

#[tokio::test]
async fn nothing_is_missed_with_an_index_over_key_and_predicate() -> Result<()> {
    run(INDEX).await
}
