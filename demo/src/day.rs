//! What the dispatch system changes in the course of a day: transactions, each at its time.

use chrono::{DateTime, Duration, NaiveDate, Utc};

use crate::chance::{between, chance, happens};
use crate::data::{Data, Flight, Observation};
use crate::load::{WEATHER_COLUMNS, gate};

/// Delays are announced in steps: airlines rarely know at once how late a flight will be.
const DELAY_STEP: i32 = 30;

/// From how many minutes on a flight counts as late, which is shown to everybody at the airport.
const LATE: i32 = 45;

/// A transaction of the dispatch system.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    pub(crate) at: DateTime<Utc>,
    pub(crate) statements: Vec<Statement>,
    /// Taken back instead of committed: what it did must never be seen.
    pub(crate) rolls_back: bool,
}

/// One change of one table.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) table: &'static str,
    /// `$rev` stands for the transaction's number.
    pub(crate) sql: String,
    /// Whether the rows it returns are gone (or are there, as returned).
    pub(crate) deletes: bool,
}

impl Statement {
    fn on(table: &'static str, sql: String) -> Self {
        Self { table, sql, deletes: false }
    }

    fn flight(flight: &Flight, set: &str) -> Self {
        let (date, id) = (flight.date, flight.id);
        Self::on(
            "flights",
            format!("UPDATE flights SET {set}, rev = $rev WHERE flight_date = '{date}' AND id = {id}"),
        )
    }
}

/// The transactions of one day from `start` on, in order of time.
pub(crate) fn transactions(data: &Data, today: NaiveDate, start: DateTime<Utc>) -> Vec<Transaction> {
    let flights: Vec<&Flight> = data.flights.iter().filter(|flight| flight.date == today).collect();
    let mut day = Vec::new();
    for flight in &flights {
        of_flight(flight, &mut day);
    }
    tail_swaps(&flights, &mut day);
    diversions(&flights, &mut day);
    planes(&flights, &mut day);
    other_days(data, today, &mut day);
    let end = start + Duration::days(1);
    for seen in data.weather.iter().filter(|seen| seen.at > start && seen.at <= end) {
        of_weather(seen, &mut day);
    }
    if let Some(first) = flights.first() {
        let noon = first.sched_dep + Duration::hours(7);
        let rename = "UPDATE airlines SET name = 'American Airlines Group', rev = $rev WHERE carrier = 'AA'";
        day.push(once(noon, vec![Statement::on("airlines", rename.to_owned())]));
    }
    day.sort_by_key(|transaction| transaction.at);
    day
}

fn once(at: DateTime<Utc>, statements: Vec<Statement>) -> Transaction {
    Transaction { at, statements, rolls_back: false }
}

/// Gate changes, announced delays, departure, arrival, cancellation.
fn of_flight(flight: &Flight, day: &mut Vec<Transaction>) {
    let id = flight.id;
    let minutes_before = |minutes: i64| flight.sched_dep - Duration::minutes(minutes);
    if happens(id, 40, 20) {
        let at = minutes_before(between(id, 41, 20, 100));
        let change = Statement::flight(flight, &format!("gate = '{}'", gate(flight, 42)));
        // Some dispatchers think again before they confirm.
        day.push(Transaction { at, statements: vec![change], rolls_back: happens(id, 43, 10) });
    }
    let Some(delay) = flight.dep_delay else {
        let at = minutes_before(between(id, 44, 30, 90));
        day.push(once(at, vec![Statement::flight(flight, "status = 'cancelled', est_dep = NULL")]));
        return;
    };
    let mut announced = 0;
    let mut at = minutes_before(between(id, 45, 15, 50));
    while announced + 5 < delay {
        announced = (announced + DELAY_STEP).min(delay);
        let estimate = flight.sched_dep + Duration::minutes(announced.into());
        let status = if announced >= LATE { "late" } else { "delayed" };
        let set = format!("status = '{status}', est_dep = '{}'", estimate.to_rfc3339());
        day.push(once(at, vec![Statement::flight(flight, &set)]));
        at += Duration::minutes(DELAY_STEP.into());
    }
    let left = flight.departure();
    let set = format!("status = 'departed', dep_delay = {delay}, est_dep = '{}'", left.to_rfc3339());
    day.push(once(left, vec![Statement::flight(flight, &set)]));
    if let (Some(air_time), Some(late)) = (flight.air_time, flight.arr_delay) {
        // Half an hour on the ground at both ends together.
        let landed = left + Duration::minutes(i64::from(air_time) + 30);
        let set = format!("status = 'landed', arr_delay = {late}, air_time = {air_time}");
        day.push(once(landed, vec![Statement::flight(flight, &set)]));
    }
}

