//! Applying and taking back: all or nothing, only what was advised, and always reversible.

use anyhow::{Context, Result};
use foreshard_tests::Cluster;
use tokio_postgres::Client;

use crate::command::{advise, advised, find, report};

/// A name that tries everything.
const HOSTILE: &str = "x'); DROP TABLE canary; --\" \\ $$";

pub(crate) struct Fixture {
    pub(crate) origin: Cluster,
    pub(crate) db: Client,
}

fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

impl Fixture {
    pub(crate) async fn open() -> Result<Self> {
        let origin = Cluster::with_extension().await?;
        let db = origin.connect().await?;
        db.batch_execute(
            "CREATE TABLE canary (id int PRIMARY KEY);
             CREATE TABLE orders (id int PRIMARY KEY, customer_id int NOT NULL, status text NOT NULL, note text NOT NULL);
             INSERT INTO orders SELECT i, i % 1000, 's' || i % 30, repeat('x', 200) FROM generate_series(1, 5000) i;
             CREATE TABLE ticket (id int PRIMARY KEY, status text NOT NULL, note text NOT NULL);
             INSERT INTO ticket SELECT i, 's' || i % 30, repeat('x', 200) FROM generate_series(1, 5000) i;
             ANALYZE;
             SELECT foreshard.create_shard('orders', 'orders');
             SELECT foreshard.create_shard('ticket', 'ticket');
             SELECT foreshard.map_function('f', '{orders,ticket}');",
        )
        .await?;
        Ok(Fixture { origin, db })
    }

    /// Logs reads of a shard by a function, with filters as JSON made from `i`.
    pub(crate) async fn log(&self, function: &str, shard: &str, filters: &str) -> Result<()> {
        let (function, shard) = (literal(function), literal(shard));
        self.db
            .batch_execute(&format!(
                "INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes)
                 SELECT 'paris', {function}, now() + make_interval(secs => i), '{{}}', {filters}, ARRAY[{shard}], 'origin', 1000, 1000
                 FROM generate_series(1, 100) i"
            ))
            .await?;
        Ok(())
    }

    async fn report(&self) -> Result<serde_json::Value> {
        report(&self.origin.url(), &["--edge-bytes", "1MiB"]).await
    }

    /// All definitions as text.
    pub(crate) async fn definitions(&self) -> Result<String> {
        let all = "SELECT (SELECT string_agg(row(name, source, predicate, key, columns, owner)::text, E'\\n' ORDER BY name) FROM foreshard.shards)
            || (SELECT string_agg(m::text, E'\\n' ORDER BY function_id, ordinal) FROM foreshard.function_shards m)
            || (SELECT string_agg(row(indexrelid::regclass, indisreplident)::text, E'\\n' ORDER BY 1) FROM pg_index
                WHERE indrelid IN ('orders'::regclass, 'ticket'::regclass))
            || (SELECT string_agg(relreplident::text, '' ORDER BY relname) FROM pg_class WHERE relname IN ('orders', 'ticket'))";
        Ok(self.db.query_one(all, &[]).await?.get(0))
    }

    async fn fails(&self, arguments: &[&str], with: &str) -> Result<()> {
        let before = self.definitions().await?;
        let ran = advise(&self.origin.url(), arguments).await?;
        assert!(!ran.success && ran.err.contains(with), "{arguments:?}: {}{}", ran.out, ran.err);
        assert_eq!(self.definitions().await?, before, "{arguments:?} changed something");
        Ok(())
    }
}

pub(crate) const BY_CUSTOMER: &str = "jsonb_build_object('customer_id', 'eq.' || i % 20)";

#[tokio::test]
async fn what_is_applied_is_recorded_and_can_be_taken_back_exactly() -> Result<()> {
    let f = Fixture::open().await?;
    let url = f.origin.url();
    f.log("f", "orders", BY_CUSTOMER).await?;
    let before = f.definitions().await?;
    let report = f.report().await?;
    let one = find(&report, "keyed", "orders").with_context(|| format!("{report:#}"))?;
    let id = one["id"].to_string();

    f.fails(&["--revert", &id], "it is not applied").await?;
    f.fails(&["--apply", "999"], "there is no advice 999").await?;
    let out = advised(&url, &["--apply", &id]).await?;
    assert!(out.contains("create_shard") && out.contains(&format!("--revert {id}")), "{out}");
    assert_ne!(f.definitions().await?, before);
    f.fails(&["--apply", &id], "applied already").await?;
    let row = f.db.query_one("SELECT applied_by::text, applied_at IS NOT NULL, undo FROM foreshard.advice WHERE kind = 'keyed'", &[]).await?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("postgres", true));
    assert!(row.get::<_, &str>(2).contains("create_shard"));

    // What the log says now was said under the old definition: nothing follows from it for the new one, but its needs.
    let again = f.report().await?;
    assert!(find(&again, "keyed", "orders").is_none(), "{again:#}");
    let index = find(&again, "index", "orders").with_context(|| format!("{again:#}"))?["id"].to_string();
    let identity =
        find(&again, "replica_identity", "orders").with_context(|| format!("{again:#}"))?["id"].to_string();
    for id in [&index, &identity] {
        advised(&url, &["--apply", id]).await?;
    }
    for id in [&identity, &index, &id] {
        advised(&url, &["--revert", id]).await?;
    }
    assert_eq!(f.definitions().await?, before);
    advised(&url, &["--apply", &id]).await?;
    advised(&url, &["--revert", &id]).await?;
    assert_eq!(f.definitions().await?, before);
    Ok(())
}

