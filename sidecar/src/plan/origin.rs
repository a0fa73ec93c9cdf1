//! The planner's connection to the origin: the catalog, the execution log, and publishing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use foreshard_planner::EdgeSchedule;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::catalog::{Catalog, Edge};
use super::hints::Hint;
use super::learner::{Cursor, Learner, LogRow};
use super::others::Theirs;
use crate::fetch::{OriginError, connect};
use crate::origin::OriginAddress;

/// Why the origin could not be used, in words without values or credentials.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    message: String,
    /// Trying again will not help before somebody changes something.
    pub(super) permanent: bool,
    /// The origin refused one statement; the connection still works.
    pub(super) refused: bool,
    /// It has no such relation, or this role may not use it.
    denied: bool,
    /// Shard instances of a schedule with key values that are not of their columns' types.
    pub(super) misfits: Vec<String>,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let OriginError { message, permanent } = OriginError::of(&error);
            return Failure { message, permanent, refused: false, denied: false, misfits: Vec::new() };
        };
        let code = db.code();
        let missing =
            [SqlState::UNDEFINED_FUNCTION, SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME]
                .contains(code);
        let mend = if missing {
            "; run CREATE EXTENSION foreshard in this database"
        } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
            "; the planner's role needs USAGE on schema foreshard, SELECT on its executions, edges, shards and \
             function_shards, and EXECUTE on foreshard.publish_schedule"
        } else if *code == SqlState::INVALID_PASSWORD {
            "; check the password in --origin"
        } else {
            ""
        };
        let class = &code.code()[..2];
        let permanent = missing || ["28", "3D", "42"].contains(&class);
        let refused = ["22", "23", "42", "54"].contains(&class);
        let hint = db.hint().map(|h| format!(" ({h})")).unwrap_or_default();
        Failure {
            message: format!("origin: {} [{}]{hint}{mend}", db.message(), code.code()),
            permanent,
            refused,
            denied: missing || *code == SqlState::INSUFFICIENT_PRIVILEGE,
            misfits: db.detail().and_then(|detail| serde_json::from_str(detail).ok()).unwrap_or_default(),
        }
    }
}

