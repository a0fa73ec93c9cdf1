use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use foreshard_protocol::{Lsn, PROTOCOL_VERSION};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pg_walstream::{CancellationToken, PgReplicationConnection};
use tokio::time::timeout;
use tokio_postgres::config::Host;

use super::past::Identity;
use crate::config::Config;
use crate::origin::{OriginAddress, Protection};

/// A replication connection that streams from the edge's slot.
pub(crate) struct Replication {
    connection: PgReplicationConnection,
    /// Where the stream of the slot begins, if it was created by this connection.
    pub(crate) created_at: Option<Lsn>,
    /// The origin that streams.
    pub(crate) origin: Identity,
    never: CancellationToken,
}

/// What the stream brings.
pub(crate) enum Message {
    /// One frame, encoded.
    Data(Bytes),
    /// Everything up to here has been sent; with `reply`, an acknowledgement is wanted at once.
    Position { lsn: Lsn, reply: bool },
}

/// Creating a slot waits for every transaction that is running at the origin.
const CREATE_WITHIN: Duration = Duration::from_secs(600);

impl Replication {
    /// Connects, creates the slot if asked to, and starts to stream from where it was acknowledged.
    pub(crate) async fn start(config: &Config, slot: &str, create: bool) -> anyhow::Result<Self> {
        let address = address(&config.origin, config.connect_timeout, &config.edge)?;
        let (slot, edge) = (slot.to_owned(), config.edge.clone());
        // The library blocks while it connects and runs commands, so that happens on a thread that may.
        let starting = tokio::task::spawn_blocking(move || -> anyhow::Result<Self> {
            let mut connection = PgReplicationConnection::connect(&address)?;
            // What synchronous_standby_names lists for an edge whose application commits wait for. The library does not send
            // it with the connection's start.
            connection.exec(&format!("SET application_name TO '{}'", edge.replace('\'', "''")))?;
            let origin = identify(&mut connection)?;
            let created_at = if create { Some(create_slot(&mut connection, &slot)?) } else { None };
            let version = PROTOCOL_VERSION.to_string();
            let options = [("edge", edge.as_str()), ("protocol", &version), ("deltas", "on")];
            if let Err(error) = connection.start_replication(&slot, 0, &options) {
                // A slot that nobody can follow would only hold back the origin's log.
                if create && let Err(error) = connection.drop_replication_slot(&slot, true) {
                    tracing::error!(slot, %error, "the new slot is not followed and could not be dropped: drop it by hand");
                }
                return Err(error.into());
            }
            Ok(Replication { connection, created_at, origin, never: CancellationToken::new() })
        });
        let within = if create { CREATE_WITHIN } else { config.connect_timeout * 4 };
        timeout(within, starting)
            .await
            .with_context(|| format!("the stream did not start within {within:?}"))??
    }

    /// The next message. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            let data = self.connection.get_copy_data_async(&self.never).await?;
            if let Some(message) = read(data)? {
                return Ok(message);
            }
        }
    }

    /// A message that has already arrived, if any.
    pub(crate) fn buffered(&mut self) -> anyhow::Result<Option<Message>> {
        use std::future::Future;
        use std::task::{Context, Poll, Waker};
        let next = std::pin::pin!(self.next());
        match next.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => message.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// Tells the origin what is applied and what it may forget; with `ask` it answers with its position.
    pub(crate) async fn acknowledge(&mut self, applied: Lsn, flushed: Lsn, ask: bool) -> anyhow::Result<()> {
        Ok(self.connection.send_standby_status_update(applied.0, flushed.0, applied.0, ask).await?)
    }
}

fn identify(connection: &mut PgReplicationConnection) -> anyhow::Result<Identity> {
    let system = connection.identify_system()?;
    let field = |at| system.get_value(0, at).context("IDENTIFY_SYSTEM says too little");
    Ok(Identity { system: field(0)?, timeline: field(1)?.parse()?, flushed: field(2)?.parse()? })
}

fn read(mut data: Bytes) -> anyhow::Result<Option<Message>> {
    if data.is_empty() {
        bail!("an empty message in the change stream");
    }
    match (data.get_u8(), data.len()) {
        (b'w', 24..) => Ok(Some(Message::Data(data.slice(24..)))),
        (b'k', 17) => {
            let lsn = Lsn(data.get_u64());
            data.advance(8);
            Ok(Some(Message::Position { lsn, reply: data.get_u8() != 0 }))
        }
        (b'w' | b'k', length) => bail!("a message of {length} bytes in the change stream is too short"),
        _ => Ok(None),
    }
}

