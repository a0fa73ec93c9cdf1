//! Settings of `plan`: defaults < TOML file < `FORESHARD_*` < flags, every mistake reported at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use clap::Args;
use serde::Deserialize;

use crate::clock::Clock;
use crate::config::{Mistakes, parse_bytes};
use crate::origin::OriginAddress;

/// Learn from the execution log and publish prefetch schedules.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PlanArgs {
    /// Connection string of the origin.
    #[arg(long, env = "FORESHARD_ORIGIN", hide_env_values = true, value_name = "URL")]
    pub(crate) origin: Option<String>,
    /// Read everything, publish once, and exit.
    #[arg(long)]
    pub(crate) once: bool,
    /// TOML file with the settings below (dashes as underscores) and a table `[timezones]`.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Which time it is: wall, or replay:T0@W0*RATE.
    #[arg(long, env = "FORESHARD_CLOCK", value_name = "SPEC")]
    pub(crate) clock: Option<String>,
    /// Length of a schedule's window in seconds of that clock [default: 900].
    #[arg(long, env = "FORESHARD_WINDOW", value_name = "SECONDS")]
    pub(crate) window: Option<i64>,
    /// Seconds of that clock between two rounds [default: 300].
    #[arg(long, env = "FORESHARD_EVERY", value_name = "SECONDS")]
    pub(crate) every: Option<i64>,
    /// Least probability that is published [default: 0.02].
    #[arg(long, env = "FORESHARD_FLOOR", value_name = "P")]
    pub(crate) floor: Option<f64>,
    /// Seconds of that clock from publishing until rows can be at an edge: windows begin so much later [default: 2].
    #[arg(long, env = "FORESHARD_PUBLISH_LEAD", value_name = "SECONDS")]
    pub(crate) publish_lead: Option<i64>,
    /// Days of the execution log to learn from at the start [default: 63].
    #[arg(long, env = "FORESHARD_HISTORY_DAYS", value_name = "DAYS")]
    pub(crate) history_days: Option<i64>,
    /// Share of the schedule entries that are withheld at random, to measure what scheduling is worth [default: 0.01].
    #[arg(long, env = "FORESHARD_CONTROL", value_name = "SHARE")]
    pub(crate) control: Option<f64>,
    /// Where to answer /metrics, /live and /ready, as in 127.0.0.1:9188.
    #[arg(long, env = "FORESHARD_PLAN_LISTEN", value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// Seconds between two looks at whether shards should change, where foreshard.auto_shard of the database allows it; 0: never [default: 86400].
    #[arg(long, env = "FORESHARD_ADVISE_EVERY", value_name = "SECONDS")]
    pub(crate) advise_every: Option<i64>,
    /// Bytes of copies that an edge has room for, as its reactive_bytes, when that is looked at [default: 64MiB].
    #[arg(long, env = "FORESHARD_EDGE_BYTES", value_name = "SIZE")]
    pub(crate) edge_bytes: Option<String>,
    /// File that keeps what was learned over restarts; without it, or when it is of no use, the log tells it again.
    #[arg(long, env = "FORESHARD_PLAN_STATE", value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Time zone of an edge, as in ams1=Europe/Amsterdam; else it follows from the edge's longitude.
    #[arg(long = "timezone", value_name = "EDGE=ZONE")]
    pub(crate) timezones: Vec<String>,
}

/// The file's contents.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    origin: Option<String>,
    clock: Option<String>,
    window: Option<i64>,
    every: Option<i64>,
    floor: Option<f64>,
    publish_lead: Option<i64>,
    history_days: Option<i64>,
    control: Option<f64>,
    advise_every: Option<i64>,
    edge_bytes: Option<String>,
    listen: Option<String>,
    state: Option<PathBuf>,
    timezones: BTreeMap<String, String>,
}

/// Settings of `plan`, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) origin: OriginAddress,
    pub(crate) clock: Clock,
    /// Seconds.
    pub(crate) window: i64,
    /// Seconds.
    pub(crate) every: i64,
    pub(crate) floor: f64,
    /// Seconds.
    pub(crate) publish_lead: i64,
    /// How far back to read at the start.
    pub(crate) history: chrono::TimeDelta,
    /// Share of the decisions that are withheld, 0..=0.5.
    pub(crate) control: f64,
    /// From one look at the shard definitions to the next, in real time; `None`: they are left alone.
    pub(crate) advise_every: Option<Duration>,
    /// Bytes that an edge has room for.
    pub(crate) edge_bytes: usize,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) timezones: BTreeMap<String, Tz>,
}

