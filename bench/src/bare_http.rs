//! The least an HTTP server can do with the libraries that the sidecar stands on: one constant answer. What it reaches is the
//! ceiling that the machine, the kernel and the load generator set.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Serves an answer of `size` bytes until the process is ended; prints the address it listens on.
pub(crate) async fn serve(size: usize) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    let body = Bytes::from(vec![b'x'; size]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let answer = service_fn(move |_| {
            let response = Response::new(Full::new(body.clone()));
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

/// Such a server in a process of its own, which ends with this value.
pub(crate) struct BareHttp {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl BareHttp {
    /// Starts it on the core that this process is pinned to.
    pub(crate) fn start(size: usize) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--bare-http", &size.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the bare HTTP server")?;
        let mut line = String::new();
        let out = process.stdout.take().context("its output is piped")?;
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("not an address: {line:?}"))?;
        Ok(BareHttp { process, address })
    }
}

impl Drop for BareHttp {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
