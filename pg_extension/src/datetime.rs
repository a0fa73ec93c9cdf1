//! Text of dates and times as PostgreSQL writes them with `DateStyle` ISO and `TimeZone` UTC, and as `row_to_json` does.
//!
//! Written here because a decoding session may have any settings, and because key values of the stream and of a fetch
//! must be the same bytes.

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01, PostgreSQL's day zero.
const EPOCH_DAYS: i64 = 10_957;

/// How date and time are put together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// The type's own output: `2024-05-01 10:00:00+00`.
    Plain,
    /// Inside JSON: `2024-05-01T10:00:00+00:00`.
    Json,
}

/// A `date`, given in days since 2000-01-01.
pub(crate) fn date(days: i32) -> String {
    match days {
        i32::MIN => "-infinity".into(),
        i32::MAX => "infinity".into(),
        _ => {
            let (text, before_christ) = day(i64::from(days));
            if before_christ { text + " BC" } else { text }
        }
    }
}

/// A `timestamp`, or with `zone` a `timestamptz`, given in microseconds since 2000-01-01 (UTC).
pub(crate) fn timestamp(micros: i64, zone: bool, style: Style) -> String {
    match micros {
        i64::MIN => return "-infinity".into(),
        i64::MAX => return "infinity".into(),
        _ => {}
    }
    let (mut text, before_christ) = day(micros.div_euclid(MICROS_PER_DAY));
    let time = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, fraction) = (time / 1_000_000, time % 1_000_000);
    text.push(if style == Style::Json { 'T' } else { ' ' });
    text += &format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        text += format!(".{fraction:06}").trim_end_matches('0');
    }
    if zone {
        text += if style == Style::Json { "+00:00" } else { "+00" };
    }
    if before_christ { text + " BC" } else { text }
}

/// Year, month and day of a day counted from 2000-01-01, and whether the year is before Christ.
fn day(since_2000: i64) -> (String, bool) {
    // Civil date from a day count, in eras of 400 years that begin on 1 March (H. Hinnant's algorithm).
    let shifted = since_2000 + EPOCH_DAYS + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // There is no year zero: year 0 of the count is 1 BC.
    let (shown, before_christ) = if year > 0 { (year, false) } else { (1 - year, true) };
    (format!("{shown:04}-{month:02}-{day:02}"), before_christ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (days, text) in [
            (0, "2000-01-01"),
            (-1, "1999-12-31"),
            (59, "2000-02-29"),
            (8_888, "2024-05-02"),
            (-730_485, "0001-01-01 BC"),
            (-730_120, "0001-12-31 BC"),
            (-730_119, "0001-01-01"),
            (2_921_973, "10000-02-03"),
            (-2_451_545, "4714-11-24 BC"),
            (2_145_031_948, "5874897-12-31"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            assert_eq!(date(days), text, "{days}");
        }
    }

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0, false, Style::Plain), "2000-01-01 00:00:00");
        assert_eq!(timestamp(1, false, Style::Json), "2000-01-01T00:00:00.000001");
        assert_eq!(timestamp(-500_000, true, Style::Plain), "1999-12-31 23:59:59.5+00");
        assert_eq!(timestamp(-500_000, true, Style::Json), "1999-12-31T23:59:59.5+00:00");
        assert_eq!(timestamp(i64::MAX, true, Style::Json), "infinity");
        assert_eq!(timestamp(-63_082_454_400_000_000, true, Style::Json), "0001-12-30T00:00:00+00:00 BC");
    }
}
