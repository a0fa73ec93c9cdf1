//! A small shop that the sidecar's tests share: tables, shards, functions and one edge, `paris`.

use anyhow::Result;
use foreshard_tests::{Cluster, EdgeLogin};
use tokio_postgres::Client;

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
        let db = origin.connect().await?;
        db.batch_execute(
            "CREATE TABLE product (id int PRIMARY KEY, name text, price numeric(10, 2), discount int NOT NULL, at timestamptz, tags text[], more jsonb);
             INSERT INTO product SELECT i, 'product ' || i, i * 1.5, i * 10 - 10, '2024-02-03 04:05:06.7+00', ARRAY['a', 'b'], '{\"x\": [1, 2]}'
                 FROM generate_series(1, 3) i;
             CREATE TABLE cart_line (customer_id int, product_id int, quantity int, PRIMARY KEY (customer_id, product_id));
             INSERT INTO cart_line SELECT i, 1, 1 FROM generate_series(1, 5) i;",
        )
        .await?;
        define(&db).await?;
        let login = origin.create_edge("paris").await?;
        Ok(Shop { origin, db, login })
    }

    /// The extension with its shards and functions, once more.
    pub(crate) async fn define(&self) -> Result<()> {
        define(&self.db).await
    }
}

async fn define(db: &Client) -> Result<()> {
    db.batch_execute(
        "CREATE EXTENSION foreshard;
         SELECT foreshard.create_shard('products', 'product');
         SELECT foreshard.create_shard('offers', 'product', predicate => 'discount > 0');
         SELECT foreshard.create_shard('cart', 'cart_line', key => '{customer_id}');
         SELECT foreshard.map_function('checkout', '{products,cart}');
         SELECT foreshard.map_function('home', '{offers}');",
    )
    .await?;
    Ok(())
}
