//! The origin refuses this sidecar, or can't be reached: it is said why, tried again with growing pauses, healed by itself, and
//! nobody stampedes when it is back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use foreshard_tests::{
    ClusterOptions, DelayProxy, HttpClient, Sidecar, SidecarOptions, StopMode, eventually,
};
use serde_json::json;

use crate::shop::{SOON, Shop, impatient, not_ready, quantity, set_quantity};

/// Connections of the sidecar end; the new ones are what the test is about.
async fn disconnect(shop: &Shop) -> Result<()> {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'edge_paris'";
    shop.origin.connect().await?.batch_execute(end).await?;
    Ok(())
}

/// How often an attempt to use the origin failed for this reason.
async fn failures(edge: &Sidecar, reason: &str) -> Result<f64> {
    let text = edge.http.get("/metrics").await?.text();
    let name = format!("foreshard_origin_failures_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(line.map_or(Ok(0.0), str::parse)?)
}

/// While the origin refuses: attempts are counted, become rare, and nothing old is served. A change happens meanwhile.
async fn is_survived(shop: &Shop, edge: &Sidecar, reason: &str, words: &str) -> Result<()> {
    not_ready(edge, words).await?;
    set_quantity(shop, 7).await?;
    let refused = eventually("copies are not served", SOON, || async {
        let answer = edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
        Ok((answer.status == 503).then_some(answer))
    })
    .await?;
    refused.header("retry-after").context("no Retry-After")?;
    let (before, began) = (failures(edge, reason).await?, Instant::now());
    eventually("it is tried again", SOON, || async {
        Ok((failures(edge, reason).await? >= before + 4.0).then_some(()))
    })
    .await?;
    // Two connections are tried for, each with pauses that have grown by now.
    ensure!(began.elapsed() > Duration::from_millis(100), "four attempts in {:?}", began.elapsed());
    ensure!(edge.log_text().contains(words), "{}", edge.log_text());
    Ok(())
}

async fn heals(shop: &Shop, edge: &mut Sidecar) -> Result<()> {
    edge.wait_ready().await?;
    assert_eq!(quantity(shop, edge).await?, json!(7));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_at_the_origin() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    shop.db.batch_execute("ALTER ROLE edge_paris PASSWORD 'another one'").await?;
    disconnect(&shop).await?;
    is_survived(&shop, &edge, "authentication", "password authentication failed").await?;
    ensure!(!edge.log_text().contains("another one"));
    shop.db.batch_execute("ALTER ROLE edge_paris PASSWORD 'edge_paris'").await?;
    heals(&shop, &mut edge).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_the_origin_that_shuts_the_sidecar_out() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    let file = shop.origin.data_dir().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&file)?;
    let reload = async |rules: &str| {
        std::fs::write(&file, rules)?;
        shop.db.batch_execute("SELECT pg_reload_conf()").await?;
        anyhow::Ok(())
    };
    reload(&format!("host all edge_paris all reject\nhost replication edge_paris all reject\n{rules}"))
        .await?;
    eventually("the rule is in force", SOON, || async {
        disconnect(&shop).await?;
        Ok((failures(&edge, "authentication").await? > 0.0).then_some(()))
    })
    .await?;
    is_survived(&shop, &edge, "authentication", "pg_hba.conf rejects connection").await?;
    reload(&rules).await?;
    heals(&shop, &mut edge).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_at_its_limit_of_connections() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    shop.db.batch_execute("ALTER ROLE edge_paris CONNECTION LIMIT 0").await?;
    disconnect(&shop).await?;
    is_survived(&shop, &edge, "connection_limit", "too many connections").await?;
    shop.db.batch_execute("ALTER ROLE edge_paris CONNECTION LIMIT -1").await?;
    heals(&shop, &mut edge).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_down() -> Result<()> {
    let mut shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    shop.origin.stop(StopMode::Immediate).await?;
    eventually("it is tried again", SOON, || async {
        Ok((failures(&edge, "unreachable").await? >= 6.0).then_some(()))
    })
    .await?;
    not_ready(&edge, "origin out of reach").await?;
    shop.origin.start_again().await?;
    set_quantity(&shop, 7).await?;
    heals(&shop, &mut edge).await
}

/// The stream goes on, but no other connection is let in: that is said, and not only that the stream catches up.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_connection_that_is_refused_is_told_once() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    // What streams already is left alone.
    shop.db.batch_execute("ALTER ROLE edge_paris CONNECTION LIMIT 0").await?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'edge_paris' AND backend_type <> 'walsender'";
    shop.db.batch_execute(end).await?;
    not_ready(&edge, "control connection: origin: too many connections").await?;
    let before = failures(&edge, "connection_limit").await?;
    eventually("it is tried again", SOON, || async {
        Ok((failures(&edge, "connection_limit").await? >= before + 3.0).then_some(()))
    })
    .await?;
    let log = edge.log_text();
    let told = log.lines().filter(|line| line.contains("WARN") && line.contains("control connection"));
    let refused = told.filter(|line| line.contains("too many connections"));
    ensure!(refused.count() == 1, "{log}");
    shop.db.batch_execute("ALTER ROLE edge_paris CONNECTION LIMIT -1").await?;
    edge.wait_ready().await
}

