//! What a function gets from a sidecar: rows, from the right place, at the right position.

use std::time::Duration;

use crate::shop::Shop;
use anyhow::{Context, Result, ensure};
use foreshard_tests::{Response, Sidecar, SidecarOptions, eventually};
use serde_json::{Value, json};
use tokio_postgres::Client;

const SOON: Duration = Duration::from_secs(20);

fn cache_status(answer: &Response) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

/// The position a reader sends to see all that has committed by now.
async fn token(db: &Client) -> Result<String> {
    Ok(db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0))
}

async fn publish(db: &Client, entries: &Value) -> Result<i64> {
    let query = "SELECT foreshard.publish_schedule('paris', now() - interval '1 minute', now() + interval '1 hour', $1)";
    Ok(db.query_one(query, &[entries]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_goes_from_prefetch_to_reactive_to_origin() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let first = edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
    assert_eq!(
        (first.status.as_u16(), cache_status(&first)),
        (200, "foreshard; fwd=miss"),
        "{}",
        first.text()
    );
    let second = edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
    assert_eq!(cache_status(&second), "foreshard-reactive; hit");
    assert_eq!(first.body, second.body);

    let entries = json!([
        {"function_id": "checkout", "shard_list": ["cart?customer_id=2", "products"], "confidence": 0.9},
        {"function_id": "checkout", "shard_list": ["cart?customer_id=3"], "confidence": 0.01},
    ]);
    publish(&shop.db, &entries).await?;
    eventually("the schedule is carried out", SOON, || async {
        Ok((edge.metric("foreshard_prefetch_copies_total").await? >= 2.0).then_some(()))
    })
    .await?;
    for (shard, query) in [("cart", "customer_id=eq.2"), ("products", "")] {
        let answer = edge.http.rows("checkout", shard, query, &[]).await?;
        assert_eq!(cache_status(&answer), "foreshard-prefetch; hit", "{shard}: {}", answer.text());
    }
    let unlikely = edge.http.rows("checkout", "cart", "customer_id=eq.3", &[]).await?;
    assert_eq!(cache_status(&unlikely), "foreshard; fwd=miss", "confidence 0.01 is below the threshold");
    let schedule = edge.http.get("/v1/schedule").await?.json()?;
    assert_eq!(schedule["entries"], entries, "as published");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_prefetched_is_found_however_the_schedule_spells_its_key() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let entries =
        json!([{"function_id": "checkout", "shard_list": ["cart?customer_id=01"], "confidence": 0.9}]);
    publish(&shop.db, &entries).await?;
    eventually("the schedule is carried out", SOON, || async {
        Ok((edge.metric("foreshard_prefetch_copies_total").await? >= 1.0).then_some(()))
    })
    .await?;
    let answer = edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
    assert_eq!(cache_status(&answer), "foreshard-prefetch; hit", "{}", answer.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_what_row_to_json_gives() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let query = "SELECT coalesce(string_agg(row_to_json(p)::text, ',' ORDER BY id), '') FROM product p WHERE id < 100000";
    let expected: String = shop.db.query_one(query, &[]).await?.get(0);
    let answer = edge.http.rows("checkout", "products", "", &[]).await?;
    assert_eq!(answer.text(), format!("[{expected}]"));
    assert_eq!(answer.header("content-type"), Some("application/json"));

    let lines =
        edge.http.rows("checkout", "products", "id=eq.2", &[("Accept", "application/x-ndjson")]).await?;
    assert_eq!(lines.text().lines().count(), 1);
    let picked =
        edge.http.rows("checkout", "products", "select=label:name,id&order=id.desc&limit=2", &[]).await?;
    assert_eq!(picked.json()?, json!([{"label": "product 3", "id": 3}, {"label": "product 2", "id": 2}]));
    let predicate = edge.http.rows("home", "offers", "", &[]).await?.json()?;
    let expected: Vec<Value> = {
        let rows = shop
            .db
            .query("SELECT row_to_json(p)::text FROM product p WHERE discount > 0 ORDER BY id", &[])
            .await?;
        rows.iter().map(|row| serde_json::from_str(row.get(0))).collect::<Result<_, _>>()?
    };
    assert_eq!(predicate, Value::Array(expected));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_every_answer_at_or_after_it() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let quantity = |answer: &Response| Ok::<_, anyhow::Error>(answer.json()?[0]["quantity"].clone());
    for round in 1..=30 {
        edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
        shop.db.execute("UPDATE cart_line SET quantity = $1 WHERE customer_id = 1", &[&round]).await?;
        let token = token(&shop.db).await?;
        let answer =
            edge.http.rows("checkout", "cart", "customer_id=eq.1", &[("Foreshard-Min-Lsn", &token)]).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            quantity(&answer)?,
            json!(round),
            "the answer at {:?} for {token}",
            answer.header("foreshard-lsn")
        );
    }
    // A row that moves to another instance leaves the one it was in.
    shop.db.execute("UPDATE cart_line SET customer_id = 9 WHERE customer_id = 1", &[]).await?;
    let token = token(&shop.db).await?;
    let headers = [("Foreshard-Min-Lsn", token.as_str())];
    assert_eq!(edge.http.rows("checkout", "cart", "customer_id=eq.1", &headers).await?.json()?, json!([]));
    assert_eq!(
        edge.http.rows("checkout", "cart", "customer_id=eq.9", &headers).await?.json()?[0]["quantity"],
        json!(30)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_log_of_an_idle_origin_is_reached() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    for quantity in 1..=5 {
        shop.db.execute("UPDATE cart_line SET quantity = $1 WHERE customer_id = 1", &[&quantity]).await?;
        let end: String = shop.db.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
        let headers = [("Foreshard-Min-Lsn", end.as_str())];
        let answer = edge.http.rows("checkout", "cart", "customer_id=eq.1", &headers).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()?[0]["quantity"], json!(quantity));
        let stamp = answer.header("foreshard-lsn").context("a stamp")?;
        assert!(lsn(stamp)? >= lsn(&end)?, "{stamp} for {end}");
    }
    Ok(())
}

fn lsn(text: &str) -> Result<foreshard_protocol::Lsn> {
    Ok(text.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_gets_all_shards_and_is_logged() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let answer = edge.http.invoke("checkout", &json!({"customer_id": 2}), &[]).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json()?;
    assert_eq!(answer["shards"]["cart"]["rows"][0]["customer_id"], json!(2));
    assert_eq!(answer["shards"]["cart"]["served_from"], json!("origin"));
    assert_eq!(answer["shards"]["products"]["rows"].as_array().map(Vec::len), Some(3));
    assert!(answer["invocation_id"].is_string() && answer["lsn"].is_string());
    let row = eventually("the execution is in the log", SOON, || async {
        let query = "SELECT edge, served_from, shards, tables, filters, bytes FROM foreshard.executions WHERE function_id = 'checkout'";
        Ok(shop.db.query_opt(query, &[]).await?)
    })
    .await?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("paris", "origin"));
    assert_eq!(row.get::<_, Vec<String>>(2), ["products", "cart?customer_id=2"]);
    assert_eq!(row.get::<_, Vec<String>>(3), ["public.product", "public.cart_line"]);
    assert_eq!(row.get::<_, Value>(4), json!({"customer_id": "2"}));
    assert!(row.get::<_, i64>(5) > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_mapping_bites_and_a_redefined_shard_is_fetched_anew() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    ensure!(edge.http.rows("home", "offers", "", &[]).await?.status == 200);
    shop.db.batch_execute("SELECT foreshard.create_shard('offers', 'product', predicate => 'discount > 10', or_replace => true)").await?;
    let at = token(&shop.db).await?;
    let answer = edge.http.rows("home", "offers", "", &[("Foreshard-Min-Lsn", &at)]).await?;
    assert_eq!(answer.json()?.as_array().map(Vec::len), Some(1), "{}", answer.text());
    shop.db.batch_execute("SELECT foreshard.map_function('home', '{products}')").await?;
    let at = token(&shop.db).await?;
    let answer = edge.http.rows("home", "offers", "", &[("Foreshard-Min-Lsn", &at)]).await?;
    // The request that waits for the position is refused once the mapping is gone; so is every later one.
    let later = edge.http.rows("home", "offers", "", &[]).await?;
    // No function reads the shard any more, so that this edge is told nothing of it: that it exists the origin says.
    assert_eq!(
        (answer.status.as_u16(), later.status.as_u16()),
        (403, 403),
        "{}{}",
        answer.text(),
        later.text()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_holds_is_not_sent_again() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let first = edge.http.rows("checkout", "products", "", &[]).await?;
    let etag = first.header("etag").unwrap_or_default().to_owned();
    let again = edge.http.rows("checkout", "products", "", &[("If-None-Match", &etag)]).await?;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert!(again.header("foreshard-lsn").is_some());
    shop.db.batch_execute("UPDATE product SET name = 'new' WHERE id = 1").await?;
    let at = token(&shop.db).await?;
    let changed = edge
        .http
        .rows("checkout", "products", "", &[("If-None-Match", &etag), ("Foreshard-Min-Lsn", &at)])
        .await?;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(etag.as_str()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_how_it_is() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
    for path in ["/live", "/ready", "/metrics", "/openapi.json", "/"] {
        assert_eq!(edge.http.get(path).await?.status, 200, "{path}");
    }
    let shards = edge.http.get("/v1/functions/checkout/shards").await?.json()?;
    let cart =
        shards["shards"].as_array().into_iter().flatten().find(|shard| shard["shard"] == json!("cart"));
    assert_eq!(
        cart.map(|cart| cart["held"][0]["instance"].clone()),
        Some(json!("cart?customer_id=1")),
        "{shards}"
    );
    let unready: f64 = edge.metric("foreshard_ready").await?;
    assert_eq!(unready, 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_edge_follows_and_does_not_hold_the_log() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = SidecarOptions::of(&shop.login).start().await?;
    shop.db
        .batch_execute(
            "CREATE TABLE unrelated (id int); INSERT INTO unrelated SELECT generate_series(1, 100000)",
        )
        .await?;
    let at = token(&shop.db).await?;
    eventually("the position passes what concerns no shard", SOON, || async {
        let query = "SELECT last_applied_lsn >= $1::text::pg_lsn FROM foreshard.edges WHERE name = 'paris'";
        Ok(shop.db.query_one(query, &[&at]).await?.get::<_, bool>(0).then_some(()))
    })
    .await?;
    let answer = edge.http.rows("checkout", "products", "", &[("Foreshard-Min-Lsn", &at)]).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());

    // Where only another database writes, too: the log of it is passed, and given back.
    shop.db.batch_execute("CREATE DATABASE elsewhere").await?;
    let elsewhere = shop.origin.connect_to("elsewhere").await?;
    elsewhere
        .batch_execute("CREATE TABLE t AS SELECT g, repeat('x', 500) FROM generate_series(1, 50000) g")
        .await?;
    let at = token(&shop.db).await?;
    eventually("the slot needs no log of before", SOON, || async {
        // Where running transactions are logged, as the server does by itself every 15 s if something was written, the slot may move on.
        elsewhere.batch_execute("CHECKPOINT").await?;
        let query = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn AND restart_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
        Ok(elsewhere.query_one(query, &[&at]).await?.get::<_, bool>(0).then_some(()))
    })
    .await?;
    let answer = edge.http.rows("checkout", "products", "", &[("Foreshard-Min-Lsn", &at)]).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Ok(())
}
