//! Fills the origin: the tables as they stood when the replayed day began, and six weeks of execution log.

use std::fmt::{Display, Write};
use std::pin::pin;

use anyhow::{Context, Result};
use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use futures_util::SinkExt;
use tokio_postgres::Client;

use crate::calls::{Call, EDGES};
use crate::chance::{between, chance};
use crate::data::{Data, Flight, Observation};

/// Bytes of a COPY sent at a time.
const CHUNK: usize = 256 * 1024;

/// What an execution without any cache costs across the link: two round trips of 80 ms and some rows.
const ORIGIN_WAIT_US: i64 = 170_000;
const ORIGIN_BYTES: i64 = 2_500;

/// The columns of `flights` that [`flight_line`] gives.
const FLIGHT_COLUMNS: &str = "id, flight_date, carrier, flight, origin, dest, tailnum, gate, status, sched_dep, est_dep, dep_delay, \
                              sched_arr_time, arr_delay, air_time, distance";

/// The columns of `weather` that [`observation_line`] gives.
pub(crate) const WEATHER_COLUMNS: &str = "origin, observed_at, month, day, hour, temp, dewp, humid, wind_dir, wind_speed, wind_gust, \
                                          precip, pressure, visib";

/// Rows loaded, by table.
pub(crate) type Loaded = Vec<(&'static str, u64)>;

/// Fills the tables: flights before `today` as they happened, the others as they are planned; weather up to `now`.
pub(crate) async fn tables(db: &Client, data: &Data, today: NaiveDate, now: DateTime<Utc>) -> Result<Loaded> {
    let plain = |rows: &[Vec<String>]| rows.iter().map(|row| line(row)).collect::<Vec<_>>();
    let plane_columns = "planes (tailnum, year, type, manufacturer, model, engines, seats, engine)";
    let loaded = vec![
        ("airlines", copy(db, "airlines (carrier, name)", plain(&data.airlines)).await?),
        ("airports", copy(db, "airports (faa, name, lat, lon, alt, tzone)", plain(&data.airports)).await?),
        ("planes", copy(db, plane_columns, plain(&data.planes)).await?),
        ("flights", {
            let lines = data.flights.iter().map(|flight| flight_line(flight, today));
            copy(db, &format!("flights ({FLIGHT_COLUMNS})"), lines).await?
        }),
        ("weather", {
            let lines = data.weather.iter().filter(|seen| seen.at <= now).map(observation_line);
            copy(db, &format!("weather ({WEATHER_COLUMNS})"), lines).await?
        }),
    ];
    db.batch_execute("ANALYZE").await?;
    Ok(loaded)
}

/// Adds executions to the log, as sidecars without a cache would have written them.
pub(crate) async fn executions(db: &Client, calls: &[Call]) -> Result<u64> {
    let columns = "edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes";
    let lines = calls.iter().zip(0i64..).map(|(call, number)| {
        let shards: Vec<String> = call.instances().into_iter().map(|(_, id)| id).collect();
        line(&[
            EDGES[call.edge].to_owned(),
            call.function.clone(),
            call.at.to_rfc3339(),
            array(call.tables()),
            serde_json::Value::Object(call.filters()).to_string(),
            array(&shards),
            "origin".to_owned(),
            (ORIGIN_WAIT_US + between(number, 20, 0, 9_000)).to_string(),
            (ORIGIN_BYTES + between(number, 21, -2_000, 4_000)).to_string(),
        ])
    });
    copy(db, &format!("foreshard.executions ({columns})"), lines).await
}

/// The gate of a flight. The data set has none: made up from the flight's number.
pub(crate) fn gate(flight: &Flight, salt: u64) -> String {
    let number = i64::from(flight.number);
    let pier = char::from(b'A' + (chance(number, salt) % 3) as u8);
    format!("{pier}{}", between(number, salt + 1, 1, 40))
}

fn flight_line(flight: &Flight, today: NaiveDate) -> String {
    let happened = flight.date < today;
    let only_if =
        |wanted: bool, value: Option<i32>| value.filter(|_| wanted).map_or(String::new(), |n| n.to_string());
    let status = match (happened, flight.dep_delay) {
        (false, _) => "scheduled",
        (true, None) => "cancelled",
        (true, Some(_)) => "landed",
    };
    line(&[
        flight.id.to_string(),
        flight.date.to_string(),
        flight.carrier.to_string(),
        flight.number.to_string(),
        flight.origin.to_string(),
        flight.dest.to_string(),
        flight.tail.as_deref().unwrap_or_default().to_owned(),
        gate(flight, 30),
        status.to_owned(),
        flight.sched_dep.to_rfc3339(),
        if happened { flight.departure() } else { flight.sched_dep }.to_rfc3339(),
        only_if(happened, flight.dep_delay),
        flight.sched_arr_time.to_string(),
        only_if(happened, flight.arr_delay),
        only_if(happened, flight.air_time),
        flight.distance.to_string(),
    ])
}

fn observation_line(seen: &Observation) -> String {
    let mut fields = vec![seen.origin.to_string(), seen.at.to_rfc3339()];
    fields.extend(seen.values.iter().cloned());
    line(&fields)
}

/// A line of COPY's text format; an empty field is NULL.
fn line(fields: &[String]) -> String {
    let mut line = String::new();
    for (position, field) in fields.iter().enumerate() {
        if position > 0 {
            line.push('\t');
        }
        if field.is_empty() {
            line.push_str("\\N");
        }
        for c in field.chars() {
            match c {
                '\\' => line.push_str("\\\\"),
                '\t' => line.push_str("\\t"),
                '\n' => line.push_str("\\n"),
                other => line.push(other),
            }
        }
    }
    line.push('\n');
    line
}

/// An array in PostgreSQL's text form, of elements without quotes in them.
fn array(elements: impl IntoIterator<Item = impl Display>) -> String {
    let mut text = String::from("{");
    for element in elements {
        let separator = if text.len() > 1 { "," } else { "" };
        let _ = write!(text, "{separator}\"{element}\"");
    }
    text.push('}');
    text
}

async fn copy(db: &Client, into: &str, lines: impl IntoIterator<Item = String>) -> Result<u64> {
    let sink = db.copy_in::<_, Bytes>(&format!("COPY {into} FROM STDIN")).await?;
    let mut sink = pin!(sink);
    let mut chunk = String::with_capacity(CHUNK + 4096);
    for line in lines {
        chunk.push_str(&line);
        if chunk.len() >= CHUNK {
            sink.send(Bytes::from(std::mem::take(&mut chunk))).await?;
        }
    }
    sink.send(Bytes::from(chunk)).await?;
    sink.finish().await.with_context(|| format!("COPY {into}"))
}
