//! A private copy of a PostgreSQL installation with the extension in it.
//!
//! PostgreSQL finds its libraries and its share directory relative to where its binary lies. A tree that has copies of the
//! programs and links to everything else, at the same paths below a root of its own, therefore is a complete installation:
//! the extension is installed into it (as into a package's staging directory) without root privileges and without touching
//! the system's PostgreSQL.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail, ensure};

use crate::account::Account;
use crate::program;

/// The PostgreSQL that is copied when nothing else is asked for: Debian 12's.
const DEFAULT_PG_CONFIG: &str = "/usr/bin/pg_config";

/// A staged server installation; cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    root: PathBuf,
    bin: PathBuf,
}

impl Server {
    /// The server that tests use: [`prepared`](Self::prepared) from `FORESHARD_PG_CONFIG` (default: Debian's PostgreSQL 15).
    pub fn for_tests() -> Result<Self> {
        let pg_config =
            std::env::var_os("FORESHARD_PG_CONFIG").map_or(DEFAULT_PG_CONFIG.into(), PathBuf::from);
        Self::prepared(&pg_config)
    }

    /// The server in `FORESHARD_SERVER` if a runner staged one, else one staged now.
    pub fn prepared(pg_config: &Path) -> Result<Self> {
        match std::env::var_os("FORESHARD_SERVER") {
            Some(root) => Self::open(Path::new(&root)),
            None => Self::stage(pg_config),
        }
    }

    /// A server of another major than the one under test: `FORESHARD_SERVER_<major>` if a runner staged it, else staged now.
    pub fn of_major(major: u32) -> Result<Self> {
        if let Some(root) = std::env::var_os(format!("FORESHARD_SERVER_{major}")) {
            return Self::open(Path::new(&root));
        }
        let setup = program::workspace().join("scripts/setup.sh");
        let output =
            Command::new(setup).args(["postgres", &major.to_string()]).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "there is no server of PostgreSQL {major}");
        Self::stage(Path::new(String::from_utf8(output.stdout)?.trim()))
    }

    /// Stages the server of `pg_config` with the extension of this build, or brings an existing copy up to date.
    pub fn stage(pg_config: &Path) -> Result<Self> {
        let layout = Layout::of(pg_config)?;
        let root = staging_root(Account::unprivileged()?)?.join(layout.name()?);
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        let lock = File::create(root.join("lock"))?;
        lock.lock()?;
        let server = Self { bin: below(&root, &layout.bin), root };
        if !server.root.join("complete").exists() {
            layout.copy_to(&server.root)?;
            server.make_template()?;
            File::create(server.root.join("complete"))?;
        }
        server.install_extension(pg_config)?;
        Ok(server)
    }

    /// The server of `pg_config` around what dpkg has unpacked below `root`, at the paths that packages have: no other foreshard is in it.
    pub fn around_package(root: &Path, pg_config: &Path) -> Result<Self> {
        let layout = Layout::of(pg_config)?;
        layout.copy_to(root)?;
        let server = Self { bin: below(root, &layout.bin), root: root.to_owned() };
        server.make_template()?;
        Ok(server)
    }

    /// A server staged before, by its root directory.
    pub fn open(root: &Path) -> Result<Self> {
        ensure!(root.join("complete").exists(), "{} is not a staged server", root.display());
        let bin = fs::read_to_string(root.join("bindir"))?;
        Ok(Self { bin: below(root, Path::new(&bin)), root: root.to_owned() })
    }

    /// Where it lies; the value of `FORESHARD_SERVER` for other processes.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pg_config of the installation that was copied.
    pub fn pg_config(&self) -> Result<PathBuf> {
        Ok(Path::new(&fs::read_to_string(self.root.join("bindir"))?).join("pg_config"))
    }

    /// One of its programs, for instance `psql`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// A fresh data directory, made once by initdb and copied for each cluster. The superuser is `postgres`.
    pub(crate) fn template(&self) -> PathBuf {
        self.root.join("template")
    }

    fn make_template(&self) -> Result<()> {
        let template = self.template();
        let _ = fs::remove_dir_all(&template);
        self.initdb(&template)
    }

    /// Makes a data directory. The superuser is `postgres`.
    pub(crate) fn initdb(&self, data: &Path) -> Result<()> {
        let account = Account::unprivileged()?;
        fs::create_dir(data)?;
        account.own(data)?;
        let password_file = self.root.join("superuser-password");
        if !password_file.exists() {
            fs::write(&password_file, crate::cluster::SUPERUSER_PASSWORD)?;
        }
        let output = account
            .command(&self.program("initdb"))
            .args(["--no-sync", "--username=postgres", "--encoding=UTF8", "--locale=C"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg("--pgdata")
            .arg(data)
            .output()
            .context("running initdb")?;
        ensure!(output.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Builds and installs library, control file and SQL, unless what they are made of is what was installed last.
    fn install_extension(&self, pg_config: &Path) -> Result<()> {
        let stamp = extension_stamp()?;
        let stamp_file = self.root.join("extension");
        if fs::read_to_string(&stamp_file).is_ok_and(|installed| installed == stamp) {
            return Ok(());
        }
        let mut install = Command::new(program::cargo());
        install.current_dir(program::workspace()).args(["xtask", "install", "--pg-config"]).arg(pg_config);
        install.arg("--destdir").arg(&self.root);
        if program::profile_dir()?.ends_with("release") {
            install.arg("--release");
        }
        // The compiler's progress and complaints are for the person who waits; standard output may be a result.
        let output = install.stderr(Stdio::inherit()).output().context("running cargo xtask install")?;
        ensure!(
            output.status.success(),
            "cargo xtask install failed: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        fs::write(stamp_file, stamp)?;
        Ok(())
    }
}

/// Where an installation keeps its things.
struct Layout {
    version: String,
    bin: PathBuf,
    lib: PathBuf,
    share: PathBuf,
}

impl Layout {
    fn of(pg_config: &Path) -> Result<Self> {
        let ask = |what: &str| -> Result<PathBuf> {
            let output = Command::new(pg_config).arg(what).output();
            let output = output.with_context(|| {
                format!("running {} (is PostgreSQL there? make setup)", pg_config.display())
            })?;
            ensure!(output.status.success(), "{} {what} failed", pg_config.display());
            Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
        };
        let version = ask("--version")?.to_string_lossy().into_owned();
        Ok(Self { version, bin: ask("--bindir")?, lib: ask("--pkglibdir")?, share: ask("--sharedir")? })
    }

    /// A directory name that changes when the server is upgraded or another one is meant.
    fn name(&self) -> Result<String> {
        let postgres = fs::metadata(self.bin.join("postgres"))?;
        let mut hasher = DefaultHasher::new();
        (&self.version, &self.bin, postgres.len(), postgres.mtime()).hash(&mut hasher);
        let number = self.version.split_whitespace().nth(1).unwrap_or("unknown");
        Ok(format!("{number}-{:016x}", hasher.finish()))
    }

    fn copy_to(&self, root: &Path) -> Result<()> {
        // The server resolves links to find where it lies: the programs have to be files of this tree.
        copy_files(&self.bin, &below(root, &self.bin))?;
        // A server in somebody's cache folder may be out of reach of the account that servers run as.
        let place = if Account::unprivileged()?.can_reach(&self.share) { link_entry } else { copy_entry };
        let each = |from: &Path, except: &[&str]| each_entry(from, &below(root, from), except, place);
        each(&self.lib, &[])?;
        each(&self.share, &["extension"])?;
        each(&self.share.join("extension"), &[])?;
        // Installations that bring libpq with them keep it in a lib beside bin.
        let libraries = self.bin.with_file_name("lib");
        if libraries != self.lib && libraries.is_dir() {
            each(&libraries, &[])?;
        }
        // Programs that came in a Python wheel find them by a relative path in `NAME.libs` beside the package.
        for directory in self.bin.ancestors().skip(1).take(4) {
            for entry in fs::read_dir(directory)?.flatten() {
                let libraries = entry.path();
                if libraries.extension().is_some_and(|extension| extension == "libs") && libraries.is_dir() {
                    each(&libraries, &[])?;
                }
            }
        }
        fs::write(root.join("bindir"), self.bin.to_string_lossy().as_bytes())?;
        Ok(())
    }
}

/// The same absolute path below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_file() && !target.exists() {
            fs::copy(entry.path(), &target).with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn each_entry(
    from: &Path,
    to: &Path,
    except: &[&str],
    place: fn(&Path, &Path) -> std::io::Result<()>,
) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let target = to.join(&name);
        // An installed foreshard of the system must not shine through.
        let ours = name.to_string_lossy().starts_with("foreshard");
        if !ours && !except.iter().any(|skip| name == *skip) && fs::symlink_metadata(&target).is_err() {
            place(&entry.path(), &target).with_context(|| format!("putting {}", target.display()))?;
        }
    }
    Ok(())
}

fn link_entry(from: &Path, to: &Path) -> std::io::Result<()> {
    symlink(from, to)
}

fn copy_entry(from: &Path, to: &Path) -> std::io::Result<()> {
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("cp failed")) }
}

