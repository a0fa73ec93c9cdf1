/// The smallest or largest of the values seen lately: an old one is forgotten after one to two windows, so that what has
/// changed for good becomes the new normal.
#[derive(Clone, Debug)]
pub(super) struct Extreme {
    better: fn(f64, f64) -> f64,
    current: Option<f64>,
    before: Option<f64>,
    since: u64,
}

/// Microseconds.
const WINDOW: u64 = 15_000_000;

impl Extreme {
    pub(super) fn smallest() -> Self {
        Extreme { better: f64::min, current: None, before: None, since: 0 }
    }

    pub(super) fn largest() -> Self {
        Extreme { better: f64::max, ..Extreme::smallest() }
    }

    pub(super) fn add(&mut self, now: u64, value: f64) {
        if now.saturating_sub(self.since) >= WINDOW {
            (self.before, self.current, self.since) = (self.current.take(), None, now);
        }
        self.current = Some(self.current.map_or(value, |current| (self.better)(current, value)));
    }

    pub(super) fn get(&self) -> Option<f64> {
        match (self.current, self.before) {
            (Some(a), Some(b)) => Some((self.better)(a, b)),
            (a, b) => a.or(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_extreme_is_forgotten() {
        let mut least = Extreme::smallest();
        assert_eq!(least.get(), None);
        least.add(0, 10.0);
        least.add(1, 80.0);
        assert_eq!(least.get(), Some(10.0));
        least.add(WINDOW, 90.0);
        assert_eq!(least.get(), Some(10.0), "of the window before");
        least.add(2 * WINDOW, 85.0);
        assert_eq!(least.get(), Some(85.0));
        let mut most = Extreme::largest();
        most.add(0, 1.0);
        most.add(1, 3.0);
        assert_eq!(most.get(), Some(3.0));
    }
}
