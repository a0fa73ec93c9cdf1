use chrono::{DateTime, Utc};
use croner::parser::{CronParser, Seconds, Year};
use pgrx::prelude::*;

/// Longer expressions are mistakes.
const LONGEST: usize = 256;

/// What is wrong with the cron expression of a hint; see `foreshard.cron_fault`. The planner reads expressions with the same parser.
#[pg_extern(sql = false)]
fn cron_fault(cron: &str) -> Option<String> {
    fault(cron)
}

fn fault(cron: &str) -> Option<String> {
    if cron.len() > LONGEST {
        return Some(format!("it is longer than {LONGEST} bytes"));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    match parser.parse(cron) {
        Err(error) => Some(error.to_string()),
        // From a fixed time on, so that the answer is always the same; leap years come every eight years at least.
        Ok(times) => times
            .find_next_occurrence(&DateTime::<Utc>::UNIX_EPOCH, true)
            .err()
            .map(|_| "it names no time that ever comes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_times_is_taken() {
        for good in
            ["* * * * *", "*/15 6-9 * * MON-FRI", "0 0 29 2 *", "0 12 L * *", "@daily", "5 0 1,15 * 3"]
        {
            assert_eq!(fault(good), None, "{good}");
        }
    }

    #[test]
    fn what_names_none_is_told_apart() {
        for bad in ["", "whenever", "60 * * * *", "* * * *", "0 * * * * *", "0 25 * * *", "é * * * *"] {
            assert!(fault(bad).is_some_and(|fault| !fault.contains("ever comes")), "{bad:?}");
        }
        assert!(fault("0 0 30 2 *").unwrap().contains("ever comes"));
        assert!(fault(&"*".repeat(300)).unwrap().contains("longer"));
    }
}
