//! Which functions run at which edge around a departure.

use std::fmt::Write;
use std::sync::Arc;

use chrono::{DateTime, Datelike, Duration, Timelike, Utc};
use chrono_tz::America::New_York;

use crate::chance::{between, happens};
use crate::data::Flight;

/// The edge locations: the airports.
pub(crate) const EDGES: [&str; 3] = ["EWR", "JFK", "LGA"];

/// One call of a function.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) at: DateTime<Utc>,
    /// Index into [`EDGES`].
    pub(crate) edge: usize,
    pub(crate) function: String,
    pub(crate) request: Request,
}

/// How the function asks for its data.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// All of its shards at once, for these key values.
    Invoke(Vec<(&'static str, Arc<str>)>),
    /// Some rows of one of its shards, by equality.
    Rows { shard: String, filters: Vec<(&'static str, String)> },
}

/// A shard as a function sees it: its name, the table behind it, its key.
#[derive(Debug)]
struct Shard {
    name: &'static str,
    table: &'static str,
    key: &'static [&'static str],
}

const AIRLINES: Shard = Shard { name: "airlines", table: "public.airlines", key: &[] };
const DEPARTURES: Shard = Shard { name: "departures", table: "public.flights", key: &["origin", "dest"] };
const DESTINATION: Shard = Shard { name: "destination", table: "public.airports", key: &["faa"] };
const COUNTER: Shard =
    Shard { name: "counter", table: "public.flights", key: &["origin", "carrier", "dest"] };
const DISRUPTIONS: Shard = Shard { name: "disruptions", table: "public.flights", key: &["origin"] };
const WEATHER_TODAY: Shard = Shard { name: "weather_today", table: "public.weather", key: &["origin"] };

/// The mapping of sql/3_functions.sql, for functions that ask for all of their shards.
fn shards_of(function: &str) -> &'static [Shard] {
    match function.split(':').next().unwrap_or(function) {
        "board" => &[DEPARTURES, AIRLINES],
        "crew" => &[DEPARTURES, DESTINATION, WEATHER_TODAY],
        "checkin" => &[COUNTER, AIRLINES],
        "ops" => &[COUNTER, DISRUPTIONS],
        "lobby" => &[DISRUPTIONS, WEATHER_TODAY],
        other => unreachable!("no function {other} asks for all of its shards"),
    }
}

impl Call {
    /// The shard instances that answer it, as (shard name, instance id).
    pub(crate) fn instances(&self) -> Vec<(&str, String)> {
        match &self.request {
            Request::Invoke(params) => {
                shards_of(&self.function).iter().map(|shard| (shard.name, instance(shard, params))).collect()
            }
            Request::Rows { shard, .. } => vec![(shard, shard.clone())],
        }
    }

    /// The tables behind the answer, as a sidecar logs them.
    pub(crate) fn tables(&self) -> Vec<String> {
        let mut tables: Vec<String> = match &self.request {
            Request::Invoke(_) => {
                shards_of(&self.function).iter().map(|shard| shard.table.to_owned()).collect()
            }
            // Shards that rows are picked from have the name of their table.
            Request::Rows { shard, .. } => vec![format!("public.{shard}")],
        };
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    /// The parameters of the request, as a sidecar logs them.
    pub(crate) fn filters(&self) -> serde_json::Map<String, serde_json::Value> {
        match &self.request {
            Request::Invoke(params) => {
                params.iter().map(|(name, value)| ((*name).into(), (**value).into())).collect()
            }
            Request::Rows { filters, .. } => {
                filters.iter().map(|(name, value)| ((*name).into(), format!("eq.{value}").into())).collect()
            }
        }
    }
}

/// The id of a keyed shard's instance. The demo's keys are letters and digits: nothing to encode.
fn instance(shard: &Shard, params: &[(&'static str, Arc<str>)]) -> String {
    let mut id = shard.name.to_owned();
    for (position, column) in shard.key.iter().enumerate() {
        let value = params.iter().find(|(name, _)| name == column).map_or("", |(_, value)| &**value);
        let _ = write!(id, "{}{column}={value}", if position == 0 { '?' } else { '&' });
    }
    id
}

/// The calls that these departures cause, in order of time.
pub(crate) fn calls<'a>(flights: impl IntoIterator<Item = &'a Flight>) -> Vec<Call> {
    let mut calls = Vec::new();
    for flight in flights {
        around(flight, &mut calls);
    }
    calls.sort_by_key(|call| call.at);
    calls
}

/// Passengers look at the board when they arrive and at the gate, check-in opens, the crew is briefed, the aircraft is
/// looked up, the weather is read before push-back, and the airline's desk looks when the aircraft is in the air.
fn around(flight: &Flight, calls: &mut Vec<Call>) {
    let Some(edge) = EDGES.iter().position(|edge| *edge == &*flight.origin) else { return };
    let id = flight.id;
    let (origin, dest, carrier) = (&flight.origin, &flight.dest, &flight.carrier);
    let invoke = |params: &[(&'static str, &Arc<str>)]| {
        Request::Invoke(params.iter().map(|(name, value)| (*name, (*value).clone())).collect())
    };
    let mut call = |minutes: i64, spread: i64, salt: u64, function: String, request: Request| {
        let jitter = between(id, salt, -spread * 60, spread * 60);
        let at = flight.departure() + Duration::minutes(minutes) + Duration::seconds(jitter);
        calls.push(Call { at, edge, function, request });
    };

    let route = invoke(&[("origin", origin), ("dest", dest)]);
    let counter = invoke(&[("origin", origin), ("carrier", carrier), ("dest", dest)]);
    call(-90, 20, 1, format!("checkin:{carrier}"), counter.clone());
    call(-75, 15, 2, format!("board:{dest}"), route.clone());
    if happens(id, 3, 25) {
        call(-80, 20, 4, "lobby".to_owned(), invoke(&[("origin", origin)]));
    }
    if flight.dep_delay.is_none() {
        return;
    }
    call(-55, 10, 5, format!("crew:{dest}"), invoke(&[("origin", origin), ("dest", dest), ("faa", dest)]));
    if let Some(tail) = &flight.tail {
        let filters = vec![("tailnum", tail.to_string())];
        call(-45, 5, 6, "aircraft-card".to_owned(), Request::Rows { shard: "planes".to_owned(), filters });
    }
    call(-25, 8, 7, format!("board:{dest}"), route);
    let push_back = (flight.departure() - Duration::minutes(15)).with_timezone(&New_York);
    let filters = vec![
        ("month", push_back.month().to_string()),
        ("day", push_back.day().to_string()),
        ("hour", push_back.hour().to_string()),
    ];
    let shard = format!("weather_{}", origin.to_ascii_lowercase());
    call(-15, 3, 8, format!("gate-weather:{origin}"), Request::Rows { shard, filters });
    call(20, 5, 9, format!("ops:{carrier}"), counter);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight() -> Flight {
        Flight {
            id: 7,
            date: chrono::NaiveDate::default(),
            carrier: "UA".into(),
            number: 1545,
            origin: "EWR".into(),
            dest: "IAH".into(),
            tail: Some("N14228".into()),
            sched_dep: DateTime::UNIX_EPOCH,
            dep_delay: Some(2),
            sched_arr_time: 830,
            arr_delay: None,
            air_time: None,
            distance: 1400,
        }
    }

    #[test]
    fn instances_are_named_as_the_interface_names_them() {
        let calls = calls([&flight()]);
        let of = |function: &str| {
            let call = calls.iter().find(|call| call.function == function).expect("the call is made");
            call.instances().into_iter().map(|(_, id)| id).collect::<Vec<_>>()
        };
        assert_eq!(of("board:IAH"), ["departures?origin=EWR&dest=IAH", "airlines"]);
        assert_eq!(
            of("crew:IAH"),
            ["departures?origin=EWR&dest=IAH", "destination?faa=IAH", "weather_today?origin=EWR"]
        );
        assert_eq!(of("checkin:UA"), ["counter?origin=EWR&carrier=UA&dest=IAH", "airlines"]);
        assert_eq!(of("aircraft-card"), ["planes"]);
    }

    #[test]
    fn a_cancelled_flight_has_no_crew_and_no_push_back() {
        let cancelled = Flight { dep_delay: None, tail: None, ..flight() };
        let functions: Vec<String> = calls([&cancelled]).into_iter().map(|call| call.function).collect();
        assert!(
            functions.iter().all(|function| ["checkin:UA", "board:IAH", "lobby"].contains(&&**function)),
            "{functions:?}"
        );
    }
}
