//! The record that answers are judged by is itself checked: after a whole day of transactions it is what the tables hold.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::TimeZone;
use foreshard_tests::{Cluster, commit_lsns};
use serde_json::Value;

use crate::clock::Clock;
use crate::data::Data;
use crate::writer::Progress;
use crate::{day, origin, true_history, views, writer};
use foreshard_tests::history::{Answer, Verdict, digest};

/// Fast enough that nothing waits for its time.
const AT_ONCE: f64 = 1e7;

#[tokio::test]
async fn after_the_day_the_record_is_what_the_tables_hold() -> Result<()> {
    let data = Data::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data"))?;
    let today = views::today();
    let start =
        chrono_tz::America::New_York.from_local_datetime(&today.and_hms_opt(3, 0, 0).context("an hour")?);
    let start = start.single().context("one instant")?.to_utc();
    let cluster = Cluster::with_extension().await?;
    let db = cluster.connect().await?;
    origin::fill(&db, &data, today, start).await?;
    origin::define(&db).await?;

    commit_lsns::start(&db, &writer::TABLES.map(|(table, _)| table)).await?;
    let before = writer::rows(&db).await?;
    let clock = Clock::starting_in(Duration::ZERO, start, AT_ONCE)?;
    let transactions = day::transactions(&data, today, start);
    let progress = Progress::default();
    let commits = writer::run(&db, &transactions, &clock, &before, &progress).await?;
    assert_eq!(progress.commits_started(), commits.len());
    assert!(transactions.iter().any(|transaction| transaction.rolls_back));
    let history = true_history(before, &commits, &commit_lsns::read(&db).await?)?;
    assert_eq!(history.commits(), commits.len());

    let departures = "SELECT row_to_json(r) FROM (SELECT id, flight_date, carrier, flight, origin, dest, tailnum, gate, status, \
                      sched_dep, est_dep, rev FROM flights WHERE flight_date = '2013-10-22' AND origin = 'EWR' AND dest = 'LAX' \
                      ORDER BY id) AS r";
    let disruptions = "SELECT row_to_json(r) FROM (SELECT id, carrier, flight, origin, dest, gate, status, est_dep, rev FROM flights \
                       WHERE flight_date = '2013-10-22' AND status IN ('late', 'cancelled') AND origin = 'EWR' ORDER BY id) AS r";
    let weather = "SELECT row_to_json(w) FROM weather w WHERE month = 10 AND day = 22 AND origin = 'JFK' ORDER BY observed_at";
    let airlines = "SELECT row_to_json(a) FROM airlines a ORDER BY carrier COLLATE \"C\"";
    let queries = [
        ("departures?origin=EWR&dest=LAX", departures),
        ("disruptions?origin=EWR", disruptions),
        ("weather_today?origin=JFK", weather),
        ("airlines", airlines),
    ];
    for (id, sql) in queries {
        let rows: Vec<Value> = db.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        assert!(!rows.is_empty(), "{id}");
        let parts = vec![(id.to_owned(), digest(&rows))];
        let now = Answer { parts, lsn: u64::MAX, commits_started: commits.len() };
        assert_eq!(history.judge(&now), Verdict::Right { from: commits.len(), to: commits.len() }, "{id}");
    }
    Ok(())
}
