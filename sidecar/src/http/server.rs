//! Sockets, connections, and the way from a request to its handler.
//!
//! Rows of one shard are what functions ask for all day: a connection that asks for nothing else never meets a framework (see
//! [`super::direct`]), and on one that does the route is answered here, without a router, its extractors and its layers.
//! Everything else goes through axum.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use foreshard_edge::Refusal;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tower_service::Service;

use super::heads::{Bounds, Heads, MOST_FIELDS};
use super::params::Fields;
use super::patience::Patient;
use super::rows::{self, Rows};
use super::tls::Https;
use super::{App, Problem, direct, router};
use crate::config::{Limits, Listen};

/// Answers under way at the end are given this long.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// A listening socket.
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A listening socket and how it speaks.
pub(crate) struct Bound {
    socket: Socket,
    https: Option<Arc<Https>>,
}

impl Bound {
    pub(crate) async fn open(listen: &Listen, https: Option<Arc<Https>>) -> anyhow::Result<Self> {
        Ok(Bound { socket: Socket::open(listen).await?, https })
    }
}

impl Socket {
    async fn open(listen: &Listen) -> anyhow::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
                if address.ip().is_loopback() {
                    without_pacing(&listener);
                }
                Ok(Socket::Tcp(listener))
            }
            Listen::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path);
                let listener =
                    listener.with_context(|| format!("cannot listen on unix:{}", path.display()))?;
                Ok(Socket::Unix(listener, path.clone()))
            }
        }
    }
}

impl Bound {
    /// Serves until `end` resolves; its error is the result. Answers under way are finished.
    pub(crate) async fn serve(
        self,
        app: Arc<App>,
        end: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let limits = app.config.limits.clone();
        let places = Arc::new(Semaphore::new(limits.connections));
        let desk = Desk { router: router(app.clone()), requests: Semaphore::new(limits.requests), app };
        let server = Server {
            desk: Arc::new(desk),
            limits,
            https: self.https.clone(),
            graceful: GracefulShutdown::new(),
            closing: watch::Sender::new(false),
        };
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
        server.closing.send_replace(true);
        let finished = tokio::time::timeout(FINISH_WITHIN, server.graceful.shutdown()).await;
        if finished.is_err() {
            tracing::warn!("connections are still busy and are cut");
        }
        if let Socket::Unix(_, path) = &self.socket {
            drop(std::fs::remove_file(path));
        }
        result
    }

    async fn accept(&self, server: &Server, place: tokio::sync::OwnedSemaphorePermit) -> std::io::Result<()> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small and written at once: waiting for more to send only delays them.
                stream.set_nodelay(true)?;
                server.spawn(stream, place);
            }
            Socket::Unix(listener, _) => server.spawn(listener.accept().await?.0, place),
        }
        Ok(())
    }
}

struct Server {
    desk: Arc<Desk>,
    limits: Limits,
    https: Option<Arc<Https>>,
    graceful: GracefulShutdown,
    /// Becomes true at the end, for connections that hyper does not know yet.
    closing: watch::Sender<bool>,
}

impl Server {
    fn spawn<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        place: tokio::sync::OwnedSemaphorePermit,
    ) {
        let stream = Patient::new(stream, self.limits.write_timeout);
        let acceptor = self.https.as_ref().map(|https| https.acceptor());
        let within = self.limits.head_timeout;
        let ending = Ending { watcher: self.graceful.watcher(), closing: self.closing.subscribe() };
        let desk = self.desk.clone();
        tokio::spawn(async move {
            match acceptor {
                None => serve(stream, desk, ending).await,
                Some(acceptor) => match timeout(within, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(stream, desk, ending).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                },
            }
            drop(place);
        });
    }
}

/// How a connection learns that the server ends, and the server that the connection has ended.
struct Ending {
    watcher: Watcher,
    closing: watch::Receiver<bool>,
}