impl Failure {
    fn timeout(what: &str) -> Self {
        Failure {
            message: format!("origin out of reach: {what} took too long"),
            permanent: false,
            refused: false,
            denied: false,
            misfits: Vec::new(),
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows read at once after the start.
const BATCH: i64 = 20_000;
/// No answer within this time means that the connection is dead, not slow.
const ANSWER: Duration = Duration::from_secs(30);

pub(super) const COLUMNS: &str = "logged_xid::text::numeric::bigint, id, edge, function_id, floor(extract(epoch FROM started_at))::bigint, shards, \
    served_from NOT IN ('prefetch', 'reactive'), wait_us, bytes";

/// By which this planner's schedules, and those of its predecessors, are told from those of others.
const PUBLISHER: &str = "foreshard plan";
/// Most schedules of others that are looked at.
const MOST_OTHERS: i64 = 1_000;

/// An open connection.
pub(super) struct Origin {
    pub(super) client: Client,
}

impl Origin {
    pub(super) async fn connect(address: &OriginAddress) -> Result<Self, Failure> {
        let mut address = address.clone();
        address.pg.application_name(PUBLISHER).tcp_user_timeout(ANSWER);
        match connect(&address, CONNECT_TIMEOUT * 2).await {
            Ok(client) => {
                // A planner has time: the origin's other processors are for others.
                client.batch_execute("SET max_parallel_workers_per_gather = 0").await?;
                Ok(Origin { client })
            }
            Err(OriginError { message, permanent }) => {
                Err(Failure { message, permanent, refused: false, denied: false, misfits: Vec::new() })
            }
        }
    }

    /// Becomes the leading planner of this database, unless there is one; holds for as long as the connection.
    pub(super) async fn try_lead(&self) -> Result<bool, Failure> {
        let ask = self.client.query_one(
            "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('foreshard plan', 0))",
            &[],
        );
        Ok(within("leader election", ask).await?.get(0))
    }

    pub(super) async fn catalog(&self) -> Result<Catalog, Failure> {
        let mut catalog = Catalog::default();
        let edges =
            self.client.query("SELECT name, latitude, longitude FROM foreshard.edges ORDER BY name", &[]);
        for row in within("reading edges", edges).await? {
            catalog.edges.push(Edge { name: row.get(0), latitude: row.get(1), longitude: row.get(2) });
        }
        let mappings =
            self.client.query("SELECT function_id, shard::text FROM foreshard.function_shards", &[]);
        for row in within("reading mappings", mappings).await? {
            catalog.mappings.entry(row.get(0)).or_default().insert(row.get(1));
        }
        let keys = "SELECT name::text, coalesce(key::text[], '{}') FROM foreshard.shards";
        for row in within("reading shards", self.client.query(keys, &[])).await? {
            catalog.keys.insert(row.get(0), row.get(1));
        }
        let hints = "SELECT id, function_id, edge, cron, confidence, extract(epoch FROM declared_at)::bigint
             FROM foreshard.hints ORDER BY id";
        let hints = readable(within("reading hints", self.client.query(hints, &[])).await)?;
        for row in hints.into_iter().flatten() {
            match Hint::new(row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5)) {
                Ok(hint) => catalog.hints.push(hint),
                Err(error) => tracing::warn!(hint = row.get::<_, i64>(0), "hint left out: {error}"),
            }
        }
        Ok(catalog)
    }

    /// Feeds what was logged since to the learner. Returns the number of rows.
    ///
    /// Rows of transactions at or above the oldest one still running are left for later: one that commits late would
    /// otherwise be passed over.
    pub(super) async fn increment(&self, learner: &mut Learner, now: DateTime<Utc>) -> Result<u64, Failure> {
        let read = format!(
            "SELECT {COLUMNS} FROM foreshard.executions
             WHERE logged_xid < pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())
               AND (logged_xid, id) > ($1::text::xid8, $2) AND isfinite(started_at) ORDER BY logged_xid, id LIMIT {BATCH}"
        );
        let mut count = 0;
        loop {
            let cursor = learner.cursor().unwrap_or_default();
            let xid = cursor.xid.to_string();
            let rows = within("reading the log", self.client.query(&read, &[&xid, &cursor.id])).await?;
            let mut batch = Vec::with_capacity(rows.len());
            let mut next = cursor;
            for row in &rows {
                let (at, row) = log_row(row)?;
                next = next.max(at);
                batch.push(row);
            }
            batch.sort_by(|a, b| a.started_at.cmp(&b.started_at).then_with(|| a.edge.cmp(&b.edge)));
            batch.iter().for_each(|row| learner.learn(row, now));
            learner.read_up_to(next);
            count += rows.len() as u64;
            if (rows.len() as i64) < BATCH {
                return Ok(count);
            }
        }
    }

    /// Has the origin remove executions that are past their retention.
    pub(super) async fn maintain(&self) -> Result<(), Failure> {
        let done = self.client.query("SELECT relation::text, action FROM foreshard.maintain()", &[]);
        for row in within("maintaining the execution log", done).await? {
            tracing::info!(segment = row.get::<_, &str>(0), "execution log: {}", row.get::<_, &str>(1));
        }
        Ok(())
    }

    /// A number of this database that decides who is in the control group: the same for every planner.
    pub(super) async fn salt(&self) -> Result<u64, Failure> {
        let ask = self.client.query_one(
            "SELECT pg_catalog.hashtextextended('foreshard control ' || oid::text || datname, 0)
             FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
            &[],
        );
        Ok(within("drawing the control group", ask).await?.get::<_, i64>(0) as u64)
    }

    /// Which database this is, and a transaction id that it has not given out yet.
    pub(super) async fn identity(&self) -> Result<(String, i64), Failure> {
        let ask = self.client.query_one(
            "SELECT s.system_identifier::text || '/' || d.oid::text,
                 pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::numeric::bigint
             FROM pg_catalog.pg_control_system() AS s, pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()",
            &[],
        );
        let row = within("asking which database this is", ask).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Writes down what schedules were worth and what was withheld.
    pub(super) async fn report(&self, measures: &Value, withheld: &Value) -> Result<(), Failure> {
        let report = "SELECT foreshard.report_quality($1, $2)";
        within("reporting", self.client.execute(report, &[measures, withheld])).await?;
        Ok(())
    }

    /// What the origin knows of one function at one edge: the schedule in force there and its entries for the function,
    /// and until when it is withheld. Each is `None` also where the role may not look.
    pub(super) async fn published(
        &self,
        edge: &str,
        function: &str,
        at: DateTime<Utc>,
    ) -> Result<Published, Failure> {
        let about: [&(dyn ToSql + Sync); 3] = [&edge, &function, &at];
        let latest = self.client.query_opt(
            "SELECT s.id, s.published_at, s.starts_at, s.ends_at,
                 (SELECT coalesce(jsonb_agg(e), '[]') FROM jsonb_array_elements(s.entries) AS e WHERE e ->> 'function_id' = $2)
             FROM foreshard.schedules s WHERE s.edge = $1 AND s.starts_at <= $3::timestamptz + interval '1 min' AND s.ends_at > $3::timestamptz
             ORDER BY s.id DESC LIMIT 1",
            &about,
        );
        let latest = readable(within("reading the schedule", latest).await)?.flatten();
        let withheld = self.client.query_opt(
            "SELECT max(ends_at) FROM foreshard.control_group
             WHERE edge = $1 AND function_id = $2 AND starts_at <= $3::timestamptz + interval '1 min' AND ends_at > $3::timestamptz HAVING count(*) > 0",
            &about,
        );
        let withheld = readable(within("reading the control group", withheld).await)?.flatten();
        Ok(Published {
            schedule: latest.map(|row| Schedule {
                id: row.get(0),
                published_at: row.get(1),
                starts_at: row.get(2),
                ends_at: row.get(3),
                entries: row.get(4),
            }),
            withheld_until: withheld.map(|row| row.get(0)),
        })
    }

    /// What others than a planner have published for some of the window, the newest first; `None` where this role may not look.
    pub(super) async fn of_others(
        &self,
        starts: DateTime<Utc>,
        ends: DateTime<Utc>,
    ) -> Result<Option<Vec<Theirs>>, Failure> {
        let about: [&(dyn ToSql + Sync); 4] = [&PUBLISHER, &starts, &ends, &MOST_OTHERS];
        let ask = self.client.query(
            "SELECT edge, publisher, extract(epoch FROM starts_at)::bigint, extract(epoch FROM ends_at)::bigint, entries
             FROM foreshard.schedules WHERE publisher <> $1 AND starts_at < $3 AND ends_at > $2 ORDER BY id DESC LIMIT $4",
            &about,
        );
        let Some(rows) = readable(within("reading the schedules of others", ask).await)? else {
            return Ok(None);
        };
        let theirs = rows.iter().map(|row| Theirs {
            edge: row.get(0),
            publisher: row.get(1),
            starts_at: row.get(2),
            ends_at: row.get(3),
            // The origin has checked their shape.
            entries: serde_json::from_value(row.get(4)).unwrap_or_default(),
        });
        Ok(Some(theirs.collect()))
    }

    pub(super) async fn publish(
        &self,
        schedule: &EdgeSchedule,
        starts: DateTime<Utc>,
        ends: DateTime<Utc>,
    ) -> Result<(), Failure> {
        let entries = serde_json::to_value(&schedule.entries).map_err(|e| Failure {
            message: format!("schedule cannot be written: {e}"),
            permanent: false,
            refused: true,
            denied: false,
            misfits: Vec::new(),
        })?;
        let publish = "SELECT foreshard.publish_schedule($1, $2, $3, $4)";
        within("publishing", self.client.query_one(publish, &[&schedule.edge, &starts, &ends, &entries]))
            .await?;
        Ok(())
    }
}

/// What the origin says is in force.
pub(super) struct Published {
    pub(super) schedule: Option<Schedule>,
    pub(super) withheld_until: Option<DateTime<Utc>>,
}

/// The schedule in force at an edge, with the entries of one function.
#[derive(serde::Serialize)]
pub(super) struct Schedule {
    id: i64,
    published_at: DateTime<Utc>,
    starts_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    pub(super) entries: Value,
}

/// `None` where this role may not look, rather than a failure.
fn readable<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(failure) if failure.denied => Ok(None),
        Err(failure) => Err(failure),
    }
}

pub(super) async fn within<T>(
    what: &str,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failure> {
    Ok(tokio::time::timeout(ANSWER, work).await.map_err(|_| Failure::timeout(what))??)
}

pub(super) fn log_row(row: &Row) -> Result<(Cursor, LogRow), Failure> {
    Ok((
        Cursor { xid: row.try_get(0)?, id: row.try_get(1)? },
        LogRow {
            edge: row.try_get(2)?,
            function: row.try_get(3)?,
            started_at: row.try_get(4)?,
            shards: row.try_get(5)?,
            missed: row.try_get(6)?,
            wait_us: row.try_get(7)?,
            bytes: row.try_get(8)?,
        },
    ))
}
