//! A shop whose shards are not what its functions need, in ways that are known.

use std::time::Duration;

use anyhow::{Result, ensure};
use foreshard_tests::{Cluster, Sidecar, SidecarOptions, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Room for copies at the edge: less than any of the large tables, more than all that functions really need.
pub(crate) const EDGE_BYTES: &str = "1MiB";

/// Calls of each access pattern in one run.
pub(crate) const CALLS: usize = 40;

/// How many rows the large tables have.
const ROWS: i32 = 3_000;

const TABLES: &str = r#"
    CREATE SCHEMA shop;
    -- Read by customer.
    CREATE TABLE shop.orders (id int PRIMARY KEY, customer_id int NOT NULL, note text NOT NULL);
    INSERT INTO shop.orders SELECT i, i % 1000, repeat('o', 150) FROM generate_series(1, ROWS) i;
    CREATE INDEX ON shop.orders (customer_id);
    -- Only what is open is read.
    CREATE TABLE shop.ticket (id int PRIMARY KEY, status text NOT NULL, note text NOT NULL);
    INSERT INTO shop.ticket SELECT i, CASE WHEN i % 50 = 0 THEN 'open' ELSE 'done' || i % 7 END, repeat('t', 150) FROM generate_series(1, ROWS) i;
    -- Only two of its states are read, together.
    CREATE TABLE shop.parcel (id int PRIMARY KEY, state text NOT NULL, note text NOT NULL);
    INSERT INTO shop.parcel SELECT i, 's' || i % 40, repeat('p', 150) FROM generate_series(1, ROWS) i;
    -- Only the newest are read.
    CREATE TABLE shop.event (id int PRIMARY KEY, day date NOT NULL, note text NOT NULL);
    INSERT INTO shop.event SELECT i, '2024-01-01'::date + i / 20, repeat('e', 150) FROM generate_series(1, ROWS) i;
    -- Only one partition is read.
    CREATE TABLE shop.sale (id int, region text, note text NOT NULL, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE shop.sale_eu PARTITION OF shop.sale FOR VALUES IN ('eu', 'uk');
    CREATE TABLE shop.sale_us PARTITION OF shop.sale FOR VALUES IN ('us');
    INSERT INTO shop.sale SELECT i, CASE WHEN i % 20 = 0 THEN 'eu' ELSE 'us' END, repeat('s', 150) FROM generate_series(1, ROWS) i;
    -- Only the one month's partition is read.
    CREATE TABLE shop.visit (id int, day date, note text NOT NULL, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE shop.visit_old PARTITION OF shop.visit FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    CREATE TABLE shop."Visit, new" PARTITION OF shop.visit FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
    INSERT INTO shop.visit SELECT i, CASE WHEN i % 20 = 0 THEN '2024-01-05'::date ELSE '2023-05-05' END, repeat('v', 150) FROM generate_series(1, ROWS) i;
    -- Small, and all of its instances are read, one by one.
    CREATE TABLE shop.currency (code text PRIMARY KEY, rate numeric NOT NULL);
    INSERT INTO shop.currency SELECT 'C' || i, i FROM generate_series(1, 20) i;
    -- Only two narrow columns are read.
    CREATE TABLE shop.article (id int PRIMARY KEY, title text NOT NULL, body text NOT NULL);
    INSERT INTO shop.article SELECT i, 'title ' || i, (SELECT string_agg(md5(i::text || n), '') FROM generate_series(1, 46) n)
        FROM generate_series(1, 600) i;
    -- Two functions read another part each.
    CREATE TABLE shop.task (id int PRIMARY KEY, team text NOT NULL, phase text NOT NULL, note text NOT NULL);
    INSERT INTO shop.task SELECT i, 'team' || i % 30, 'phase' || i % 25, repeat('k', 150) FROM generate_series(1, ROWS) i;
    -- Two shards of one table, always read together.
    CREATE TABLE shop.message (id int PRIMARY KEY, box text NOT NULL, note text NOT NULL);
    INSERT INTO shop.message SELECT i, 'box' || i % 60, repeat('m', 150) FROM generate_series(1, ROWS) i;
    -- A customer and his addresses, always read together.
    CREATE TABLE shop.customer (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO shop.customer SELECT i, 'customer ' || i FROM generate_series(1, 2000) i;
    CREATE TABLE shop.address (id int PRIMARY KEY, customer_id int NOT NULL REFERENCES shop.customer, street text NOT NULL);
    INSERT INTO shop.address SELECT i, 1 + i % 2000, repeat('a', 40) FROM generate_series(1, ROWS) i;
    CREATE INDEX ON shop.address (customer_id);
    -- By two columns at once; and the right shard already, but without an index, and changes that do not tell its instances.
    CREATE TABLE shop.stock (id int PRIMARY KEY, store int NOT NULL, shelf int NOT NULL, note text NOT NULL);
    INSERT INTO shop.stock SELECT i, i % 40, i / 40 % 30, repeat('x', 150) FROM generate_series(1, ROWS) i;
    CREATE INDEX ON shop.stock (store, shelf);
    CREATE TABLE shop.review (id int PRIMARY KEY, product_id int NOT NULL, note text NOT NULL);
    INSERT INTO shop.review SELECT i, i % 1000, repeat('r', 60) FROM generate_series(1, ROWS) i;
    CREATE TABLE shop.audit (id int PRIMARY KEY, note text);
    ANALYZE;"#;

const SHARDS: &str = "
    SELECT foreshard.create_shard(t, ('shop.' || t)::regclass) FROM unnest('{orders,ticket,parcel,event,sale,visit,article,task,stock,audit}'::text[]) t;
    SELECT foreshard.create_shard('currency', 'shop.currency', key => '{code}');
    SELECT foreshard.create_shard('inbox', 'shop.message', predicate => $$box = 'box1'$$);
    SELECT foreshard.create_shard('outbox', 'shop.message', predicate => $$box = 'box2'$$);
    SELECT foreshard.create_shard('customer', 'shop.customer', key => '{id}');
    SELECT foreshard.create_shard('addresses', 'shop.address', key => '{customer_id}');
    SELECT foreshard.create_shard('reviews', 'shop.review', key => '{product_id}');
    SELECT foreshard.map_function('f:' || t, ARRAY[t]) FROM unnest('{orders,ticket,parcel,event,sale,visit,currency,article,stock,reviews}'::text[]) t;
    SELECT foreshard.map_function('f:currency', '{currency,orders}');
    SELECT foreshard.map_function('by team', '{task}');
    SELECT foreshard.map_function('by phase', '{task}');
    SELECT foreshard.map_function('mail', '{inbox,outbox}');
    SELECT foreshard.map_function('profile', '{customer,addresses}');";

/// The running shop.
pub(crate) struct Shop {
    pub(crate) origin: Cluster,
    /// A session of the administrator.
    pub(crate) db: Client,
    pub(crate) sidecar: Sidecar,
}

/// One run of calls: how many there were and how many found all they need at the edge.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Hits {
    pub(crate) calls: usize,
    pub(crate) hits: usize,
}

impl Hits {
    pub(crate) fn ratio(self) -> f64 {
        self.hits as f64 / self.calls.max(1) as f64
    }
}

impl Shop {
    pub(crate) async fn open() -> Result<Self> {
        let origin = Cluster::with_extension().await?;
        let db = origin.connect().await?;
        db.batch_execute(&TABLES.replace("ROWS", &ROWS.to_string())).await?;
        db.batch_execute(SHARDS).await?;
        let login = origin.create_edge("paris").await?;
        let options = SidecarOptions::of(&login).args(&["--reactive-bytes", EDGE_BYTES, "--prefetch", "off"]);
        Ok(Shop { sidecar: options.start().await?, origin, db })
    }

    /// All patterns in turn, so that they share the cache; gives each one's hits, by name.
    pub(crate) async fn run(&self, seed: u64, patterns: &[Pattern]) -> Result<Vec<(&'static str, Hits)>> {
        let mut hits: Vec<(&'static str, Hits)> =
            patterns.iter().map(|p| (p.name, Hits::default())).collect();
        for (at, call) in calls(seed, patterns) {
            let (_, hits) = &mut hits[at];
            hits.calls += 1;
            hits.hits += usize::from(self.call(&call).await?);
        }
        Ok(hits)
    }

    /// The calls of one pattern out of such a run.
    pub(crate) async fn repeat(&self, seed: u64, patterns: &[Pattern], name: &str) -> Result<()> {
        for (_, call) in calls(seed, patterns).into_iter().filter(|(at, _)| patterns[*at].name == name) {
            self.call(&call).await?;
        }
        Ok(())
    }

    /// Whether the call found all it needs.
    async fn call(&self, call: &Call) -> Result<bool> {
        let answer = match call {
            Call::Rows(path) => self.sidecar.http.get(path).await?,
            Call::Invoke(function, params) => self.sidecar.http.invoke(function, params, &[]).await?,
        };
        ensure!(answer.status == 200, "{call:?}: {} {}", answer.status, answer.text());
        Ok(answer.header("cache-status").is_some_and(|s| s.contains("hit")))
    }

    /// Waits until so many executions are in the log.
    pub(crate) async fn logged(&self, count: usize) -> Result<()> {
        eventually("the log is shipped", Duration::from_secs(30), || async {
            let row = self.db.query_one("SELECT count(*) FROM foreshard.executions", &[]).await?;
            Ok((row.get::<_, i64>(0) >= count as i64).then_some(()))
        })
        .await
    }
}

/// One call of a function.
#[derive(Debug)]
pub(crate) enum Call {
    Rows(String),
    Invoke(&'static str, Value),
}

/// What a function asks for again and again.
pub(crate) struct Pattern {
    pub(crate) name: &'static str,
    call: fn(&mut StdRng) -> Call,
}

/// The calls of one run, each with the number of its pattern.
fn calls(seed: u64, patterns: &[Pattern]) -> Vec<(usize, Call)> {
    let mut random = StdRng::seed_from_u64(seed);
    let all = (0..CALLS).flat_map(|_| patterns.iter().enumerate());
    all.map(|(at, pattern)| (at, (pattern.call)(&mut random))).collect()
}

/// A few of many, some more often than others: as people are.
fn few(random: &mut StdRng, of: u32) -> u32 {
    let at: f64 = random.random();
    (at * at * f64::from(of)) as u32
}

fn rows(function: &str, shard: &str, query: &str) -> Call {
    Call::Rows(format!("/v1/functions/{}/shards/{shard}/rows?{query}", function.replace(' ', "%20")))
}

/// The patterns; with the definitions as they were, or (`after`) as functions call once the advice was followed.
pub(crate) fn patterns(after: bool) -> Vec<Pattern> {
    let pattern = |name, call| Pattern { name, call };
    let mut all = vec![
        pattern("orders", |r| rows("f:orders", "orders", &format!("customer_id=eq.{}", few(r, 40)))),
        pattern("ticket", |_| rows("f:ticket", "ticket", "status=eq.open")),
        pattern("parcel", |_| rows("f:parcel", "parcel", "state=in.(s1,s2)")),
        pattern("event", |r| {
            rows("f:event", "event", ["day=gte.2024-05-15", "day=gte.2024-05-20"][r.random_range(0..2)])
        }),
        pattern("sale", |_| rows("f:sale", "sale", "region=eq.eu")),
        pattern("visit", |_| rows("f:visit", "visit", "day=eq.2024-01-05")),
        pattern("currency", |r| {
            rows("f:currency", "currency", &format!("code=eq.C{}", r.random_range(1..21)))
        }),
        pattern("article", |_| rows("f:article", "article", "select=id,title")),
        pattern("stock", |r| {
            rows("f:stock", "stock", &format!("store=eq.{}&shelf=eq.{}", few(r, 6), few(r, 5)))
        }),
        pattern("reviews", |r| rows("f:reviews", "reviews", &format!("product_id=eq.{}", few(r, 30)))),
    ];
    if after {
        all.extend([
            pattern("by team", |_| rows("by team", "task_2", "team=eq.team3")),
            pattern("by phase", |_| rows("by phase", "task_1", "phase=eq.phase4")),
            pattern("profile", |r| Call::Invoke("profile", json!({"customer_id": 1 + few(r, 30)}))),
        ]);
    } else {
        all.extend([
            pattern("by team", |_| rows("by team", "task", "team=eq.team3")),
            pattern("by phase", |_| rows("by phase", "task", "phase=eq.phase4")),
            pattern("profile", |r| {
                let id = 1 + few(r, 30);
                Call::Invoke("profile", json!({"customer_id": id, "id": id}))
            }),
        ]);
    }
    all.push(pattern("mail", |_| Call::Invoke("mail", json!({}))));
    all
}