/// Serves one connection to its end.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    desk: Arc<Desk>,
    Ending { watcher: _watcher, mut closing }: Ending,
) {
    let limits = desk.app.config.limits.clone();
    let bounds = Bounds { head: limits.head, url: limits.url };
    let mut ends = pin!(async move { drop(closing.wait_for(|closing| *closing).await) });
    let direct = direct::serve(stream, &desk, limits.head_timeout, bounds, &mut ends).await;
    let Some(stream) = direct else { return };
    let respond = move |request| {
        let desk = desk.clone();
        async move { desk.respond(request).await }
    };
    if let Err(error) = converse(stream, bounds, limits.head_timeout, respond, ends).await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Gives a connection to hyper, until it ends or `ends` says so.
pub(super) async fn converse<S, F>(
    stream: Heads<S>,
    bounds: Bounds,
    within: Duration,
    respond: impl Fn(Request<Incoming>) -> F,
    mut ends: impl Future<Output = ()> + Unpin,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response>,
{
    let refused = stream.refused();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(within);
    // What it gets is within these bounds.
    http.max_buf_size(bounds.head + 1).max_headers(MOST_FIELDS);
    let service = service_fn(|request| {
        let answer = respond(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut ending = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if ending || !refused.load(Ordering::Relaxed) && pin!(&mut ends).poll(cx).is_pending() {
                return Poll::Pending;
            }
            ending = true;
            connection.as_mut().graceful_shutdown();
        }
    })
    .await
}

/// Where requests are taken in.
pub(super) struct Desk {
    app: Arc<App>,
    router: Router,
    /// One permit for each request under way.
    requests: Semaphore,
}

impl Desk {
    /// Answers a GET for rows.
    pub(super) async fn rows(&self, target: &str, headers: &(impl Fields + ?Sized)) -> Result<Rows, Problem> {
        let _place = self.requests.try_acquire().map_err(|_| Refusal::Overloaded)?;
        let most = self.app.config.limits.url;
        if target.len() > most {
            return Err(Problem::long_url(most));
        }
        rows::get(&self.app, target, headers).await
    }

    async fn respond(&self, request: Request<Incoming>) -> Response {
        let uri = request.uri();
        if rows::is_path(uri.path()) {
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                return Problem::method(Some("GET, HEAD")).into_response();
            }
            let target = uri.path_and_query().map_or(uri.path(), |target| target.as_str());
            let answer = self.rows(target, request.headers()).await;
            return answer.map_or_else(IntoResponse::into_response, IntoResponse::into_response);
        }
        let limits = &self.app.config.limits;
        if uri.path().len() + uri.query().map_or(0, |query| query.len() + 1) > limits.url {
            return Problem::long_url(limits.url).into_response();
        }
        // Whoever asks how the sidecar is has to be answered above all when it has too much to do.
        let asks_how_it_is = ["/live", "/ready", "/metrics"].contains(&uri.path());
        let (head, body) = request.into_parts();
        let body = match invoked(&head) {
            // Nobody is waited for who may not ask, and nobody has a place while he is waited for.
            Some(function) => match self.app.guard.admit(&head.headers, &function) {
                Ok(_) => match whole(body, limits).await {
                    Ok(body) => body,
                    Err(problem) => return problem.into_response(),
                },
                Err(problem) => return problem.into_response(),
            },
            None => Bytes::new(),
        };
        let place = self.requests.try_acquire();
        if place.is_err() && !asks_how_it_is {
            return Problem::from(Refusal::Overloaded).into_response();
        }
        let answered = self.router.clone().call(Request::from_parts(head, Body::from(body))).await;
        answered.unwrap_or_else(|never| match never {})
    }
}

/// The function that this request invokes: the one route that takes a body.
fn invoked(head: &Parts) -> Option<String> {
    let function = head.uri.path().strip_prefix("/v1/functions/")?.strip_suffix("/invocations")?;
    let named = head.method == Method::POST && !function.is_empty() && !function.contains('/');
    Some(percent_decode_str(function).decode_utf8().ok().filter(|_| named)?.into_owned())
}

/// The body, if it is no larger and no slower than it may be.
async fn whole(body: Incoming, limits: &Limits) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limits.body as u64 {
        return Err(Problem::large_body(limits.body));
    }
    match timeout(limits.body_timeout, Limited::new(body, limits.body).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::large_body(limits.body)),
        Ok(Err(_)) => Err(Problem::bad_request("bad-body", "the body could not be read")),
        Err(_) => Err(Problem::slow_body()),
    }
}

/// Connections of this listener send at once what they have. Where the system's congestion control paces (as BBR does), a timer
/// goes off for every answer; on loopback there is no bottleneck to find, and that is a tenth of what an answer costs.
/// Every Linux has Reno and lets everybody use it.
fn without_pacing(listener: &TcpListener) {
    if let Err(error) = socket2::SockRef::from(listener).set_tcp_congestion(b"reno") {
        tracing::debug!(%error, "the system's congestion control is kept for loopback");
    }
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
