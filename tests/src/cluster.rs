//! A throwaway PostgreSQL cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use crate::account::Account;
use crate::port;
use crate::process::Process;
use crate::{Server, eventually};

/// Of the superuser `postgres`, over TCP. Nobody but this machine can reach a throwaway cluster.
pub(crate) const SUPERUSER_PASSWORD: &str = "throwaway";

/// How long a start (crash recovery included) or a stop may take.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How to set up a cluster. The defaults are what foreshard needs; tests of misconfiguration leave parts out.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The installation to run.
    pub server: Server,
    /// `wal_level`; `logical` unless changed.
    pub wal_level: String,
    /// The value of `output_plugin_libraries`, or none to leave the server's default (which has no foreshard in it).
    pub output_plugins: Option<String>,
    /// Whether commits are flushed for real. Off unless asked for: crashes of the operating system are not tested.
    pub fsync: bool,
    /// Further settings, as in postgresql.conf.
    pub settings: Vec<(String, String)>,
    /// Where the cluster's directory is made; the system's temporary directory unless changed.
    pub parent: PathBuf,
}

impl ClusterOptions {
    /// The defaults, on [`Server::for_tests`].
    pub fn new() -> Result<Self> {
        Ok(Self::on(Server::for_tests()?))
    }

    /// The defaults, on a given server.
    #[must_use]
    pub fn on(server: Server) -> Self {
        Self {
            server,
            wal_level: "logical".to_owned(),
            output_plugins: Some("foreshard, pgoutput, test_decoding".to_owned()),
            fsync: false,
            settings: Vec::new(),
            parent: std::env::temp_dir(),
        }
    }

    /// With one more setting.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the cluster and starts it.
    pub async fn start(self) -> Result<Cluster> {
        Cluster::start_with(self, From::Template).await
    }

    /// Makes the cluster with a system identifier of its own, and starts it: all others are copies of one that was made before.
    pub async fn start_another(self) -> Result<Cluster> {
        Cluster::start_with(self, From::Nothing).await
    }

    /// Makes a physical standby of a running cluster, and starts it.
    pub async fn standby_of(self, primary: &Cluster) -> Result<Cluster> {
        Cluster::start_with(self, From::Primary(primary)).await
    }

    /// Makes the cluster out of a stopped one of an older major with pg_upgrade, and starts it.
    pub async fn upgraded_from(self, old: &Cluster) -> Result<Cluster> {
        ensure!(old.process.is_none(), "stop the old cluster first");
        Cluster::start_with(self, From::Older(old)).await
    }
}

/// What a cluster is made of.
#[derive(Clone, Copy)]
enum From<'a> {
    Template,
    Nothing,
    Older(&'a Cluster),
    Primary(&'a Cluster),
}

/// How a server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended and a shutdown checkpoint is written; walsenders finish sending first.
    Fast,
    /// As in a crash: no checkpoint, recovery at the next start.
    Immediate,
}

/// What an edge's sidecar logs in with.
#[derive(Debug, Clone)]
pub struct EdgeLogin {
    /// The edge's name.
    pub edge: String,
    /// Its role.
    pub role: String,
    /// A connection string with password.
    pub url: String,
}

/// A running (or stopped) cluster in a temporary directory, on a loopback port and a Unix socket of its own.
///
/// Stopped and removed on drop; its log is printed if a test is failing then.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: the server has to be gone before its directory goes.
    process: Option<Process>,
    dir: tempfile::TempDir,
    server: Server,
    account: Account,
    port: u16,
}

impl Cluster {
    /// A cluster with everything foreshard needs; the extension is not yet created in it.
    pub async fn start() -> Result<Self> {
        ClusterOptions::new()?.start().await
    }

    /// A cluster as [`Cluster::start`] makes it, with the extension created in database `postgres`.
    pub async fn with_extension() -> Result<Self> {
        let cluster = Self::start().await?;
        cluster.connect().await?.batch_execute("CREATE EXTENSION foreshard").await?;
        Ok(cluster)
    }

