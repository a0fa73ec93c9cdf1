//! Nothing secret is ever said: not in logs of any level, errors, metrics or answers.

use std::time::Duration;

use anyhow::{Result, ensure};
use foreshard_tests::{EdgeLogin, SidecarOptions, StopMode, eventually};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::shop::Shop;

const SOON: Duration = Duration::from_secs(30);
const PASSWORD: &str = "the-password-Zq7";
const SHARED: &str = "the-shared-secret-of-tokens-Zq8-0123456789";
const CACHE_KEY: &str = "c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9";
/// A value of a row that no log has any business with.
const VALUE: &str = "a-private-value-Zq9";

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_everything_logged_shows_no_secret() -> Result<()> {
    let mut shop = Shop::open().await?;
    shop.db
        .batch_execute(&format!(
            "ALTER ROLE {} PASSWORD '{PASSWORD}'; UPDATE product SET name = '{VALUE}' WHERE id = 1",
            shop.login.role
        ))
        .await?;
    let keys = tempfile::NamedTempFile::new()?;
    std::fs::write(keys.path(), SHARED)?;
    let cache = tempfile::tempdir()?;
    let url = shop.origin.url_of(&shop.login.role, PASSWORD, "postgres");
    let options = |url: &str| {
        let mut options = SidecarOptions::of(&EdgeLogin { url: url.to_owned(), ..shop.login.clone() });
        // The environment, unlike a command line, is not everybody's to read; both are taken.
        options.environment = vec![
            ("FORESHARD_LOG".into(), "trace".into()),
            ("RUST_BACKTRACE".into(), "1".into()),
            ("FORESHARD_AUTH_KEY_FILE".into(), keys.path().display().to_string()),
            ("FORESHARD_MAX_STALENESS".into(), "1s".into()),
            ("FORESHARD_CACHE_DIR".into(), cache.path().display().to_string()),
            ("FORESHARD_CACHE_KEY".into(), CACHE_KEY.into()),
        ];
        options.arguments.clear();
        options
    };
    let mut edge = options(&url).start().await?;
    // Whatever it dies of, its memory is not written to a file.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", edge.process().id()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    ensure!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
    let claims =
        json!({"sub": "checkout", "aud": "foreshard", "exp": 4_000_000_000_u64, "name": "claim-Zq6"});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SHARED.as_bytes()))?;
    let signature = token.rsplit('.').next().unwrap_or_default().to_owned();
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str())];
    let mut said = String::new();
    let ok = edge.http.rows("checkout", "products", "", &headers).await?;
    ensure!(ok.status == 200 && ok.text().contains(VALUE), "{}", ok.text());
    ensure!(edge.http.invoke("checkout", &json!({"customer_id": 1}), &headers).await?.status == 200);
    for (shard, query, authorization) in [
        ("products", "name=eq.a-private-value-Zq9&id=eq.x", authorization.as_str()),
        ("products", "id=foo", &authorization),
        ("offers", "", &authorization),
        ("cart", "", &authorization),
        ("products", "", &format!("{authorization}x")),
    ] {
        let answer = edge.http.rows("checkout", shard, query, &[("Authorization", authorization)]).await?;
        ensure!(answer.status != 200, "{shard}?{query}");
        said += &answer.text();
    }
    shop.db.batch_execute("UPDATE product SET price = price + 1").await?;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    shop.db.query(kill, &[&shop.login.role]).await?;
    shop.origin.stop(StopMode::Immediate).await?;
    eventually("it notices", SOON, || async {
        Ok((edge.http.get("/ready").await?.status == 503).then_some(()))
    })
    .await?;
    for path in ["/ready", "/metrics", "/", "/openapi.json", "/v1/schedule"] {
        said += &edge.http.get(path).await?.text();
    }
    edge.stop().await?;
    said += &edge.log_text();
    shop.origin.start_again().await?;
    // Starts that fail, and tell why.
    for url in [
        shop.origin.url_of(&shop.login.role, &format!("{PASSWORD}-not"), "postgres"),
        format!("{url}?sslmode=nonsense"),
        format!("{url}?application_nam={PASSWORD}"),
        format!("host=127.0.0.1 user=x password={PASSWORD} port=many"),
    ] {
        let mut failed = options(&url).spawn()?;
        ensure!(!failed.process().wait_exit(SOON).await?.success(), "it started");
        said += &failed.log_text();
    }
    ensure!(said.contains("/metrics") || said.contains("foreshard_served_total"), "nothing was said at all");
    for secret in [PASSWORD, SHARED, CACHE_KEY, token.as_str(), signature.as_str(), VALUE, "claim-Zq6"] {
        if let Some(at) = said.find(secret) {
            let from = said[..at].rfind('\n').map_or(0, |at| at + 1);
            panic!("{secret} is in: {}", said[from..].lines().next().unwrap_or_default());
        }
    }
    Ok(())
}
