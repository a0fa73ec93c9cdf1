//! A TCP link with a delay, for a sidecar that is far from its origin.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustix::fd::AsFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Bytes written at a time, so that a limited rate is even.
const PIECE: usize = 4 * 1024;

/// Chunks under way in one direction before reading stops: a window of 16 MiB, far more than what a delay of
/// hundreds of milliseconds holds on loopback, and still bounded.
const IN_FLIGHT: usize = 256;

/// What the link does with connections and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes arrive after the delay.
    Up,
    /// Connections stay open, nothing arrives in either direction; it all does once the link is up again.
    Stalled,
    /// Open connections are reset, new ones are refused.
    Cut,
}

/// A proxy in front of a TCP server. Each byte arrives the one-way delay after it was sent, in order; the delay does not
/// limit how much is under way. Ends, with its connections, when dropped.
#[derive(Debug)]
pub struct DelayProxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    /// Bytes per second in each direction of each connection, where they are limited.
    rate: Arc<watch::Sender<Option<u64>>>,
    /// Incremented to reset the connections that are open now.
    generation: Arc<watch::Sender<u64>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl DelayProxy {
    /// Listens on a free loopback port; connections go to `target`, delayed by `one_way` in each direction.
    pub async fn start(target: SocketAddr, one_way: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(watch::Sender::new(State::Up));
        let rate = Arc::new(watch::Sender::new(None));
        let generation = Arc::new(watch::Sender::new(0));
        let line = Line { one_way, state: state.subscribe(), rate: rate.subscribe() };
        let accepting = tokio::spawn(accept(listener, target, line, generation.clone()));
        Ok(Self { address, state, rate, generation, accepting })
    }

    /// The port to connect to instead of the target's.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// A connection string with the proxy in place of the server it names: `postgresql://…@127.0.0.1:PORT/…`.
    #[must_use]
    pub fn url(&self, direct: &str, direct_port: u16) -> String {
        direct.replace(&format!("127.0.0.1:{direct_port}/"), &format!("{}/", self.address))
    }

    /// Nothing arrives any more, in either direction, and connections stay open: a partition.
    pub fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    /// Open connections are reset and new ones closed at once.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
        self.reset();
    }

    /// Limits each direction of each connection to so many bytes per second, or no longer.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.rate.send_replace(bytes_per_second);
    }

    /// The link works (again), at full speed; what was held back by [`stall`](Self::stall) arrives.
    pub fn restore(&self) {
        self.rate.send_replace(None);
        self.state.send_replace(State::Up);
    }

    /// Resets the connections that are open now; new ones work.
    pub fn reset(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

/// What becomes of bytes under way.
#[derive(Clone)]
struct Line {
    one_way: Duration,
    state: watch::Receiver<State>,
    rate: watch::Receiver<Option<u64>>,
}

async fn accept(listener: TcpListener, target: SocketAddr, line: Line, generation: Arc<watch::Sender<u64>>) {
    while let Ok((near, _)) = listener.accept().await {
        if *line.state.borrow() == State::Cut {
            reset_on_close(&near);
            continue;
        }
        let (line, mut generation) = (line.clone(), generation.subscribe());
        let now = *generation.borrow_and_update();
        tokio::spawn(async move {
            tokio::select! {
                _ = relay(near, target, line) => {}
                _ = generation.wait_for(|generation| *generation != now) => {}
            }
        });
    }
}

async fn relay(near: TcpStream, target: SocketAddr, line: Line) -> std::io::Result<()> {
    // The connection request travels too: the far end sees it one delay later.
    tokio::time::sleep_until(Instant::now() + line.one_way).await;
    let far = TcpStream::connect(target).await?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        // What is dropped in the middle is dropped as a reset; an orderly end shuts each direction down first.
        reset_on_close(stream);
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let out = one_direction(near_read, far_write, line.clone());
    let back = one_direction(far_read, near_write, line);
    tokio::join!(out, back);
    Ok(())
}

/// A delay line: chunks are stamped as they are read and written when they are due and the line has room, so that the delay of
/// one does not add to the delay of the next.
async fn one_direction(
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    Line { one_way, mut state, rate }: Line,
) {
    let (line, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            if line.send((Instant::now() + one_way, buffer[..length].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        // When the line has room again, where its rate is limited.
        let mut free = Instant::now();
        while let Some((at, chunk)) = due.recv().await {
            let limited = rate.borrow().is_some();
            for piece in chunk.chunks(if limited { PIECE } else { CHUNK }) {
                tokio::time::sleep_until(at.max(free)).await;
                if state.wait_for(|state| *state != State::Stalled).await.is_err() {
                    return;
                }
                if write.write_all(piece).await.is_err() {
                    return;
                }
                if let Some(limit) = *rate.borrow() {
                    free = Instant::now() + Duration::from_secs_f64(piece.len() as f64 / limit as f64);
                }
            }
        }
        let _ = write.shutdown().await;
    };
    tokio::join!(reading, writing);
}

/// Closing then sends a reset instead of waiting for what is unsent: what a peer sees when a link or a host goes away.
fn reset_on_close(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO));
}