/// A name that nobody resolves: the sidecar starts, says so, and tries on.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_resolved() -> Result<()> {
    let origin = "postgresql://edge_paris:secret@origin.invalid/postgres?sslmode=disable";
    let edge = SidecarOptions::new("paris", origin).spawn()?;
    not_ready(&edge, "failed to lookup address").await?;
    eventually("it is tried again", SOON, || async {
        Ok((failures(&edge, "unreachable").await? >= 6.0).then_some(()))
    })
    .await?;
    assert_eq!(edge.http.get("/live").await?.status, 200);
    ensure!(!edge.log_text().contains("secret"), "{}", edge.log_text());
    Ok(())
}

/// A migration locks a table for long: what waits for it piles up neither here nor at the origin.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_costs_no_connections() -> Result<()> {
    let shop = Shop::open().await?;
    let options = SidecarOptions {
        environment: vec![
            ("FORESHARD_FETCH_TIMEOUT".into(), "500ms".into()),
            ("FORESHARD_REACTIVE_BYTES".into(), "0".into()),
        ],
        ..SidecarOptions::of(&shop.login)
    };
    let edge = options.start().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    let mut holder = shop.origin.connect().await?;
    let lock = holder.transaction().await?;
    lock.batch_execute("LOCK TABLE cart_line IN ACCESS EXCLUSIVE MODE").await?;
    let mut asking = tokio::task::JoinSet::new();
    for client in 0..40 {
        let http = HttpClient::new(edge.http.endpoint().clone());
        asking.spawn(async move {
            for turn in 0..8 {
                let customer = client * 8 + turn;
                let answer =
                    http.rows("checkout", "cart", &format!("customer_id=eq.{customer}"), &[]).await?;
                ensure!(answer.status == 503, "{} {}", answer.status, answer.text());
            }
            anyhow::Ok(())
        });
    }
    // Two connections each for demand and prefetches, the stream and the control connection; and of each connection for demand the
    // former one, while what was asked on it is given up.
    let most = 6 + 2 * 2;
    let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'edge_paris'";
    let mut waiting = 40;
    while waiting > 0 {
        let open: i64 = shop.db.query_one(count, &[]).await?.get(0);
        ensure!(open <= most, "{open} connections of the edge");
        if let Ok(Some(answered)) = tokio::time::timeout(Duration::from_millis(50), asking.join_next()).await
        {
            answered??;
            waiting -= 1;
        }
    }
    lock.rollback().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    eventually("what was given up is gone", SOON, || async {
        Ok((shop.db.query_one(count, &[]).await?.get::<_, i64>(0) <= 6).then_some(()))
    })
    .await
}

const CUSTOMERS: usize = 30;
const EACH: usize = 8;

/// A shop with many carts whose origin logs every statement of the edge.
async fn watched() -> Result<Shop> {
    let shop = Shop::open_on(ClusterOptions::new()?.start().await?).await?;
    shop.db
        .batch_execute(&format!(
            "ALTER ROLE edge_paris SET log_statement = 'all';
             INSERT INTO cart_line SELECT i, 1, 1 FROM generate_series(6, {CUSTOMERS}) i"
        ))
        .await?;
    Ok(shop)
}

