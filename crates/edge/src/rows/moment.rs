//! Dates, timestamps and times of day: PostgreSQL's own text of them and ISO 8601.

use foreshard_protocol::ColumnKind;

/// A point in time, microseconds since 1970; the infinities are outermost. Dates reach further than 64 bits do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    Before,
    At(i128),
    After,
}

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

impl Moment {
    /// As a cast to the column's type reads it: a date has no time, a timestamp without time zone ignores one, and where a time
    /// zone is missing it is UTC.
    pub(super) fn read(kind: ColumnKind, text: &str) -> Option<Moment> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("infinity") {
            return Some(Moment::After);
        }
        if text.eq_ignore_ascii_case("-infinity") {
            return Some(Moment::Before);
        }
        let (text, before_christ) = match text.len().checked_sub(2).and_then(|at| text.split_at_checked(at)) {
            Some((rest, era)) if era.eq_ignore_ascii_case("bc") => (rest.trim_end(), true),
            Some((rest, era)) if era.eq_ignore_ascii_case("ad") => (rest.trim_end(), false),
            _ => (text, false),
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
        let days = days(&text[..end], before_christ)?;
        let rest = &text[end..];
        let (time, offset) = match rest.strip_prefix(['T', 't', ' ']) {
            None if rest.is_empty() => (0, 0),
            None => return None,
            Some(rest) => clock(rest.trim_start())?,
        };
        let micros = match kind {
            ColumnKind::Date => 0,
            ColumnKind::Timestamp => time,
            _ => time - offset,
        };
        Some(Moment::At(i128::from(days) * i128::from(DAY) + i128::from(micros)))
    }
}

/// Microseconds since midnight.
pub(super) fn time_of_day(text: &str) -> Option<i64> {
    let text = text.trim();
    Some(clock(text)?.0)
}

/// Days since 1970 of `YYYY-MM-DD`; years may have more digits.
fn days(text: &str, before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    // With fewer digits PostgreSQL might take something else for the year.
    if parts.next().is_some() || !(4..=7).contains(&year.len()) {
        return None;
    }
    let (year, month, day) = (number(year, 7)?, number(month, 2)?, number(day, 2)?);
    if year == 0 {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is their last; 400 of them are 146,097 days.
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// `HH:MM[:SS[.ffffff]]` and perhaps a zone: microseconds since midnight, and how far the zone is before UTC.
fn clock(text: &str) -> Option<(i64, i64)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(text.len());
    let (time, zone) = (time(&text[..end])?, text[end..].trim_start());
    Some((time, offset(zone)?))
}

fn time(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?, parts.next());
    let (second, fraction) = second.unwrap_or("0").split_once('.').unwrap_or((second.unwrap_or("0"), ""));
    let (second, micros) = (number(second, 2)?, micros(fraction)?);
    let all = ((hour * 60 + minute) * 60 + second) * SECOND + micros;
    (parts.next().is_none() && minute < 60 && second <= 60 && all <= DAY).then_some(all)
}

/// The digits behind a point, rounded.
pub(super) fn micros(fraction: &str) -> Option<i64> {
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digit = |at: usize| i64::from(fraction.as_bytes().get(at).map_or(0, |digit| digit - b'0'));
    Some((0..6).fold(0, |sum, at| sum * 10 + digit(at)) + i64::from(digit(6) >= 5))
}

/// `Z`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS`; nothing is UTC.
fn offset(zone: &str) -> Option<i64> {
    if ["", "z", "utc", "gmt"].iter().any(|utc| zone.eq_ignore_ascii_case(utc)) {
        return Some(0);
    }
    let (sign, zone) = match zone.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, zone.strip_prefix('+')?),
    };
    let mut parts = match zone.len() {
        4 if !zone.contains(':') => vec![zone.get(..2)?, zone.get(2..)?],
        _ => zone.split(':').collect(),
    };
    parts.resize(parts.len().max(3), "0");
    let [hours, minutes, seconds] = parts[..] else { return None };
    let (hours, minutes, seconds) = (number(hours, 2)?, number(minutes, 2)?, number(seconds, 2)?);
    (hours < 16 && minutes < 60 && seconds < 60)
        .then_some(sign * ((hours * 60 + minutes) * 60 + seconds) * SECOND)
}

