//! Random tables, shards and transactions, decoded with what becomes of rows, and applied to copies: after each transaction the copies
//! are what SELECT gives, or were told to be invalid; now and then they are held against a fetch as well. Some transactions run in
//! several sessions at once, a statement of the one between statements of the other.
//!
//! `FORESHARD_SEED` repeats a run, `FORESHARD_DIFFERENTIAL` is the number of transactions of each test.

mod copies;
mod kinds;
mod partitions;
mod queries;
mod schema;
mod script;
mod sessions;

use anyhow::{Context, Result};
use foreshard_protocol::{Frame, Lsn};
use foreshard_tests::ClusterOptions;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use self::copies::{Copies, State, parse_state};
use self::schema::World;
use self::script::{End, Script, script};
use self::sessions::Sessions;
use crate::origin::Origin;

/// Transactions of one random schema.
const TRANSACTIONS_PER_WORLD: usize = 625;

/// What a transaction has left behind.
struct Step {
    script: String,
    /// Behind everything that it has written.
    lsn: Lsn,
    /// `None` if nobody could look: another session had a table locked.
    state: Option<State>,
    alters: bool,
}

/// What all of a run has shown; a run that shows too little is a bad test.
#[derive(Default)]
struct Shown {
    transactions: usize,
    /// Of these, those that committed while others were under way.
    overlapping: usize,
    failed: usize,
    /// Of these, those that altered the enum, and those that made, moved or dropped partitions.
    relabelled: usize,
    partitioned: usize,
    applied: usize,
    kept: usize,
    invalidated: usize,
    unreadable: usize,
}

impl Shown {
    fn altered(&mut self, script: &Script, committed: bool) {
        let any = |words: &str| committed && script.statements.iter().any(|text| text.contains(words));
        self.relabelled += usize::from(any("ALTER TYPE mood"));
        self.partitioned += usize::from(any(" PARTITION ") || any("DROP TABLE parts_"));
    }
}

async fn run(salt: u64) -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("FORESHARD_SEED").unwrap_or_else(rand::random);
    let wanted = number("FORESHARD_DIFFERENTIAL").unwrap_or(2_500) as usize;
    println!("FORESHARD_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed ^ salt);
    let options =
        ClusterOptions::new()?.setting("max_prepared_transactions", "5").setting("autovacuum", "off");
    let mut origin = Origin::with(options).await?;
    let mut shown = Shown::default();
    while shown.transactions < wanted {
        let database = format!("world{}", shown.transactions);
        origin.db.batch_execute(&format!("CREATE DATABASE {database}")).await?;
        origin.db = origin.cluster.connect_to(&database).await?;
        origin.db.batch_execute("CREATE EXTENSION foreshard; SELECT foreshard.create_edge('jfk')").await?;
        world(&origin, &database, &mut rng, &mut shown, wanted).await?;
        origin.db.batch_execute("SELECT pg_drop_replication_slot(foreshard.edge_slot('jfk'))").await?;
    }
    println!(
        "{} transactions, {} overlapping, {} failed, {} altered labels, {} partitions; {} row changes applied, {} copies kept, {} invalidations, {} unreadable instances",
        shown.transactions,
        shown.overlapping,
        shown.failed,
        shown.relabelled,
        shown.partitioned,
        shown.applied,
        shown.kept,
        shown.invalidated,
        shown.unreadable
    );
    assert!(shown.overlapping * 100 > shown.transactions, "transactions overlap");
    assert!(shown.failed * 3 < shown.transactions, "most transactions do something");
    assert!(shown.applied > shown.transactions / 2, "rows are told");
    assert!(shown.invalidated > 0 && shown.kept > shown.transactions);
    Ok(())
}

async fn world(
    origin: &Origin,
    database: &str,
    rng: &mut StdRng,
    shown: &mut Shown,
    wanted: usize,
) -> Result<()> {
    let (mut world, sql) = World::random(rng);
    origin.db.batch_execute(&sql).await.with_context(|| sql.clone())?;
    origin.map_all().await?;
    origin.create_slot().await?;
    let files = origin.cluster.data_dir();
    let files = files.to_str().context("a path in UTF-8")?;
    prepare(origin, &world).await?;
    let mut copies = Copies::of(look(origin).await?.1);
    copies.compare(origin, &world, 1).await?;
    let sessions = Sessions::connect(origin, database).await?;
    let mut steps = Vec::new();
    let end = (shown.transactions + TRANSACTIONS_PER_WORLD).min(wanted);
    while shown.transactions < end {
        if rng.random_bool(0.04) {
            let altered = sessions.run(origin, &mut world, files, &mut steps, shown, rng).await?;
            if altered || rng.random_bool(0.3) {
                replay(origin, &mut copies, std::mem::take(&mut steps)).await?;
                copies.compare(origin, &world, 4).await?;
            }
            continue;
        }
        let before = world.clone();
        let script = script(&mut world, files, rng);
        shown.transactions += 1;
        let committed = execute(origin, &script).await?;
        if committed.is_none() {
            world = before;
        }
        shown.failed += usize::from(committed.is_none() && matches!(script.end, End::Commit));
        if script.alters {
            shown.altered(&script, committed.is_some());
            prepare(origin, &world).await?;
        }
        let (lsn, state) = match committed {
            Some(Some(state)) => state,
            _ => look(origin).await?,
        };
        steps.push(Step { script: script.in_words(), lsn, state: Some(state), alters: script.alters });
        // Few in one decoding session, or many.
        if script.alters || rng.random_bool(0.03) || shown.transactions >= end {
            replay(origin, &mut copies, std::mem::take(&mut steps)).await?;
            copies.compare(origin, &world, if script.alters { 4 } else { 60 }).await?;
        }
    }
    shown.applied += copies.applied;
    shown.kept += copies.kept;
    shown.invalidated += copies.invalidated;
    shown.unreadable += copies.failed;
    Ok(())
}

