//! A cached shard over HTTP against PostgreSQL's fastest way to a row, both over Unix sockets and both over ports, and against
//! what bare HTTP costs on this machine.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use foreshard_tests::{Cluster, Endpoint, HttpClient, SidecarOptions};

use crate::bare_http::BareHttp;
use crate::load::{self, Asked};
use crate::results::Comparison;

const CONNECTIONS: usize = 16;
const PATH: &str = "/v1/functions/card/shards/item/rows?id=eq.{}";
const KEYS: u32 = 1000;
/// Bytes of the answer about a key of one digit.
const SIZE: usize = 1015;
const SECONDS: usize = 5;
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";
const BOTH_CORES: &str = "0,1";

pub(crate) async fn run(cluster: &Cluster, rounds: usize) -> Result<Vec<Comparison>> {
    let db = cluster.connect().await?;
    db.batch_execute(
        "CREATE TABLE item (id int PRIMARY KEY, payload text NOT NULL);
         INSERT INTO item SELECT i, repeat(md5(i::text), 31) FROM generate_series(1, 1000) i;
         ANALYZE item;
         SELECT foreshard.create_shard('item', 'item', key => '{id}');
         SELECT foreshard.map_function('card', '{item}');",
    )
    .await?;
    // Before there is an edge: decoding so large a load would take the server's core while its answers are counted.
    // pgbench's manual asks for a scale of at least the number of clients.
    let mut init = cluster.client_program("pgbench");
    let init =
        init.args(["-i", "-q", "-s", &CONNECTIONS.to_string()]).output().context("running pgbench -i")?;
    ensure!(init.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&init.stderr));
    let (local, remote) = (cluster.create_edge("local").await?, cluster.create_edge("remote").await?);
    let remote = SidecarOptions { unix_socket: false, ..SidecarOptions::of(&remote) };
    // One core for the server under test, the other for the load. A runtime counts its cores when it starts, so the
    // sidecars inherit their core from here.
    pin(std::process::id(), SERVER_CORE)?;
    let (local, remote) = (SidecarOptions::of(&local).start().await?, remote.start().await?);
    let bare = BareHttp::start(SIZE)?;
    pin(std::process::id(), BOTH_CORES)?;
    pin(cluster.server_process_id().context("the server is not running")?, SERVER_CORE)?;
    for sidecar in [&local, &remote] {
        fill(&sidecar.http).await?;
    }
    let Endpoint::Tcp(address) = remote.http.endpoint() else { bail!("wrk needs a TCP endpoint") };
    let socket = local.http.endpoint().to_flag();
    let sockets: String = db.query_one("SHOW unix_socket_directories", &[]).await?.get(0);

    // The row that the shard holds, by its primary key.
    let mut select = tempfile::NamedTempFile::new()?;
    writeln!(select, "\\set id random(1, 1000)\nSELECT id, payload FROM item WHERE id = :id;")?;
    let script = select.path().to_string_lossy().into_owned();

    let asked = |keys| Asked { endpoint: &socket, path: PATH, keys, connections: CONNECTIONS };
    let (mut one, mut all, mut builtin, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut over_tcp, mut builtin_over_tcp, mut ceiling) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        one.push(load::measure(LOAD_CORE, &asked(1), SECONDS)?);
        builtin.push(pgbench(cluster, &sockets, &["-S"])?);
        all.push(load::measure(LOAD_CORE, &asked(KEYS), SECONDS)?);
        rows.push(pgbench(cluster, &sockets, &["-f", &script])?);
        over_tcp.push(wrk(&format!("http://{address}{}", PATH.replace("{}", "1")))?);
        builtin_over_tcp.push(pgbench(cluster, "127.0.0.1", &["-S"])?);
        ceiling.push(wrk(&format!("http://{}/", bare.address))?);
    }
    let setting = |transport: &str| {
        format!(
            "requests/s at {CONNECTIONS} connections over {transport}, the server on one core and the load on another"
        )
    };
    let local = setting("Unix sockets on both sides");
    let remote = setting("loopback TCP on both sides");
    let builtin_name = "PostgreSQL 15, pgbench -S -M prepared";
    Ok(vec![
        Comparison::of(
            "hit_rps_vs_pg_select",
            format!("{local}: a held {SIZE}-byte shard, against pgbench's prepared select of one row"),
            "higher",
            &mut one,
            builtin_name,
            &mut builtin,
        )?,
        Comparison::of(
            "hit_rps_1000keys_vs_same_rows",
            format!(
                "{local}: {KEYS} held {SIZE}-byte instances at random, against a prepared select of the same rows"
            ),
            "higher",
            &mut all,
            "PostgreSQL 15, pgbench -M prepared",
            &mut rows,
        )?,
        Comparison::of(
            "hit_rps_tcp_vs_pg_select",
            format!("{remote}: a held {SIZE}-byte shard, against pgbench's prepared select of one row"),
            "higher",
            &mut over_tcp.clone(),
            builtin_name,
            &mut builtin_over_tcp,
        )?,
        Comparison::of(
            "hit_rps_tcp_vs_bare_hyper",
            format!(
                "{remote}: a held {SIZE}-byte shard, against a constant answer of that size: the ceiling of machine and load"
            ),
            "higher",
            &mut over_tcp,
            "hyper, one constant answer",
            &mut ceiling,
        )?,
    ])
}

