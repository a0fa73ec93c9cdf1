//! A restart that finds what was kept, and believes only what is right.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use foreshard_tests::{Response, Sidecar, SidecarOptions, eventually};
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio_postgres::Client;

use crate::shop::Shop;

const SOON: Duration = Duration::from_secs(30);
const KEY: &str = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e";
const OTHER_KEY: &str = "6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f";

/// A shop with a schedule for five carts and the products, and where its edge keeps them.
struct Kept {
    shop: Shop,
    dir: tempfile::TempDir,
}

impl Kept {
    async fn open() -> Result<Self> {
        let shop = Shop::open().await?;
        shop.db.batch_execute("CREATE TABLE elsewhere AS SELECT 1 AS n").await?;
        let entries = json!([{
            "function_id": "checkout",
            "shard_list": (1..=5).map(|i| format!("cart?customer_id={i}")).chain(["products".into()]).collect::<Vec<_>>(),
            "confidence": 0.9,
        }]);
        let publish = "SELECT foreshard.publish_schedule('paris', now() - interval '1 minute', now() + interval '1 hour', $1)";
        shop.db.query_one(publish, &[&entries]).await?;
        Ok(Kept { shop, dir: tempfile::tempdir()? })
    }

    fn options(&self, key: &str) -> SidecarOptions {
        self.options_with("CACHE_KEY", key)
    }

    fn options_with(&self, name: &str, value: &str) -> SidecarOptions {
        let set = |name: &str, value: &str| (format!("FORESHARD_{name}"), value.to_owned());
        let environment = vec![
            set("CACHE_DIR", &self.dir.path().to_string_lossy()),
            set(name, value),
            set("CACHE_INTERVAL", "20ms"),
        ];
        SidecarOptions { environment, ..SidecarOptions::of(&self.shop.login) }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("copies")
    }

    async fn confirmed(&self) -> Result<String> {
        let query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots";
        Ok(self.shop.db.query_one(query, &[]).await?.get(0))
    }

    /// Everything scheduled is held, and the slot says that it is durable.
    async fn settled(&self, edge: &Sidecar) -> Result<()> {
        eventually("everything is held", SOON, || async {
            Ok((edge.metric("foreshard_prefetch_cache_copies").await? >= 6.0).then_some(()))
        })
        .await?;
        // Copies that are ahead of the stream are kept once it has passed what they hold: on an idle origin, with the next record.
        self.shop.db.batch_execute("UPDATE elsewhere SET n = n + 1").await?;
        let now: String = self.shop.db.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
        eventually("what is held is durable", SOON, || async {
            let query = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
            Ok(self.shop.db.query_one(query, &[&now]).await?.get::<_, bool>(0).then_some(()))
        })
        .await
    }
}

async fn token(db: &Client) -> Result<String> {
    Ok(db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0))
}

