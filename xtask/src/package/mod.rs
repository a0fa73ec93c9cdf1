//! `cargo xtask package`: Debian packages of the extension, one for each major of PostgreSQL, and of the sidecar.

mod deb;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::build::{Build, workspace};
use crate::install;
use deb::{About, Tree};

pub(crate) use deb::Compression;

/// What to package.
pub(crate) enum Content {
    /// The extension for the PostgreSQL of this pg_config: out of a tree that `xtask install --destdir` has made, or built.
    Extension { pg_config: PathBuf, tree: Option<PathBuf> },
    /// The sidecar: this binary, or built.
    Sidecar { binary: Option<PathBuf> },
}

/// How to package it.
pub(crate) struct Request {
    pub(crate) content: Content,
    /// Where packages are put; `target/package` unless said.
    pub(crate) out: Option<PathBuf>,
    pub(crate) compression: Compression,
}

/// File name of the extension's library.
const LIBRARY: &str = "foreshard.so";

/// Where the sidecar's package puts its program.
const PROGRAM: &str = "/usr/bin/foreshard";

/// Where the package for a major puts the library: where Debian's and PGDG's servers look, wherever the one was that it was built with.
fn library(major: u32) -> String {
    format!("/usr/lib/postgresql/{major}/lib/{LIBRARY}")
}

const EXTENSION: &str = "foreshard shares logical shards of tables (whole tables, rows that satisfy a
predicate, instances by key, results of queries) with edge locations, and
streams what changes them through logical decoding, so that functions there
find rows before they ask for them, and never stale ones.
.
The server has to be told to load the package's output plugin; README.Debian
says how.
";

const SIDECAR: &str = "Runs next to functions at the edge: holds the rows that they are going to read,
kept current by the change stream of the origin's extension, and serves them
over HTTP. The same program is the planner, which learns from the execution
log what will run where.
.
Neither service is started before it is configured in /etc/foreshard.
";

pub(crate) fn run(request: &Request) -> Result<()> {
    let workspace = workspace()?;
    let out = request.out.clone().unwrap_or_else(|| workspace.join("target/package"));
    fs::create_dir_all(&out)?;
    let out = fs::canonicalize(&out)?;
    let build = Build::to_give_away(out.join("build"))?;
    let (package, about) = match &request.content {
        Content::Extension { pg_config, tree: Some(tree) } => {
            extension(&workspace, &install::Server::of(pg_config)?, tree, &out)?
        }
        Content::Extension { pg_config, tree: None } => {
            let server = install::Server::of(pg_config)?;
            let tree = build_extension(&build, &server, pg_config, &out)?;
            let made = extension(&workspace, &server, &tree, &out)?;
            build.check(&made.0.path(&library(server.major)))?;
            made
        }
        Content::Sidecar { binary: Some(binary) } => sidecar(&workspace, binary, &out)?,
        Content::Sidecar { binary: None } => {
            let made = sidecar(&workspace, &build_sidecar(&build)?, &out)?;
            build.check(&made.0.path(PROGRAM))?;
            made
        }
    };
    package.documents(&about, &workspace)?;
    println!("{}", package.write(&about, &out, request.compression)?.display());
    Ok(())
}

/// A tree with the extension as `xtask install` lays it out.
fn build_extension(build: &Build, server: &install::Server, pg_config: &Path, out: &Path) -> Result<PathBuf> {
    let tree = out.join(format!("installed-{}", server.major));
    let request =
        install::Request { pg_config: pg_config.to_owned(), release: true, destdir: Some(tree.clone()) };
    install::run(&request, build)?;
    Ok(tree)
}

fn build_sidecar(build: &Build) -> Result<PathBuf> {
    let mut cargo = build.cargo();
    cargo.args(["build", "--locked", "--release", "--package", "sidecar"]);
    ensure!(cargo.status()?.success(), "building the sidecar failed");
    Ok(build.made(true).join("foreshard"))
}

fn extension(workspace: &Path, server: &install::Server, tree: &Path, out: &Path) -> Result<(Tree, About)> {
    let major = server.major;
    let name = format!("postgresql-{major}-foreshard");
    let package = Tree::at(out.join(&name))?;
    let library = library(major);
    package.binary(&library, 0o644, &server.library_dir(Some(tree)).join(LIBRARY))?;
    let scripts = server.extension_dir(Some(tree));
    for entry in fs::read_dir(&scripts).with_context(|| scripts.display().to_string())? {
        let entry = entry?;
        let file = entry.file_name().into_string().ok().context("names are UTF-8")?;
        if file == "foreshard.control" || (file.starts_with("foreshard--") && file.ends_with(".sql")) {
            let path = format!("/usr/share/postgresql/{major}/extension/{file}");
            package.file(&path, 0o644, &fs::read(entry.path())?)?;
        }
    }
    let documents = format!("/usr/share/doc/{name}");
    let readme = fs::read_to_string(workspace.join("packaging/extension/README.Debian"))?;
    let readme = readme.replace("@MAJOR@", &major.to_string());
    package.file(&format!("{documents}/README.Debian"), 0o644, readme.as_bytes())?;
    pages(&package, workspace, &documents, &["operations", "reference-sql", "migrations", "errors"])?;
    let about = About {
        // A library may use what only this minor release and later ones have.
        depends: format!("postgresql-{major} (>= {}), {}", server.release, package.needs(&library)?),
        summary: format!("logical shards and their change stream for PostgreSQL {major}"),
        description: EXTENSION,
        name,
    };
    Ok((package, about))
}

fn sidecar(workspace: &Path, binary: &Path, out: &Path) -> Result<(Tree, About)> {
    let texts = workspace.join("packaging/sidecar");
    let text = |name: &str| fs::read(texts.join(name)).with_context(|| format!("packaging/sidecar/{name}"));
    let mut package = Tree::at(out.join("foreshard"))?;
    package.binary(PROGRAM, 0o755, binary)?;
    for unit in ["foreshard.service", "foreshard-plan.service"] {
        package.file(&format!("/usr/lib/systemd/system/{unit}"), 0o644, &text(unit)?)?;
    }
    // Passwords are in them.
    for settings in ["edge.toml", "plan.toml"] {
        package.conffile(&format!("/etc/foreshard/{settings}"), 0o600, &text(settings)?)?;
    }
    for script in ["postinst", "prerm", "postrm"] {
        package.script(script, &text(script)?)?;
    }
    pages(&package, workspace, "/usr/share/doc/foreshard", &["operations", "reference-http", "planner"])?;
    let about = About {
        name: "foreshard".to_owned(),
        depends: format!("adduser, {}", package.needs(PROGRAM)?),
        summary: "rows next to edge functions before they run, never stale".to_owned(),
        description: SIDECAR,
    };
    Ok((package, about))
}

/// Pages of `docs/`.
fn pages(package: &Tree, workspace: &Path, folder: &str, names: &[&str]) -> Result<()> {
    for name in names {
        let page = workspace.join(format!("docs/{name}.md"));
        let content = fs::read(&page).with_context(|| page.display().to_string())?;
        package.file(&format!("{folder}/{name}.md"), 0o644, &content)?;
    }
    Ok(())
}
