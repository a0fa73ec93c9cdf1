//! Which time it is: the wall clock, or a clock that replays a trace faster than it happened.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, TimeDelta, Utc};

/// The time that schedules, windows and the execution log are in.
///
/// Network timeouts, `max_staleness` and everything else that guards correctness stay on the real clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Clock {
    replay: Option<Replay>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Replay {
    trace_start: DateTime<Utc>,
    wall_start: f64,
    rate: f64,
}

/// A clock specification that could not be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "bad clock {0:?}: expected replay:<RFC 3339 time>@<unix seconds>*<rate above 0>, as in replay:2013-05-01T04:00:00Z@1700000000*900"
)]
pub(crate) struct ClockError(String);

impl Clock {
    /// The wall clock.
    pub(crate) fn wall() -> Self {
        Clock { replay: None }
    }

    /// Reads `wall`, or `replay:<T0>@<W0>*<rate>`: at wall time `w` (seconds since 1970) it is `T0 + (w - W0) * rate`.
    pub(crate) fn parse(spec: &str) -> Result<Self, ClockError> {
        if spec == "wall" {
            return Ok(Self::wall());
        }
        let replay = || {
            let (trace_start, rest) = spec.strip_prefix("replay:")?.split_once('@')?;
            let (wall_start, rate) = rest.split_once('*')?;
            let trace_start = DateTime::parse_from_rfc3339(trace_start).ok()?.to_utc();
            let wall_start: f64 = wall_start.parse().ok().filter(|w: &f64| w.is_finite())?;
            let rate: f64 = rate.parse().ok().filter(|r: &f64| r.is_finite() && *r > 0.0)?;
            Some(Replay { trace_start, wall_start, rate })
        };
        replay().map(|replay| Clock { replay: Some(replay) }).ok_or_else(|| ClockError(spec.to_owned()))
    }

    /// The time now.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.at(SystemTime::now())
    }

    /// The time at a moment of the wall clock.
    pub(crate) fn at(&self, wall: SystemTime) -> DateTime<Utc> {
        let Some(replay) = &self.replay else { return wall.into() };
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let passed = (wall - replay.wall_start) * replay.rate * 1e6;
        // Saturates far outside what chrono can hold, where no trace is.
        replay
            .trace_start
            .checked_add_signed(TimeDelta::microseconds(passed as i64))
            .unwrap_or(replay.trace_start)
    }

    /// How long to wait, in real time, until it is `moment` on this clock; zero if that has passed.
    pub(crate) fn until(&self, moment: DateTime<Utc>) -> Duration {
        let ahead = (moment - self.now()).to_std().unwrap_or_default();
        match &self.replay {
            Some(replay) => ahead.div_f64(replay.rate),
            None => ahead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_runs_at_its_rate() {
        let clock = Clock::parse("replay:2013-05-01T04:00:00Z@1700000000*900").unwrap();
        let at = |seconds| clock.at(UNIX_EPOCH + Duration::from_secs(seconds)).to_rfc3339();
        assert_eq!(at(1_700_000_000), "2013-05-01T04:00:00+00:00");
        assert_eq!(at(1_700_000_004), "2013-05-01T05:00:00+00:00");
        assert_eq!(at(1_699_999_996), "2013-05-01T03:00:00+00:00");
    }

    #[test]
    fn waits_are_in_real_time() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let clock = Clock::parse(&format!("replay:2013-05-01T04:00:00Z@{now}*3600")).unwrap();
        let wait = clock.until("2013-05-01T14:00:00Z".parse().unwrap());
        assert!(wait > Duration::from_secs(8) && wait <= Duration::from_secs(10), "{wait:?}");
        assert_eq!(clock.until("2013-05-01T03:00:00Z".parse().unwrap()), Duration::ZERO);
    }

    #[test]
    fn refuses_what_is_not_a_clock() {
        for spec in [
            "",
            "sun",
            "replay:",
            "replay:x@1*1",
            "replay:2013-05-01T04:00:00Z@1*0",
            "replay:2013-05-01T04:00:00Z@1*-2",
            "replay:2013-05-01T04:00:00Z@nan*1",
            "replay:2013-05-01T04:00:00Z@1",
        ] {
            assert!(Clock::parse(spec).is_err(), "{spec:?}");
        }
        assert_eq!(Clock::parse("wall").unwrap(), Clock::wall());
    }
}