async fn cart(edge: &Sidecar, customer: usize, headers: &[(&str, &str)]) -> Result<Response> {
    edge.http.rows("checkout", "cart", &format!("customer_id=eq.{customer}"), headers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_what_was_kept_and_what_changed_meanwhile() -> Result<()> {
    let kept = Kept::open().await?;
    let mut edge = kept.options(KEY).start().await?;
    kept.settled(&edge).await?;
    edge.kill()?;
    kept.shop.db.batch_execute("UPDATE cart_line SET quantity = 42 WHERE customer_id = 1").await?;
    let at = token(&kept.shop.db).await?;
    edge.start_again().await?;
    let changed = cart(&edge, 1, &[("Foreshard-Min-Lsn", &at)]).await?;
    assert_eq!(changed.json()?[0]["quantity"], json!(42), "{}", changed.text());
    assert_eq!(edge.metric("foreshard_warm_copies_total").await?, 6.0);
    for customer in 2..=5 {
        let answer = cart(&edge, customer, &[]).await?;
        assert_eq!(answer.header("cache-status"), Some("foreshard-prefetch; hit"), "{}", answer.text());
        assert_eq!(answer.json()?[0]["quantity"], json!(1));
    }
    // A shard that was redefined while nobody was here is not served from what was kept.
    kept.settled(&edge).await?;
    edge.stop().await?;
    kept.shop
        .db
        .batch_execute(
            "SELECT foreshard.create_shard('products', 'product', predicate => 'id > 1', or_replace => true)",
        )
        .await?;
    let at = token(&kept.shop.db).await?;
    edge.start_again().await?;
    let answer = edge.http.rows("checkout", "products", "", &[("Foreshard-Min-Lsn", &at)]).await?;
    assert_eq!(answer.json()?.as_array().map(Vec::len), Some(2), "{}", answer.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_to_be_believed_is_thrown_away_and_said() -> Result<()> {
    let kept = Kept::open().await?;
    let mut edge = kept.options(KEY).start().await?;
    kept.settled(&edge).await?;
    edge.kill()?;
    let good = std::fs::read(kept.file())?;

    // Another key is for the operator to mend.
    let mut refused = kept.options(OTHER_KEY).spawn()?;
    ensure!(!refused.process().wait_exit(SOON).await?.success());
    let said = refused.log_text();
    assert!(said.contains("another key") && !said.contains(OTHER_KEY), "{said}");

    let middle = good.len() / 2;
    let mut bent = good.clone();
    bent.iter_mut().skip(4096).step_by(97).for_each(|byte| *byte ^= 0x55);
    for (what, bytes) in
        [("torn", good[..middle].to_vec()), ("bent", bent), ("text", b"not a cache".to_vec())]
    {
        std::fs::write(kept.file(), bytes)?;
        edge.start_again().await?;
        assert!(edge.log_text().contains("thrown away"), "{what}");
        assert_eq!(edge.metric("foreshard_warm_copies_total").await?, 0.0, "{what}");
        ensure!(cart(&edge, 2, &[]).await?.status == 200);
        kept.settled(&edge).await?;
        edge.kill()?;
    }

    // A file of an earlier moment, put back: the slot has moved on since, and changes would be missed.
    let old = std::fs::read(kept.file())?;
    let before = kept.confirmed().await?;
    edge.start_again().await?;
    kept.shop.db.batch_execute("UPDATE cart_line SET quantity = 7").await?;
    kept.settled(&edge).await?;
    ensure!(kept.confirmed().await? != before);
    edge.kill()?;
    std::fs::write(kept.file(), old)?;
    edge.start_again().await?;
    assert_eq!(edge.metric("foreshard_warm_copies_total").await?, 0.0, "an old file");
    assert_eq!(cart(&edge, 3, &[]).await?.json()?[0]["quantity"], json!(7));
    kept.settled(&edge).await?;
    edge.kill()?;

    // Of another edge.
    let login = kept.shop.origin.create_edge("rome").await?;
    let rome = SidecarOptions { environment: kept.options(KEY).environment, ..SidecarOptions::of(&login) };
    let rome = rome.start().await?;
    assert!(rome.log_text().contains("it is of edge"), "{}", rome.log_text());
    assert_eq!(rome.metric("foreshard_warm_copies_total").await?, 0.0);
    Ok(())
}

/// Killed at random moments while rows change all the time: what is answered after each restart is right.
#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_never_serves_what_is_over() -> Result<()> {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let kept = Kept::open().await?;
    let mut edge = kept.options(KEY).start().await?;
    kept.settled(&edge).await?;
    let mut quantity = 100;
    let mut warm = 0.0;
    for _ in 0..8 {
        // The kill falls somewhere between these changes and their being durable here.
        for _ in 0..rng.random_range(1..60) {
            quantity += 1;
            let customer = rng.random_range(1..=5);
            let update = "UPDATE cart_line SET quantity = $1 WHERE customer_id = $2";
            kept.shop.db.execute(update, &[&quantity, &customer]).await?;
        }
        edge.kill()?;
        quantity += 1;
        kept.shop
            .db
            .execute("UPDATE cart_line SET quantity = $1 WHERE customer_id = 3", &[&quantity])
            .await?;
        let at = token(&kept.shop.db).await?;
        edge.start_again().await?;
        for customer in 1..=5 {
            let answer = cart(&edge, customer, &[("Foreshard-Min-Lsn", &at)]).await?;
            let query = "SELECT quantity FROM cart_line WHERE customer_id = $1";
            let now: i32 = kept.shop.db.query_one(query, &[&(customer as i32)]).await?.get(0);
            assert_eq!(answer.json()?[0]["quantity"], json!(now), "seed {seed}, customer {customer}");
        }
        warm += edge.metric("foreshard_warm_copies_total").await?;
    }
    assert!(warm > 0.0, "nothing was ever kept");
    Ok(())
}

/// A new key takes over while requests are answered; afterwards the old one opens nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_while_it_serves() -> Result<()> {
    let kept = Kept::open().await?;
    let keys = tempfile::NamedTempFile::new()?;
    std::fs::write(keys.path(), KEY)?;
    let mut edge = kept.options_with("CACHE_KEY_FILE", &keys.path().to_string_lossy()).start().await?;
    kept.settled(&edge).await?;
    let read = "keys of the persistent cache read again";
    // First the new key beside the old one, then without it.
    for (before, lines) in [format!("{OTHER_KEY}\n{KEY}"), OTHER_KEY.to_owned()].into_iter().enumerate() {
        std::fs::write(keys.path(), &lines)?;
        eventually("the keys are read again", SOON, || async {
            assert_eq!(cart(&edge, 2, &[]).await?.status, 200);
            Ok((edge.log_text().matches(read).count() > before).then_some(()))
        })
        .await?;
        // Whatever is written from now on is written with the first of them.
        kept.settled(&edge).await?;
    }
    edge.kill()?;
    let file = std::fs::read(kept.file())?;
    edge.start_again().await?;
    eventually("what was kept is found with the new key alone", SOON, || async {
        Ok((edge.metric("foreshard_warm_copies_total").await? == 6.0).then_some(()))
    })
    .await?;
    edge.kill()?;
    std::fs::write(kept.file(), file)?;
    let mut refused = kept.options(KEY).spawn()?;
    ensure!(!refused.process().wait_exit(SOON).await?.success());
    assert!(refused.log_text().contains("another key"), "{}", refused.log_text());
    Ok(())
}

/// A disk that takes nothing more ends the keeping and nothing else, until it takes something again.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_is_survived() -> Result<()> {
    let kept = Kept::open().await?;
    let mut edge = kept.options(KEY).start().await?;
    kept.settled(&edge).await?;
    // Not even the log can be written.
    edge.process().limit_files(Some(0))?;
    eventually("the disk is noticed, again and again", SOON, || async {
        kept.shop.db.batch_execute("UPDATE cart_line SET quantity = quantity + 1").await?;
        Ok((edge.metric("foreshard_cache_failures_total").await? >= 3.0).then_some(()))
    })
    .await?;
    // Nothing that was kept can be found, nothing holds the origin's log, and everything is answered.
    ensure!(std::fs::metadata(kept.file()).map_or(0, |file| file.len()) == 0);
    kept.settled(&edge).await?;
    let at = token(&kept.shop.db).await?;
    let row = "SELECT quantity FROM cart_line WHERE customer_id = 2";
    let now: i32 = kept.shop.db.query_one(row, &[]).await?.get(0);
    let answer = cart(&edge, 2, &[("Foreshard-Min-Lsn", &at)]).await?;
    assert_eq!(answer.json()?[0]["quantity"], json!(now));
    edge.process().limit_files(None)?;
    eventually("copies are kept again", SOON, || async {
        Ok(edge.log_text().contains("copies are kept again").then_some(()))
    })
    .await?;
    kept.settled(&edge).await?;
    edge.kill()?;
    edge.start_again().await?;
    eventually("what was kept is found", SOON, || async {
        Ok((edge.metric("foreshard_warm_copies_total").await? == 6.0).then_some(()))
    })
    .await
}
