use std::cmp::Ordering;

/// A decimal number of any size, exactly: digits without leading or trailing zeros, times a power of ten.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decimal {
    NegInfinity,
    Finite { negative: bool, digits: Vec<u8>, magnitude: i64 },
    Infinity,
    NaN,
}

impl Decimal {
    pub(super) fn read(text: &str) -> Option<Decimal> {
        match text.to_ascii_lowercase().as_str() {
            "nan" => return Some(Decimal::NaN),
            "infinity" | "inf" => return Some(Decimal::Infinity),
            "-infinity" | "-inf" => return Some(Decimal::NegInfinity),
            _ => {}
        }
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(whole) || !plain(fraction) || whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let leading = all.iter().take_while(|digit| **digit == b'0').count();
        let trailing = all.iter().rev().take_while(|digit| **digit == b'0').count();
        if leading == all.len() {
            return Some(Decimal::Finite { negative: false, digits: Vec::new(), magnitude: 0 });
        }
        let magnitude = whole.len() as i64 - leading as i64 + i64::from(exponent);
        Some(Decimal::Finite { negative, digits: all[leading..all.len() - trailing].to_vec(), magnitude })
    }

    /// PostgreSQL's order: NaN is equal to itself and above everything.
    pub(super) fn compare(&self, other: &Decimal) -> Ordering {
        let rank = |value: &Decimal| match value {
            Decimal::NegInfinity => 0,
            Decimal::Finite { .. } => 1,
            Decimal::Infinity => 2,
            Decimal::NaN => 3,
        };
        match (self, other) {
            (
                Decimal::Finite { negative: n1, digits: d1, magnitude: m1 },
                Decimal::Finite { negative: n2, digits: d2, magnitude: m2 },
            ) => {
                let sign = |negative: bool, digits: &[u8]| {
                    if digits.is_empty() { 0 } else { 1 - 2 * i8::from(negative) }
                };
                let (s1, s2) = (sign(*n1, d1), sign(*n2, d2));
                let size = m1.cmp(m2).then_with(|| d1.cmp(d2));
                s1.cmp(&s2).then(if s1 < 0 { size.reverse() } else { size })
            }
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::read(text).unwrap()
    }

    #[test]
    fn decimals_compare_exactly() {
        for (a, b, order) in [
            ("1.0", "1", Ordering::Equal),
            ("-0", "0.00", Ordering::Equal),
            ("1e3", "1000.0", Ordering::Equal),
            ("0.1", "0.09999999999999999999999", Ordering::Greater),
            ("-2", "-10", Ordering::Greater),
            ("-2", "1", Ordering::Less),
            ("123456789012345678901234567890", "123456789012345678901234567891", Ordering::Less),
            ("NaN", "Infinity", Ordering::Greater),
            ("-Infinity", "-1e300", Ordering::Less),
        ] {
            assert_eq!(decimal(a).compare(&decimal(b)), order, "{a} {b}");
        }
        for text in ["", ".", "1.2.3", "abc", "1e", "--1", "0x10"] {
            assert_eq!(Decimal::read(text), None, "{text:?}");
        }
    }
}