    async fn start_with(options: ClusterOptions, from: From<'_>) -> Result<Self> {
        let account = Account::unprivileged()?;
        let dir = tempfile::Builder::new().prefix("foreshard-pg-").tempdir_in(&options.parent)?;
        account.own(dir.path())?;
        ensure!(
            account.can_reach(&options.parent),
            "the server's account cannot reach {}",
            options.parent.display()
        );
        match from {
            From::Template => Self::copy_template(account, &options.server, dir.path())?,
            From::Nothing => options.server.initdb(&dir.path().join("data"))?,
            From::Older(old) => Self::upgrade(account, &options.server, dir.path(), old)?,
            From::Primary(primary) => Self::copy_primary(account, &options.server, dir.path(), primary)?,
        }

        let mut cluster = Self { process: None, dir, server: options.server.clone(), account, port: 0 };
        let knows_output_plugins = cluster.knows_setting("output_plugin_libraries")?;
        let mut lines = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", cluster.dir.path().display().to_string()),
            ("wal_level", options.wal_level.clone()),
            ("fsync", if options.fsync { "on" } else { "off" }.to_owned()),
            ("max_connections", "200".to_owned()),
            ("max_wal_senders", "40".to_owned()),
            ("max_replication_slots", "40".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_line_prefix", "%m [%p] %q%u %a ".to_owned()),
        ];
        if let Some(plugins) = options.output_plugins.filter(|_| knows_output_plugins) {
            lines.push(("output_plugin_libraries", plugins));
        }
        if options.wal_level == "minimal" {
            lines.push(("max_wal_senders", "0".to_owned()));
        }
        let mut conf = String::from("\n# of this throwaway cluster\n");
        let extra = options.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in lines.into_iter().chain(extra) {
            conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        cluster.append_conf(&conf)?;
        cluster.start_again().await?;
        Ok(cluster)
    }

    fn copy_template(account: Account, server: &Server, dir: &Path) -> Result<()> {
        let mut copy = account.command(Path::new("cp"));
        copy.args(["-a", "--reflink=auto"]).arg(server.template()).arg(dir.join("data"));
        succeed(&mut copy)
    }

    fn copy_primary(account: Account, server: &Server, dir: &Path, primary: &Cluster) -> Result<()> {
        let data = dir.join("data");
        let mut backup = account.command(&server.program("pg_basebackup"));
        backup.args(["--checkpoint=fast", "--wal-method=stream", "-d", &primary.url(), "-D"]).arg(&data);
        succeed(&mut backup)?;
        std::fs::write(data.join("standby.signal"), "")?;
        Ok(())
    }

    fn upgrade(account: Account, server: &Server, dir: &Path, old: &Cluster) -> Result<()> {
        let data = dir.join("data");
        let mut initdb = account.command(&server.program("initdb"));
        // As the old cluster: 18 has checksums unless told otherwise.
        initdb.args([
            "--no-sync",
            "--no-data-checksums",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256", "--pgdata"]).arg(&data);
        succeed(&mut initdb)?;
        let mut upgrade = account.command(&server.program("pg_upgrade"));
        upgrade.current_dir(dir).arg("--username=postgres").arg("--socketdir").arg(dir);
        upgrade.arg("--old-datadir").arg(old.data_dir()).arg("--new-datadir").arg(&data);
        for (flag, server) in [("--old-bindir", &old.server), ("--new-bindir", server)] {
            upgrade.arg(flag).arg(server.program("postgres").with_file_name(""));
        }
        // What went wrong is in files of its own, below the new cluster.
        succeed(&mut upgrade).map_err(|error| {
            let mut tail = Command::new("sh");
            tail.current_dir(&data)
                .args(["-c", "grep -h -A3 error: pg_upgrade_output.d/*/log/pg_upgrade_dump_*.log"]);
            let said = tail.output().map(|output| output.stdout).unwrap_or_default();
            error.context(String::from_utf8_lossy(&said).into_owned())
        })
    }

    /// Older minor releases have no allow-list of output plugins and refuse to start with one.
    fn knows_setting(&self, name: &str) -> Result<bool> {
        let mut asked = self.account.command(&self.server.program("postgres"));
        let output = asked.arg("-C").arg(name).arg("-D").arg(self.data_dir()).output()?;
        Ok(output.status.success())
    }

    fn append_conf(&self, text: &str) -> Result<()> {
        use std::io::Write;
        let conf = self.data_dir().join("postgresql.conf");
        std::fs::OpenOptions::new().append(true).open(conf)?.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Changes a setting in postgresql.conf; takes effect at the next [`restart`](Self::restart) or
    /// `pg_reload_conf()`.
    pub fn configure(&self, name: &str, value: &str) -> Result<()> {
        self.append_conf(&format!("{name} = '{}'\n", value.replace('\'', "''")))
    }

    /// Serves TLS with this certificate and key (PEM) from now on, to clients that ask for it.
    pub async fn use_tls(&self, certificate: &str, key: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = self.data_dir().join(name);
            std::fs::write(&file, text)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
            self.account.own(&file)?;
        }
        self.configure("ssl", "on")?;
        self.connect().await?.batch_execute("SELECT pg_reload_conf()").await?;
        // Sessions that begin after the postmaster has read its files see what it has read.
        eventually("the server serves TLS", START_WITHIN, || async {
            let on: String = self.connect().await?.query_one("SHOW ssl", &[]).await?.get(0);
            Ok((on == "on").then_some(()))
        })
        .await
    }

    /// Starts the server of a cluster that was stopped, and waits until it takes connections. The port stays the same.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server is running already");
        let chosen_before = self.port != 0;
        for attempt in 1..=port::ATTEMPTS {
            if !chosen_before {
                self.port = port::free()?;
            }
            match self.try_start().await {
                Ok(process) => {
                    self.process = Some(process);
                    return Ok(());
                }
                Err(error) if attempt < port::ATTEMPTS && port::was_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn try_start(&self) -> Result<Process> {
        let mut command = self.account.command(&self.server.program("postgres"));
        command.arg("-D").arg(self.data_dir()).arg("-p").arg(self.port.to_string());
        // A backend inherits these; a test's environment must not change how the server behaves.
        for name in ["LC_ALL", "LANG", "PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGDATABASE", "PGOPTIONS"] {
            command.env_remove(name);
        }
        let log = self.dir.path().join("server.log");
        // SIGQUIT is the immediate shutdown: children end and shared memory is given back, unlike with SIGKILL.
        let process = Process::spawn_with_farewell("postgres", &mut command, &log, Signal::QUIT)?;
        let process = std::cell::RefCell::new(process);
        let pid_file = self.data_dir().join("postmaster.pid");
        eventually("PostgreSQL takes connections", START_WITHIN, || async {
            // Its end is final: handed out as the value of the wait, not as a reason to look again.
            if let Err(ended) = process.borrow_mut().must_be_alive() {
                return Ok(Some(Err(ended)));
            }
            let ready = std::fs::read_to_string(&pid_file).is_ok_and(|text| {
                let mut lines = text.lines();
                let ours = lines.next().is_some_and(|pid| pid == process.borrow().id().to_string());
                ours && lines.nth(6).is_some_and(|status| ["ready", "standby"].contains(&status.trim()))
            });
            Ok(ready.then_some(Ok(())))
        })
        .await??;
        Ok(process.into_inner())
    }

    /// Stops the server and waits until it is gone.
    pub async fn stop(&mut self, mode: StopMode) -> Result<()> {
        let mut process = self.process.take().context("the server is not running")?;
        process.signal(match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        })?;
        process.wait_exit(START_WITHIN).await?;
        Ok(())
    }

    /// Stops and starts the server.
    pub async fn restart(&mut self, mode: StopMode) -> Result<()> {
        self.stop(mode).await?;
        self.start_again().await
    }

    /// Ends the postmaster with SIGKILL, as the kernel does when memory runs out.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.take().context("the server is not running")?.kill()?;
        // Its children notice by themselves; the next start refuses while one of them still holds the shared memory.
        Ok(())
    }

    /// The postmaster's process id, while it runs.
    #[must_use]
    pub fn server_process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What the server has logged so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join("server.log")).unwrap_or_default())
            .into_owned()
    }