#[tokio::test]
async fn nothing_is_applied_to_definitions_that_were_changed_meanwhile() -> Result<()> {
    let f = Fixture::open().await?;
    let url = f.origin.url();
    f.log("f", "orders", BY_CUSTOMER).await?;
    let report = f.report().await?;
    let id = find(&report, "keyed", "orders").with_context(|| format!("{report:#}"))?["id"].to_string();
    let redefine = |predicate: &str| {
        format!("SELECT foreshard.create_shard('orders', 'orders', {predicate} or_replace => true)")
    };
    f.db.batch_execute(&redefine("predicate => 'id > 5',")).await?;
    f.fails(&["--apply", &id], "(orders) was changed since: run foreshard advise again").await?;
    f.db.batch_execute(&redefine("")).await?;
    advised(&url, &["--apply", &id]).await?;
    f.db.batch_execute(&redefine("predicate => 'id > 7',")).await?;
    f.fails(&["--revert", &id], "orders was changed since it was applied").await?;

    // A statement that fails half-way leaves nothing behind, neither of itself nor in the record.
    f.db.batch_execute(
        "INSERT INTO foreshard.advice (subject, advice, statement, undo, evidence) SELECT 'ticket', 'mine',
             'SELECT foreshard.drop_shard(''ticket''); SELECT 1 / 0', 'SELECT 1', evidence - 'rests_on' || '{\"rests_on\": {}}'
                 || jsonb_build_object('before', md5('')) FROM foreshard.advice LIMIT 1",
    )
    .await?;
    let mine: i64 =
        f.db.query_one("SELECT id FROM foreshard.advice WHERE advice = 'mine'", &[]).await?.get(0);
    f.fails(&["--apply", &mine.to_string()], "division by zero").await?;
    let applied: bool =
        f.db.query_one("SELECT applied_at IS NOT NULL FROM foreshard.advice WHERE id = $1", &[&mine])
            .await?
            .get(0);
    assert!(!applied);
    Ok(())
}

#[tokio::test]
async fn a_replica_identity_is_not_taken_back_over_what_was_done_since() -> Result<()> {
    let f = Fixture::open().await?;
    let url = f.origin.url();
    f.db.batch_execute(
        "SELECT foreshard.create_shard('orders', 'orders', key => '{customer_id}', or_replace => true)",
    )
    .await?;
    f.log("f", "orders?customer_id=5", BY_CUSTOMER).await?;
    let before = f.definitions().await?;
    let identity = || async {
        let report = f.report().await?;
        Ok::<_, anyhow::Error>(
            find(&report, "replica_identity", "orders").with_context(|| format!("{report:#}"))?["id"]
                .to_string(),
        )
    };
    let id = identity().await?;
    f.db.batch_execute("ALTER TABLE orders REPLICA IDENTITY FULL").await?;
    f.fails(&["--apply", &id], "(orders, public.orders) was changed since").await?;
    f.db.batch_execute("ALTER TABLE orders REPLICA IDENTITY DEFAULT").await?;
    advised(&url, &["--apply", &id]).await?;
    for (done, undone) in [
        ("ALTER TABLE orders REPLICA IDENTITY FULL", "ALTER TABLE orders REPLICA IDENTITY USING INDEX foreshard_orders_identity"),
        (
            "DROP INDEX foreshard_orders_identity; CREATE UNIQUE INDEX foreshard_orders_identity ON orders (id, customer_id, status);
             ALTER TABLE orders REPLICA IDENTITY USING INDEX foreshard_orders_identity",
            "DROP INDEX foreshard_orders_identity; CREATE UNIQUE INDEX foreshard_orders_identity ON orders (customer_id, id);
             ALTER TABLE orders REPLICA IDENTITY USING INDEX foreshard_orders_identity",
        ),
    ] {
        f.db.batch_execute(done).await?;
        f.fails(&["--revert", &id], "orders was changed since it was applied").await?;
        f.db.batch_execute(undone).await?;
    }
    advised(&url, &["--revert", &id]).await?;
    assert_eq!(f.definitions().await?, before);
    Ok(())
}

