//! What is fetched ahead although it is not believed enough.
//!
//! What is never fetched is never seen to be used: once schedules have been wrong so often that nothing of them is carried out,
//! nothing could show that they became right again. So a little of what only this distrust keeps below the threshold is tried,
//! drawn anew for each schedule: at most one byte in fifty of what it asks for above the threshold, and something small where that
//! is nothing. What claims too little by itself is never tried.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One byte tried for so many that are fetched because they pay.
const ONE_IN: u64 = 50;
/// Bytes that a schedule may always try.
const LEAST: u64 = 16 << 10;

/// Something that lost trust keeps below the threshold.
pub(crate) struct Candidate {
    pub(crate) instance: Arc<str>,
    pub(crate) confidence: f64,
    /// When it stops being wanted, in the time of schedules.
    pub(crate) until: i64,
    /// Of its copy, probably. What nothing is known of is no candidate: it may be of any size.
    pub(crate) bytes: u64,
}

/// Those that are tried, while schedules ask for `paying` bytes above the threshold: the same whenever `schedule` is looked at,
/// others at the next.
pub(crate) fn drawn(mut from: Vec<Candidate>, schedule: i64, paying: u64) -> Vec<Candidate> {
    let lot = |c: &Candidate| xxh3_64_with_seed(c.instance.as_bytes(), schedule as u64);
    from.sort_by_cached_key(lot);
    let mut room = (paying / ONE_IN).max(LEAST);
    from.retain(|candidate| {
        let fits = candidate.bytes <= room;
        room -= if fits { candidate.bytes } else { 0 };
        fits
    });
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(bytes: u64) -> Vec<Candidate> {
        let one =
            |i: u32| Candidate { instance: format!("b?k={i}").into(), confidence: 0.1, until: 0, bytes };
        (0..1_000).map(one).collect()
    }

    fn names(drawn: &[Candidate]) -> Vec<&str> {
        drawn.iter().map(|c| &*c.instance).collect()
    }

    #[test]
    fn one_byte_in_fifty_is_tried_or_a_little() {
        assert_eq!(drawn(candidates(4_096), 1, 0).len(), 4);
        assert_eq!(drawn(candidates(4_096), 1, 10_000_000).len(), 48);
        assert!(drawn(candidates(LEAST + 1), 1, 0).is_empty(), "too large to be tried for nothing");
    }

    #[test]
    fn each_schedule_draws_anew_and_each_time_the_same() {
        let of = |schedule| drawn(candidates(4_096), schedule, 0);
        assert_eq!(names(&of(1)), names(&of(1)));
        assert_ne!(names(&of(1)), names(&of(2)));
    }
}
