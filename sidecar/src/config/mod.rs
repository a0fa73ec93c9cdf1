//! Settings of `serve`: defaults < TOML file < `FORESHARD_*` < flags, every mistake reported at once.

mod settings;
mod sources;
mod units;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use foreshard_edge::EdgeConfig;

use crate::clock::Clock;
use crate::origin::OriginAddress;
use crate::persist::Keys;
pub(crate) use settings::{SECRET, SETTINGS, Setting};
use sources::{Reader, Values, read_file};
pub(crate) use units::bytes as parse_bytes;
use units::{bytes, bytes_within, count, duration, listen, share};

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
    Token(TokenRules),
}

/// What a token must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRules {
    /// A JSON Web Key Set, a PEM public key, or a shared secret.
    pub(crate) key_file: PathBuf,
    pub(crate) audience: String,
    pub(crate) leeway: Duration,
    /// Key columns with the claim each must equal.
    pub(crate) pins: Vec<(String, String)>,
}

/// Files of the HTTPS side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// What one client may ask for, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) body: usize,
    pub(crate) head: usize,
    pub(crate) url: usize,
    pub(crate) connections: usize,
    pub(crate) requests: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) write_timeout: Duration,
}

/// Where copies are kept, and with which keys.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    pub(crate) dir: PathBuf,
    /// To be read again when it changes, if the keys are from a file.
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) keys: Keys,
    pub(crate) every: Duration,
}

/// Settings of `serve`, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) origin: OriginAddress,
    pub(crate) edge: String,
    pub(crate) listen: Listen,
    pub(crate) auth: Auth,
    /// HTTPS, if wanted.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) limits: Limits,
    /// The persistent cache, if there is one.
    pub(crate) keep: Option<Keep>,
    pub(crate) core: EdgeConfig,
    pub(crate) fetch_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) fetch_connections: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) log_buffer: usize,
    pub(crate) log_interval: Duration,
    pub(crate) log: String,
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

