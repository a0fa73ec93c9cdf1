//! Chores of the project.
//!
//! `cargo xtask install` builds the extension for the PostgreSQL that a pg_config describes and puts library, control file and
//! SQL where that server looks for them. `cargo xtask package` makes Debian packages.

mod build;
mod install;
mod package;
mod step;

use anyhow::{Context, Result, bail};

use build::Build;
use package::{Compression, Content};

const USAGE: &str = "usage: cargo xtask install [--pg-config PATH] [--release] [--destdir DIR]
       cargo xtask package extension [--pg-config PATH] [--tree DIR] [--out DIR] [--quick]
       cargo xtask package sidecar [--binary FILE] [--out DIR] [--quick]

--tree takes what install --destdir DIR has laid out there, --binary a built sidecar; else both are built. --quick compresses less.";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("install") => install::run(&parse_install(arguments)?, &Build::usual()?),
        Some("package") => package::run(&parse_package(arguments)?),
        _ => bail!(USAGE),
    }
}

fn parse_install(mut arguments: impl Iterator<Item = String>) -> Result<install::Request> {
    let mut request = install::Request::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--pg-config" => request.pg_config = arguments.next().context(USAGE)?.into(),
            "--destdir" => request.destdir = Some(arguments.next().context(USAGE)?.into()),
            "--release" => request.release = true,
            _ => bail!("unknown argument {argument}\n{USAGE}"),
        }
    }
    Ok(request)
}

fn parse_package(mut arguments: impl Iterator<Item = String>) -> Result<package::Request> {
    let content = match arguments.next().as_deref() {
        Some("extension") => Content::Extension { pg_config: "pg_config".into(), tree: None },
        Some("sidecar") => Content::Sidecar { binary: None },
        _ => bail!(USAGE),
    };
    let mut request = package::Request { content, out: None, compression: Compression::Best };
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), &mut request.content) {
            ("--pg-config", Content::Extension { pg_config, .. }) => {
                *pg_config = arguments.next().context(USAGE)?.into();
            }
            ("--tree", Content::Extension { tree, .. }) => {
                *tree = Some(arguments.next().context(USAGE)?.into());
            }
            ("--binary", Content::Sidecar { binary }) => {
                *binary = Some(arguments.next().context(USAGE)?.into())
            }
            ("--out", _) => request.out = Some(arguments.next().context(USAGE)?.into()),
            ("--quick", _) => request.compression = Compression::Quick,
            _ => bail!("unknown argument {argument}\n{USAGE}"),
        }
    }
    Ok(request)
}
