use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, SslMode};

use super::tls::{Protection, Roots, Tls, Verify};

/// The origin's connection string, read: what PostgreSQL's client libraries take, with their `ssl…` parameters.
#[derive(Clone, Debug)]
pub(crate) struct OriginAddress {
    /// Where, who and how; its `Debug` leaves the password out.
    pub(crate) pg: tokio_postgres::Config,
    pub(crate) protection: Protection,
}

/// The parameters about TLS, as given.
#[derive(Default)]
struct Given {
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
}

impl OriginAddress {
    /// Reads a URL or a list of `keyword=value`. The error never repeats the text, which may hold a password.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut given = Given::default();
        let is_url = text.starts_with("postgresql://") || text.starts_with("postgres://");
        let rest = if is_url { from_url(text, &mut given)? } else { from_keywords(text, &mut given)? };
        let pg = rest.parse::<tokio_postgres::Config>();
        let mut pg = pg.map_err(|_| "not a PostgreSQL connection string".to_owned())?;
        let protection = given.protection(is_local(&pg))?;
        pg.ssl_mode(if matches!(protection, Protection::None) { SslMode::Disable } else { SslMode::Require });
        Ok(OriginAddress { pg, protection })
    }

    /// For a process that follows the change stream, whose client can do a little less.
    pub(crate) fn with_stream(self) -> Result<Self, String> {
        let (hosts, addresses) = (self.pg.get_hosts(), self.pg.get_hostaddrs());
        if hosts.len().max(addresses.len()) > 1 {
            return Err("host: the change stream follows one server; give one name or address, which moves with the primary".into());
        }
        if addresses.is_empty() && !matches!(hosts.first(), Some(Host::Tcp(_))) {
            return Err("host: the change stream needs TCP: give a host name or an address such as 127.0.0.1, not a Unix socket".into());
        }
        match &self.protection {
            Protection::Tls(tls) if tls.client.is_some() => {
                Err("sslcert: the change stream can't present a client certificate; let this role log in with a password over TLS".into())
            }
            _ => Ok(self),
        }
    }
}

impl Given {
    fn put(&mut self, name: &str, value: String) -> bool {
        let field = match name {
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            _ => return false,
        };
        *field = Some(value);
        true
    }

    fn protection(self, local: bool) -> Result<Protection, String> {
        let verify = match self.sslmode.as_deref() {
            None if local && self.sslrootcert.is_none() => return Ok(Protection::None),
            Some("disable") => return Ok(Protection::None),
            // On one machine there is nothing between the two that encryption could keep out.
            Some("allow" | "prefer") if local => return Ok(Protection::None),
            Some("allow" | "prefer") => {
                return Err("sslmode: allow and prefer fall back to an open line without a word; choose verify-full, verify-ca, require or disable".into());
            }
            None | Some("verify-full") => Verify::Name,
            Some("verify-ca") => Verify::Chain,
            // As with PostgreSQL's own clients: authorities are there to be used.
            Some("require") if self.sslrootcert.is_some() => Verify::Chain,
            Some("require") => Verify::Nothing,
            Some(_) => return Err("sslmode: expected disable, require, verify-ca or verify-full".into()),
        };
        let roots = match self.sslrootcert {
            Some(file) if file != "system" => Roots::File(PathBuf::from(file)),
            _ => Roots::Public,
        };
        let client = match (self.sslcert, self.sslkey) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            _ => return Err("sslcert and sslkey belong together: give both or neither".into()),
        };
        Ok(Protection::Tls(Tls { verify, roots, client }))
    }
}

/// Whether every host is this machine: then nothing but this machine's own kernel carries the bytes.
fn is_local(pg: &tokio_postgres::Config) -> bool {
    let named = pg.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    });
    // An address given beside a name is what is connected to.
    match pg.get_hostaddrs() {
        [] => named,
        addresses => addresses.iter().all(std::net::IpAddr::is_loopback),
    }
}

/// Takes the parameters about TLS out of the query of a URL.
fn from_url(text: &str, given: &mut Given) -> Result<String, String> {
    let credentials = text.find('@').unwrap_or(0);
    let Some(at) = text[credentials..].find('?').map(|at| at + credentials) else { return Ok(text.into()) };
    let mut kept = Vec::new();
    for pair in text[at + 1..].split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| "a parameter of the URL is not UTF-8".to_owned())?;
        if !given.put(name, value.into_owned()) {
            kept.push(pair);
        }
    }
    let separator = if kept.is_empty() { "" } else { "?" };
    Ok(format!("{}{separator}{}", &text[..at], kept.join("&")))
}