impl Config {
    /// Reads all sources. `flags` are pairs of setting name and value.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(&'static str, Option<String>)],
    ) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut values = sources::defaults();
        if let Some(path) = file {
            read_file(path, &mut values, &mut mistakes).map_err(|mistake| Mistakes(vec![mistake]))?;
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
            text => OriginAddress::parse(text).and_then(OriginAddress::with_stream),
        });
        let edge = reader.read("edge", |text| match text {
            "" => Err("missing: give --edge NAME, as registered with foreshard.create_edge".into()),
            text => Ok(text.to_owned()),
        });
        let listen = reader.read("listen", listen);
        let auth = Self::auth(&mut reader, listen.as_ref());
        let tls = Self::tls(&mut reader);
        let limits = Self::limits(&mut reader);
        let keep = Self::keep(&mut reader);
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
            prefetch_bytes_per_second: reader
                .read("prefetch_bytes_per_second", bytes)
                .map_or(0, |bytes| bytes as u64),
            prefetch_concurrency: reader
                .read("prefetch_concurrency", |text| count(text, 1, 256))
                .unwrap_or_default(),
            fetch_concurrency: reader
                .read("fetch_concurrency", |text| count(text, 1, 100_000))
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
        let log = reader.read("log", crate::logging::checked);
        let clock = reader.read("clock", |text| Clock::parse(text).map_err(|error| error.to_string()));
        let all = || {
            Some(Config {
                origin: origin?,
                edge: edge?,
                listen: listen?,
                auth: auth?,
                tls: tls?,
                limits: limits?,
                keep: keep?,
                core,
                fetch_timeout: fetch_timeout?,
                connect_timeout: connect_timeout?,
                fetch_connections: fetch_connections?,
                heartbeat: heartbeat?,
                log_buffer: log_buffer?,
                log_interval: log_interval?,
                log: log?,
                clock: clock?,
            })
        };
        match all() {
            Some(config) if reader.mistakes.is_empty() => Ok(config),
            _ => Err(Mistakes(reader.mistakes)),
        }
    }

    fn auth(reader: &mut Reader<'_>, listen: Option<&Listen>) -> Option<Auth> {
        let key_file = reader.read("auth_key_file", |text| Ok(PathBuf::from(text)));
        let audience = reader.read("auth_audience", |text| Ok(text.to_owned()));
        let leeway = reader.read("auth_leeway", |text| match text {
            "0" | "0s" => Ok(Duration::ZERO),
            text => duration(text),
        });
        let pins = reader.read("auth_pins", pins);
        let token = reader.read("auth", |text| match text {
            "none" => Ok(false),
            "token" => Ok(true),
            _ => Err("expected token or none".into()),
        });
        let local = match listen {
            Some(Listen::Tcp(address)) => address.ip().is_loopback(),
            _ => true,
        };
        match token? {
            false if !local => {
                reader.mistakes.push("auth: none is allowed on loopback addresses and Unix sockets only; listen on 127.0.0.1 or configure tokens".into());
                None
            }
            false => Some(Auth::None),
            true if key_file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) => {
                reader.mistakes.push("auth_key_file: missing: tokens need a key file; on loopback or a Unix socket --auth none does without".into());
                None
            }
            true => {
                let (key_file, audience, leeway, pins) = (key_file?, audience?, leeway?, pins?);
                Some(Auth::Token(TokenRules { key_file, audience, leeway, pins }))
            }
        }
    }

    fn tls(reader: &mut Reader<'_>) -> Option<Option<TlsFiles>> {
        let mut file =
            |name| reader.read(name, |text| Ok(Some(PathBuf::from(text)).filter(|_| !text.is_empty())));
        let (cert, key, client_ca) = (file("tls_cert")?, file("tls_key")?, file("tls_client_ca")?);
        match (cert, key, client_ca) {
            (Some(cert), Some(key), client_ca) => Some(Some(TlsFiles { cert, key, client_ca })),
            (None, None, None) => Some(None),
            _ => {
                reader.mistakes.push(
                    "tls_cert: HTTPS needs both tls_cert and tls_key; tls_client_ca comes on top of them"
                        .into(),
                );
                None
            }
        }
    }

    fn keep(reader: &mut Reader<'_>) -> Option<Option<Keep>> {
        let dir = reader.read("cache_dir", |text| Ok(PathBuf::from(text)))?;
        let every = reader.read("cache_interval", duration)?;
        let key_file = reader
            .read("cache_key_file", |text| Ok(Some(PathBuf::from(text)).filter(|_| !text.is_empty())))?;
        let given =
            reader.read("cache_key", |text| Ok(Some(text.to_owned()).filter(|text| !text.is_empty())))?;
        if dir.as_os_str().is_empty() {
            return Some(None);
        }
        let keys = match (&key_file, given) {
            (Some(file), None) => Keys::read(file).map_err(|mistake| format!("cache_key_file: {mistake}")),
            (None, Some(text)) => Keys::parse(&text).map_err(|mistake| format!("cache_key: {mistake}")),
            (Some(_), Some(_)) => Err("cache_key_file: give the file or FORESHARD_CACHE_KEY, not both".into()),
            (None, None) => Err("cache_key_file: missing: what is kept on a disk is encrypted; make a key with `openssl rand -base64 32`".into()),
        };
        match keys {
            Ok(keys) => Some(Some(Keep { dir, key_file, keys, every })),
            Err(mistake) => {
                reader.mistakes.push(mistake);
                None
            }
        }
    }

    fn limits(reader: &mut Reader<'_>) -> Option<Limits> {
        let body = reader.read("max_body", |text| bytes_within(text, 0, 64 << 20));
        // The HTTP library keeps one buffer of this size for each connection at most.
        let head = reader.read("max_head", |text| bytes_within(text, 8 << 10, 1 << 20));
        let url = reader.read("max_url", |text| bytes_within(text, 64, 64 << 10));
        let connections = reader.read("max_connections", |text| count(text, 1, 1_000_000));
        let requests = reader.read("max_requests", |text| count(text, 1, 1_000_000));
        let head_timeout = reader.read("head_timeout", duration);
        let body_timeout = reader.read("body_timeout", duration);
        let write_timeout = reader.read("write_timeout", duration);
        Some(Limits {
            body: body?,
            head: head?,
            url: url?,
            connections: connections?,
            requests: requests?,
            head_timeout: head_timeout?,
            body_timeout: body_timeout?,
            write_timeout: write_timeout?,
        })
    }
}

