//! What the functions' answers show of the tables: sql/2_shards.sql once more, in the terms of the judgement. Written by hand
//! so that a mistake in how foreshard reads its definitions is a difference, not an agreement.

use chrono::{Datelike, NaiveDate};

use foreshard_tests::history::{Row, Split, View};

/// The replayed day.
pub(crate) fn today() -> NaiveDate {
    NaiveDate::from_ymd_opt(2013, 10, 22).unwrap_or_default()
}

fn all(_: &Row) -> bool {
    true
}

fn flies_today(row: &Row) -> bool {
    row["flight_date"].as_str() == Some(&today().to_string())
}

fn disrupted_today(row: &Row) -> bool {
    flies_today(row) && matches!(row["status"].as_str(), Some("late" | "cancelled"))
}

fn observed_today(row: &Row) -> bool {
    let is = |column: &str, wanted: u32| row[column].as_u64() == Some(wanted.into());
    is("month", today().month()) && is("day", today().day())
}

fn at_ewr(row: &Row) -> bool {
    row["origin"] == "EWR"
}

fn at_jfk(row: &Row) -> bool {
    row["origin"] == "JFK"
}

fn at_lga(row: &Row) -> bool {
    row["origin"] == "LGA"
}

/// All views.
pub(crate) fn views() -> Vec<View> {
    let view = |name, table, holds, split, columns| View { name, table, holds, split, columns };
    let card: Option<&[&str]> =
        Some(&["tailnum", "manufacturer", "model", "engines", "seats", "in_service", "rev"]);
    let gate: Option<&[&str]> =
        Some(&["origin", "month", "day", "hour", "temp", "wind_dir", "wind_speed", "wind_gust", "visib"]);
    let hour = Split::Filter(&["month", "day", "hour"]);
    vec![
        view("airlines", "airlines", all, Split::Key(&[]), None),
        view("planes", "planes", all, Split::Filter(&["tailnum"]), card),
        view("weather_ewr", "weather", at_ewr, hour, gate),
        view("weather_jfk", "weather", at_jfk, hour, gate),
        view("weather_lga", "weather", at_lga, hour, gate),
        view("destination", "airports", all, Split::Key(&["faa"]), None),
        view(
            "departures",
            "flights",
            flies_today,
            Split::Key(&["origin", "dest"]),
            Some(&[
                "id",
                "flight_date",
                "carrier",
                "flight",
                "origin",
                "dest",
                "tailnum",
                "gate",
                "status",
                "sched_dep",
                "est_dep",
                "rev",
            ]),
        ),
        view("counter", "flights", flies_today, Split::Key(&["origin", "carrier", "dest"]), None),
        view(
            "disruptions",
            "flights",
            disrupted_today,
            Split::Key(&["origin"]),
            Some(&["id", "carrier", "flight", "origin", "dest", "gate", "status", "est_dep", "rev"]),
        ),
        view("weather_today", "weather", observed_today, Split::Key(&["origin"]), None),
    ]
}
