//! Settings of `serve`: defaults < TOML file < `FORESHARD_*` < flags, every mistake reported at once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use foreshard_edge::EdgeConfig;

use crate::clock::Clock;

/// One setting: its name in the file (upper-cased with `FORESHARD_` before it in the environment, with dashes as a
/// flag), its default, and what it means.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
}

/// Every setting of `serve`. Sizes take B, KiB, MiB, GiB; times take us, ms, s, min, h.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        name: "origin",
        default: "",
        help: "connection string of the origin, postgresql://USER@HOST:PORT/DATABASE",
    },
    Setting {
        name: "edge",
        default: "",
        help: "name of this edge, as registered with foreshard.create_edge",
    },
    Setting { name: "listen", default: "127.0.0.1:8420", help: "ADDRESS:PORT or unix:PATH for functions" },
    Setting { name: "auth", default: "token", help: "token, or none (loopback and Unix sockets only)" },
    Setting {
        name: "auth_key_file",
        default: "",
        help: "with auth = token: file with the HS256 secret or a PEM public key (Ed25519, ES256)",
    },
    Setting { name: "auth_audience", default: "foreshard", help: "audience a token must name" },
    Setting {
        name: "prefetch",
        default: "on",
        help: "on, or off to ignore schedules and only cache reactively",
    },
    Setting { name: "prefetch_bytes", default: "256MiB", help: "budget of the prefetch cache" },
    Setting { name: "reactive_bytes", default: "64MiB", help: "budget of the reactive cache" },
    Setting {
        name: "min_confidence",
        default: "0.2",
        help: "schedule entries at or below this confidence are dropped",
    },
    Setting {
        name: "lead",
        default: "60s",
        help: "how long before its window a schedule is acted on, in schedule time",
    },
    Setting { name: "prefetch_concurrency", default: "4", help: "most prefetches under way at once" },
    Setting { name: "prefetch_batch", default: "16", help: "most instances in one prefetch" },
    Setting {
        name: "max_staleness",
        default: "5s",
        help: "without proof of freshness for this long, copies are not served",
    },
    Setting {
        name: "request_timeout",
        default: "15s",
        help: "a request waits at most this long for its rows",
    },
    Setting {
        name: "min_lsn_wait",
        default: "2s",
        help: "a request waits at most this long for the stream to reach its Foreshard-Min-Lsn",
    },
    Setting {
        name: "fetch_timeout",
        default: "10s",
        help: "a fetch from the origin takes at most this long",
    },
    Setting {
        name: "connect_timeout",
        default: "5s",
        help: "a connection to the origin is given up after this",
    },
    Setting {
        name: "fetch_connections",
        default: "2",
        help: "connections for fetches on demand, and as many for prefetches",
    },
    Setting { name: "heartbeat", default: "500ms", help: "how often the origin is asked how far its log is" },
    Setting {
        name: "log_buffer",
        default: "10000",
        help: "executions kept while the origin is out of reach; more are dropped and counted",
    },
    Setting { name: "log_interval", default: "1s", help: "how often executions are written to the origin" },
    Setting { name: "max_body", default: "64KiB", help: "largest request body" },
    Setting { name: "clock", default: "wall", help: "wall, or replay:T0@W0*RATE to replay a trace" },
];

/// Where functions connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// How requests are authorised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    None,
    Token { key_file: PathBuf, audience: String },
}

/// Settings of `serve`, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) origin: tokio_postgres::Config,
    pub(crate) edge: String,
    pub(crate) listen: Listen,
    pub(crate) auth: Auth,
    pub(crate) core: EdgeConfig,
    pub(crate) fetch_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) fetch_connections: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) log_buffer: usize,
    pub(crate) log_interval: Duration,
    pub(crate) max_body: usize,
    pub(crate) clock: Clock,
}

