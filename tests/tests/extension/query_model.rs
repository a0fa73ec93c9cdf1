//! Random queries as shards, random transactions, decoded: whatever instance a transaction changed the result of, its frame names.
//!
//! `FORESHARD_SEED` repeats one run, `FORESHARD_TRANSACTIONS` and `FORESHARD_QUERIES` make it longer.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use foreshard_protocol::{Event, Frame, KeyChange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::Statement;

use crate::origin::Origin;

const TABLES: &str = "
    CREATE TABLE a (id int PRIMARY KEY, k int, s text, n int);
    CREATE TABLE b (n int, gone int, id bigint PRIMARY KEY, s varchar, k int); ALTER TABLE b DROP COLUMN gone;
    CREATE TABLE c (id int PRIMARY KEY, s text, k smallint, n int) PARTITION BY RANGE (id);
    CREATE TABLE c1 (n int, x int, k smallint, s text, id int NOT NULL); ALTER TABLE c1 DROP COLUMN x;
    ALTER TABLE c ATTACH PARTITION c1 FOR VALUES FROM (0) TO (6);
    CREATE TABLE c2 PARTITION OF c FOR VALUES FROM (6) TO (99);
    CREATE TABLE unrelated (id int PRIMARY KEY, k int);";

const FULL: &str = "ALTER TABLE a REPLICA IDENTITY FULL; ALTER TABLE b REPLICA IDENTITY FULL;
    ALTER TABLE c1 REPLICA IDENTITY FULL; ALTER TABLE c2 REPLICA IDENTITY FULL;";

/// Values of the parameter.
const VALUES: [&str; 5] = ["0", "1", "2", "7", "NULL"];

/// Writes random queries; every relation in them has the columns id, k, s and n.
struct Writer<'a> {
    rng: &'a mut StdRng,
    aliases: usize,
}