async fn prepare(origin: &Origin, world: &World) -> Result<()> {
    let prepare = format!("DEALLOCATE ALL; PREPARE state AS {}", world.state());
    origin.db.batch_execute(&prepare).await.with_context(|| prepare.clone())
}

/// Runs it. `None` if nothing of it was committed; the state after it if that was asked along the way.
async fn execute(origin: &Origin, script: &Script) -> Result<Option<Option<(Lsn, State)>>> {
    let text = script.statements.join("; ");
    let look = if script.alters { "" } else { "; EXECUTE state" };
    let (all, then) = match script.end {
        End::Alone => (text.clone(), None),
        End::Commit => (format!("BEGIN; {text}; COMMIT{look}"), None),
        End::Rollback => (format!("BEGIN; {text}; ROLLBACK"), None),
        End::CommitPrepared => {
            (format!("BEGIN; {text}; PREPARE TRANSACTION 'p'"), Some("COMMIT PREPARED 'p'"))
        }
        End::RollbackPrepared => {
            (format!("BEGIN; {text}; PREPARE TRANSACTION 'p'"), Some("ROLLBACK PREPARED 'p'"))
        }
    };
    match origin.db.simple_query(&all).await {
        Ok(messages) => {
            if let Some(then) = then {
                origin.db.batch_execute(then).await?;
            }
            match script.end {
                End::Rollback | End::RollbackPrepared => Ok(None),
                End::Commit if !script.alters => Ok(Some(last_row(&messages)?)),
                End::Commit | End::CommitPrepared | End::Alone => Ok(Some(None)),
            }
        }
        Err(error) if may_happen(&error) => {
            origin.db.batch_execute("ROLLBACK").await?;
            Ok(None)
        }
        Err(error) => Err(error).context(all),
    }
}

/// What random statements may well come across.
fn may_happen(error: &tokio_postgres::Error) -> bool {
    // A partition may not fit the whole any more, of which a column was retyped.
    error.code().is_some_and(|code| {
        ["23", "22", "55", "2B"].contains(&&code.code()[..2]) || *code == SqlState::DATATYPE_MISMATCH
    })
}

async fn look(origin: &Origin) -> Result<(Lsn, State)> {
    last_row(&origin.db.simple_query("EXECUTE state").await?)?.context("a state")
}

fn last_row(messages: &[SimpleQueryMessage]) -> Result<Option<(Lsn, State)>> {
    let row = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.len() == 2 => Some(row),
        _ => None,
    });
    let Some(row) = row else { return Ok(None) };
    let lsn = row.get(0).context("a position")?.parse()?;
    Ok(Some((lsn, parse_state(row.get(1).context("a state")?)?)))
}

async fn replay(origin: &Origin, copies: &mut Copies, steps: Vec<Step>) -> Result<()> {
    let mut frames = origin.frames_with_rows().await?.into_iter().peekable();
    for step in steps {
        let mine = |frame: &Frame| frame.end_lsn <= step.lsn;
        while let Some(frame) = frames.next_if(mine) {
            copies.take(frame, step.alters).with_context(|| step.script.clone())?;
        }
        if let Some(state) = &step.state {
            copies.check(state, &step.script);
        }
    }
    anyhow::ensure!(frames.next().is_none(), "frames of nobody");
    Ok(())
}

#[tokio::test]
async fn copies_are_what_the_database_holds_1() -> Result<()> {
    run(1).await
}

#[tokio::test]
async fn copies_are_what_the_database_holds_2() -> Result<()> {
    run(2).await
}

#[tokio::test]
async fn copies_are_what_the_database_holds_3() -> Result<()> {
    run(3).await
}

#[tokio::test]
async fn copies_are_what_the_database_holds_4() -> Result<()> {
    run(4).await
}
