/// The moment at which something reaches the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds on a monotonic clock. Deadlines, staleness and pacing use this one.
    pub mono: u64,
    /// Microseconds since 1970-01-01 UTC on the clock that schedules are written in (the wall clock, or the clock of
    /// a trace that is replayed). Only schedule windows use this one.
    pub trace: i64,
}
