//! Chores of the project. `cargo xtask install --pg-config PATH [--release] [--destdir DIR]` builds the extension for the
//! PostgreSQL that PATH describes and puts library, control file and SQL where that server looks for them.

mod install;
mod step;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo xtask install [--pg-config PATH] [--release] [--destdir DIR]";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("install") => install::run(&parse_install(arguments)?),
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