impl Writer<'_> {
    fn pick<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.rng.random_range(0..texts.len())]
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn query(&mut self) -> String {
        if self.rng.random_bool(0.1) {
            let operation = self.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
            let (one, other) = (self.relation(2), self.relation(2));
            return format!(
                "SELECT u.*, $1::int AS p FROM (({one}) {operation} ({other})) u WHERE {}",
                self.condition(&["u".into()], 1)
            );
        }
        let with = if self.rng.random_bool(0.15) {
            format!("WITH w AS ({}) ", self.relation(1))
        } else {
            String::new()
        };
        let mut aliases = Vec::new();
        let from = self.from(2, &mut aliases, !with.is_empty());
        let conditions = self.conditions(&aliases);
        let (one, other) = (self.one(&aliases), self.one(&aliases));
        let shape = self.rng.random_range(0..10);
        let select = match shape {
            0..6 => format!("{one}.id AS i, {other}.s, {one}.k, $1::int AS p"),
            6 => format!("{one}.id AS i, (SELECT count(*) FROM b z WHERE z.k = {one}.k) AS m, $1::int AS p"),
            7 => format!("count({one}.id) AS m, sum({other}.n) AS t, $1::int AS p"),
            8 => format!("{one}.k, count(*) AS m, $1::int AS p"),
            _ => format!("DISTINCT {one}.k, {other}.s, $1::int AS p"),
        };
        let group = if shape == 8 { format!(" GROUP BY {one}.k HAVING count(*) > 0") } else { String::new() };
        format!("{with}SELECT {select} FROM {from}{conditions}{group}")
    }

    fn one(&mut self, aliases: &[String]) -> String {
        aliases[self.rng.random_range(0..aliases.len())].clone()
    }

    fn conditions(&mut self, aliases: &[String]) -> String {
        let count = self.rng.random_range(0..4);
        if count == 0 {
            return String::new();
        }
        let all: Vec<String> = (0..count).map(|_| self.condition(aliases, 2)).collect();
        format!(" WHERE {}", all.join(" AND "))
    }

    /// A SELECT with the four columns.
    fn relation(&mut self, depth: usize) -> String {
        let table = self.pick(&["a", "b", "c"]);
        let condition = if self.rng.random_bool(0.5) {
            format!(" WHERE {}", self.condition(&["z".into()], depth))
        } else {
            String::new()
        };
        match self.rng.random_range(0..4) {
            0 => format!(
                "SELECT max(z.id) AS id, z.k, min(z.s) AS s, count(*) AS n FROM {table} z{condition} GROUP BY z.k"
            ),
            1 => format!("SELECT z.id, z.k, z.s, z.n FROM {table} z{condition} ORDER BY z.id LIMIT 3"),
            2 => format!(
                "SELECT z.id, z.k, z.s, row_number() OVER (ORDER BY z.id) AS n FROM {table} z{condition}"
            ),
            _ => format!("SELECT z.id, z.k, z.s, z.n FROM {table} z{condition}"),
        }
    }

    fn from(&mut self, depth: usize, aliases: &mut Vec<String>, with: bool) -> String {
        if depth > 0 && self.rng.random_bool(0.6) {
            let mut inside = Vec::new();
            let left = self.from(depth - 1, &mut inside, with);
            let right = self.from(depth - 1, &mut inside, with);
            let join = self.pick(&["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
            let (first, last) = (inside[0].clone(), inside[inside.len() - 1].clone());
            let mut on = format!("{first}.k = {last}.k");
            if self.rng.random_bool(0.5) {
                on = format!("{on} AND {}", self.condition(&inside, 1));
            }
            aliases.extend(inside);
            return format!("({left} {join} {right} ON {on})");
        }
        let alias = self.alias();
        aliases.push(alias.clone());
        if with && self.rng.random_bool(0.6) {
            return format!("w {alias}");
        }
        if self.rng.random_bool(0.25) {
            return format!("({}) {alias}", self.relation(1));
        }
        format!("{} {alias}", self.pick(&["a", "b", "c"]))
    }

    fn condition(&mut self, aliases: &[String], depth: usize) -> String {
        let (x, y) = (self.one(aliases), self.one(aliases));
        let table = self.pick(&["a", "b", "c"]);
        match self.rng.random_range(0..if depth > 0 { 16 } else { 11 }) {
            0..3 => format!("{x}.k = $1"),
            3 => format!("$1 = {x}.id"),
            4 => format!("{x}.k IS NOT DISTINCT FROM $1"),
            5 => format!("{x}.k = {y}.k"),
            6 => format!("{x}.s = 'open'"),
            7 => format!("{x}.n > 1"),
            8 => format!("{x}.k IS NULL"),
            9 => format!("{x}.s <> 'paid' AND {y}.id < 8"),
            10 => format!("coalesce({x}.k, 1) = $1"),
            11 => format!(
                "EXISTS (SELECT FROM {table} z WHERE z.k = {x}.k AND {})",
                self.condition(&["z".into()], depth - 1)
            ),
            12 => format!("NOT EXISTS (SELECT FROM {table} z WHERE z.k = {x}.k AND z.s = {x}.s)"),
            13 => format!(
                "{x}.k IN (SELECT z.k FROM {table} z WHERE {})",
                self.condition(&["z".into()], depth - 1)
            ),
            14 => format!("{x}.id NOT IN (SELECT z.id FROM {table} z WHERE z.k = $1)"),
            _ => {
                format!("({} OR {})", self.condition(aliases, depth - 1), self.condition(aliases, depth - 1))
            }
        }
    }
}

fn statement(rng: &mut StdRng) -> String {
    let table = ["a", "b", "c"][rng.random_range(0..3)];
    let low = rng.random_range(0..12);
    let some = format!("id BETWEEN {low} AND {}", low + rng.random_range(0..3));
    let k = ["0", "1", "2", "7", "NULL"][rng.random_range(0..5)];
    let s = ["'open'", "'paid'", "'void'", "NULL"][rng.random_range(0..4)];
    match rng.random_range(0..100) {
        0..35 => format!(
            "INSERT INTO {table} (id, k, s, n) SELECT g, {k}::int, {s}::text, g % 4 FROM generate_series({low}, least(12, {})) g ON CONFLICT DO NOTHING",
            low + rng.random_range(0..3)
        ),
        35..55 => format!("UPDATE {table} SET k = {k} WHERE {some}"),
        55..70 => format!("UPDATE {table} SET s = {s} WHERE {some}"),
        70..76 => format!("UPDATE {table} SET n = n + 1 WHERE {some}"),
        76..82 => {
            let target = rng.random_range(0..12);
            format!(
                "UPDATE {table} SET id = {target} WHERE id = {low} AND NOT EXISTS (SELECT FROM {table} WHERE id = {target})"
            )
        }
        82..94 => format!("DELETE FROM {table} WHERE {some}"),
        94 => format!("TRUNCATE {table}"),
        95 => {
            "ALTER TABLE c DETACH PARTITION c2; ALTER TABLE c ATTACH PARTITION c2 FOR VALUES FROM (6) TO (99)"
                .to_owned()
        }
        96 => format!("SAVEPOINT s; DELETE FROM {table}; ROLLBACK TO s"),
        _ => format!(
            "INSERT INTO unrelated VALUES ({}, {k}) ON CONFLICT DO NOTHING",
            rng.random_range(0..1000)
        ),
    }
}

/// The result of every instance, hashed, by shard and value.
type State = BTreeMap<(usize, usize), Option<String>>;

/// The statement that gives it.
fn state_query(queries: &[String]) -> String {
    let mut parts = Vec::new();
    for (shard, query) in queries.iter().enumerate() {
        for (number, value) in VALUES.iter().enumerate() {
            let query = query.replace("$1", &format!("({value})::int"));
            parts.push(format!(
                "SELECT {shard}, {number}, (SELECT md5(string_agg(q::text, ';' ORDER BY q::text)) FROM ({query}) q)"
            ));
        }
    }
    parts.join(" UNION ALL ")
}

async fn state(origin: &Origin, query: &Statement) -> Result<State> {
    let rows = origin.db.query(query, &[]).await?;
    let index = |row: &tokio_postgres::Row, at: usize| row.get::<_, i32>(at).unsigned_abs() as usize;
    Ok(rows.iter().map(|row| ((index(row, 0), index(row, 1)), row.get(2))).collect())
}

fn told(frame: &Frame, shard: &str, value: &str) -> bool {
    let value = (value != "NULL").then_some(value);
    frame.events.iter().any(|event| match event {
        Event::Shard { shard: name, change, .. } if name == shard => match change {
            KeyChange::Keys(keys) => keys.iter().any(|parts| parts[0].value.as_deref() == value),
            _ => true,
        },
        _ => false,
    })
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn run(identity: &str) -> Result<()> {
    let seed: u64 =
        std::env::var("FORESHARD_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap_or(0));
    println!("FORESHARD_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let origin = Origin::start().await?;
    origin.db.batch_execute(&format!("{TABLES}{identity}")).await?;
    let mut queries = Vec::new();
    while queries.len() < setting("FORESHARD_QUERIES", 40) {
        let query = Writer { rng: &mut rng, aliases: 0 }.query();
        let name = format!("q{}", queries.len());
        match origin.db.execute("SELECT foreshard.create_query_shard($1, $2, '{p}')", &[&name, &query]).await
        {
            Ok(_) => queries.push(query),
            // PostgreSQL can't run every FULL JOIN.
            Err(error) if error.code().is_some_and(|code| code.code() == "0A000") => {}
            Err(error) => return Err(error).context(query),
        }
    }
    let keyed: i64 =
        origin.value("SELECT count(*) FROM foreshard.shard_source WHERE key_attnums <> '{}'").await?;
    assert!(keyed > 10, "the queries give the derivation something to do");
    origin.map_all().await?;
    origin.create_slot().await?;
    // Planned once; compiling it would take longer than running it a thousand times.
    origin.db.batch_execute("SET jit = off; SET plan_cache_mode = force_generic_plan").await?;
    let state_query = origin.db.prepare(&state_query(&queries)).await?;
    let mut before = state(&origin, &state_query).await?;
    let transactions = setting("FORESHARD_TRANSACTIONS", 100);
    let mut waiting = BTreeMap::new();
    for number in 1..=transactions {
        let script: Vec<String> = (0..rng.random_range(1..3)).map(|_| statement(&mut rng)).collect();
        let script = script.join("; ");
        origin.db.batch_execute(&format!("BEGIN; {script}")).await.with_context(|| script.clone())?;
        let xid: i64 = origin.value("SELECT pg_current_xact_id()::text::bigint").await?;
        origin.db.batch_execute("COMMIT").await?;
        let after = state(&origin, &state_query).await?;
        let changed: Vec<(usize, usize)> = before
            .iter()
            .filter(|(instance, rows)| after.get(instance) != Some(rows))
            .map(|(instance, _)| *instance)
            .collect();
        waiting.insert(xid.unsigned_abs(), (script, changed));
        before = after;
        if rng.random_bool(0.1) || number == transactions {
            let frames: BTreeMap<u64, Frame> =
                origin.frames().await?.into_iter().map(|frame| (frame.xid, frame)).collect();
            for (xid, (script, changed)) in std::mem::take(&mut waiting) {
                for (shard, value) in changed {
                    let named = frames
                        .get(&xid)
                        .is_some_and(|frame| told(frame, &format!("q{shard}"), VALUES[value]));
                    assert!(named, "{} for {} changed by: {script}", queries[shard], VALUES[value]);
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_result_changes_unnoticed_with_full_old_rows() -> Result<()> {
    run(FULL).await
}

#[tokio::test]
async fn no_result_changes_unnoticed_with_the_primary_key_only() -> Result<()> {
    run("").await
}
