//! Reading the log from its beginning without being a burden: slice by slice of time, each in a transaction of its own, and put in order here
//! rather than in temporary files at the origin.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use tokio_postgres::types::ToSql;

use super::learner::{Cursor, Learner, LogRow};
use super::origin::{COLUMNS, Failure, Origin, log_row};

/// Executions read at once, but for a minute that has more: some 20 MB here.
const SLICE: i64 = 50_000;
/// Executions that are further ahead of the clock (seconds) are read in one slice: none of them is believed.
const AHEAD: i64 = 86_400;

impl Origin {
    /// Feeds the log of the last `reach` to the learner in order of time. Returns the number of rows.
    pub(super) async fn history(
        &self,
        learner: &mut Learner,
        now: DateTime<Utc>,
        reach: TimeDelta,
    ) -> Result<u64, Failure> {
        let since = now.checked_sub_signed(reach).unwrap_or(DateTime::UNIX_EPOCH);
        // What all slices together show is what was there at this moment: the reader of what was logged since goes on from here.
        let before = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text";
        let before: String = self.client.query_one(before, &[]).await?.try_get(0)?;
        let mut cursor = Cursor::default();
        let mut count = 0;
        for (from, to) in slices(since.timestamp(), &self.busy_minutes(since, now, &before).await?) {
            let mut slice = self.slice(since, from, to, &before).await?;
            slice.sort_unstable_by_key(|(order, ..)| *order);
            for (_, at, row) in &slice {
                cursor = cursor.max(*at);
                learner.learn(row, now);
            }
            count += slice.len() as u64;
        }
        learner.read_up_to(cursor);
        learner.settle(now);
        Ok(count)
    }

    /// How many executions began in each minute that has any, in order of time.
    async fn busy_minutes(
        &self,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
        before: &str,
    ) -> Result<Vec<(i64, i64)>, Failure> {
        let read = "SELECT least(floor(extract(epoch FROM started_at) / 60)::bigint, $3) AS minute, count(*) FROM foreshard.executions
             WHERE started_at >= $1 AND isfinite(started_at) AND logged_xid < $2::text::xid8 GROUP BY 1 ORDER BY 1";
        let last = (now.timestamp() + AHEAD) / 60;
        let rows = self.client.query(read, &[&since, &before, &last]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// The executions since `since` in `[from, to)`, Unix seconds, each with its place in the order of time.
    async fn slice(
        &self,
        since: DateTime<Utc>,
        from: i64,
        to: Option<i64>,
        before: &str,
    ) -> Result<Vec<((i64, i64, i64), Cursor, LogRow)>, Failure> {
        let read = format!(
            "SELECT {COLUMNS}, extract(microseconds FROM started_at)::bigint FROM foreshard.executions
             WHERE started_at >= greatest($1, to_timestamp($2)) AND started_at < coalesce(to_timestamp($3), 'infinity')
                 AND logged_xid < $4::text::xid8"
        );
        let (from, to) = (from as f64, to.map(|to| to as f64));
        let rows = self.client.query_raw(&read, parameters(&[&since, &from, &to, &before])).await?;
        let mut rows = std::pin::pin!(rows);
        let mut slice = Vec::new();
        while let Some(row) = rows.try_next().await? {
            let (at, execution) = log_row(&row)?;
            let order = (execution.started_at, row.try_get(9)?, at.id);
            slice.push((order, at, execution));
        }
        Ok(slice)
    }
}

/// What a query that answers row by row takes for its parameters.
fn parameters<'a>(all: &'a [&'a (dyn ToSql + Sync)]) -> impl ExactSizeIterator<Item = &'a dyn ToSql> {
    all.iter().map(|one| *one as _)
}

/// Slices of time from `since` on that have at most [`SLICE`] executions each, or a single minute; the last one has no end.
fn slices(since: i64, busy: &[(i64, i64)]) -> Vec<(i64, Option<i64>)> {
    let mut slices = Vec::new();
    let (mut from, mut held) = (since, 0);
    for &(minute, executions) in busy {
        if held > 0 && held + executions > SLICE {
            slices.push((from, Some(minute * 60)));
            (from, held) = (minute * 60, 0);
        }
        held += executions;
    }
    slices.push((from, None));
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_each_other_and_are_of_a_size() {
        assert_eq!(slices(90, &[]), [(90, None)]);
        let busy: Vec<(i64, i64)> =
            (2..2_000).map(|minute| (minute, if minute == 1_000 { 200_000 } else { 100 })).collect();
        let slices = slices(90, &busy);
        assert_eq!((slices[0].0, slices[slices.len() - 1].1), (90, None));
        assert!(slices.windows(2).all(|pair| pair[0].1 == Some(pair[1].0)), "{slices:?}");
        for (from, to) in slices {
            let minutes = from / 60..to.map_or(i64::MAX, |to| to / 60);
            let held: i64 = busy.iter().filter(|(minute, _)| minutes.contains(minute)).map(|(_, n)| n).sum();
            assert!(held <= SLICE || minutes == (1_000..1_001), "{held} in {minutes:?}");
        }
    }
}
