//! A cached shard over HTTP against PostgreSQL's fastest way to a row, and against what bare HTTP costs on this machine.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use foreshard_tests::{Cluster, Endpoint, SidecarOptions};

use crate::bare_http::BareHttp;
use crate::results::Comparison;

const CONNECTIONS: usize = 16;
/// Bytes of the answer.
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
    let login = cluster.create_edge("bench").await?;
    let options = SidecarOptions { unix_socket: false, ..SidecarOptions::of(&login) };
    // One core for the server under test, the other for the load. A runtime counts its cores when it starts, so the
    // sidecar inherits its core from here.
    pin(std::process::id(), SERVER_CORE)?;
    let sidecar = options.start().await?;
    let bare = BareHttp::start(SIZE)?;
    pin(std::process::id(), BOTH_CORES)?;
    pin(cluster.server_process_id().context("the server is not running")?, SERVER_CORE)?;
    let client = &sidecar.http;
    let Endpoint::Tcp(address) = client.endpoint() else { bail!("wrk needs a TCP endpoint") };
    let path = "/v1/functions/card/shards/item/rows?id=eq.7";
    let warm = client.get(path).await?;
    ensure!(warm.status == 200, "the shard is not served: {}", warm.text());
    let again = client.get(path).await?;
    ensure!(
        again.header("cache-status").is_some_and(|status| status.contains("hit")),
        "the second read is no hit"
    );
    let size = again.text().len();
    ensure!(size == SIZE, "the shard is {size} bytes long, the bare answer {SIZE}");

    // The row that the shard holds, by its primary key.
    let mut select = tempfile::NamedTempFile::new()?;
    writeln!(select, "\\set id random(1, 1000)\nSELECT id, payload FROM item WHERE id = :id;")?;
    let script = select.path().to_string_lossy().into_owned();

    let (mut ours, mut peer, mut builtin, mut ceiling) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(wrk(&format!("http://{address}{path}"))?);
        peer.push(pgbench(cluster, &["-f", &script])?);
        builtin.push(pgbench(cluster, &["-S"])?);
        ceiling.push(wrk(&format!("http://{}/", bare.address))?);
    }
    let setting = format!(
        "requests/s at {CONNECTIONS} connections on loopback, the server on one core and the load on another: a held {size}-byte shard over HTTP"
    );
    Ok(vec![
        Comparison::of(
            "hit_rps_vs_pg_select",
            format!("{setting}, against a prepared select of the same row"),
            "higher",
            &mut ours,
            "PostgreSQL 15, pgbench -M prepared",
            &mut peer,
        )?,
        Comparison::of(
            "hit_rps_vs_pgbench_builtin",
            format!("{setting}, against pgbench's built-in select of one integer"),
            "higher",
            &mut ours,
            "PostgreSQL 15, pgbench -S -M prepared",
            &mut builtin,
        )?,
        Comparison::of(
            "hit_rps_vs_bare_hyper",
            format!("{setting}, against a constant answer of that size: the ceiling of machine and load"),
            "higher",
            &mut ours,
            "hyper, one constant answer",
            &mut ceiling,
        )?,
    ])
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

fn pgbench(cluster: &Cluster, script: &[&str]) -> Result<f64> {
    let pgbench = cluster.client_program("pgbench");
    let mut command = Command::new("taskset");
    command.envs(pgbench.get_envs().filter_map(|(name, value)| Some((name, value?))));
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