/// Every mistake of a configuration, one line each.
#[derive(Debug)]
pub(crate) struct Mistakes(pub(crate) Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Values by setting name, with the place each came from for error messages.
type Values = BTreeMap<&'static str, (String, String)>;

impl Config {
    /// Reads all sources. `flags` are pairs of setting name and value.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(&'static str, Option<String>)],
    ) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut values: Values =
            SETTINGS.iter().map(|s| (s.name, (s.default.to_owned(), "default".to_owned()))).collect();
        if let Some(path) = file {
            read_file(path, &mut values, &mut mistakes);
        }
        for (name, value) in environment {
            let Some(name) = name.strip_prefix("FORESHARD_") else { continue };
            if let Some(setting) = SETTINGS.iter().find(|s| s.name.eq_ignore_ascii_case(name)) {
                values.insert(setting.name, (value, format!("FORESHARD_{name}")));
            }
        }
        for (name, value) in flags {
            if let Some(value) = value {
                values.insert(name, (value.clone(), format!("--{}", name.replace('_', "-"))));
            }
        }
        Self::check(&values, mistakes)
    }

    fn check(values: &Values, mistakes: Vec<String>) -> Result<Self, Mistakes> {
        let mut reader = Reader { values, mistakes };
        let origin = reader.read("origin", |text| match text {
            "" => Err("missing: give --origin postgresql://USER@HOST:PORT/DATABASE".into()),
            // The parser's message may repeat the text, which may hold a password.
            text => text
                .parse::<tokio_postgres::Config>()
                .map_err(|_| "not a PostgreSQL connection string".into()),
        });
        let edge = reader.read("edge", |text| match text {
            "" => Err("missing: give --edge NAME, as registered with foreshard.create_edge".into()),
            text => Ok(text.to_owned()),
        });
        let listen = reader.read("listen", listen);
        let key_file = reader.read("auth_key_file", |text| Ok(PathBuf::from(text)));
        let audience = reader.read("auth_audience", |text| Ok(text.to_owned()));
        let auth = reader.read("auth", |text| match text {
            "none" => Ok(false),
            "token" => Ok(true),
            _ => Err("expected token or none".into()),
        });
        let local = match &listen {
            Some(Listen::Tcp(address)) => address.ip().is_loopback(),
            _ => true,
        };
        let auth = match auth {
            Some(false) if !local => {
                reader.mistakes.push("auth: none is allowed on loopback addresses and Unix sockets only; listen on 127.0.0.1 or configure tokens".into());
                None
            }
            Some(false) => Some(Auth::None),
            Some(true) if key_file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) => {
                reader.mistakes.push("auth_key_file: missing: tokens need a key file; on loopback or a Unix socket --auth none does without".into());
                None
            }
            Some(true) => {
                key_file.zip(audience).map(|(key_file, audience)| Auth::Token { key_file, audience })
            }
            None => None,
        };
        let prefetch = reader.read("prefetch", |text| match text {
            "on" | "true" => Ok(true),
            "off" | "false" => Ok(false),
            _ => Err("expected on or off".into()),
        });
        let prefetch_bytes = reader.read("prefetch_bytes", bytes);
        let core = EdgeConfig {
            prefetch_bytes: if prefetch == Some(false) { 0 } else { prefetch_bytes.unwrap_or_default() },
            reactive_bytes: reader.read("reactive_bytes", bytes).unwrap_or_default(),
            min_confidence: reader.read("min_confidence", share).unwrap_or_default(),
            lead: reader.read("lead", duration).map_or(0, |lead| lead.as_micros() as i64),
            max_staleness: reader.read("max_staleness", duration).map_or(0, |time| time.as_micros() as u64),
            min_lsn_wait: reader.read("min_lsn_wait", duration).map_or(0, |time| time.as_micros() as u64),
            request_timeout: reader
                .read("request_timeout", duration)
                .map_or(0, |time| time.as_micros() as u64),
            prefetch_concurrency: reader
                .read("prefetch_concurrency", |text| count(text, 1, 256))
                .unwrap_or_default(),
            prefetch_batch: reader.read("prefetch_batch", |text| count(text, 1, 1000)).unwrap_or_default(),
            ..EdgeConfig::default()
        };
        let fetch_timeout = reader.read("fetch_timeout", duration);
        let connect_timeout = reader.read("connect_timeout", duration);
        let fetch_connections = reader.read("fetch_connections", |text| count(text, 1, 100));
        let heartbeat = reader.read("heartbeat", duration);
        let log_buffer = reader.read("log_buffer", |text| count(text, 0, 10_000_000));
        let log_interval = reader.read("log_interval", duration);
        let max_body = reader.read("max_body", bytes);
        let clock = reader.read("clock", |text| Clock::parse(text).map_err(|error| error.to_string()));
        let all = || {
            Some(Config {
                origin: origin?,
                edge: edge?,
                listen: listen?,
                auth: auth?,
                core,
                fetch_timeout: fetch_timeout?,
                connect_timeout: connect_timeout?,
                fetch_connections: fetch_connections?,
                heartbeat: heartbeat?,
                log_buffer: log_buffer?,
                log_interval: log_interval?,
                max_body: max_body?,
                clock: clock?,
            })
        };
        match all() {
            Some(config) if reader.mistakes.is_empty() => Ok(config),
            _ => Err(Mistakes(reader.mistakes)),
        }
    }
}

