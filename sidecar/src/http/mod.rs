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
use axum::routing::{get, post};

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

/// Everything but the one route that has to be fast (see [`server`]): functions under `/v1`, operators beside it.
fn router(app: Arc<App>) -> Router {
    let max_body = app.config.limits.body;
    Router::new()
        .route("/v1/functions/{function_id}/invocations", post(invocations::post))
        .route("/v1/functions/{function_id}/shards", get(status::shards))
        .route("/v1/schedule", get(status::schedule))
        .route("/live", get(status::live))
        .route("/ready", get(status::ready))
        .route("/metrics", get(metrics::get))
        .route("/openapi.json", get(openapi::get))
        .route("/", get(status::page))
        .fallback(async || {
            Problem::not_found("there is nothing at this path; /openapi.json lists what there is")
        })
        .method_not_allowed_fallback(async || Problem::method(None))
        .layer(DefaultBodyLimit::max(max_body))
        .with_state(app)
}