/// Has every instance fetched, and checks that they are answers of the size that is announced.
async fn fill(client: &HttpClient) -> Result<()> {
    for key in 1..=KEYS {
        let path = PATH.replace("{}", &key.to_string());
        let first = client.get(&path).await?;
        ensure!(first.status == 200, "the shard is not served: {}", first.text());
        let again = client.get(&path).await?;
        ensure!(
            again.header("cache-status").is_some_and(|status| status.contains("hit")),
            "the second read is no hit"
        );
        let size = again.text().len();
        let digits = key.to_string().len();
        ensure!(size == SIZE - 1 + digits, "instance {key} is {size} bytes long, the bare answer {SIZE}");
    }
    Ok(())
}

fn wrk(url: &str) -> Result<f64> {
    let connections = format!("-c{CONNECTIONS}");
    let seconds = format!("-d{SECONDS}s");
    let output =
        Command::new("taskset").args(["-c", LOAD_CORE, "wrk", "-t1", &connections, &seconds, url]).output();
    let output = output.context("wrk is needed: scripts/setup.sh bench installs it")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!text.contains("Non-2xx"), "wrk saw errors:\n{text}");
    number_after(&text, "Requests/sec:").with_context(|| format!("wrk printed no rate:\n{text}"))
}

/// `host`: an address or the directory of a Unix socket.
fn pgbench(cluster: &Cluster, host: &str, script: &[&str]) -> Result<f64> {
    let pgbench = cluster.client_program("pgbench");
    let mut command = Command::new("taskset");
    command.envs(pgbench.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PGHOST", host);
    let (clients, seconds) = (CONNECTIONS.to_string(), SECONDS.to_string());
    command.args(["-c", LOAD_CORE]).arg(pgbench.get_program());
    command.args(["-n", "-M", "prepared", "-c", &clients, "-T", &seconds]).args(script);
    let output = command.output().context("running pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    number_after(&text, "tps =").with_context(|| {
        format!("pgbench printed no rate:\n{text}{}", String::from_utf8_lossy(&output.stderr))
    })
}

/// Keeps a process, its threads and what it starts from now on, to the server's core.
fn pin(process: u32, cores: &str) -> Result<()> {
    let status =
        Command::new("taskset").args(["-acp", cores, &process.to_string()]).stdout(Stdio::null()).status();
    ensure!(status.context("taskset (util-linux) is needed")?.success(), "taskset failed");
    Ok(())
}

fn number_after(text: &str, label: &str) -> Option<f64> {
    text.split(label).nth(1)?.split_whitespace().next()?.parse().ok()
}