impl Settings {
    /// Brings together all sources; flags and environment arrive in `args`.
    pub(crate) fn load(args: &PlanArgs) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let file = match &args.config {
            None => File::default(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|e| format!("{}: cannot be read: {e}", path.display()))
                .and_then(|text| {
                    toml::from_str(&text).map_err(|e| {
                        let line =
                            e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
                        format!("{}, line {line}: {}", path.display(), e.message())
                    })
                })
                .unwrap_or_else(|mistake| {
                    mistakes.push(mistake);
                    File::default()
                }),
        };
        let origin = match args.origin.as_ref().or(file.origin.as_ref()) {
            None => {
                mistakes
                    .push("origin: missing: give --origin postgresql://USER@HOST:PORT/DATABASE".to_owned());
                None
            }
            Some(text) => {
                OriginAddress::parse(text).map_err(|mistake| mistakes.push(format!("origin: {mistake}"))).ok()
            }
        };
        let clock = match args.clock.as_ref().or(file.clock.as_ref()) {
            None => Some(Clock::wall()),
            Some(spec) => Clock::parse(spec).map_err(|e| mistakes.push(format!("clock: {e}"))).ok(),
        };
        let mut whole =
            |name: &str, flag: Option<i64>, file: Option<i64>, default: i64, least: i64, most: i64| {
                let value = flag.or(file).unwrap_or(default);
                if !(least..=most).contains(&value) {
                    mistakes.push(format!("{name}: expected {least} to {most}, not {value}"));
                }
                value
            };
        let window = whole("window", args.window, file.window, 900, 60, 6 * 3600);
        let every = whole("every", args.every, file.every, 300, 10, 3600);
        let publish_lead = whole("publish_lead", args.publish_lead, file.publish_lead, 2, 0, 3600);
        let days = whole("history_days", args.history_days, file.history_days, 63, 1, 365);
        let advise_every =
            whole("advise_every", args.advise_every, file.advise_every, 86_400, 0, 366 * 86_400);
        let edge_bytes = args.edge_bytes.as_ref().or(file.edge_bytes.as_ref()).map_or(Ok(64 << 20), |text| {
            parse_bytes(text).map_err(|mistake| mistakes.push(format!("edge_bytes: {mistake}")))
        });
        if every > window {
            mistakes
                .push(format!("every: {every} s between rounds leaves gaps between windows of {window} s"));
        }
        let floor = args.floor.or(file.floor).unwrap_or(0.02);
        if !(0.0..=1.0).contains(&floor) {
            mistakes.push(format!("floor: expected a number from 0 to 1, not {floor}"));
        }
        let control = args.control.or(file.control).unwrap_or(0.01);
        if !(0.0..=0.5).contains(&control) {
            mistakes.push(format!("control: expected a share from 0 to 0.5, not {control}"));
        }
        let listen = args.listen.as_ref().or(file.listen.as_ref()).and_then(|text| {
            let mistake = || format!("listen: {text}: expected an address and a port, as in 127.0.0.1:9188");
            text.parse().map_err(|_| mistakes.push(mistake())).ok()
        });
        let mut timezones = BTreeMap::new();
        let from_flags = args.timezones.iter().map(|z| z.split_once('=').unwrap_or((z, "")));
        for (edge, zone) in file.timezones.iter().map(|(e, z)| (e.as_str(), z.as_str())).chain(from_flags) {
            match zone.parse::<Tz>() {
                Ok(zone) => {
                    timezones.insert(edge.to_owned(), zone);
                }
                Err(_) => {
                    mistakes.push(format!("timezones: {edge}={zone}: expected a zone as in Europe/Amsterdam"))
                }
            }
        }
        match (origin, clock, edge_bytes) {
            (Some(origin), Some(clock), Ok(edge_bytes)) if mistakes.is_empty() => Ok(Settings {
                origin,
                clock,
                window,
                every,
                floor,
                publish_lead,
                history: chrono::TimeDelta::days(days),
                control,
                advise_every: u64::try_from(advise_every)
                    .ok()
                    .filter(|seconds| *seconds > 0 && !args.once)
                    .map(Duration::from_secs),
                edge_bytes,
                listen,
                state: args.state.clone().or(file.state),
                timezones,
            }),
            _ => Err(Mistakes(mistakes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn args() -> PlanArgs {
        PlanArgs { origin: Some("postgresql://planner@localhost/shop".to_owned()), ..PlanArgs::default() }
    }

    #[test]
    fn defaults() {
        let s = Settings::load(&args()).unwrap();
        assert_eq!((s.window, s.every, s.floor, s.clock), (900, 300, 0.02, Clock::wall()));
    }

    #[test]
    fn every_mistake_is_listed() {
        let bad = PlanArgs {
            clock: Some("sundial".to_owned()),
            window: Some(1),
            floor: Some(f64::NAN),
            control: Some(2.0),
            advise_every: Some(-1),
            edge_bytes: Some("much".to_owned()),
            listen: Some("here".to_owned()),
            timezones: vec!["ams1=Europe/Nowhere".to_owned()],
            ..PlanArgs::default()
        };
        let mistakes = Settings::load(&bad).unwrap_err().0;
        let names = [
            "origin",
            "clock",
            "window",
            "every",
            "floor",
            "control",
            "advise_every",
            "edge_bytes",
            "listen",
            "timezones",
        ];
        for name in names {
            assert!(mistakes.iter().any(|m| m.starts_with(name)), "{name} in {mistakes:?}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "window = 3600\nfloor = 0.1\n[timezones]\nEWR = \"America/New_York\"\n").unwrap();
        let with_file = PlanArgs { config: Some(file.path().into()), floor: Some(0.3), ..args() };
        let s = Settings::load(&with_file).unwrap();
        assert_eq!((s.window, s.floor), (3600, 0.3));
        assert_eq!(s.timezones["EWR"], chrono_tz::America::New_York);
    }

    #[test]
    fn a_password_is_never_repeated() {
        let bad = PlanArgs { origin: Some("host=x password=secret port=".to_owned()), ..PlanArgs::default() };
        assert!(!format!("{}", Settings::load(&bad).unwrap_err()).contains("secret"));
    }

    #[test]
    fn an_unknown_setting_is_named_with_its_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "window = 900\nwindwo = 1\n").unwrap();
        let mistakes =
            Settings::load(&PlanArgs { config: Some(file.path().into()), ..args() }).unwrap_err().0;
        assert!(mistakes[0].contains("line 2") && mistakes[0].contains("windwo"), "{mistakes:?}");
    }
}
