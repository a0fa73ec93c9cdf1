//! Tokens: who may read what, and keys that change while the sidecar serves.

use std::time::Duration;

use anyhow::{Result, ensure};
use foreshard_tests::{Response, Sidecar, SidecarOptions, eventually};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::shop::Shop;

const SOON: Duration = Duration::from_secs(30);
const SECRET: &str = "a-shared-secret-of-the-edge-in-paris";

fn token(secret: &str, claims: &Value) -> Result<String> {
    let token = encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))?;
    Ok(format!("Bearer {token}"))
}

fn claims(function: &str, customer: i64) -> Value {
    json!({"sub": function, "aud": "foreshard", "exp": 4_000_000_000_u64, "cust": customer})
}

async fn start(shop: &Shop, keys: &NamedTempFile) -> Result<Sidecar> {
    std::fs::write(keys.path(), SECRET)?;
    let mut options = SidecarOptions::of(&shop.login);
    options.arguments =
        ["--auth-key-file", &keys.path().to_string_lossy(), "--auth-pins", "customer_id=cust"]
            .map(str::to_owned)
            .to_vec();
    options.start().await
}

fn challenge(answer: &Response) -> &str {
    answer.header("www-authenticate").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_one_function_and_the_rows_of_one_customer() -> Result<()> {
    let shop = Shop::open().await?;
    let keys = NamedTempFile::new()?;
    let edge = start(&shop, &keys).await?;
    let get = async |authorization: Option<&str>, shard: &str, query: &str| {
        let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", *value)).collect();
        edge.http.rows("checkout", shard, query, &headers).await
    };
    let mine = token(SECRET, &claims("checkout", 1))?;
    assert_eq!(get(Some(&mine), "cart", "customer_id=eq.1").await?.status, 200);
    assert_eq!(get(Some(&mine), "products", "").await?.status, 200);
    assert_eq!(get(Some(&mine.replace("Bearer", "bearer")), "products", "").await?.status, 200);

    let none = get(None, "products", "").await?;
    assert_eq!((none.status.as_u16(), challenge(&none)), (401, "Bearer realm=\"foreshard\""));
    let forged = token("another-secret-another-secret-1234567", &claims("checkout", 1))?;
    for bad in
        [forged.as_str(), "Bearer x", "Basic eDp4", "Bearer", &format!("Bearer {}", "x".repeat(20_000))]
    {
        let answer = get(Some(bad), "products", "").await?;
        assert_eq!(answer.status, 401, "{}", answer.text());
        ensure!(challenge(&answer).starts_with("Bearer realm=\"foreshard\""), "{:?}", answer.headers);
    }
    assert!(challenge(&get(Some(&forged), "products", "").await?).contains("error=\"invalid_token\""));

    for (authorization, shard, query) in [
        (&mine, "cart", "customer_id=eq.2"),
        (&mine, "cart", "customer_id=is.null"),
        (&mine, "cart", "customer_id=eq.2&customer_id=eq.1"),
        (&token(SECRET, &claims("home", 1))?, "products", ""),
    ] {
        let answer = get(Some(authorization), shard, query).await?;
        assert_eq!(answer.status, 403, "{shard}?{query}: {}", answer.text());
        assert!(challenge(&answer).contains("insufficient_scope"), "{:?}", answer.headers);
    }
    let headers = [("Authorization", mine.as_str())];
    let invoke = async |customer: Value| {
        edge.http.invoke("checkout", &json!({"customer_id": customer}), &headers).await
    };
    assert_eq!(invoke(json!(1)).await?.status, 200);
    for other in [json!(2), json!(null)] {
        assert_eq!(invoke(other).await?.status, 403);
    }
    assert_eq!(edge.http.get("/v1/schedule").await?.status, 401);
    assert_eq!(edge.http.get("/live").await?.status, 200);

    // What is held of others is not told either.
    let theirs = token(SECRET, &claims("checkout", 2))?;
    assert_eq!(get(Some(&theirs), "cart", "customer_id=eq.2").await?.status, 200);
    let shards = edge.http.get_with("/v1/functions/checkout/shards", &headers).await?.text();
    assert!(shards.contains("cart?customer_id=1") && !shards.contains("cart?customer_id=2"), "{shards}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_without_a_restart() -> Result<()> {
    let shop = Shop::open().await?;
    let keys = NamedTempFile::new()?;
    let edge = start(&shop, &keys).await?;
    let next = "the-next-shared-secret-of-this-edge";
    let (old, new) = (token(SECRET, &claims("checkout", 1))?, token(next, &claims("checkout", 1))?);
    let status = async |authorization: &str| {
        let answer = edge.http.rows("checkout", "products", "", &[("Authorization", authorization)]).await?;
        anyhow::Ok(answer.status.as_u16())
    };
    assert_eq!((status(&old).await?, status(&new).await?), (200, 401));
    std::fs::write(keys.path(), next)?;
    eventually("the new key counts", SOON, || async { Ok((status(&new).await? == 200).then_some(())) })
        .await?;
    assert_eq!(status(&old).await?, 401);
    Ok(())
}