/// A number of at least one and at most so many digits.
fn number(text: &str, most: usize) -> Option<i64> {
    let plain = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zoned(text: &str) -> Option<Moment> {
        Moment::read(ColumnKind::TimestampTz, text)
    }

    #[test]
    fn one_moment_in_every_form() {
        let noon = zoned("2013-01-01T12:00:00.5Z").unwrap();
        assert_eq!(noon, Moment::At(1_357_041_600_500_000));
        for text in [
            "2013-01-01 12:00:00.5",
            "2013-01-01 12:00:00.5+00",
            "2013-01-01 12:00:00.5 +00",
            "2013-01-01T14:00:00.500000+02:00",
            "2013-01-01 14:00:00.5+0200",
            "2013-1-1 06:30:00.4999996-05:30",
            "2013-01-01 12:00:10.5+00:00:10",
            " 2013-01-01t12:00:00.5utc AD",
        ] {
            assert_eq!(zoned(text), Some(noon), "{text}");
        }
        assert_eq!(zoned("2013-01-01 24:00"), zoned("2013-01-02"));
    }

    #[test]
    fn a_cast_drops_what_the_type_has_no_room_for() {
        let date = |text| Moment::read(ColumnKind::Date, text);
        let plain = |text| Moment::read(ColumnKind::Timestamp, text);
        assert_eq!(date("2013-01-01 12:00:00+05"), date("2013-01-01"));
        assert_eq!(plain("2013-01-01 12:00:00+05"), plain("2013-01-01 12:00"));
    }

    #[test]
    fn from_the_first_to_the_last() {
        let ascending = [
            "-infinity",
            "4714-11-24 BC",
            "0044-03-15T00:00:00 BC",
            "0044-03-15 12:00:00+00 BC",
            "0001-12-31 BC",
            "0001-01-01",
            "1969-12-31 23:59:59.999999",
            "1970-01-01",
            "2000-02-29",
            "9999-12-31",
            "10000-01-01",
            "294276-12-31T23:59:59.999999+00:00",
            "5874897-12-31",
            "infinity",
        ];
        let read: Vec<_> = ascending.iter().map(|text| zoned(text).unwrap()).collect();
        assert!(read.is_sorted_by(|a, b| a < b), "{read:?}");
        let day = |text| match Moment::read(ColumnKind::Date, text) {
            Some(Moment::At(micros)) => i64::try_from(micros / i128::from(DAY)).unwrap(),
            other => panic!("{text}: {other:?}"),
        };
        // As PostgreSQL counts them.
        assert_eq!((day("0001-01-01") - day("0001-12-31 BC"), day("4714-11-24 BC")), (1, -2_440_588));
        assert_eq!((day("2000-03-01"), day("5874897-12-31")), (11_017, 2_145_042_905));
    }

    #[test]
    fn nothing_else_is_a_moment() {
        for text in [
            "",
            "yesterday",
            "13-01-01",
            "2013-13-01",
            "2013-02-29",
            "0000-01-01",
            "2013-01-01T",
            "2013-01-01T25:00",
            "2013-01-01 12:60",
            "2013-01-01 12:00+16",
            "2013-01-01 12:00 00",
            "2013-01-01 12:00 Mars",
            "2013-01-01x",
            "2013-01-01 12:00:00.5.5",
            "2013-01-01-01",
            "é",
            "2013-01-01 12:00+é",
        ] {
            assert_eq!(zoned(text), None, "{text:?}");
        }
        assert_eq!(
            (time_of_day("12:30"), time_of_day("12:30:00.000000")),
            (Some(45_000_000_000), time_of_day("12:30"))
        );
        assert_eq!(
            (time_of_day("24:00:00"), time_of_day("24:00:01"), time_of_day("noon")),
            (Some(DAY), None, None)
        );
    }
}