struct Reader<'a> {
    values: &'a Values,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (text, source) = self.values.get(name)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(mistake) if source == "default" => {
                self.mistakes.push(format!("{name}: {mistake}"));
                None
            }
            Err(mistake) => {
                self.mistakes.push(format!("{name} ({source}): {mistake}"));
                None
            }
        }
    }
}

fn read_file(path: &Path, values: &mut Values, mistakes: &mut Vec<String>) {
    let shown = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return mistakes.push(format!("{shown}: cannot be read: {error}")),
    };
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            return mistakes.push(format!("{shown}, line {line}: {}", error.message()));
        }
    };
    for (name, value) in table {
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
            _ => {
                mistakes.push(format!("{name} ({shown}): expected a single value"));
                continue;
            }
        };
        match SETTINGS.iter().find(|setting| setting.name == name) {
            Some(setting) => {
                values.insert(setting.name, (value, shown.clone()));
            }
            None => mistakes.push(format!("{name} ({shown}): no such setting{}", nearest(&name))),
        }
    }
}

fn nearest(name: &str) -> String {
    let common =
        |setting: &&Setting| setting.name.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
    match SETTINGS.iter().max_by_key(common) {
        Some(setting) if common(&setting) >= 3 => format!("; did you mean {}?", setting.name),
        _ => String::new(),
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("expected unix:PATH".into()),
        Some(path) => Ok(Listen::Unix(path.into())),
        None => text
            .parse()
            .map(Listen::Tcp)
            .map_err(|_| "expected ADDRESS:PORT, as in 127.0.0.1:8420, or unix:PATH".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "expected a number from 0 to 1".into())
}

fn count(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (least..=most).contains(count));
    count.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}

fn split_unit(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

fn bytes(text: &str) -> Result<usize, String> {
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

fn duration(text: &str) -> Result<Duration, String> {
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
    use std::io::Write;

    use super::*;

    fn load(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Config, Vec<String>> {
        let mut toml = tempfile::NamedTempFile::new().unwrap();
        toml.write_all(file.as_bytes()).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let flags: Vec<_> = flags.iter().map(|(name, value)| (*name, Some((*value).to_owned()))).collect();
        Config::load(Some(toml.path()), environment, &flags).map_err(|mistakes| mistakes.0)
    }

    const ENOUGH: &[(&str, &str)] = &[("origin", "postgresql://u@h/d"), ("edge", "e"), ("auth", "none")];

    #[test]
    fn later_sources_win() {
        let config = load(
            "min_confidence = 0.3\nlead = \"2min\"\nprefetch_bytes = \"1KiB\"",
            &[("FORESHARD_LEAD", "3min"), ("FORESHARD_PREFETCH_BYTES", "2KiB")],
            &[ENOUGH, &[("prefetch_bytes", "3KiB")]].concat(),
        )
        .unwrap();
        assert_eq!(config.core.min_confidence, 0.3);
        assert_eq!(config.core.lead, 180_000_000);
        assert_eq!(config.core.prefetch_bytes, 3072);
    }

    #[test]
    fn every_mistake_is_listed() {
        let mistakes = load(
            "min_confidnce = 1\nheartbeat = \"soon\"\n",
            &[("FORESHARD_MIN_CONFIDENCE", "2")],
            &[("listen", "nowhere")],
        )
        .unwrap_err();
        let all = mistakes.join("\n");
        for part in [
            "min_confidnce",
            "did you mean min_confidence",
            "heartbeat",
            "origin: missing",
            "edge: missing",
            "listen (--listen)",
            "min_confidence (FORESHARD_MIN_CONFIDENCE)",
        ] {
            assert!(all.contains(part), "{part} not in:\n{all}");
        }
    }

    #[test]
    fn no_open_door() {
        let open = load("", &[], &[ENOUGH, &[("listen", "0.0.0.0:80")]].concat()).unwrap_err();
        assert!(open[0].contains("loopback"), "{open:?}");
        let no_key = load("", &[], &[&ENOUGH[..2], &[("auth", "token")]].concat()).unwrap_err();
        assert!(no_key[0].contains("auth_key_file"), "{no_key:?}");
        assert!(load("", &[], &[ENOUGH, &[("listen", "unix:/tmp/x")]].concat()).is_ok());
    }

    #[test]
    fn a_password_is_never_repeated() {
        let mistakes = load("", &[], &[("origin", "postgresql://u:secret@h:port/d")]).unwrap_err();
        assert!(!mistakes.join("\n").contains("secret"), "{mistakes:?}");
    }

    #[test]
    fn broken_toml_names_the_line() {
        let mistakes = load("edge = \"a\"\norigin = = 1\n", &[], &[]).unwrap_err();
        assert!(mistakes[0].contains("line 2"), "{mistakes:?}");
    }

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
    }
}
