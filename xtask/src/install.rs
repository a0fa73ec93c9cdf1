//! Puts the extension into a PostgreSQL, or into a tree that a package is made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::{Build, workspace};
use crate::step;

/// What to install where.
pub(crate) struct Request {
    /// The pg_config of the server to build for and install into.
    pub(crate) pg_config: PathBuf,
    /// Optimised build.
    pub(crate) release: bool,
    /// Put before every installed path, for packaging.
    pub(crate) destdir: Option<PathBuf>,
}

impl Default for Request {
    fn default() -> Self {
        Request { pg_config: "pg_config".into(), release: false, destdir: None }
    }
}

/// Majors the extension is written for.
const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// The PostgreSQL that a pg_config describes.
pub(crate) struct Server {
    pg_config: PathBuf,
    pub(crate) major: u32,
    /// `15.20`.
    pub(crate) release: String,
    library_dir: String,
    share_dir: String,
    /// Whether the headers that pgrx makes its bindings from are there.
    headers: bool,
}

impl Server {
    pub(crate) fn of(pg_config: &Path) -> Result<Self> {
        let pg_config = fs::canonicalize(pg_config)
            .or_else(|_| find_in_path(pg_config))
            .with_context(|| format!("no pg_config at {}", pg_config.display()))?;
        let version = ask(&pg_config, "--version")?;
        let (major, release) = release_of(&version)?;
        ensure!(MAJORS.contains(&major), "{version} is not supported; PostgreSQL 15 to 18 are");
        let library_dir = ask(&pg_config, "--pkglibdir")?;
        let share_dir = ask(&pg_config, "--sharedir")?;
        let headers = Path::new(&ask(&pg_config, "--includedir-server")?).join("postgres.h").exists();
        Ok(Self { pg_config, major, release, library_dir, share_dir, headers })
    }

    /// Where the library goes.
    pub(crate) fn library_dir(&self, destdir: Option<&Path>) -> PathBuf {
        below(destdir, &self.library_dir)
    }

    /// Where the control file and the SQL go.
    pub(crate) fn extension_dir(&self, destdir: Option<&Path>) -> PathBuf {
        below(destdir, &format!("{}/extension", self.share_dir))
    }
}

fn below(destdir: Option<&Path>, directory: &str) -> PathBuf {
    match destdir {
        Some(destdir) => destdir.join(directory.trim_start_matches('/')),
        None => PathBuf::from(directory),
    }
}

pub(crate) fn run(request: &Request, build: &Build) -> Result<()> {
    let root = workspace()?;
    let server = Server::of(&request.pg_config)?;
    let library = library(build, &server, request.release)?;
    let library_dir = server.library_dir(request.destdir.as_deref());
    let extension_dir = server.extension_dir(request.destdir.as_deref());

    let version = env!("CARGO_PKG_VERSION");
    put(&library_dir, "foreshard.so", &fs::read(&library).with_context(|| library.display().to_string())?)?;
    put(&extension_dir, "foreshard.control", control(version).as_bytes())?;
    let install_script = script(&root.join("sql"))?;
    put(&extension_dir, &format!("foreshard--{version}.sql"), install_script.as_bytes())?;
    // Install scripts of released versions, and the steps from each to the next.
    for file in sql_files(&root.join("migrations"))? {
        let name = file.file_name().and_then(|name| name.to_str()).context("migration names are UTF-8")?;
        let content = step::complete(&fs::read_to_string(&file)?, &install_script);
        put(&extension_dir, name, content.as_bytes())?;
    }
    println!("foreshard {version} for PostgreSQL {}: {}", server.major, library_dir.display());
    Ok(())
}

fn find_in_path(program: &Path) -> std::io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

