//! `foreshard advise`: what the execution log and the origin's statistics say about the shard definitions; stored in
//! `foreshard.advice`, printed, and applied or taken back on request.
//!
//! | module | what it is |
//! |---|---|
//! | `catalog`, `statistics`, `bounds` | definitions, tables and sizes as the origin has them |
//! | `log` | the executions to judge by |
//! | `trial` | each proposal run and taken back in a transaction that is rolled back |
//! | `store` | `foreshard.advice`: kept, applied, reverted |
//! | `auto` | what may be applied without asking |
//! | `print` | the table, and JSON |

mod auto;
mod bounds;
mod catalog;
mod log;
mod print;
mod statistics;
mod store;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use foreshard_planner::advice::{Terms, advise};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::config::parse_bytes;
use crate::fetch::{OriginError, connect};
use crate::origin::OriginAddress;

/// Flags of `advise`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AdviseArgs {
    /// Connection string of the origin
    #[arg(long, value_name = "URL", env = "FORESHARD_ORIGIN", hide_env_values = true)]
    origin: String,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Run the statement of one piece of advice, in one transaction
    #[arg(long, value_name = "ID", conflicts_with_all = ["revert", "auto"])]
    apply: Option<i64>,
    /// Take back what was applied
    #[arg(long, value_name = "ID", conflicts_with = "auto")]
    revert: Option<i64>,
    /// Advise, then apply what foreshard.auto_shard of this database allows
    #[arg(long)]
    auto: bool,
    #[command(flatten)]
    judged: Judged,
}

/// By what is judged.
#[derive(Clone, Debug, Args)]
struct Judged {
    /// Judge by at most so many of the latest executions
    #[arg(long, value_name = "COUNT", default_value_t = EXECUTIONS, value_parser = clap::value_parser!(i64).range(1..=5_000_000))]
    executions: i64,
    /// Judge by executions logged in the last so many days
    #[arg(long, value_name = "DAYS", default_value_t = DAYS, value_parser = clap::value_parser!(i32).range(1..=3650))]
    days: i32,
    /// Bytes of copies that an edge has room for, as its reactive_bytes
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_bytes)]
    edge_bytes: usize,
    /// Reads of a shard before anything is said about it
    #[arg(long, value_name = "COUNT", default_value_t = ENOUGH, value_parser = clap::value_parser!(u64).range(1..))]
    enough: u64,
    /// Days of log since its definition before what nobody reads is proposed to be dropped or unmapped
    #[arg(long, value_name = "DAYS", default_value_t = UNREAD_DAYS, value_parser = clap::value_parser!(i32).range(0..=3650))]
    unread_days: i32,
}

const EXECUTIONS: i64 = 200_000;
/// More than [`UNREAD_DAYS`], or there would never be enough.
const DAYS: i32 = 21;
const ENOUGH: u64 = 20;
const UNREAD_DAYS: i32 = 14;

/// Advises, applies or takes back.
///
/// # Errors
/// In words with the mend, when the origin refuses something, or when the definitions changed since the advice was given.
pub(crate) async fn run(args: AdviseArgs) -> anyhow::Result<()> {
    let origin =
        OriginAddress::parse(&args.origin).map_err(|mistake| anyhow::anyhow!("--origin: {mistake}"))?;
    let mut client = open(&origin).await?;
    match (args.apply, args.revert) {
        (Some(id), _) => {
            let done =
                store::apply(&mut client, id).await.with_context(|| format!("advice {id} is not applied"))?;
            println!("applied {id}: {}\n{}", done.text, done.statement);
            println!("foreshard advise --revert {id} takes it back");
        }
        (_, Some(id)) => {
            let done = store::revert(&mut client, id)
                .await
                .with_context(|| format!("advice {id} is not reverted"))?;
            println!("reverted {id}: {}\n{}", done.text, done.statement);
        }
        (None, None) => {
            let stored = make(&mut client, &args.judged).await?;
            if args.json {
                println!("{}", print::json(&stored)?);
            } else {
                print!("{}", print::table(&stored));
            }
            if args.auto {
                let Some(limits) = auto::limits(&client).await? else {
                    println!(
                        "nothing is applied: foreshard.auto_shard is off (ALTER DATABASE … SET foreshard.auto_shard = 'on')"
                    );
                    return Ok(());
                };
                auto::apply(&mut client, &stored, &limits).await?.iter().for_each(|said| println!("{said}"));
            }
        }
    }
    Ok(())
}

