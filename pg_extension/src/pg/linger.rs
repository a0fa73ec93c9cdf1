//! How soon the next commit is looked for while many come.
//!
//! A walsender that has caught up is woken by every single commit: a signal that the committing session sends, a change of the running process,
//! a packet, and another process woken by it. At thousands of commits per second these take more time from the writers than decoding does. One
//! that sleeps for a moment finds those that came meanwhile and is woken by none of them.

use std::time::{Duration, Instant};

use pgrx::pg_sys;

/// How long, at most: as much as a commit may come later to the edges. While they come less often than that no time is to be saved.
const LINGER: Duration = Duration::from_millis(1);
/// As many commits within that time make it worth while: already one, which then wakes nobody.
const FEWEST: f64 = 1.0;
/// Commits that the average is over.
const MEMORY: f64 = 64.0;
/// A pause that says nothing about the commits around it.
const IDLE: Duration = Duration::from_millis(20);

/// The pace of the commits that a session decodes.
#[derive(Debug)]
pub(super) struct Pace {
    last: Option<(Instant, u64)>,
    /// Averages from commit to commit: seconds, and bytes of log.
    seconds: f64,
    bytes: f64,
    /// What was on disk when the session woke up.
    known: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { last: None, seconds: IDLE.as_secs_f64(), bytes: 0.0, known: 0 }
    }
}

impl Pace {
    /// Notes a commit that ends at a position; whether a moment's sleep from here will find others.
    fn note(&mut self, now: Instant, end: u64) -> bool {
        let (seconds, bytes) = self.last.map_or((IDLE, 0), |(last, position)| {
            (now.saturating_duration_since(last).min(IDLE), end.saturating_sub(position))
        });
        self.last = Some((now, end));
        self.seconds += (seconds.as_secs_f64() - self.seconds) / MEMORY;
        self.bytes += (bytes as f64 - self.bytes) / MEMORY;
        let frequent = self.seconds * FEWEST < LINGER.as_secs_f64();
        // Behind the last commit there is log of transactions that still run.
        frequent && end as f64 + self.bytes >= self.known as f64
    }

    /// To be called when a commit was passed on.
    ///
    /// # Safety
    /// `ctx` is the context of the callback that is running.
    pub(super) unsafe fn linger(&mut self, ctx: *mut pg_sys::LogicalDecodingContext) {
        // SAFETY: by contract; the reader lives as long as the context. A walsender has a slot in shared memory that only it writes,
        // other processes have none.
        let (end, lingers) = unsafe {
            let waited_for = pg_sys::MyWalSnd.is_null() || (*pg_sys::MyWalSnd).sync_standby_priority != 0;
            ((*(*ctx).reader).EndRecPtr, !waited_for)
        };
        if self.note(Instant::now(), end) && lingers {
            // SAFETY: a signal may end the sleep early. Then shared memory is read; the timeline is not asked for.
            self.known = unsafe {
                pg_sys::pg_usleep(LINGER.as_micros() as _);
                pg_sys::GetFlushRecPtr(std::ptr::null_mut())
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 1,000 commits so far apart, of 700 bytes each, end with a moment's sleep; after it everything written by then is known.
    fn sleeps(apart: Duration, still_running: u64) -> usize {
        let (mut pace, start, mut slept) = (Pace::default(), Instant::now(), 0);
        let mut clock = start;
        for i in 1..=1_000u64 {
            clock = clock.max(start + apart * i as u32);
            if pace.note(clock, i * 700) {
                slept += 1;
                clock += LINGER;
                let written = (clock - start).as_nanos() / apart.as_nanos();
                pace.known = written as u64 * 700 + still_running;
            }
        }
        slept
    }

    #[test]
    fn rare_commits_are_passed_on_at_once() {
        for apart in [Duration::from_millis(1), Duration::from_millis(8), Duration::from_secs(5)] {
            assert_eq!(sleeps(apart, 0), 0, "{apart:?}");
        }
    }

    #[test]
    fn frequent_commits_come_several_at_a_time() {
        // Ten in each millisecond; the first ones are needed to know that.
        for still_running in [0, 600] {
            let slept = sleeps(Duration::from_micros(100), still_running);
            assert!(
                (60..=100).contains(&slept),
                "{slept} of 1,000 with {still_running} bytes that still run"
            );
        }
    }

    #[test]
    fn a_backlog_is_decoded_without_a_pause() {
        let mut pace = Pace { known: 1 << 30, ..Pace::default() };
        let now = Instant::now();
        assert!((1..100_000u64).all(|i| !pace.note(now, i * 700)));
    }
}