/// Beside cargo's build output, or in the temporary directory when the server's account cannot reach that.
fn staging_root(account: Account) -> Result<PathBuf> {
    let beside_build = program::profile_dir()?.join("servers");
    if account.can_reach(&beside_build) {
        return Ok(beside_build);
    }
    let mut hasher = DefaultHasher::new();
    beside_build.hash(&mut hasher);
    let me = rustix::process::geteuid().as_raw();
    let root = std::env::temp_dir().join(format!("foreshard-servers-{me}-{:016x}", hasher.finish()));
    fs::create_dir_all(&root)?;
    // The name can be guessed: a directory that somebody else made first is not to be trusted with programs we run.
    if fs::symlink_metadata(&root)?.uid() != me || fs::symlink_metadata(&root)?.is_symlink() {
        bail!("{} belongs to somebody else", root.display());
    }
    ensure!(
        account.can_reach(&root),
        "the account that servers run as cannot reach {}: set TMPDIR",
        root.display()
    );
    Ok(root)
}

/// Changes whenever a file that the installed extension is made of changes.
fn extension_stamp() -> Result<String> {
    let workspace = program::workspace();
    let mut files = vec![workspace.join("Cargo.lock"), workspace.join("Cargo.toml")];
    for dir in ["pg_extension", "crates/protocol", "sql", "migrations", "xtask"] {
        files_below(&workspace.join(dir), &mut files)?;
    }
    files.sort();
    let mut stamp = String::new();
    for file in files {
        let meta = fs::metadata(&file)?;
        let changed = meta.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
        stamp.push_str(&format!("{} {} {changed}\n", file.display(), meta.len()));
    }
    Ok(stamp)
}

fn files_below(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}
