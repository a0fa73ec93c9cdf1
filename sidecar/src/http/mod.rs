//! What edge functions talk to.

mod arrow;
mod auth;
mod direct;
mod encoding;
#[cfg(test)]
mod fuzz;
mod heads;
mod invocations;
mod metrics;
mod openapi;
mod params;
mod patience;
mod problem;
mod rows;
mod server;
mod status;
mod targets;
mod tls;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, get, post};

use crate::config::Config;
use crate::fetch::Names;
use crate::serve::{Logger, Shared};
pub(crate) use auth::Guard;
pub(crate) use encoding::Compressed;
use problem::Problem;
pub(crate) use server::Bound;
pub(crate) use targets::Targets;
pub(crate) use tls::Https;

/// What every handler has.
pub(crate) struct App {
    pub(crate) shared: Arc<Shared>,
    pub(crate) logger: Logger,
    pub(crate) guard: Arc<Guard>,
    pub(crate) config: Arc<Config>,
    pub(crate) compressed: Compressed,
    pub(crate) targets: Targets,
    /// Of shards that no function reads.
    pub(crate) names: Names,
    /// Begins every invocation id of this process.
    pub(crate) process: String,
}

/// The route that the router does not know.
#[cfg(test)]
const ROWS: &str = "/v1/functions/{function_id}/shards/{shard}/rows";

/// Path, method and handler.
type Route = (&'static str, &'static str, MethodRouter<Arc<App>>);

fn routes() -> [Route; 8] {
    [
        ("/v1/functions/{function_id}/invocations", "post", post(invocations::post)),
        ("/v1/functions/{function_id}/shards", "get", get(status::shards)),
        ("/v1/schedule", "get", get(status::schedule)),
        ("/live", "get", get(status::live)),
        ("/ready", "get", get(status::ready)),
        ("/metrics", "get", get(metrics::get)),
        ("/openapi.json", "get", get(openapi::get)),
        ("/", "get", get(status::page)),
    ]
}

/// Everything but the one route that has to be fast (see [`server`]): functions under `/v1`, operators beside it.
fn router(app: Arc<App>) -> Router {
    let max_body = app.config.limits.body;
    let all = routes().into_iter().fold(Router::new(), |all, (path, _, answer)| all.route(path, answer));
    all.fallback(async || {
        Problem::not_found("there is nothing at this path; /openapi.json lists what there is")
    })
    .method_not_allowed_fallback(async || Problem::method(None))
    .layer(DefaultBodyLimit::max(max_body))
    .with_state(app)
}
