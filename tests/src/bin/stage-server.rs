//! Stages a private copy of a PostgreSQL installation with the extension of this build in it, and prints where it lies:
//! the value of FORESHARD_SERVER for test runs.

use std::path::PathBuf;

use anyhow::{Result, bail};
use foreshard_tests::Server;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, pg_config] = arguments.as_slice() else { bail!("usage: stage-server --pg-config PATH") };
    if flag != "--pg-config" {
        bail!("usage: stage-server --pg-config PATH");
    }
    println!("{}", Server::stage(&PathBuf::from(pg_config))?.root().display());
    Ok(())
}