/// `column=claim,column=claim`; a claim of the column's name may be left out.
fn pins(text: &str) -> Result<Vec<(String, String)>, String> {
    let pin = |pin: &str| {
        let (column, claim) = pin.split_once('=').unwrap_or((pin, pin));
        let (column, claim) = (column.trim(), claim.trim());
        if column.is_empty() || claim.is_empty() {
            return Err("expected COLUMN=CLAIM, comma-separated, as in customer_id=customer".to_owned());
        }
        Ok((column.to_owned(), claim.to_owned()))
    };
    if text.trim().is_empty() { Ok(Vec::new()) } else { text.split(',').map(pin).collect() }
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
    fn the_line_of_a_mistake_is_the_line_a_person_counts() {
        for (text, line) in [("= 1\n", 1), ("edge = \"a\"\n= 1\n", 2), ("a = 1\n\n\n = 1\n", 4)] {
            let mistakes = load(text, &[], &[]).unwrap_err();
            assert!(mistakes[0].contains(&format!("line {line}:")), "{text:?}: {mistakes:?}");
        }
    }

    #[test]
    fn tokens_and_their_pins() {
        let token =
            [&ENOUGH[..2], &[("auth_key_file", "/k"), ("auth_pins", "customer_id=cust, tenant")]].concat();
        let Auth::Token(rules) = load("", &[], &token).unwrap().auth else { panic!("no tokens") };
        let pin = |column: &str, claim: &str| (column.to_owned(), claim.to_owned());
        assert_eq!(rules.pins, [pin("customer_id", "cust"), pin("tenant", "tenant")]);
        assert_eq!(rules.leeway, Duration::from_secs(30));
        let bad = load("", &[], &[ENOUGH, &[("auth_pins", "=x")]].concat()).unwrap_err();
        assert!(bad[0].contains("auth_pins"), "{bad:?}");
    }

    #[test]
    fn https_needs_certificate_and_key() {
        let half = load("", &[], &[ENOUGH, &[("tls_cert", "/c")]].concat()).unwrap_err();
        assert!(half[0].contains("tls_key"), "{half:?}");
        let both = load("", &[], &[ENOUGH, &[("tls_cert", "/c"), ("tls_key", "/k")]].concat()).unwrap();
        assert!(both.tls.is_some_and(|files| files.client_ca.is_none()));
    }

    #[test]
    fn what_is_kept_is_encrypted() {
        let open = load("", &[], &[ENOUGH, &[("cache_dir", "/c")]].concat()).unwrap_err();
        assert!(open[0].contains("openssl rand"), "{open:?}");
        let key = "ab".repeat(32);
        let config =
            load("", &[("FORESHARD_CACHE_KEY", &key)], &[ENOUGH, &[("cache_dir", "/c")]].concat()).unwrap();
        assert!(config.keep.is_some() && !format!("{config:?}").contains("abab"));
        let bad =
            load("", &[("FORESHARD_CACHE_KEY", "hunter22")], &[ENOUGH, &[("cache_dir", "/c")]].concat())
                .unwrap_err();
        assert!(bad[0].contains("cache_key") && !bad[0].contains("hunter22"), "{bad:?}");
    }

    #[test]
    fn a_configuration_that_is_printed_shows_no_password() {
        let config =
            load("", &[], &[&ENOUGH[1..], &[("origin", "postgresql://u:hunter22@h/d")]].concat()).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter22"), "{shown}");
    }
}
