//! How many prefetch fetches may be under way.
//!
//! Additive increase, multiplicative decrease: each prefetch that comes back about as fast as the fastest ones seen
//! adds a fraction of a place, a slow or failed one halves the places. It starts at one place and reaches the
//! configured limit only on evidence. A short machine (CPU, memory) caps it at one, an exhausted one at none.

/// How busy the machine is. Shares of what the process may use, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resources {
    /// CPU in use.
    pub cpu: f64,
    /// Memory in use.
    pub memory: f64,
}

pub(crate) struct Admission {
    limit: f64,
    max: usize,
    fastest: Option<u64>,
    resources: Resources,
}

/// A fetch slower than this many times the fastest is taken as a sign of load at the origin or on the link.
const SLOW_FACTOR: u64 = 3;
/// Fetches faster than this are never called slow: at that scale scheduling noise decides.
const NOISE: u64 = 5_000;
const CPU_SHORT: f64 = 0.9;
const MEMORY_SHORT: f64 = 0.85;
const MEMORY_EXHAUSTED: f64 = 0.95;

impl Admission {
    pub(crate) fn new(max: usize) -> Self {
        Admission { limit: 1.0, max, fastest: None, resources: Resources { cpu: 0.0, memory: 0.0 } }
    }

    /// Fetches that may be under way now.
    pub(crate) fn limit(&self) -> usize {
        let Resources { cpu, memory } = self.resources;
        let cap = match () {
            () if memory >= MEMORY_EXHAUSTED => 0,
            () if memory >= MEMORY_SHORT || cpu >= CPU_SHORT => 1,
            () => self.max,
        };
        (self.limit as usize).min(cap)
    }

    pub(crate) fn on_resources(&mut self, resources: Resources) {
        let clean = |share: f64| if share.is_finite() { share.clamp(0.0, 1.0) } else { 1.0 };
        self.resources = Resources { cpu: clean(resources.cpu), memory: clean(resources.memory) };
    }

    /// A prefetch took `took` microseconds.
    pub(crate) fn on_done(&mut self, took: u64) {
        // The baseline creeps up by 1 %, so that a link that became slower for good is not called slow for ever.
        let fastest = self.fastest.map_or(took, |fastest| took.min(fastest + fastest / 100));
        self.fastest = Some(fastest);
        if took > NOISE && took > fastest * SLOW_FACTOR {
            self.shrink();
        } else {
            self.limit = (self.limit + 1.0 / self.limit.max(1.0)).min(self.max as f64);
        }
    }

    /// A prefetch failed.
    pub(crate) fn on_error(&mut self) {
        self.shrink();
    }

    fn shrink(&mut self) {
        self.limit = (self.limit / 2.0).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_small_and_grows_on_evidence() {
        let mut admission = Admission::new(4);
        assert_eq!(admission.limit(), 1);
        for _ in 0..20 {
            admission.on_done(80_000);
        }
        assert_eq!(admission.limit(), 4);
    }

    #[test]
    fn backs_off_when_the_origin_slows_down_or_fails() {
        let mut admission = Admission::new(8);
        for _ in 0..60 {
            admission.on_done(80_000);
        }
        assert_eq!(admission.limit(), 8);
        admission.on_done(400_000);
        assert_eq!(admission.limit(), 4);
        admission.on_error();
        assert_eq!(admission.limit(), 2);
    }

    #[test]
    fn a_link_that_stays_slow_becomes_the_new_normal() {
        let mut admission = Admission::new(4);
        admission.on_done(10_000);
        for _ in 0..400 {
            admission.on_done(100_000);
        }
        assert_eq!(admission.limit(), 4);
    }

    #[test]
    fn short_resources_cap_it_and_nonsense_readings_count_as_short() {
        let mut admission = Admission::new(4);
        for _ in 0..20 {
            admission.on_done(80_000);
        }
        for (cpu, memory, limit) in
            [(0.5, 0.5, 4), (0.95, 0.5, 1), (0.5, 0.9, 1), (0.5, 0.96, 0), (f64::NAN, 0.0, 1)]
        {
            admission.on_resources(Resources { cpu, memory });
            assert_eq!(admission.limit(), limit, "cpu {cpu} memory {memory}");
        }
    }
}
