//! A small shop that the sidecar's tests share: tables, shards, functions and one edge, `paris`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use foreshard_tests::{Cluster, EdgeLogin, Sidecar, SidecarOptions, eventually};
use serde_json::json;
use tokio_postgres::Client;

/// For what heals by itself, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The running shop.
pub(crate) struct Shop {
    /// Its origin.
    pub(crate) origin: Cluster,
    /// A session of the administrator.
    pub(crate) db: Client,
    /// What the sidecar in Paris logs in with.
    pub(crate) login: EdgeLogin,
}

impl Shop {
    /// Sets it up.
    pub(crate) async fn open() -> Result<Self> {
        Self::open_on(Cluster::start().await?).await
    }

    /// Sets it up in a cluster with settings of its own.
    pub(crate) async fn open_on(origin: Cluster) -> Result<Self> {
        Self::open_with(origin, "CREATE EXTENSION foreshard").await
    }

    /// The same, with an extension of another version.
    pub(crate) async fn open_with(origin: Cluster, extension: &str) -> Result<Self> {
        let db = origin.connect().await?;
        db.batch_execute(
            "CREATE TABLE product (id int PRIMARY KEY, name text, price numeric(10, 2), discount int NOT NULL, at timestamptz, tags text[], more jsonb);
             INSERT INTO product SELECT i, 'product ' || i, i * 1.5, i * 10 - 10, '2024-02-03 04:05:06.7+00', ARRAY['a', 'b'], '{\"x\": [1, 2]}'
                 FROM generate_series(1, 3) i;
             CREATE TABLE cart_line (customer_id int, product_id int, quantity int, PRIMARY KEY (customer_id, product_id));
             INSERT INTO cart_line SELECT i, 1, 1 FROM generate_series(1, 5) i;",
        )
        .await?;
        db.batch_execute(extension).await?;
        define(&db).await?;
        let login = origin.create_edge("paris").await?;
        Ok(Shop { origin, db, login })
    }

    /// The extension with its shards and functions, once more.
    pub(crate) async fn define(&self) -> Result<()> {
        self.db.batch_execute("CREATE EXTENSION foreshard").await?;
        define(&self.db).await
    }
}

async fn define(db: &Client) -> Result<()> {
    db.batch_execute(
        "SELECT foreshard.create_shard('products', 'product');
         SELECT foreshard.create_shard('offers', 'product', predicate => 'discount > 0');
         SELECT foreshard.create_shard('cart', 'cart_line', key => '{customer_id}');
         SELECT foreshard.map_function('checkout', '{products,cart}');
         SELECT foreshard.map_function('home', '{offers}');",
    )
    .await?;
    Ok(())
}

/// What the edge says of one row, at or after the newest commit.
pub(crate) async fn quantity(shop: &Shop, edge: &Sidecar) -> Result<serde_json::Value> {
    let db = shop.origin.connect().await?;
    let token: String = db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    eventually("the edge answers", SOON, || async {
        let headers = [("Foreshard-Min-Lsn", token.as_str())];
        let answer = edge.http.rows("checkout", "cart", "customer_id=eq.1", &headers).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(Some(answer.json()?[0]["quantity"].clone()))
    })
    .await
}

pub(crate) async fn set_quantity(shop: &Shop, quantity: i32) -> Result<()> {
    let db = shop.origin.connect().await?;
    db.execute("UPDATE cart_line SET quantity = $1 WHERE customer_id = 1", &[&quantity]).await?;
    Ok(())
}

/// All that has committed has come on the stream: until then answers may be read at the origin.
pub(crate) async fn is_streamed(shop: &Shop, edge: &Sidecar) -> Result<()> {
    let token = "SELECT (foreshard.commit_token() - '0/0')::float8";
    let token: f64 = shop.origin.connect().await?.query_one(token, &[]).await?.get(0);
    eventually("the stream has brought it", SOON, || async {
        Ok((edge.metric("foreshard_applied_lsn").await? > token).then_some(()))
    })
    .await
}

/// How often the past was lost for this reason.
pub(crate) async fn losses(edge: &Sidecar, reason: &str) -> Result<f64> {
    let text = edge.http.get("/metrics").await?.text();
    let name = format!("foreshard_pasts_lost_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(line.map_or(Ok(0.0), str::parse)?)
}

/// `/ready` says no, with these words.
pub(crate) async fn not_ready(edge: &Sidecar, words: &str) -> Result<()> {
    eventually(&format!("not ready: {words}"), SOON, || async {
        let ready = edge.http.get("/ready").await?;
        ensure!(ready.status == 503 && ready.text().contains(words), "{} {}", ready.status, ready.text());
        Ok(Some(()))
    })
    .await
}

/// The same with a persistent cache in this folder, which holds what a schedule wants: the cart of customer 1.
pub(crate) async fn keeping(shop: &Shop, dir: &Path) -> Result<SidecarOptions> {
    let entries =
        json!([{"function_id": "checkout", "shard_list": ["cart?customer_id=1"], "confidence": 0.9}]);
    let publish = "SELECT foreshard.publish_schedule('paris', now() - interval '1 minute', now() + interval '1 hour', $1)";
    shop.origin.connect().await?.query_one(publish, &[&entries]).await?;
    let mut options = impatient(shop);
    let set = |name: &str, value: &str| (format!("FORESHARD_{name}"), value.to_owned());
    options.environment.extend([
        set("CACHE_DIR", &dir.to_string_lossy()),
        set("CACHE_KEY", &"5e".repeat(32)),
        set("CACHE_INTERVAL", "20ms"),
    ]);
    Ok(options)
}

/// All that has committed is durable at the edge, and something is held there.
pub(crate) async fn is_kept(shop: &Shop, edge: &Sidecar) -> Result<()> {
    let db = shop.origin.connect().await?;
    let token: String = db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    eventually("what is held is durable", SOON, || async {
        let slot = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE plugin = 'foreshard'";
        let durable: bool = db.query_one(slot, &[&token]).await?.get(0);
        let held = edge.metric("foreshard_prefetch_cache_copies").await?;
        Ok((durable && held > 0.0).then_some(()))
    })
    .await
}

/// What a predecessor kept is taken over.
pub(crate) async fn is_warm(edge: &Sidecar) -> Result<()> {
    eventually("the kept copy is taken over", SOON, || async {
        Ok((edge.metric("foreshard_warm_copies_total").await? == 1.0).then_some(()))
    })
    .await
}

/// A sidecar that serves nothing from copies once nothing has proved them fresh for a second.
pub(crate) fn impatient(shop: &Shop) -> SidecarOptions {
    SidecarOptions {
        environment: vec![("FORESHARD_MAX_STALENESS".into(), "1s".into())],
        ..SidecarOptions::of(&shop.login)
    }
}
