//! A request that waits at an edge, asked with a plain socket by a thread that does nothing else: as the peer's output is read, so that
//! what an asynchronous client adds is on neither side.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use foreshard_tests::Endpoint;

use crate::load::is_complete;

/// What is not answered by then waits.
const PARKED_AFTER: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(10);

trait Socket: Read + Write + Send {
    fn wait_at_most(&self, time: Duration) -> std::io::Result<()>;
}

impl Socket for TcpStream {
    fn wait_at_most(&self, time: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(time))
    }
}

impl Socket for UnixStream {
    fn wait_at_most(&self, time: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(time))
    }
}

/// Asks one thing at a time.
pub(crate) struct Asker {
    requests: Sender<String>,
    heard: Receiver<Result<Heard>>,
}

enum Heard {
    Waits,
    Answered(Instant),
}

impl Asker {
    pub(crate) fn connect(endpoint: &Endpoint) -> Result<Self> {
        let socket: Box<dyn Socket> = match endpoint {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Endpoint::Unix(path) => Box::new(UnixStream::connect(path)?),
        };
        let (requests, asked) = channel();
        let (tell, heard) = channel();
        std::thread::spawn(move || serve(socket, &asked, &tell));
        Ok(Asker { requests, heard })
    }

    /// Asks for rows not older than that position; whether the answer is waited for, then with [`answered`](Self::answered).
    pub(crate) fn ask(&mut self, path: &str, least: &str) -> Result<bool> {
        self.requests
            .send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nforeshard-min-lsn: {least}\r\n\r\n"))?;
        Ok(matches!(self.heard.recv()??, Heard::Waits))
    }

    /// When the answer was there.
    pub(crate) fn answered(&mut self) -> Result<Instant> {
        match self.heard.recv()?? {
            Heard::Answered(at) => Ok(at),
            Heard::Waits => bail!("one request was asked twice"),
        }
    }
}

fn serve(mut socket: Box<dyn Socket>, asked: &Receiver<String>, tell: &Sender<Result<Heard>>) {
    while let Ok(request) = asked.recv() {
        let heard = ask(&mut *socket, &request, || drop(tell.send(Ok(Heard::Waits))));
        let over = heard.is_err();
        if tell.send(heard.map(Heard::Answered)).is_err() || over {
            return;
        }
    }
}

/// Calls `waits` if there is no answer at once.
fn ask(socket: &mut dyn Socket, request: &str, waits: impl Fn()) -> Result<Instant> {
    socket.write_all(request.as_bytes())?;
    socket.wait_at_most(PARKED_AFTER)?;
    let (mut answer, mut part, mut waiting) = (Vec::new(), [0; 4096], false);
    loop {
        match socket.read(&mut part) {
            Ok(0) => bail!("the connection ended in the middle of an answer"),
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && !waiting => {
                socket.wait_at_most(PATIENCE)?;
                waiting = true;
                waits();
                continue;
            }
            Err(error) => return Err(error).context("the answer did not come"),
        }
        let at = Instant::now();
        if is_complete(&answer)? {
            return Ok(at);
        }
    }
}
