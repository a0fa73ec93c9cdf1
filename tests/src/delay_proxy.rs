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
        let generation = Arc::new(watch::Sender::new(0));
        let accepting = tokio::spawn(accept(listener, target, one_way, state.clone(), generation.clone()));
        Ok(Self { address, state, generation, accepting })
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

    /// The link works (again); what was held back by [`stall`](Self::stall) arrives.
    pub fn restore(&self) {
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

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    one_way: Duration,
    state: Arc<watch::Sender<State>>,
    generation: Arc<watch::Sender<u64>>,
) {
    while let Ok((near, _)) = listener.accept().await {
        if *state.borrow() == State::Cut {
            reset_on_close(&near);
            continue;
        }
        let (state, mut generation) = (state.subscribe(), generation.subscribe());
        let now = *generation.borrow_and_update();
        tokio::spawn(async move {
            tokio::select! {
                _ = relay(near, target, one_way, state) => {}
                _ = generation.wait_for(|generation| *generation != now) => {}
            }
        });
    }
}

async fn relay(
    near: TcpStream,
    target: SocketAddr,
    one_way: Duration,
    state: watch::Receiver<State>,
) -> std::io::Result<()> {
    // The connection request travels too: the far end sees it one delay later.
    tokio::time::sleep_until(Instant::now() + one_way).await;
    let far = TcpStream::connect(target).await?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        // What is dropped in the middle is dropped as a reset; an orderly end shuts each direction down first.
        reset_on_close(stream);
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let out = one_direction(near_read, far_write, one_way, state.clone());
    let back = one_direction(far_read, near_write, one_way, state);
    tokio::join!(out, back);
    Ok(())
}

/// A delay line: chunks are stamped as they are read and written when they are due, so that the delay of one does not add
/// to the delay of the next.
async fn one_direction(
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    one_way: Duration,
    mut state: watch::Receiver<State>,
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
        while let Some((at, chunk)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if state.wait_for(|state| *state != State::Stalled).await.is_err()
                || write.write_all(&chunk).await.is_err()
            {
                return;
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