/// Two flights of an airline at one airport change aircraft: both rows or none.
fn tail_swaps(flights: &[&Flight], day: &mut Vec<Transaction>) {
    for (position, flight) in flights.iter().enumerate() {
        if !happens(flight.id, 50, 8) {
            continue;
        }
        let partner = flights[position + 1..].iter().find(|other| {
            other.carrier == flight.carrier && other.origin == flight.origin && other.dep_delay.is_some()
        });
        let (Some(partner), Some(mine), Some(theirs)) =
            (partner, &flight.tail, partner.and_then(|p| p.tail.as_ref()))
        else {
            continue;
        };
        let swap = vec![
            Statement::flight(flight, &format!("tailnum = '{theirs}'")),
            Statement::flight(partner, &format!("tailnum = '{mine}'")),
        ];
        let at = flight.sched_dep - Duration::minutes(between(flight.id, 51, 60, 120));
        day.push(Transaction { at, statements: swap, rolls_back: happens(flight.id, 52, 10) });
    }
}

/// A flight goes to another destination: its row leaves the shards of one route and enters those of another. Some come
/// back after an hour; an extra flight is put on and taken off again.
fn diversions(flights: &[&Flight], day: &mut Vec<Transaction>) {
    for (position, flight) in flights.iter().enumerate().filter(|(_, flight)| happens(flight.id, 60, 4)) {
        let other = flights[(position + 17) % flights.len()];
        let at = flight.sched_dep - Duration::minutes(between(flight.id, 61, 30, 100));
        day.push(once(at, vec![Statement::flight(flight, &format!("dest = '{}'", other.dest))]));
        if happens(flight.id, 62, 50) {
            let back = Statement::flight(flight, &format!("dest = '{}'", flight.dest));
            day.push(once(at + Duration::minutes(60), vec![back]));
        }
        let extra = flight.id + 1_000_000;
        let insert = format!(
            "INSERT INTO flights (id, flight_date, carrier, flight, origin, dest, gate, status, sched_dep, est_dep, rev) \
             SELECT {extra}, flight_date, carrier, flight + 9000, origin, dest, gate, 'scheduled', sched_dep, sched_dep, $rev \
             FROM flights WHERE flight_date = '{}' AND id = {}",
            flight.date, flight.id
        );
        day.push(once(at + Duration::minutes(5), vec![Statement::on("flights", insert)]));
        let delete = format!("DELETE FROM flights WHERE flight_date = '{}' AND id = {extra}", flight.date);
        let delete = Statement { table: "flights", sql: delete, deletes: true };
        day.push(once(at + Duration::minutes(95), vec![delete]));
    }
}

/// Aircraft go to the hangar and come back.
fn planes(flights: &[&Flight], day: &mut Vec<Transaction>) {
    for flight in flights.iter().filter(|flight| happens(flight.id, 70, 1)) {
        let Some(tail) = &flight.tail else { continue };
        for (hours, in_service) in [(3, false), (6, true)] {
            let sql =
                format!("UPDATE planes SET in_service = {in_service}, rev = $rev WHERE tailnum = '{tail}'");
            day.push(once(flight.sched_dep + Duration::hours(hours), vec![Statement::on("planes", sql)]));
        }
    }
}

/// Planning goes on for days that no shard shows.
fn other_days(data: &Data, today: NaiveDate, day: &mut Vec<Transaction>) {
    let begin = data.flights.iter().find(|flight| flight.date == today).map(|flight| flight.sched_dep);
    let next = data.flights.iter().filter(|flight| flight.date == today + Duration::days(1));
    if let Some(begin) = begin {
        for flight in next.filter(|flight| happens(flight.id, 80, 30)) {
            let at = begin + Duration::minutes((chance(flight.id, 81) % 1080).cast_signed());
            day.push(once(at, vec![Statement::flight(flight, &format!("gate = '{}'", gate(flight, 82)))]));
        }
    }
}

fn of_weather(seen: &Observation, day: &mut Vec<Transaction>) {
    let values: Vec<String> = seen
        .values
        .iter()
        .map(|value| if value.is_empty() { "NULL".to_owned() } else { value.clone() })
        .collect();
    let sql = format!(
        "INSERT INTO weather ({WEATHER_COLUMNS}, rev) VALUES ('{}', '{}', {}, $rev)",
        seen.origin,
        seen.at.to_rfc3339(),
        values.join(", ")
    );
    // An observation arrives a few minutes after its hour.
    let at = seen.at + Duration::minutes(4);
    day.push(once(at, vec![Statement::on("weather", sql)]));
}
