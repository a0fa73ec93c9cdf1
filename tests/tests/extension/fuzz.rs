//! Random predicates and queries, right and wrong, against a real backend: each gets an answer or an SQLSTATE, and nobody dies.
//!
//! `FORESHARD_FUZZ_SECONDS` says how long (10 by default), `FORESHARD_SEED` repeats a run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::origin::Origin;

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TYPE pair AS (p positive, s text); CREATE TYPE span AS RANGE (subtype = positive);
    CREATE TABLE t (i int, b bigint, n numeric, f float8, s text, c char(5), d date, ts timestamptz, iv interval, j jsonb, a int[],
        m mood, p positive, u uuid, o boolean, r int4range, \"Q x\" text COLLATE \"C\", by bytea, pr pair, ps positive[], sp span);
    CREATE TABLE u (LIKE t);
    INSERT INTO t (i, b, n, f, s, c, d, ts, iv, j, a, m, p, o, r, \"Q x\") VALUES
        (0, 1, 0, 0, '', 'x', '2024-01-01', 'infinity', '1 day', '{\"a\": [1, null]}', '{1,NULL}', 'ok', 1, true, '[1,5)', 'é'),
        (2147483647, -9223372036854775808, 'NaN', 'NaN', '%_\\', ' ', 'infinity', '2024-01-01', '-1 mon', '1', '{}', NULL, 1, NULL, 'empty', NULL),
        (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    INSERT INTO u SELECT * FROM t; ALTER TABLE t REPLICA IDENTITY FULL;
    SELECT foreshard.create_shard('anchor', 't');";

const COLUMNS: [&str; 23] = [
    "i", "b", "n", "f", "s", "c", "d", "ts", "iv", "j", "a", "m", "p", "u", "o", "r", "\"Q x\"", "by", "t",
    "t.*", "pr", "ps", "sp",
];

const CONSTANTS: [&str; 26] = [
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "1e400",
    "'x'",
    "''",
    "NULL",
    "true",
    "'2024-01-01'",
    "'{1,2}'",
    "'{\"a\": 1}'",
    "$1",
    "$2",
    "'sad'::public.mood",
    "1::public.positive",
    "B'101'",
    "'\\xff'::bytea",
    "interval '1 mon'",
    "E'\\u00e9'",
    "'(1,x)'::public.pair",
    "'(-1,x)'::public.pair",
    "'{1,2}'::public.positive[]",
    "'{0}'::public.positive[]",
    "'[1,5)'::public.span",
    "ROW(1, 'x')::public.pair",
];

const OPERATORS: [&str; 24] = [
    "=",
    "<>",
    "<",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "||",
    "~",
    "LIKE",
    "->",
    "->>",
    "@>",
    "<@",
    "&&",
    "^",
    "AND",
    "OR",
    "IS DISTINCT FROM",
    "COLLATE",
    "?",
    "<->",
];

const FUNCTIONS: [&str; 20] = [
    "abs",
    "length",
    "lower",
    "coalesce",
    "nullif",
    "greatest",
    "round",
    "to_char",
    "date_trunc",
    "now",
    "random",
    "count",
    "sum",
    "max",
    "array_length",
    "jsonb_array_elements",
    "generate_series",
    "row_number",
    "pg_sleep",
    "regexp_replace",
];

struct Writer<'a>(&'a mut StdRng);

impl Writer<'_> {
    fn pick(&mut self, texts: &[&'static str]) -> &'static str {
        texts[self.0.random_range(0..texts.len())]
    }

    fn expression(&mut self, depth: u32) -> String {
        if depth == 0 {
            return if self.0.random_bool(0.6) { self.pick(&COLUMNS) } else { self.pick(&CONSTANTS) }
                .to_owned();
        }
        let (one, other) = (self.expression(depth - 1), self.expression(depth - 1));
        match self.0.random_range(0..26) {
            0..9 => format!("({one} {} {other})", self.pick(&OPERATORS)),
            9..12 => format!("{}({one})", self.pick(&FUNCTIONS)),
            12 => format!("{}({one}, {other})", self.pick(&FUNCTIONS)),
            13 => format!("NOT {one}"),
            14 => format!("({one} IS NULL)"),
            15 => format!("({one} IN ({other}, {other}))"),
            16 => format!("CASE WHEN {one} THEN {other} ELSE NULL END"),
            17 => format!("({one} BETWEEN {other} AND {one})"),
            18 => format!(
                "({one})::{}",
                self.pick(&["text", "int", "numeric", "boolean", "jsonb", "date", "int[]", "public.mood"])
            ),
            19 => format!("({one} = ANY ({other}))"),
            20 => format!("(ROW({one}, {other}) < ROW({other}, {one}))"),
            21 => format!("EXISTS (SELECT FROM u WHERE {one})"),
            22 => format!("(SELECT {one} FROM u LIMIT 1)"),
            23 => format!("ARRAY[{one}, {other}]"),
            24 => format!("({one})[1]"),
            _ => format!("{}({one}) OVER (ORDER BY {other})", self.pick(&FUNCTIONS)),
        }
    }

    fn query(&mut self) -> String {
        let (one, other, third) = (self.expression(1), self.expression(2), self.expression(1));
        let join = self.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        match self.0.random_range(0..9) {
            0 => format!("SELECT {one} AS x FROM t WHERE {other}"),
            1 => format!("SELECT t.i FROM t {join} u ON t.i = u.i AND {one} WHERE {other}"),
            2 => format!("SELECT {one} AS k, count(*) AS n FROM t WHERE {other} GROUP BY 1 HAVING {third}"),
            3 => format!(
                "WITH w AS (SELECT * FROM t WHERE {one}) SELECT i FROM w WHERE {other} ORDER BY {third}"
            ),
            4 => format!(
                "WITH RECURSIVE w AS (SELECT i FROM t UNION SELECT w.i + 1 FROM w JOIN t USING (i) WHERE {one}) SELECT * FROM w"
            ),
            5 => format!("SELECT i FROM t WHERE {one} UNION SELECT i FROM u WHERE i = $1"),
            6 => format!(
                "SELECT x.k FROM t, LATERAL (SELECT {one} AS k FROM u WHERE u.i = t.i) x WHERE t.i = $1"
            ),
            7 => format!("SELECT i, s FROM t GROUP BY GROUPING SETS ((i), (s), ()) HAVING {one}"),
            _ => format!("SELECT s.i FROM (SELECT * FROM t LIMIT 3) s NATURAL {join} u WHERE {third}"),
        }
    }

    /// Sometimes not even SQL.
    fn damaged(&mut self, mut text: String) -> String {
        if self.0.random_bool(0.1) {
            let at = self.0.random_range(0..=text.len());
            let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let junk =
                self.pick(&["'", "\"", ")", ";", "--", "/*", "$$", "\\", "\u{1f980}", "FOR UPDATE", "*"]);
            text.insert_str(at, junk);
        }
        text
    }
}

#[tokio::test]
async fn random_definitions_never_hurt_the_server() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("FORESHARD_SEED").unwrap_or_else(rand::random);
    let patience = Duration::from_secs(number("FORESHARD_FUZZ_SECONDS").unwrap_or(10));
    println!("FORESHARD_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let origin = Origin::followed(TABLES).await?;
    origin.db.batch_execute("SET statement_timeout = '20s'").await?;
    let server = origin.cluster.server_process_id();
    let backend: i32 = origin.value("SELECT pg_backend_pid()").await?;
    let started = Instant::now();
    let (mut tried, mut defined) = (0_u32, 0_u32);
    while started.elapsed() < patience {
        tried += 1;
        let mut writer = Writer(&mut rng);
        let (call, text) = if writer.0.random_bool(0.5) {
            let text = writer.expression(3);
            ("SELECT foreshard.create_shard('x', 't', $1, or_replace => true)", writer.damaged(text))
        } else {
            let text = writer.query();
            let params = if text.contains("$2") {
                "'{a,b}'"
            } else if text.contains("$1") {
                "'{a}'"
            } else {
                "'{}'"
            };
            let text = writer.damaged(text);
            let call = match params {
                "'{}'" => "SELECT foreshard.create_query_shard('x', $1, or_replace => true)",
                "'{a}'" => "SELECT foreshard.create_query_shard('x', $1, '{a}', or_replace => true)",
                _ => "SELECT foreshard.create_query_shard('x', $1, '{a,b}', or_replace => true)",
            };
            (call, text)
        };
        match origin.db.execute(call, &[&text]).await {
            Ok(_) => {
                defined += 1;
                // What was accepted must not stop the stream either, whatever the rows do to it.
                if defined % 20 == 1 {
                    origin.map_all().await?;
                    origin.db.batch_execute("UPDATE t SET b = b WHERE i IS NULL OR i >= 0").await?;
                    let events = origin.frames().await?;
                    ensure!(!events.is_empty(), "seed {seed}: no events after {text}");
                }
            }
            Err(error) => {
                let Some(error) = error.as_db_error() else {
                    anyhow::bail!("seed {seed}: {error} after {text}")
                };
                ensure!(
                    error.code().code() != "XX000" && !error.code().code().starts_with("57P"),
                    "seed {seed}: {error:?} after {text}"
                );
            }
        }
    }
    ensure!(
        origin.value::<i32>("SELECT pg_backend_pid()").await? == backend,
        "seed {seed}: the backend was replaced"
    );
    ensure!(origin.cluster.server_process_id() == server, "seed {seed}: the server was restarted");
    println!("{tried} tried, {defined} accepted");
    ensure!(defined > 0, "seed {seed}: nothing was ever accepted");
    Ok(())
}
