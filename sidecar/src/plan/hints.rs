//! Declared hints: cron expressions, in the local time of an edge, as the minutes that the engine takes.

use chrono::{DateTime, TimeZone};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};

/// Most times of one hint that are looked at in one go.
const MOST_TIMES: usize = 400;

/// A row of `foreshard.hints`.
#[derive(Clone, Debug)]
pub(super) struct Hint {
    pub(super) id: i64,
    pub(super) function: String,
    /// `None`: every edge.
    pub(super) edge: Option<String>,
    /// The expression, as it was declared.
    pub(super) text: String,
    cron: Cron,
    pub(super) confidence: f64,
    /// Unix seconds: what happened before says nothing about it.
    pub(super) declared_at: i64,
}

impl Hint {
    /// # Errors
    /// When the expression names no times; `foreshard.hint_function` takes none of that kind.
    pub(super) fn new(
        id: i64,
        function: String,
        edge: Option<String>,
        text: String,
        confidence: f64,
        declared_at: i64,
    ) -> Result<Self, CronError> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(&text)?;
        Ok(Hint { id, function, edge, text, cron, confidence, declared_at })
    }

    /// The minutes (Unix time / 60) that it names from `from` on and before `to`, in the time zone of `from`.
    pub(super) fn minutes<Tz: TimeZone>(&self, from: &DateTime<Tz>, to: &DateTime<Tz>) -> Vec<i64> {
        let mut minutes = Vec::new();
        let mut next = self.cron.find_next_occurrence(from, true);
        while let Ok(at) = next {
            if at >= *to || minutes.len() >= MOST_TIMES {
                break;
            }
            minutes.push(at.timestamp().div_euclid(60));
            next = self.cron.find_next_occurrence(&at, false);
        }
        minutes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{TimeDelta, Utc};
    use chrono_tz::Europe::Paris;

    fn hint(cron: &str) -> Hint {
        Hint::new(1, "f".into(), None, cron.into(), 0.9, 0).unwrap()
    }

    /// 2024-03-30, the day before clocks in Paris go from two to three.
    fn midnight() -> DateTime<chrono_tz::Tz> {
        Paris.with_ymd_and_hms(2024, 3, 30, 0, 0, 0).unwrap()
    }

    fn utc(minutes: &[i64]) -> Vec<String> {
        let text =
            |m: &i64| DateTime::<Utc>::from_timestamp(m * 60, 0).unwrap().format("%d %H:%M").to_string();
        minutes.iter().map(text).collect()
    }

    #[test]
    fn times_are_those_of_the_edge_and_follow_its_clock() {
        let (from, to) = (midnight(), midnight() + TimeDelta::days(2));
        assert_eq!(utc(&hint("30 6 * * *").minutes(&from, &to)), ["30 05:30", "31 04:30"]);
        assert_eq!(utc(&hint("0 9 * * MON-FRI").minutes(&from, &to)), Vec::<String>::new());
    }

    #[test]
    fn a_minute_at_the_beginning_counts_and_one_at_the_end_does_not() {
        let (from, to) = (midnight(), midnight() + TimeDelta::minutes(30));
        assert_eq!(hint("*/15 * * * *").minutes(&from, &to).len(), 2);
        assert_eq!(hint("* * * * *").minutes(&from, &(midnight() + TimeDelta::days(1))).len(), MOST_TIMES);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        assert!(Hint::new(1, "f".into(), None, "at nine".into(), 0.9, 0).is_err());
    }
}