#[tokio::test]
async fn hostile_names_in_log_and_catalog_stay_names() -> Result<()> {
    let f = Fixture::open().await?;
    let (url, shard) = (f.origin.url(), "s'); DROP TABLE canary; --\"");
    let quoted = format!("\"{}\"", HOSTILE.replace('"', "\"\""));
    f.db.batch_execute(&format!(
        "CREATE SCHEMA {quoted};
         CREATE TABLE {quoted}.{quoted} (id int PRIMARY KEY, {quoted} text NOT NULL, note text NOT NULL);
         INSERT INTO {quoted}.{quoted} SELECT i, CASE WHEN i % 100 = 0 THEN {value} ELSE 'v' || i % 10 END, repeat('x', 200) FROM generate_series(1, 5000) i;
         ANALYZE {quoted}.{quoted};
         SELECT foreshard.create_shard({shard}, {table});
         SELECT foreshard.map_function({value}, ARRAY[{shard}]);",
        value = literal(HOSTILE),
        shard = literal(shard),
        table = literal(&format!("{quoted}.{quoted}")),
    ))
    .await?;
    let filters = format!(
        "jsonb_build_object({name}, 'eq.' || {name}, 'no such column''); DROP TABLE canary; --', 'eq.1')",
        name = literal(HOSTILE)
    );
    f.log(HOSTILE, shard, &filters).await?;
    // Values that are none of the column's type make no proposal.
    f.log("f", "ticket", "jsonb_build_object('id', 'eq.1); DROP TABLE canary; --')").await?;
    let table = advised(&url, &["--edge-bytes", "1MiB"]).await?;
    assert!(table.contains("predicate") && table.contains("mind: a read for anything else"), "{table}");
    let report = f.report().await?;
    let one = find(&report, "predicate", shard).with_context(|| format!("{report:#}"))?;
    assert!(
        report["advice"].as_array().is_some_and(|l| l.iter().all(|a| a["subject"] != "ticket")),
        "{report:#}"
    );
    let id = one["id"].to_string();
    let before = f.definitions().await?;
    advised(&url, &["--apply", &id]).await?;
    let held: i64 =
        f.db.query_one(
            "SELECT count(*) FROM foreshard.shards WHERE name = $1 AND predicate LIKE '%canary%'",
            &[&shard],
        )
        .await?
        .get(0);
    assert_eq!(held, 1);
    advised(&url, &["--revert", &id]).await?;
    assert_eq!(f.definitions().await?, before);
    f.db.query_one("SELECT count(*) FROM canary", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn only_what_the_dba_allows_is_applied_without_asking() -> Result<()> {
    let f = Fixture::open().await?;
    let url = f.origin.url();
    f.log("f", "orders", BY_CUSTOMER).await?;
    f.log("f", "ticket", "jsonb_build_object('status', 'eq.s' || i % 4)").await?;
    let before = f.definitions().await?;
    let auto = ["--edge-bytes", "1MiB", "--auto"];
    let out = advised(&url, &auto).await?;
    assert!(out.contains("foreshard.auto_shard is off"), "{out}");
    f.db.batch_execute("ALTER DATABASE postgres SET foreshard.auto_shard = 'index'").await?;
    advised(&url, &auto).await?;
    assert_eq!(f.definitions().await?, before, "no index is lacking yet");

    f.db.batch_execute("ALTER DATABASE postgres SET foreshard.auto_shard = 'keyed'").await?;
    let out = advised(&url, &auto).await?;
    assert!(out.contains("1 of 2 are applied now: foreshard.auto_shard_per_day is 1"), "{out}");
    let out = advised(&url, &auto).await?;
    assert!(out.contains("0 of 1 are applied now"), "{out}");
    let applied = f.db.query("SELECT id FROM foreshard.advice WHERE applied_at IS NOT NULL", &[]).await?;
    assert_eq!(applied.len(), 1);
    advised(&url, &["--revert", &applied[0].get::<_, i64>(0).to_string()]).await?;
    assert_eq!(f.definitions().await?, before);

    f.db.batch_execute("ALTER DATABASE postgres SET foreshard.auto_shard = 'everything'").await?;
    let ran = advise(&url, &auto).await?;
    assert!(!ran.success && ran.err.contains("expected on, off or a list of keyed"), "{}", ran.err);
    Ok(())
}
