//! How soon an edge is what it was after a kill, with and without copies that outlive the process.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use foreshard_tests::{
    Cluster, ClusterOptions, DelayProxy, EdgeLogin, Server, Sidecar, SidecarOptions, eventually,
};

use crate::results::Comparison;

const CARTS: usize = 2_000;
/// From the edge to its origin, one way.
const ONE_WAY: Duration = Duration::from_millis(20);
/// The hit ratio is that of so many answers.
const WINDOW: usize = 200;
const SOON: Duration = Duration::from_secs(120);
const KEY: &str = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e";

/// Two edges with the same schedule, 40 ms away from the origin there and back, one with a persistent cache.
pub(crate) async fn run(server: &Server, rounds: usize) -> Result<Comparison> {
    let cluster = ClusterOptions::on(server.clone()).start().await?;
    let db = cluster.connect().await?;
    db.batch_execute(&format!(
        "CREATE EXTENSION foreshard;
         CREATE TABLE cart (customer int, product int, PRIMARY KEY (customer, product));
         INSERT INTO cart SELECT c, p FROM generate_series(1, {CARTS}) c, generate_series(1, 10) p;
         CREATE TABLE elsewhere AS SELECT 1 AS n;
         SELECT foreshard.create_shard('cart', 'cart', key => '{{customer}}');
         SELECT foreshard.map_function('checkout', '{{cart}}');"
    ))
    .await?;
    let dir = tempfile::tempdir()?;
    let set = |name: &str, value: &str| (format!("FORESHARD_{name}"), value.to_owned());
    let kept = vec![set("CACHE_DIR", &dir.path().to_string_lossy()), set("CACHE_KEY", KEY)];
    let mut warm = Edge::start(&cluster, "warm", kept).await?;
    let mut cold = Edge::start(&cluster, "cold", Vec::new()).await?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(warm.recovery(&cluster).await?);
        peer.push(cold.recovery(&cluster).await?);
    }
    let what = format!(
        "seconds from the start after SIGKILL until 90 % of the answers are hits again: {CARTS} scheduled instances, {} ms to the origin and back, with a persistent cache",
        2 * ONE_WAY.as_millis()
    );
    Comparison::of("recovery_warm_vs_cold", what, "lower", &mut ours, "the same edge without", &mut peer)
}

struct Edge {
    name: &'static str,
    sidecar: Sidecar,
    _link: DelayProxy,
}

impl Edge {
    async fn start(
        cluster: &Cluster,
        name: &'static str,
        environment: Vec<(String, String)>,
    ) -> Result<Self> {
        let login: EdgeLogin = cluster.create_edge(name).await?;
        let link = DelayProxy::start(SocketAddr::from(([127, 0, 0, 1], cluster.port())), ONE_WAY).await?;
        let origin = link.url(&login.url, cluster.port());
        let carts: Vec<String> = (1..=CARTS).map(|customer| format!("cart?customer={customer}")).collect();
        let entries =
            serde_json::json!([{ "function_id": "checkout", "shard_list": carts, "confidence": 0.9 }]);
        let publish =
            "SELECT foreshard.publish_schedule($1, now() - interval '1 min', now() + interval '1 hour', $2)";
        cluster.connect().await?.execute(publish, &[&name, &entries]).await?;
        let sidecar = SidecarOptions { environment, ..SidecarOptions::new(name, &origin) }.start().await?;
        Ok(Edge { name, sidecar, _link: link })
    }

    /// Seconds from the start of a killed edge that had everything until it answers as before.
    async fn recovery(&mut self, cluster: &Cluster) -> Result<f64> {
        let db = cluster.connect().await?;
        eventually("everything scheduled is held", SOON, || async {
            let held = self.sidecar.metric("foreshard_prefetch_cache_copies").await?;
            Ok((held >= CARTS as f64).then_some(()))
        })
        .await?;
        // What is held is durable once the slot says so: with the next record, on an idle origin.
        db.batch_execute("UPDATE elsewhere SET n = n + 1").await?;
        let now: String = db.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
        let durable = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots
                       JOIN foreshard.edges e USING (slot_name) WHERE e.name = $2";
        eventually("it is durable", SOON, || async {
            Ok(db.query_one(durable, &[&now, &self.name]).await?.get::<_, bool>(0).then_some(()))
        })
        .await?;
        let mut before = VecDeque::new();
        for turn in 0..WINDOW {
            before.push_back(self.hit(turn).await?);
        }
        let former = ratio(&before);
        ensure!(former > 0.99, "a hit ratio of {former} before the kill");
        self.sidecar.kill()?;
        let began = Instant::now();
        self.sidecar.start_again().await?;
        let mut answers = VecDeque::new();
        for turn in 0.. {
            answers.push_back(self.hit(turn).await?);
            if answers.len() > WINDOW {
                answers.pop_front();
            }
            // Before the window is full, what is missing counts as answered from the origin.
            let hits = answers.iter().filter(|hit| **hit).count();
            if hits as f64 >= 0.9 * former * WINDOW as f64 {
                break;
            }
            ensure!(began.elapsed() < SOON, "not recovered within {SOON:?}");
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Whether a cart, another one each turn, is answered from a copy.
    async fn hit(&self, turn: usize) -> Result<bool> {
        let customer = turn * 7919 % CARTS + 1;
        let answer =
            self.sidecar.http.rows("checkout", "cart", &format!("customer=eq.{customer}"), &[]).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(answer.header("cache-status").is_some_and(|status| status.ends_with("; hit")))
    }
}

fn ratio(answers: &VecDeque<bool>) -> f64 {
    answers.iter().filter(|hit| **hit).count() as f64 / answers.len() as f64
}
