//! Sockets, connections, and the way from a request to its handler.
//!
//! Rows of one shard are what functions ask for all day: that route is answered here, without a router, its extractors and
//! its layers, which cost as much as looking up the rows. Everything else goes through axum.

use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tower_service::Service;

use super::{App, router, rows};
use crate::config::Listen;

/// A request's head has to arrive within this time, and a connection may be idle for as long.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// Largest head of a request.
const MAX_HEAD: usize = 128 << 10;
/// Most connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 20_000;
/// Answers under way at the end are given this long.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// A listening socket.
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Bound {
    pub(crate) async fn open(listen: &Listen) -> anyhow::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await;
                Ok(Bound::Tcp(listener.with_context(|| format!("cannot listen on {address}"))?))
            }
            Listen::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path);
                let listener =
                    listener.with_context(|| format!("cannot listen on unix:{}", path.display()))?;
                Ok(Bound::Unix(listener, path.clone()))
            }
        }
    }

    /// Serves until `end` resolves; its error is the result. Answers under way are finished.
    pub(crate) async fn serve(
        self,
        app: Arc<App>,
        end: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let server = Server { router: router(app.clone()), app, graceful: GracefulShutdown::new() };
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut end = std::pin::pin!(end);
        let result = loop {
            let place = tokio::select! {
                result = &mut end => break result,
                place = places.clone().acquire_owned() => place?,
            };
            tokio::select! {
                result = &mut end => break result,
                accepted = self.accept(&server, place) => if let Err(error) = accepted {
                    // Out of file descriptors, or a connection that ended before it was accepted: others go on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                },
            }
        };
        let finished = tokio::time::timeout(FINISH_WITHIN, server.graceful.shutdown()).await;
        if finished.is_err() {
            tracing::warn!("connections are still busy and are cut");
        }
        if let Bound::Unix(_, path) = &self {
            drop(std::fs::remove_file(path));
        }
        result
    }

    async fn accept(&self, server: &Server, place: tokio::sync::OwnedSemaphorePermit) -> std::io::Result<()> {
        match self {
            Bound::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small and written at once: waiting for more to send only delays them.
                stream.set_nodelay(true)?;
                server.spawn(stream, place);
            }
            Bound::Unix(listener, _) => server.spawn(listener.accept().await?.0, place),
        }
        Ok(())
    }
}

struct Server {
    app: Arc<App>,
    router: Router,
    graceful: GracefulShutdown,
}

impl Server {
    fn spawn<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        place: tokio::sync::OwnedSemaphorePermit,
    ) {
        let (app, router) = (self.app.clone(), self.router.clone());
        let service = service_fn(move |request| respond(app.clone(), router.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
}

async fn respond(
    app: Arc<App>,
    mut router: Router,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    if *request.method() == Method::GET
        && let Some(path) = rows::path(request.uri().path())
    {
        let (head, _) = request.into_parts();
        return Ok(rows::get(&app, path, &head).await.unwrap_or_else(IntoResponse::into_response));
    }
    router.call(request.map(Body::new)).await
}

/// Removes a socket file that a killed predecessor left; one that answers belongs to a running process.
async fn remove_stale(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    if !found.file_type().is_socket() {
        bail!("cannot listen on unix:{shown}: there is something else than a socket");
    }
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        bail!("cannot listen on unix:{shown}: another process serves there");
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove the old socket {shown}"))
}
