//! The project's own binary as child processes: the sidecar and the planner.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::http::{Client, Endpoint};
use crate::process::Process;
use crate::{EdgeLogin, eventually, port};

/// How long a sidecar may take until it follows the stream.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a program may take to end after it was asked to.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// The binary `foreshard`: `FORESHARD_BIN`, or the one cargo built beside the running test or program.
pub fn foreshard_binary() -> Result<PathBuf> {
    match std::env::var_os("FORESHARD_BIN") {
        Some(path) => Ok(path.into()),
        None => built_file("foreshard", "sidecar"),
    }
}

/// A file that cargo leaves beside the running program, built now if it is not there.
pub(crate) fn built_file(name: &str, package: &str) -> Result<PathBuf> {
    let profile_dir = profile_dir()?;
    let file = profile_dir.join(name);
    if !file.exists() {
        let mut command = Command::new(cargo());
        command.current_dir(workspace()).args(["build", "--quiet", "--package", package]);
        if profile_dir.ends_with("release") {
            command.arg("--release");
        }
        let built = command.status().context("running cargo build")?;
        ensure!(built.success() && file.exists(), "cargo build of {package} left no {}", file.display());
    }
    Ok(file)
}

/// `target/debug` or `target/release` of the running test or program.
pub(crate) fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().context("a program lies in a directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("deps lies in a directory")? } else { dir };
    if dir.ends_with("debug") || dir.ends_with("release") {
        return Ok(dir.to_owned());
    }
    bail!("{} is not in a cargo target directory: set FORESHARD_BIN and FORESHARD_SERVER", exe.display())
}

pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// How to start a sidecar.
#[derive(Debug, Clone)]
pub struct SidecarOptions {
    /// The connection string of `--origin`.
    pub origin: String,
    /// The edge's name.
    pub edge: String,
    /// Whether it listens on a Unix socket in its directory (the default) or a loopback port chosen by the system.
    pub unix_socket: bool,
    /// Further arguments of `foreshard serve`.
    pub arguments: Vec<String>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
}

impl SidecarOptions {
    /// A sidecar of this edge, straight to the origin, without tokens.
    #[must_use]
    pub fn of(login: &EdgeLogin) -> Self {
        Self::new(&login.edge, &login.url)
    }

    /// A sidecar of this edge, by connection string, without tokens.
    #[must_use]
    pub fn new(edge: &str, origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            edge: edge.to_owned(),
            unix_socket: true,
            arguments: vec!["--auth".to_owned(), "none".to_owned()],
            environment: Vec::new(),
        }
    }

    /// With further arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Starts it and waits until it follows the stream.
    pub async fn start(self) -> Result<Sidecar> {
        for attempt in 1..=port::ATTEMPTS {
            let mut sidecar = self.clone().spawn()?;
            match sidecar.wait_ready().await {
                Ok(()) => return Ok(sidecar),
                Err(error) if attempt < port::ATTEMPTS && port::was_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Starts it without waiting: for an origin that is down.
    pub fn spawn(self) -> Result<Sidecar> {
        let dir = tempfile::Builder::new().prefix("foreshard-edge-").tempdir()?;
        let endpoint = if self.unix_socket {
            Endpoint::Unix(dir.path().join("http"))
        } else {
            Endpoint::Tcp(format!("127.0.0.1:{}", port::free()?))
        };
        let process = spawn_sidecar(&self, &endpoint, dir.path())?;
        Ok(Sidecar { process, http: Client::new(endpoint), options: self, dir })
    }
}

/// A running `foreshard serve`; killed when dropped.
#[derive(Debug)]
pub struct Sidecar {
    // Dropped before the directory that holds its socket and log.
    process: Process,
    /// A client of its HTTP surface.
    pub http: Client,
    options: SidecarOptions,
    dir: tempfile::TempDir,
}

impl Sidecar {
    /// Starts a sidecar of this edge and waits until it follows the stream.
    pub async fn start(login: &EdgeLogin) -> Result<Self> {
        SidecarOptions::of(login).start().await
    }

    /// Waits until `/ready` answers 200.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let what = format!("sidecar {} is ready", self.options.edge);
        let process = std::cell::RefCell::new(&mut self.process);
        let http = &self.http;
        let outcome = eventually(&what, READY_WITHIN, || async {
            if let Err(ended) = process.borrow_mut().must_be_alive() {
                return Ok(Some(Err(ended)));
            }
            let answer = http.get("/ready").await?;
            if answer.status == 200 {
                Ok(Some(Ok(())))
            } else {
                bail!("/ready: {} {}", answer.status, answer.text())
            }
        })
        .await;
        outcome.with_context(|| format!("its log:\n{}", process.borrow().log_text()))?
    }

    /// Ends it as a crash does (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn stop(&mut self) -> Result<std::process::ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.process.wait_exit(STOP_WITHIN).await
    }

    /// Starts it again after [`kill`](Self::kill) or [`stop`](Self::stop), with the same options and endpoint.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.exited()?.is_some(), "the sidecar is running already");
        if let Endpoint::Unix(socket) = self.http.endpoint() {
            let _ = std::fs::remove_file(socket);
        }
        self.process = spawn_sidecar(&self.options, self.http.endpoint(), self.dir.path())?;
        self.wait_ready().await
    }

    /// The process: its id, its log, how it ended.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything it has written so far, its predecessors' included.
    #[must_use]
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }

    /// The value of one metric of `/metrics`, summed over its labels; 0 when it is not there.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.http.get("/metrics").await?.text();
        Ok(text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// Leaves it running when this value goes, with its directory.
    pub fn leave_running(mut self) {
        std::mem::forget(self.process);
        self.dir.disable_cleanup(true);
    }
}

fn spawn_sidecar(options: &SidecarOptions, endpoint: &Endpoint, dir: &Path) -> Result<Process> {
    let mut command = Command::new(foreshard_binary()?);
    command
        .arg("serve")
        .args(["--origin", &options.origin, "--edge", &options.edge, "--listen", &endpoint.to_flag()])
        .args(&options.arguments)
        .envs(options.environment.iter().map(|(name, value)| (name, value)));
    Process::spawn(&format!("foreshard serve {}", options.edge), command, &dir.join("log"))
}

/// A running `foreshard plan`; killed when dropped.
#[derive(Debug)]
pub struct Planner {
    process: Process,
    dir: tempfile::TempDir,
}

impl Planner {
    /// Starts the planner with these arguments after `plan --origin URL`.
    pub fn spawn(origin: &str, arguments: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("foreshard-plan-").tempdir()?;
        let mut command = Command::new(foreshard_binary()?);
        // A test that expects an entry must not meet the control group, unless it asks for one.
        command.args(["plan", "--origin", origin]).args(arguments).env("FORESHARD_CONTROL", "0");
        let process = Process::spawn("foreshard plan", command, &dir.path().join("log"))?;
        Ok(Self { process, dir })
    }

    /// Runs one round (`--once`) to its end, which must be a good one; gives what it wrote.
    pub async fn once(origin: &str, arguments: &[&str], within: Duration) -> Result<String> {
        let mut planner = Self::spawn(origin, &[&["--once"], arguments].concat())?;
        let status = planner.process.wait_exit(within).await?;
        let output = planner.process.log_text();
        ensure!(status.success(), "foreshard plan --once ended with {status}:\n{output}");
        Ok(output)
    }

    /// The process: its id, its log, how it ended.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Leaves it running when this value goes, with its directory.
    pub fn leave_running(mut self) {
        std::mem::forget(self.process);
        self.dir.disable_cleanup(true);
    }
}