/// Takes the parameters about TLS out of `keyword=value keyword='value'`.
fn from_keywords(text: &str, given: &mut Given) -> Result<String, String> {
    let mut kept = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("expected keyword=value, or postgresql://…")?;
        let (value, length) = value(after).ok_or("a quotation mark is not closed")?;
        let whole = &rest[..name.len() + 1 + length];
        if !given.put(name.trim(), value) {
            kept.push_str(whole);
            kept.push(' ');
        }
        rest = rest[whole.len()..].trim_start();
    }
    Ok(kept)
}

/// The value at the start of `text`, unquoted, and how many bytes it takes there.
fn value(text: &str) -> Option<(String, usize)> {
    let start = text.len() - text.trim_start().len();
    let quoted = text[start..].starts_with('\'');
    let mut value = String::new();
    let mut chars = text[start..].char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if quoted => return Some((value, start + at + 1)),
            '\\' => value.push(chars.next()?.1),
            c if !quoted && c.is_whitespace() => return Some((value, start + at)),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(text: &str) -> Tls {
        match OriginAddress::parse(text).unwrap().protection {
            Protection::Tls(tls) => tls,
            Protection::None => panic!("{text} is open"),
        }
    }

    #[test]
    fn an_origin_elsewhere_is_verified_in_full_unless_told_otherwise() {
        for text in [
            "postgresql://u:p@db.example/d",
            "host=10.1.2.3 user=u",
            "host=localhost hostaddr=10.0.0.1 user=u",
        ] {
            assert_eq!(tls(text), Tls { verify: Verify::Name, roots: Roots::Public, client: None }, "{text}");
        }
        for text in [
            "postgresql://u@127.0.0.1:5/d",
            "postgresql://u@[::1]/d",
            "postgresql://localhost/d?sslmode=prefer",
            "host=/tmp user=u",
            "postgresql://db.example/d?sslmode=disable",
        ] {
            assert!(matches!(OriginAddress::parse(text).unwrap().protection, Protection::None), "{text}");
        }
    }

    #[test]
    fn modes_and_files() {
        let url = "postgresql://u:p%3F@h/d?sslmode=verify-ca&application_name=x&sslrootcert=%2Fa%20b.pem";
        let address = OriginAddress::parse(url).unwrap();
        assert_eq!(address.pg.get_application_name(), Some("x"));
        assert_eq!(address.pg.get_password(), Some(&b"p?"[..]));
        let file = || Roots::File("/a b.pem".into());
        assert_eq!(tls(url), Tls { verify: Verify::Chain, roots: file(), client: None });
        let words = "host = h  user=u password='it''s' sslrootcert='/a b.pem' sslcert=/c sslkey=/k";
        assert!(OriginAddress::parse(words).is_err(), "a quoted value ends at its quotation mark");
        let words = r"host = h user=u password='it\'s' sslrootcert='/a b.pem' sslcert=/c sslkey=/k";
        let address = OriginAddress::parse(words).unwrap();
        assert_eq!(address.pg.get_password(), Some(&b"it's"[..]));
        assert_eq!(
            tls(words),
            Tls { verify: Verify::Name, roots: file(), client: Some(("/c".into(), "/k".into())) }
        );
        assert!(address.with_stream().is_err());
        for text in ["host=a,b user=u", "host=/run/postgresql user=u", "user=u dbname=d"] {
            let error = OriginAddress::parse(text).and_then(OriginAddress::with_stream).unwrap_err();
            assert!(error.starts_with("host: the change stream"), "{text}: {error}");
        }
        assert_eq!(tls("postgresql://h/d?sslmode=require").verify, Verify::Nothing);
        assert_eq!(tls("postgresql://h/d?sslmode=require&sslrootcert=/r").verify, Verify::Chain);
        assert_eq!(tls("postgresql://h/d?sslrootcert=system").roots, Roots::Public);
        assert_eq!(tls("postgresql://localhost/d?sslrootcert=/r").verify, Verify::Name);
    }

    #[test]
    fn what_would_weaken_the_line_is_refused() {
        for text in [
            "postgresql://h/d?sslmode=prefer",
            "postgresql://h/d?sslmode=verifyfull",
            "postgresql://h/d?sslmod=verify-full",
            "postgresql://h/d?sslcert=/c",
            "host=h sslmode='verify-full",
            "host=h secret",
        ] {
            let error = OriginAddress::parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
