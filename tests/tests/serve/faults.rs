//! Bad input and faults: a clear error that names the mend, and a sidecar that lives on or says why it can't start.

use std::process::Command;
use std::time::Duration;

use crate::shop::Shop;
use anyhow::{Result, bail, ensure};
use foreshard_tests::{
    Cluster, ClusterOptions, EdgeLogin, Response, Sidecar, SidecarOptions, StopMode, eventually,
    foreshard_binary,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

/// What `foreshard serve` says when it can't start.
async fn refusal(login: &EdgeLogin) -> Result<String> {
    let mut sidecar = SidecarOptions::of(login).spawn()?;
    let status = sidecar.process().wait_exit(SOON).await?;
    ensure!(!status.success(), "it ended well");
    Ok(sidecar.process().log_text())
}

fn login(url: String, edge: &str) -> EdgeLogin {
    EdgeLogin { edge: edge.into(), role: String::new(), url }
}

fn problem(answer: &Response, status: u16, kind: &str) -> Result<()> {
    ensure!(answer.status == status, "{} instead of {status}: {}", answer.status, answer.text());
    ensure!(answer.header("content-type") == Some("application/problem+json"), "{:?}", answer.headers);
    let body = answer.json()?;
    ensure!(body["type"] == json!(format!("urn:foreshard:problem:{kind}")), "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waiting_does_not_mend_ends_with_the_mend() -> Result<()> {
    let shop = Shop::open().await?;
    let wrong = login(shop.origin.url_of("edge_paris", "secret-but-wrong", "postgres"), "paris");
    let said = refusal(&wrong).await?;
    assert!(said.contains("password") && !said.contains("secret-but-wrong"), "{said}");
    let said = refusal(&login(shop.login.url.clone(), "atlantis")).await?;
    assert!(said.contains("atlantis"), "{said}");
    let said = refusal(&login(shop.origin.url(), "atlantis")).await?;
    assert!(said.contains("create_edge"), "{said}");
    shop.db.batch_execute("CREATE DATABASE empty").await?;
    let said = refusal(&login(shop.origin.url_of("edge_paris", "edge_paris", "empty"), "paris")).await?;
    assert!(said.contains("CREATE EXTENSION foreshard"), "{said}");
    // The edge of one role is not another's.
    shop.db.batch_execute("CREATE ROLE thief LOGIN REPLICATION PASSWORD 'thief'").await?;
    let said = refusal(&login(shop.origin.url_of("thief", "thief", "postgres"), "paris")).await?;
    assert!(said.contains("permission denied") || said.contains("may not act"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_not_set_up_is_told_how() -> Result<()> {
    let said = {
        let origin = ClusterOptions { wal_level: "replica".into(), ..ClusterOptions::new()? }.start().await?;
        ready_for_paris(&origin).await?;
        refusal(&login(origin.url(), "paris")).await?
    };
    assert!(said.contains("ALTER SYSTEM SET wal_level = logical"), "{said}");
    let origin = ClusterOptions { output_plugins: None, ..ClusterOptions::new()? }.start().await?;
    ready_for_paris(&origin).await?;
    let said = refusal(&login(origin.url(), "paris")).await?;
    assert!(said.contains("ALTER SYSTEM SET output_plugin_libraries = foreshard"), "{said}");
    Ok(())
}

async fn ready_for_paris(origin: &Cluster) -> Result<()> {
    let db = origin.connect().await?;
    Ok(db.batch_execute("CREATE EXTENSION foreshard; SELECT foreshard.create_edge('paris')").await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_get_words_and_nothing_breaks() -> Result<()> {
    let shop = Shop::open().await?;
    shop.db
        .batch_execute("SELECT foreshard.create_shard('a shard? of nobody', 'product', key => '{id}')")
        .await?;
    let edge = Sidecar::start(&shop.login).await?;
    for (function, shard, query, status, kind) in [
        ("nobody", "cart", "customer_id=eq.1", 404, "unknown-function"),
        ("checkout", "nothing", "", 404, "unknown-shard"),
        ("checkout", "offers", "", 403, "forbidden"),
        ("checkout", "a shard? of nobody", "id=eq.1", 403, "forbidden"),
        ("nobody", "a shard? of nobody", "id=eq.1", 404, "unknown-function"),
        ("checkout", "cart", "", 400, "missing-key"),
        ("checkout", "cart", "customer_id=gt.1", 400, "missing-key"),
        ("checkout", "cart", "customer_id=eq.many", 400, "wrong-type"),
        ("checkout", "cart", "customer_id=eq.99999999999", 400, "wrong-type"),
        ("checkout", "products", "id=one", 400, "bad-filter"),
        ("checkout", "products", "nope=eq.1", 400, "bad-filter"),
        ("checkout", "products", "id=eq.one", 400, "wrong-type"),
        ("checkout", "products", "id=eq.%FF", 400, "bad-filter"),
        ("checkout", "products", "limit=-1", 400, "bad-filter"),
        ("checkout", "products", "order=id.sideways", 400, "bad-filter"),
    ] {
        let answer = edge.http.rows(function, shard, query, &[]).await?;
        problem(&answer, status, kind)
            .map_err(|error| error.context(format!("{function}/{shard}?{query}")))?;
    }
    problem(
        &edge.http.rows("checkout", "products", "", &[("Accept", "text/html")]).await?,
        406,
        "not-acceptable",
    )?;
    problem(
        &edge.http.rows("checkout", "products", "", &[("Foreshard-Min-Lsn", "soon")]).await?,
        400,
        "bad-lsn",
    )?;
    problem(&edge.http.get("/v2/nothing").await?, 404, "not-found")?;
    problem(&edge.http.get("/v1/functions/checkout/invocations").await?, 405, "method")?;
    let post = "/v1/functions/checkout/invocations";
    for body in [
        json!({"params": []}),
        json!({"params": {"customer_id": {"a": 1}}}),
        json!([1]),
        json!({"parms": {}}),
    ] {
        problem(&edge.http.post(post, &[], &body).await?, 400, "bad-body")?;
    }
    problem(&edge.http.invoke("checkout", &json!({}), &[]).await?, 400, "missing-key")?;
    let huge = json!({"params": {"customer_id": "9".repeat(100_000)}});
    problem(&edge.http.post(post, &[], &huge).await?, 413, "too-large")?;
    let long =
        raw(&edge, &format!("GET /v1/functions/{} HTTP/1.1\r\nhost: x\r\n\r\n", "9".repeat(500_000))).await?;
    ensure!(["413", "414", "431"].iter().any(|status| long.contains(status)), "{long}");
    // An equal key in another spelling is the same instance.
    ensure!(
        edge.http.rows("checkout", "cart", "customer_id=eq.0001", &[]).await?.json()?[0]["customer_id"]
            == json!(1)
    );
    ensure!(edge.http.rows("checkout", "products", "", &[]).await?.status == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_does_not_come_is_not_waited_for_forever() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let answer = edge.http.rows("checkout", "products", "", &[("Foreshard-Min-Lsn", "FFFF/0")]).await?;
    problem(&answer, 503, "timed-out")?;
    assert!(answer.header("retry-after").is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_down_at_the_start_is_waited_for() -> Result<()> {
    let mut shop = Shop::open().await?;
    shop.origin.stop(StopMode::Fast).await?;
    let mut edge = SidecarOptions::of(&shop.login).spawn()?;
    eventually("it serves and says why it is not ready", SOON, || async {
        let ready = edge.http.get("/ready").await?;
        ensure!(edge.http.get("/live").await?.status == 200);
        Ok((ready.status == 503 && ready.text().contains("out of reach")).then_some(()))
    })
    .await?;
    problem(&edge.http.rows("checkout", "products", "", &[]).await?, 503, "not-ready")?;
    shop.origin.start_again().await?;
    edge.wait_ready().await?;
    assert_eq!(edge.http.rows("checkout", "products", "", &[]).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_goes_down_is_survived_and_nothing_stale_is_served() -> Result<()> {
    let mut shop = Shop::open().await?;
    let mut edge = SidecarOptions {
        environment: vec![("FORESHARD_MAX_STALENESS".into(), "1s".into())],
        ..SidecarOptions::of(&shop.login)
    }
    .start()
    .await?;
    ensure!(edge.http.rows("checkout", "products", "", &[]).await?.status == 200);
    shop.origin.stop(StopMode::Immediate).await?;
    let refused = eventually("copies are no longer served", SOON, || async {
        let answer = edge.http.rows("checkout", "products", "", &[]).await?;
        Ok((answer.status != 200).then_some(answer))
    })
    .await?;
    problem(&refused, 503, "origin-unavailable")?;
    shop.origin.start_again().await?;
    // A change that the edge could not hear of when it happened.
    let db = shop.origin.connect().await?;
    db.batch_execute("UPDATE product SET name = 'changed while away' WHERE id = 1").await?;
    edge.wait_ready().await?;
    let token: String = db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    let answer = edge.http.rows("checkout", "products", "id=eq.1", &[("Foreshard-Min-Lsn", &token)]).await?;
    assert_eq!(answer.json()?[0]["name"], json!("changed while away"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_sidecar_loses_no_invalidation() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = Sidecar::start(&shop.login).await?;
    for round in 1..=5 {
        ensure!(edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?.status == 200);
        edge.kill()?;
        shop.db.execute("UPDATE cart_line SET quantity = $1 WHERE customer_id = 1", &[&round]).await?;
        edge.start_again().await?;
        let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
        let answer =
            edge.http.rows("checkout", "cart", "customer_id=eq.1", &[("Foreshard-Min-Lsn", &token)]).await?;
        assert_eq!(answer.json()?[0]["quantity"], json!(round));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_without_a_past_drops_every_copy() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = Sidecar::start(&shop.login).await?;
    ensure!(edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?.status == 200);
    // Somebody drops the slot under the edge; what is written until it is back is on no stream.
    let dropped = "SELECT pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    eventually("the slot is dropped", SOON, || async { Ok(shop.db.query(dropped, &[]).await.ok()) }).await?;
    shop.db.batch_execute("UPDATE cart_line SET quantity = 77 WHERE customer_id = 1").await?;
    let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    edge.wait_ready().await?;
    let answer = eventually("the edge is back", SOON, || async {
        let answer =
            edge.http.rows("checkout", "cart", "customer_id=eq.1", &[("Foreshard-Min-Lsn", &token)]).await?;
        Ok((answer.status == 200).then_some(answer))
    })
    .await?;
    assert_eq!(answer.json()?[0]["quantity"], json!(77));
    assert_eq!(edge.metric("foreshard_resets_total").await?, 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_edge_frees_its_slot_and_is_no_longer_served() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = SidecarOptions {
        environment: vec![("FORESHARD_MAX_STALENESS".into(), "1s".into())],
        ..SidecarOptions::of(&shop.login)
    }
    .start()
    .await?;
    ensure!(edge.http.rows("checkout", "products", "", &[]).await?.status == 200);
    shop.db.batch_execute("SELECT foreshard.drop_edge('paris')").await?;
    let slots: i64 = shop.db.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await?.get(0);
    assert_eq!(slots, 0);
    eventually("nothing is served any more", SOON, || async {
        let ready = edge.http.get("/ready").await?;
        let rows = edge.http.rows("checkout", "products", "", &[]).await?;
        Ok((ready.status == 503 && rows.status == 503 && ready.text().contains("permission denied"))
            .then_some(()))
    })
    .await?;
    Ok(())
}

/// What the sidecar answers to these bytes.
async fn raw(edge: &Sidecar, request: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let foreshard_tests::Endpoint::Unix(path) = edge.http.endpoint() else { bail!("not on a Unix socket") };
    let (mut read, mut write) = tokio::net::UnixStream::connect(path).await?.into_split();
    let mut answer = [0; 64];
    // The server may close before it has read everything: what counts is what it answers.
    let (_, read) = tokio::join!(write.write_all(request.as_bytes()), read.read(&mut answer));
    Ok(String::from_utf8_lossy(&answer[..read?]).into_owned())
}

#[test]
fn a_bad_configuration_lists_every_mistake_and_exits_64() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "min_confidence = 7\nlistn = \"x\"\n")?;
    let run = |arguments: &[&str]| {
        Command::new(foreshard_binary()?).args(arguments).env_clear().output().map_err(anyhow::Error::from)
    };
    let path = file.path().to_string_lossy();
    for command in [vec!["serve", "--config", &path], vec!["check", "--config", &path]] {
        let output = run(&command)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{said}");
        for part in ["min_confidence", "listn", "origin: missing", "edge: missing"] {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
    }
    let open = run(&[
        "serve",
        "--origin",
        "postgresql://u@127.0.0.1/d",
        "--edge",
        "e",
        "--listen",
        "0.0.0.0:0",
        "--auth",
        "none",
    ])?;
    assert_eq!(open.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&open.stderr).contains("loopback"));
    Ok(())
}
