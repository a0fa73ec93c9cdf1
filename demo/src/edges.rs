//! The edge locations: for each a link with a delay and two sidecars on it, one that carries out schedules and its peer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use foreshard_tests::{Cluster, DelayProxy, Sidecar, SidecarOptions};
use tokio_postgres::Client;

use crate::calls::EDGES;
use crate::clock::Clock;
use crate::peers::Peer;
use crate::replay::Kept;
use crate::ttl::TtlCache;

/// Latitude and longitude of [`EDGES`].
const PLACES: [(f64, f64); 3] = [(40.6925, -74.1687), (40.6398, -73.7789), (40.7772, -73.8726)];

/// The delay between an edge and the origin, in each direction.
pub(crate) const ONE_WAY: Duration = Duration::from_millis(40);

/// Which of the two runs of the same day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// With schedules carried out.
    Prefetch,
    /// What it is compared with.
    Peer,
}

pub(crate) const RUNS: [Run; 2] = [Run::Prefetch, Run::Peer];

/// The sidecars at one edge.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) prefetch: Sidecar,
    pub(crate) peer: Sidecar,
    /// What stands before the peer, if anything does.
    pub(crate) ttl: Option<TtlCache<Kept>>,
    /// Held for as long as the sidecars need them.
    _links: [DelayProxy; 2],
}

impl Edge {
    pub(crate) fn sidecar(&self, run: Run) -> &Sidecar {
        match run {
            Run::Prefetch => &self.prefetch,
            Run::Peer => &self.peer,
        }
    }
}

/// Registers the edges: for each location one with the location's name and one for its peer.
pub(crate) async fn register(db: &Client) -> Result<()> {
    for (name, (latitude, longitude)) in EDGES.into_iter().zip(PLACES) {
        for run in RUNS {
            let (edge, role) = (edge_name(name, run), role(name, run));
            db.batch_execute(&format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{role}'")).await?;
            let create = "SELECT foreshard.create_edge($1, $2, $3, $4::text::regrole)";
            db.execute(create, &[&edge, &latitude, &longitude, &role])
                .await
                .with_context(|| format!("edge {edge}"))?;
        }
    }
    Ok(())
}

/// Starts the sidecars of all edges at once, each behind a link of its own.
pub(crate) async fn start(cluster: &Cluster, clock: &Clock, against: Peer) -> Result<Vec<Edge>> {
    let (ewr, jfk, lga) = tokio::try_join!(
        one(cluster, clock, against, EDGES[0]),
        one(cluster, clock, against, EDGES[1]),
        one(cluster, clock, against, EDGES[2])
    )?;
    Ok(vec![ewr, jfk, lga])
}

async fn one(cluster: &Cluster, clock: &Clock, against: Peer, name: &str) -> Result<Edge> {
    let ((prefetch, first), (peer, second)) =
        tokio::try_join!(sidecar(cluster, clock, name, None), sidecar(cluster, clock, name, Some(against)))?;
    let ttl = (against == Peer::Ttl).then(TtlCache::new);
    Ok(Edge { prefetch, peer, ttl, _links: [first, second] })
}

async fn sidecar(
    cluster: &Cluster,
    clock: &Clock,
    name: &str,
    peer: Option<Peer>,
) -> Result<(Sidecar, DelayProxy)> {
    let run = if peer.is_some() { Run::Peer } else { Run::Prefetch };
    let link = DelayProxy::start(SocketAddr::from(([127, 0, 0, 1], cluster.port())), ONE_WAY).await?;
    let role = role(name, run);
    let direct = cluster.url_of(&role, &role, "postgres");
    let mut options = SidecarOptions::new(&edge_name(name, run), &link.url(&direct, cluster.port()));
    options.unix_socket = false;
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/edge.toml");
    options = options.args(&["--config", config, "--clock", &clock.to_flag()]);
    options = options.args(peer.map_or(&[], Peer::arguments));
    Ok((options.start().await?, link))
}

/// The name of an edge.
pub(crate) fn edge_name(name: &str, run: Run) -> String {
    match run {
        Run::Prefetch => name.to_owned(),
        Run::Peer => format!("{name}-peer"),
    }
}

/// The role under which the sidecar of an edge comes to the origin.
pub(crate) fn role(name: &str, run: Run) -> String {
    let name = name.to_ascii_lowercase();
    match run {
        Run::Prefetch => format!("edge_{name}"),
        Run::Peer => format!("edge_{name}_peer"),
    }
}
