//! `foreshard`: the edge sidecar (`serve`), the predictive analytics engine (`plan`) and their tools.

mod clock;

use clap::{Parser, Subcommand};

/// Rows next to the edge function before it runs, never stale.
#[derive(Parser)]
#[command(name = "foreshard", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {}

fn main() {
    match Cli::parse().command {}
}
