//! A load generator for HTTP over a port or a Unix socket (wrk knows no Unix sockets): each of its connections asks for the
//! next thing as soon as the answer is there, all on one thread.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Most bytes of an answer.
const LONGEST: usize = 64 << 10;

trait Stream: Source + Read + Write {}
impl<T: Source + Read + Write> Stream for T {}

struct Connection {
    stream: Box<dyn Stream>,
    answer: Vec<u8>,
    received: usize,
}

/// What is asked for: each of `{}` is a number from 1 to `keys`, uniformly drawn.
pub(crate) struct Asked<'a> {
    /// `host:port` or `unix:path`.
    pub(crate) endpoint: &'a str,
    pub(crate) path: &'a str,
    pub(crate) keys: u32,
    pub(crate) connections: usize,
}

/// Asks for `span` and prints the answers per second.
///
/// # Errors
/// Anything but complete answers with status 200, or a lost connection.
pub(crate) fn generate(asked: &Asked<'_>, span: Duration) -> Result<()> {
    let request = |key: u32| {
        let path = asked.path.replace("{}", &key.to_string());
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
    };
    let requests: Vec<String> = (1..=asked.keys).map(request).collect();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut next = || requests[rng.random_range(0..requests.len())].as_bytes();
    let mut poll = Poll::new()?;
    let mut all = Vec::new();
    for number in 0..asked.connections {
        let mut stream = connect(asked.endpoint)?;
        poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
        stream.write_all(next())?;
        all.push(Connection { stream, answer: vec![0; LONGEST], received: 0 });
    }
    let (mut events, mut answers, start) = (Events::with_capacity(asked.connections), 0_u64, Instant::now());
    while start.elapsed() < span {
        poll.poll(&mut events, Some(Duration::from_secs(1)))?;
        for event in &events {
            let connection = &mut all[event.token().0];
            if connection.receive()? {
                answers += 1;
                connection.stream.write_all(next())?;
            }
        }
    }
    println!("{:.1}", answers as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

fn connect(endpoint: &str) -> Result<Box<dyn Stream>> {
    if let Some(path) = endpoint.strip_prefix("unix:") {
        let stream = StdUnixStream::connect(Path::new(path)).with_context(|| endpoint.to_owned())?;
        stream.set_nonblocking(true)?;
        return Ok(Box::new(UnixStream::from_std(stream)));
    }
    let stream = std::net::TcpStream::connect(endpoint).with_context(|| endpoint.to_owned())?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(Box::new(TcpStream::from_std(stream)))
}

impl Connection {
    /// Takes what has arrived; whether the answer is complete.
    fn receive(&mut self) -> Result<bool> {
        loop {
            match self.stream.read(&mut self.answer[self.received..]) {
                Ok(0) => bail!("the connection ended in the middle of an answer"),
                Ok(length) => self.received += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if is_complete(&self.answer[..self.received])? {
                self.received = 0;
                return Ok(true);
            }
        }
    }
}

/// Whether that is a whole answer.
///
/// # Errors
/// A status other than 200, or an answer that is too long or doesn't say how long it is.
pub(crate) fn is_complete(received: &[u8]) -> Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(received)? else {
        return Ok(false);
    };
    ensure!(head.code == Some(200), "status {:?}", head.code);
    let body = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let body = body.context("an answer without content-length")?;
    let body: usize = std::str::from_utf8(body.value)?.parse()?;
    ensure!(length + body < LONGEST && received.len() <= length + body, "an answer of {body} bytes");
    Ok(received.len() == length + body)
}

/// [`generate`] in a process of its own on one core: answers per second.
pub(crate) fn measure(core: &str, asked: &Asked<'_>, seconds: usize) -> Result<f64> {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(std::env::current_exe()?).args(["--load", asked.endpoint, asked.path]);
    command.args([asked.keys.to_string(), asked.connections.to_string(), seconds.to_string()]);
    let output = command.output().context("taskset (util-linux) is needed")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.trim().parse();
    rate.with_context(|| format!("no rate: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
