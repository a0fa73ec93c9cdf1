//! How the values of settings are written.

use std::time::Duration;

use super::Listen;

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("expected unix:PATH".into()),
        Some(path) => Ok(Listen::Unix(path.into())),
        None => text
            .parse()
            .map(Listen::Tcp)
            .map_err(|_| "expected ADDRESS:PORT, as in 127.0.0.1:8420, or unix:PATH".into()),
    }
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "expected a number from 0 to 1".into())
}

pub(super) fn count(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (least..=most).contains(count));
    count.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}

fn split_unit(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => f64::NAN,
    };
    let size = number.parse::<f64>().unwrap_or(f64::NAN) * factor;
    if size.is_finite() {
        Ok(size as usize)
    } else {
        Err("expected a size, as in 64MiB (B, KiB, MiB, GiB)".into())
    }
}

/// A size within bounds that are given in bytes.
pub(super) fn bytes_within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    bytes(text).and_then(|size| {
        if (least..=most).contains(&size) {
            Ok(size)
        } else {
            Err(format!("expected a size from {least} to {most} bytes"))
        }
    })
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = number.parse::<f64>().unwrap_or(f64::NAN) * factor;
    if seconds.is_finite() && seconds > 0.0 && seconds < 1e9 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("expected a time above zero, as in 500ms (us, ms, s, min, h)".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(bytes("1.5KiB"), Ok(1536));
        assert_eq!(duration("40ms"), Ok(Duration::from_millis(40)));
        for bad in ["", "5", "-1s", "0s", "1 day", "s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "x", "1XB", "-1"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
        assert!(bytes_within("1KiB", 0, 1024).is_ok() && bytes_within("2KiB", 0, 1024).is_err());
    }
}
