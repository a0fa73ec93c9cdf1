//! Shards that are a query, as functions see them: keyed by their parameters, never older than the answer says.

use std::time::Duration;

use anyhow::Result;
use foreshard_tests::{Sidecar, eventually};
use serde_json::json;

use crate::shop::Shop;

#[tokio::test(flavor = "multi_thread")]
async fn a_query_shard_is_served_by_its_parameters() -> Result<()> {
    let shop = Shop::open().await?;
    shop.db
        .batch_execute(
            "ALTER TABLE cart_line REPLICA IDENTITY FULL;
             SELECT foreshard.create_query_shard('basket', $$
                 SELECT p.name, c.quantity, p.price * c.quantity AS total, to_jsonb(p.tags) AS tags
                 FROM cart_line c JOIN product p ON p.id = c.product_id WHERE c.customer_id = $1 ORDER BY p.id $$, '{customer_id}');
             SELECT foreshard.map_function('checkout', '{products,cart,basket}')",
        )
        .await?;
    let edge = Sidecar::start(&shop.login).await?;
    let row = json!([{"name": "product 1", "quantity": 1, "total": 1.50, "tags": ["a", "b"]}]);
    for status in ["foreshard; fwd=miss", "foreshard-reactive; hit"] {
        let answer = edge.http.rows("checkout", "basket", "customer_id=eq.2", &[]).await?;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        assert_eq!((answer.json()?, answer.header("cache-status")), (row.clone(), Some(status)));
    }
    // A change of another customer's cart leaves the copy alone; of this one's, or of the products, it does not.
    for (change, expected) in [
        ("UPDATE cart_line SET quantity = 9 WHERE customer_id = 3", 1),
        ("UPDATE cart_line SET quantity = 2 WHERE customer_id = 2", 2),
        ("UPDATE product SET price = price + 0 WHERE id = 3", 2),
    ] {
        shop.db.batch_execute(change).await?;
        let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
        let answer = edge
            .http
            .rows("checkout", "basket", "customer_id=eq.2", &[("foreshard-min-lsn", &token)])
            .await?;
        assert_eq!(answer.json()?[0]["quantity"], expected, "{change}: {}", answer.text());
    }
    // Filters work on its columns; the parameters are needed.
    let answer = edge.http.rows("checkout", "basket", "customer_id=eq.2&quantity=gt.5", &[]).await?;
    assert_eq!(answer.json()?, json!([]));
    assert_eq!(edge.http.rows("checkout", "basket", "", &[]).await?.status.as_u16(), 400);
    assert_eq!(edge.http.rows("checkout", "basket", "customer_id=eq.x", &[]).await?.status.as_u16(), 400);

    // Published for one customer, it is there before he comes.
    let entries =
        json!([{"function_id": "checkout", "shard_list": ["basket?customer_id=4"], "confidence": 0.9}]);
    let publish = "SELECT foreshard.publish_schedule('paris', now() - interval '1 minute', now() + interval '1 hour', $1)";
    shop.db.execute(publish, &[&entries]).await?;
    eventually("the basket is fetched ahead", Duration::from_secs(20), || async {
        Ok((edge.metric("foreshard_prefetch_copies_total").await? >= 1.0).then_some(()))
    })
    .await?;
    let answer = edge.http.rows("checkout", "basket", "customer_id=eq.4", &[]).await?;
    assert_eq!(answer.header("cache-status"), Some("foreshard-prefetch; hit"), "{}", answer.text());
    Ok(())
}

/// All shards of a function in one answer and of one cut, a query's among them.
#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_has_the_rows_of_a_query() -> Result<()> {
    let shop = Shop::open().await?;
    shop.db
        .batch_execute(
            "SELECT foreshard.create_query_shard('spent', $$
                 SELECT sum(p.price * c.quantity) AS total FROM cart_line c JOIN product p ON p.id = c.product_id
                 WHERE c.customer_id = $1 $$, '{customer_id}');
             SELECT foreshard.map_function('checkout', '{products,cart,spent}')",
        )
        .await?;
    let edge = Sidecar::start(&shop.login).await?;
    let mut seen = Vec::new();
    for quantity in [3, 4] {
        let change = format!("UPDATE cart_line SET quantity = {quantity} WHERE customer_id = 2");
        shop.db.batch_execute(&change).await?;
        let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
        let min = [("foreshard-min-lsn", token.as_str())];
        let answer = edge.http.invoke("checkout", &json!({"customer_id": 2}), &min).await?;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let shards = answer.json()?["shards"].clone();
        assert_eq!(shards["cart"]["rows"][0]["quantity"], quantity, "{shards}");
        seen.push(shards["spent"]["rows"].clone());
    }
    let wanted = |quantity: f64| json!([{"total": quantity * 1.5}]);
    assert_eq!(seen, [wanted(3.0), wanted(4.0)]);
    Ok(())
}