    /// The installation it runs from.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// A connection string of the superuser, over TCP, for database `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres", SUPERUSER_PASSWORD, "postgres")
    }

    /// A connection string over TCP.
    #[must_use]
    pub fn url_of(&self, user: &str, password: &str, database: &str) -> String {
        url(user, password, self.port, database)
    }

    /// A session as the superuser in database `postgres`.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.url()).await
    }

    /// A session as the superuser in another database.
    pub async fn connect_to(&self, database: &str) -> Result<Client> {
        connect(&self.url_of("postgres", SUPERUSER_PASSWORD, database)).await
    }

    /// Makes a login role for an edge, registers the edge with it, and tells how its sidecar logs in.
    pub async fn create_edge(&self, edge: &str) -> Result<EdgeLogin> {
        let role =
            format!("edge_{}", edge.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let db = self.connect().await?;
        db.batch_execute(&format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{role}'")).await?;
        db.execute("SELECT foreshard.create_edge($1, role => $2::text::regrole)", &[&edge, &role]).await?;
        let url = self.url_of(&role, &role, "postgres");
        Ok(EdgeLogin { edge: edge.to_owned(), role, url })
    }

    /// A command for one of the server's programs, set up to reach this cluster as superuser.
    #[must_use]
    pub fn client_program(&self, name: &str) -> Command {
        let mut command = Command::new(self.server.program(name));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", SUPERUSER_PASSWORD)
            .env("PGDATABASE", "postgres");
        command
    }

    /// Leaves the server running and its directory in place when this value goes: for a demo that is kept.
    pub fn leave_running(mut self) -> PathBuf {
        if let Some(process) = self.process.take() {
            std::mem::forget(process);
        }
        let kept = self.dir.path().to_owned();
        self.dir.disable_cleanup(true);
        kept
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&said));
    Ok(())
}

/// A connection string for a loopback port.
pub(crate) fn url(user: &str, password: &str, port: u16, database: &str) -> String {
    format!("postgresql://{user}:{password}@127.0.0.1:{port}/{database}")
}

/// Opens a session; its connection is driven by a task that ends with it.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("connecting to PostgreSQL")?;
    tokio::spawn(connection);
    Ok(client)
}
