//! Transactions of several sessions at once. One statement runs at a time, so a lock that it has to wait for will not become free: the
//! shortest lock timeout ends that, and a seed gives the same run again.

use anyhow::{Context, Result};
use foreshard_protocol::Lsn;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::schema::World;
use super::script::{End, Script, transaction};
use super::{Shown, Step, look, may_happen, prepare};
use crate::origin::Origin;

pub(super) struct Sessions(Vec<Client>);

/// A transaction under way.
struct Running {
    script: Script,
    /// What is left of it, last statement first.
    left: Vec<String>,
    begun: bool,
    /// It committed.
    done: bool,
}

impl Sessions {
    pub(super) async fn connect(origin: &Origin, database: &str) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = origin.cluster.connect_to(database).await?;
            client.batch_execute("SET timezone = 'UTC'; SET jit = off; SET lock_timeout = 1").await?;
            clients.push(client);
        }
        Ok(Sessions(clients))
    }

    /// Runs two or three transactions; at most one alters definitions. True if that one committed: `world` is what it made of it.
    pub(super) async fn run(
        &self,
        origin: &Origin,
        world: &mut World,
        files: &str,
        steps: &mut Vec<Step>,
        shown: &mut Shown,
        rng: &mut StdRng,
    ) -> Result<bool> {
        let count = rng.random_range(2..=self.0.len());
        let mut next = world.clone();
        let mut running = Vec::new();
        for number in 0..count {
            let script = if number == 0 {
                transaction(&mut next, files, 0.05, rng)
            } else {
                transaction(&mut world.clone(), files, 0.0, rng)
            };
            let level = ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
                [rng.random_range(0..4)];
            let mut left = ending(script.end, number);
            left.extend(script.statements.iter().rev().cloned());
            left.push(format!("BEGIN ISOLATION LEVEL {level}"));
            running.push(Running { script, left, begun: false, done: false });
        }
        let altering = running[0].script.alters;
        let mut prepared = true;
        origin.db.batch_execute("SET lock_timeout = 1").await?;
        loop {
            let open: Vec<usize> = (0..count).filter(|at| !running[*at].left.is_empty()).collect();
            let Some(at) = open.choose(rng).copied() else { break };
            let others = running
                .iter()
                .enumerate()
                .any(|(other, transaction)| other != at && transaction.begun && !transaction.left.is_empty());
            let transaction = &mut running[at];
            transaction.begun = true;
            let Some(statement) = transaction.left.pop() else { break };
            // Any session may finish what is prepared.
            let finishing = ["COMMIT PREPARED", "ROLLBACK PREPARED"];
            let finishes = finishing.iter().any(|verb| statement.starts_with(verb));
            let session = if finishes { &origin.db } else { &self.0[at] };
            match session.batch_execute(&statement).await {
                Ok(()) if !statement.starts_with("COMMIT") => continue,
                Ok(()) => {}
                // The others do not know of new definitions.
                Err(error) if may_happen(&error) || is_conflict(&error) || altering && at > 0 => {
                    transaction.left.clear();
                    self.0[at].batch_execute("ROLLBACK").await?;
                    continue;
                }
                Err(error) => return Err(error).context(statement),
            }
            if transaction.script.alters {
                *world = next.clone();
                prepared = false;
            }
            transaction.done = true;
            shown.overlapping += usize::from(others);
            prepared = prepared || unlocked(prepare(origin, world).await)?.is_some();
            let seen = if prepared { unlocked(look(origin).await)? } else { None };
            let script = transaction.script.in_words();
            steps.push(match seen {
                Some((lsn, state)) => Step { script, lsn, state: Some(state), alters: altering },
                None => Step { script, lsn: here(origin).await?, state: None, alters: altering },
            });
        }
        shown.transactions += count;
        shown.failed += running.iter().filter(|one| !one.done && one.script.end == End::Commit).count();
        origin.db.batch_execute("RESET lock_timeout").await?;
        prepare(origin, world).await?;
        let (lsn, state) = look(origin).await?;
        let script = format!("the last of {count} sessions");
        steps.push(Step { script, lsn, state: Some(state), alters: altering });
        Ok(altering && running[0].done)
    }
}

async fn here(origin: &Origin) -> Result<Lsn> {
    Ok(origin.value::<String>("SELECT pg_current_wal_insert_lsn()::text").await?.parse()?)
}

/// Statements that end a transaction, the last one first.
fn ending(end: End, number: usize) -> Vec<String> {
    match end {
        End::Rollback => vec!["ROLLBACK".to_owned()],
        End::CommitPrepared | End::RollbackPrepared => {
            let verb = if end == End::CommitPrepared { "COMMIT" } else { "ROLLBACK" };
            vec![format!("{verb} PREPARED 'p{number}'"), format!("PREPARE TRANSACTION 'p{number}'")]
        }
        End::Commit | End::Alone => vec!["COMMIT".to_owned()],
    }
}

/// What sessions may do to each other.
fn is_conflict(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("40"))
}

/// `None` if another session has something locked.
fn unlocked<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let cause = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
            if cause == Some(&SqlState::LOCK_NOT_AVAILABLE) { Ok(None) } else { Err(error) }
        }
    }
}