/// Advises, and applies what `foreshard.auto_shard` of the database allows; without it, does nothing. `edge_bytes`: what an edge
/// has room for. Says what it did.
///
/// # Errors
/// In words, when the origin refuses something or the limits make no sense.
pub(crate) async fn automatic(origin: &OriginAddress, edge_bytes: usize) -> anyhow::Result<Vec<String>> {
    let mut client = open(origin).await?;
    let Some(limits) = auto::limits(&client).await? else {
        return Ok(vec!["foreshard.auto_shard is off".to_owned()]);
    };
    let judged =
        Judged { executions: EXECUTIONS, days: DAYS, edge_bytes, enough: ENOUGH, unread_days: UNREAD_DAYS };
    let stored = make(&mut client, &judged).await?;
    auto::apply(&mut client, &stored, &limits).await
}

async fn open(origin: &OriginAddress) -> anyhow::Result<Client> {
    let client = connect(origin, Duration::from_secs(10)).await?;
    client
        .batch_execute("SET application_name = 'foreshard advise'; SET search_path = pg_catalog, pg_temp")
        .await
        .map_err(explained)?;
    Ok(client)
}

/// Everything that is said, with the numbers under which it is stored.
async fn make(client: &mut Client, args: &Judged) -> anyhow::Result<store::Stored> {
    // One snapshot for the log, the catalog and the trials: what is advised belongs together.
    let transaction = begin(client, IsolationLevel::RepeatableRead).await?;
    let accesses = log::read(&transaction, args.days, args.executions).await.map_err(explained)?;
    let definitions = catalog::read(&transaction).await?;
    transaction.rollback().await.map_err(explained)?;
    let (definitions, accesses) = (Arc::new(definitions), Arc::new(accesses));
    let mut terms = Terms {
        edge_bytes: args.edge_bytes as u64,
        enough: args.enough,
        unread: i64::from(args.unread_days) * 86_400_000,
        ..Terms::default()
    };
    loop {
        let (with, of, by) = (definitions.clone(), accesses.clone(), terms.clone());
        let mut report = tokio::task::spawn_blocking(move || advise(&with, &of, &by))
            .await
            .context("the advice could not be worked out")?;
        let left_out = trial::keep_what_works(client, &mut report.advice).await?;
        let known = terms.leave.len();
        for (advice, why) in left_out {
            tracing::warn!(kind = advice.kind.name(), subject = advice.subject, "left out: {why}");
            terms.leave.extend(advice.rests_on.shards);
        }
        // What was left out must not be counted in what the others are expected to bring.
        if terms.leave.len() == known {
            return store::keep(client, report, accesses.len()).await;
        }
    }
}

async fn begin(client: &mut Client, level: IsolationLevel) -> anyhow::Result<Transaction<'_>> {
    client.build_transaction().isolation_level(level).start().await.map_err(explained)
}

/// The origin's words, with the mend where rights are missing.
fn explained(error: tokio_postgres::Error) -> anyhow::Error {
    use tokio_postgres::error::SqlState;
    let Some(db) = error.as_db_error() else { return OriginError::of(&error).into() };
    let hint = db.hint().map(|h| format!(" ({h})")).unwrap_or_default();
    let mend = match db.code() {
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            "; run it as the owner of the extension and the tables, or see docs/advice.md for the rights it needs"
        }
        code if *code == SqlState::UNDEFINED_COLUMN || *code == SqlState::UNDEFINED_TABLE => {
            "; if that is part of foreshard, run CREATE EXTENSION foreshard or ALTER EXTENSION foreshard UPDATE"
        }
        code if *code == SqlState::LOCK_NOT_AVAILABLE => "; something else holds the table: try again later",
        code if *code == SqlState::T_R_SERIALIZATION_FAILURE => {
            "; the definitions were changed at the same moment: run foreshard advise again"
        }
        _ => "",
    };
    anyhow::anyhow!("origin: {} [{}]{hint}{mend}", db.message(), db.code().code())
}

fn no_such(id: i64) -> anyhow::Error {
    anyhow::anyhow!("there is no advice {id}: foreshard advise lists what there is")
}

fn refuse<T>(why: impl std::fmt::Display) -> anyhow::Result<T> {
    bail!("{why}")
}
