//! What a monitoring system asks a planner: `/metrics`, `/live` and `/ready`.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tracing::info;

/// The text of `/metrics`, as of the last round; empty before the first.
#[derive(Clone, Default)]
pub(super) struct Page(Arc<RwLock<String>>);

impl Page {
    pub(super) fn show(&self, text: &str) {
        let mut page = self.0.write().unwrap_or_else(PoisonError::into_inner);
        page.clear();
        page.push_str(text);
    }

    fn text(&self) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers from now on, until the process ends.
///
/// # Errors
/// When the address can't be had.
pub(super) async fn serve(at: SocketAddr, page: Page) -> anyhow::Result<()> {
    let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?;
    info!(listening = %listener.local_addr()?, "metrics");
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .with_state(page);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(())
}

async fn metrics(State(page): State<Page>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page.text())
}

/// Ready once the log was read and a round is through.
async fn ready(State(page): State<Page>) -> impl IntoResponse {
    if page.text().is_empty() {
        (StatusCode::SERVICE_UNAVAILABLE, "the log is still being read\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}