fn create_slot(connection: &mut PgReplicationConnection, slot: &str) -> anyhow::Result<Lsn> {
    tracing::info!(
        slot,
        "creating the replication slot; this waits for transactions that are running at the origin"
    );
    let version = connection.exec("SHOW server_version_num")?;
    let version: u32 = version.get_value(0, 0).context("no server_version_num")?.parse()?;
    // From 17 on a standby can take over the slot, if it is set up to synchronise slots.
    let options = if version >= 170_000 { "(SNAPSHOT 'nothing', FAILOVER)" } else { "NOEXPORT_SNAPSHOT" };
    let result =
        connection.exec(&format!("CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL foreshard {options}"))?;
    let text = result.get_value(0, 1).context("CREATE_REPLICATION_SLOT returned no position")?;
    Ok(text.parse()?)
}

fn address(address: &OriginAddress, within: Duration, edge: &str) -> anyhow::Result<String> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let origin = &address.pg;
    let tls = matches!(address.protection, Protection::Tls(_));
    let host = match (origin.get_hostaddrs().first(), origin.get_hosts().first()) {
        // The library checks the certificate against what it connects to: that has to be the name.
        (_, Some(Host::Tcp(host))) if tls => host.clone(),
        (Some(address), _) => address.to_string(),
        (None, Some(Host::Tcp(host))) => host.clone(),
        _ => bail!("the change stream needs TCP: give --origin a host name or address, not a Unix socket"),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = origin.get_ports().first().copied().unwrap_or(5432);
    let user = origin.get_user().unwrap_or("postgres");
    let password = match origin.get_password() {
        Some(password) => {
            format!(":{}", encode(std::str::from_utf8(password).context("the password is not UTF-8")?))
        }
        None => String::new(),
    };
    let database = origin.get_dbname().unwrap_or(user);
    let (mode, roots) = match &address.protection {
        Protection::None => ("disable", None),
        Protection::Tls(tls) => tls.of_stream(),
    };
    let roots =
        match roots.map(|file| file.to_str().context("sslrootcert: the path is not UTF-8")).transpose()? {
            Some(file) => format!("&sslrootcert={}", encode(file)),
            None => String::new(),
        };
    Ok(format!(
        "postgresql://{}{password}@{host}:{port}/{}?replication=database&sslmode={mode}{roots}&connect_timeout={}&keepalives_idle=10&application_name={}",
        encode(user),
        encode(database),
        within.as_secs().max(1),
        encode(edge),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_what_needs_encoding() {
        let origin = OriginAddress::parse(
            "host=db port=5433 user='a b' password='p@/:s' dbname='x?y' sslmode=disable",
        )
        .unwrap();
        let address = address(&origin, Duration::from_millis(1500), "e").unwrap();
        assert_eq!(
            address,
            "postgresql://a%20b:p%40%2F%3As@db:5433/x%3Fy?replication=database&sslmode=disable&connect_timeout=1&keepalives_idle=10&application_name=e"
        );
        let tls = OriginAddress::parse("host=db hostaddr=10.0.0.1 user=a sslrootcert=/r&s").unwrap();
        let tls = super::address(&tls, Duration::from_secs(1), "e").unwrap();
        assert!(
            tls.contains("@db:5432/") && tls.contains("sslmode=verify-full&sslrootcert=%2Fr%26s&"),
            "{tls}"
        );
        let unix = OriginAddress::parse("host=/tmp user=a").unwrap();
        assert!(super::address(&unix, Duration::from_secs(1), "e").unwrap_err().to_string().contains("TCP"));
    }

    #[test]
    fn messages() {
        let mut keepalive = vec![b'k'];
        keepalive.extend(7_u64.to_be_bytes());
        keepalive.extend(0_u64.to_be_bytes());
        keepalive.push(1);
        assert!(matches!(read(keepalive.into()), Ok(Some(Message::Position { lsn: Lsn(7), reply: true }))));
        assert!(read(Bytes::from_static(b"kxx")).is_err());
        assert!(read(Bytes::new()).is_err());
    }
}
