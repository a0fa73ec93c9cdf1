//! A shop with one edge, and an execution log of some weeks: at half past every hour `checkout` reads the products and,
//! mostly, the cart of customer 7; at nine in the morning `report` reads the offers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use foreshard_tests::Cluster;
use tokio_postgres::Client;

/// The time up to which the log goes, on the planner's clock: 2024-03-01, 09:24 in UTC.
pub(crate) const NOW: &str = "2024-03-01T09:24:00Z";

/// How long a round may take.
pub(crate) const ROUND: Duration = Duration::from_secs(60);

/// The running shop.
pub(crate) struct Shop {
    pub(crate) origin: Cluster,
    /// A session of the administrator.
    pub(crate) db: Client,
}

impl Shop {
    /// Sets it up, with an empty log.
    pub(crate) async fn open() -> Result<Self> {
        let origin = Cluster::with_extension().await?;
        let db = origin.connect().await?;
        db.batch_execute(
            "CREATE TABLE product (id int PRIMARY KEY, discount int NOT NULL);
             CREATE TABLE cart_line (customer_id int, product_id int, PRIMARY KEY (customer_id, product_id));
             SELECT foreshard.create_shard('products', 'product');
             SELECT foreshard.create_shard('offers', 'product', predicate => 'discount > 0');
             SELECT foreshard.create_shard('cart', 'cart_line', key => '{customer_id}');
             SELECT foreshard.map_function('checkout', '{products,cart}');
             SELECT foreshard.map_function('report', '{offers}');",
        )
        .await?;
        origin.create_edge("paris").await?;
        Ok(Shop { origin, db })
    }

    /// The same with three weeks of log.
    pub(crate) async fn open_for_weeks() -> Result<Self> {
        let shop = Self::open().await?;
        shop.log(&format!(
            "SELECT 'paris', 'checkout', at, ARRAY['products', 'cart?customer_id=' || CASE WHEN extract(epoch FROM at)::bigint / 3600 % 4 = 0
                 THEN extract(epoch FROM at)::bigint / 3600 ELSE 7 END]
             FROM generate_series('{NOW}'::timestamptz - '21 days 54 min'::interval, '{NOW}', '1 hour') AS at
             UNION ALL SELECT 'paris', 'report', at, '{{offers}}'
             FROM generate_series('{NOW}'::timestamptz - '21 days 24 min'::interval, '{NOW}', '1 day') AS at"
        ))
        .await?;
        Ok(shop)
    }

    /// Adds to the log what a query gives: edge, function, time, shard instances.
    pub(crate) async fn log(&self, query: &str) -> Result<()> {
        log(&self.db, query).await
    }

    /// The entries of the latest schedule for Paris: (function, instances, confidence).
    pub(crate) async fn latest(&self) -> Result<Vec<(String, Vec<String>, f64)>> {
        let entries = "SELECT e ->> 'function_id', ARRAY(SELECT jsonb_array_elements_text(e -> 'shard_list')), (e ->> 'confidence')::float8
             FROM (SELECT entries FROM foreshard.schedules WHERE edge = 'paris' ORDER BY id DESC LIMIT 1) AS s,
                  jsonb_array_elements(s.entries) WITH ORDINALITY AS x(e, n) ORDER BY n";
        Ok(self
            .db
            .query(entries, &[])
            .await?
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect())
    }

    /// How many schedules there are.
    pub(crate) async fn schedules(&self) -> Result<i64> {
        Ok(self.db.query_one("SELECT count(*) FROM foreshard.schedules", &[]).await?.get(0))
    }
}

/// Adds to the log what a query gives, in a session.
pub(crate) async fn log(db: &Client, query: &str) -> Result<()> {
    db.batch_execute(&format!(
        "INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes)
         SELECT edge, function_id, started_at, '{{}}', '{{}}', shards, 'origin', 170000, 2500
         FROM ({query}) AS q(edge, function_id, started_at, shards)"
    ))
    .await?;
    Ok(())
}

/// A clock that says [`NOW`] now and goes at this rate.
pub(crate) fn clock(rate: f64) -> Result<String> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    Ok(format!("replay:{NOW}@{wall}*{rate}"))
}