/// How often the origin was asked for a cart since its log was this long.
fn fetches(shop: &Shop, since: usize) -> usize {
    let (log, mut fetch, mut carts) = (shop.origin.log_text(), false, 0);
    for line in log[since..].lines() {
        if line.contains("LOG:  ") {
            fetch = line.contains("foreshard.fetch(");
        } else if fetch && line.contains("DETAIL:  ") {
            carts += line.matches("cart?customer_id=").count();
        }
    }
    carts
}

/// Everybody asks for every cart at once; nobody is refused.
async fn all_at_once(edge: &Sidecar, token: Option<String>) -> Result<()> {
    let http = Arc::new(HttpClient::new(edge.http.endpoint().clone()));
    let mut asking = tokio::task::JoinSet::new();
    for customer in (1..=CUSTOMERS).cycle().take(CUSTOMERS * EACH) {
        let (http, token) = (http.clone(), token.clone());
        asking.spawn(async move {
            let headers: Vec<(&str, &str)> =
                token.iter().map(|token| ("Foreshard-Min-Lsn", token.as_str())).collect();
            http.rows("checkout", "cart", &format!("customer_id=eq.{customer}"), &headers).await
        });
    }
    while let Some(answer) = asking.join_next().await {
        let answer = answer??;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    }
    Ok(())
}

/// Everything held is dropped at once while everybody asks: each instance is fetched once, whoever waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_stampedes_when_everything_is_invalidated() -> Result<()> {
    let shop = watched().await?;
    let options = SidecarOptions {
        environment: vec![("FORESHARD_MAX_STALENESS".into(), "60s".into())],
        ..SidecarOptions::of(&shop.login)
    };
    let edge = options.start().await?;
    all_at_once(&edge, None).await?;
    let (since, rejected) =
        (shop.origin.log_text().len(), edge.metric("foreshard_rejected_by_snapshot_total").await?);
    shop.db
        .batch_execute(
            "BEGIN; CREATE TEMP TABLE kept AS TABLE cart_line; TRUNCATE cart_line; INSERT INTO cart_line TABLE kept; COMMIT",
        )
        .await?;
    let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    all_at_once(&edge, Some(token)).await?;
    let rejected = edge.metric("foreshard_rejected_by_snapshot_total").await? - rejected;
    let fetched = fetches(&shop, since);
    ensure!(
        fetched >= CUSTOMERS && fetched as f64 <= CUSTOMERS as f64 + rejected,
        "{fetched} fetches of {CUSTOMERS} carts, {rejected} of them refused by their snapshot"
    );
    Ok(())
}

/// A link that hangs until nothing held is fresh: all requests wait for one fetch for each instance, and that is what the origin
/// gets when the link works again.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_stampedes_when_the_link_is_back() -> Result<()> {
    let shop = watched().await?;
    let target = SocketAddr::from(([127, 0, 0, 1], shop.origin.port()));
    let link = DelayProxy::start(target, Duration::ZERO).await?;
    let url = link.url(&shop.login.url, shop.origin.port());
    let set = |name: &str, value: &str| (format!("FORESHARD_{name}"), value.to_owned());
    let options = SidecarOptions {
        environment: vec![
            set("MAX_STALENESS", "3s"),
            set("REQUEST_TIMEOUT", "60s"),
            set("FETCH_TIMEOUT", "60s"),
        ],
        ..SidecarOptions::new("paris", &url)
    };
    let mut edge = options.start().await?;
    all_at_once(&edge, None).await?;
    link.stall();
    eventually("nothing held is fresh", SOON, || async {
        Ok((edge.http.get("/ready").await?.status == 503).then_some(()))
    })
    .await?;
    let since = shop.origin.log_text().len();
    let waiting = async {
        eventually("all wait", SOON, || async {
            let waiting = edge.metric("foreshard_requests_waiting").await?;
            Ok((waiting == (CUSTOMERS * EACH) as f64).then_some(()))
        })
        .await?;
        link.restore();
        anyhow::Ok(())
    };
    tokio::try_join!(all_at_once(&edge, None), waiting)?;
    let fetched = fetches(&shop, since);
    // One that began longer than max_staleness ago is not joined: on a slow machine there may be a second round.
    ensure!((CUSTOMERS..=2 * CUSTOMERS).contains(&fetched), "{fetched} fetches of {CUSTOMERS} carts");
    edge.wait_ready().await
}