fn ask(pg_config: &Path, question: &str) -> Result<String> {
    let output = Command::new(pg_config).arg(question).output()?;
    ensure!(output.status.success(), "{} {question} failed", pg_config.display());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// `PostgreSQL 15.20 (Debian …)` is 15 and 15.20, `PostgreSQL 19beta1` is 19 and 19.
fn release_of(version: &str) -> Result<(u32, String)> {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    let release: String = number.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let major = release.split('.').next().unwrap_or_default();
    let major = major.parse().with_context(|| format!("can't tell the major version from {version:?}"))?;
    Ok((major, release))
}

/// Builds the library; the workspace's target directory is shared by all majors, so the file is read right away.
fn library(build: &Build, server: &Server, release: bool) -> Result<PathBuf> {
    if !server.headers {
        ensure!(
            !release,
            "PostgreSQL {} has no server headers here, and what is built without them is for tests only: install its \
             development package (postgresql-server-dev-{}, postgresql{}-devel)",
            server.release,
            server.major,
            server.major
        );
        return library_without_headers(build, server);
    }
    // A library has the same file name for every major, and cargo takes the one that was built last for the one that is asked
    // for, if no source has changed since. Without the file it builds.
    let made = build.made(release);
    for built in ["deps/libforeshard_pg.so", "libforeshard_pg.so"].map(|file| made.join(file)) {
        if built.exists() {
            fs::remove_file(&built).with_context(|| built.display().to_string())?;
        }
    }
    let mut cargo = cargo_for(build, server);
    if release {
        cargo.arg("--release");
    }
    ensure!(cargo.status()?.success(), "building the extension for PostgreSQL {} failed", server.major);
    Ok(made.join("libforeshard_pg.so"))
}

fn cargo_for(build: &Build, server: &Server) -> Command {
    let mut cargo = build.cargo();
    cargo.env("PGRX_PG_CONFIG_PATH", &server.pg_config).args([
        "build",
        "--locked",
        "--package",
        "pg_extension",
        "--no-default-features",
        "--features",
        &format!("pg{}", server.major),
    ]);
    cargo
}

/// Builds against the bindings that pgrx brings for its documentation, in a target folder of their own.
fn library_without_headers(build: &Build, server: &Server) -> Result<PathBuf> {
    let target = build.made(false).with_file_name("without-headers");
    let wrapper = workspace()?.join("scripts/without-headers/rustc.sh");
    let mut cargo = cargo_for(build, server);
    cargo.env("CARGO_TARGET_DIR", &target).env("DOCS_RS", "1").env("RUSTC_WRAPPER", wrapper);
    ensure!(cargo.status()?.success(), "building the extension for PostgreSQL {} failed", server.major);
    Ok(target.join("debug/libforeshard_pg.so"))
}

/// The control file.
fn control(version: &str) -> String {
    format!(
        "# The script makes the schema foreshard itself, as a member that DROP EXTENSION takes along; one that CREATE EXTENSION\n\
         # makes would stay behind. Functions name it in full, hence not relocatable. C functions need a superuser.\n\
         comment = 'logical shards and their change stream for predictive prefetching at the edge'\n\
         default_version = '{version}'\n\
         module_pathname = '$libdir/foreshard'\n\
         relocatable = false\n\
         schema = pg_catalog\n\
         superuser = true\n\
         trusted = false\n\
         requires = 'plpgsql'\n"
    )
}

/// The install script: every file of `sql/` in the order of its number.
fn script(directory: &Path) -> Result<String> {
    let mut script = String::from("\\echo Use \"CREATE EXTENSION foreshard\" to load this file. \\quit\n\n");
    for file in sql_files(directory)? {
        script.push_str(&fs::read_to_string(&file)?);
        script.push('\n');
    }
    Ok(script)
}

fn sql_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Writes beside the target and renames: a running server keeps the library it has mapped, and never sees half a file.
fn put(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let target = directory.join(name);
    let fresh = directory.join(format!(".{name}.new"));
    fs::write(&fresh, content).with_context(|| fresh.display().to_string())?;
    fs::rename(&fresh, &target).with_context(|| target.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_are_read_from_what_pg_config_says() {
        assert_eq!(
            release_of("PostgreSQL 15.20 (Debian 15.20-0+deb12u1)").unwrap(),
            (15, "15.20".to_owned())
        );
        assert_eq!(release_of("PostgreSQL 18beta1").unwrap(), (18, "18".to_owned()));
        assert!(release_of("MySQL").is_err());
    }
}
