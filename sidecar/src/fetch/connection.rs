use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Client, NoTls, Socket, Statement};

use crate::config::Config;
use crate::origin::{OriginAddress, Protection, refused_by_tls};

/// A connection for fetches that is opened when first needed and again after it broke.
pub(crate) struct Origin {
    address: OriginAddress,
    connect_timeout: Duration,
    /// The origin ends a statement that takes longer.
    statement_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Arc<Open>>,
    failed: Option<Failed>,
    /// See [`Origin::heard`].
    heard: u64,
}

/// Attempts to connect that failed, one after the other.
struct Failed {
    attempts: u32,
    /// Until then everyone is told the same without another attempt.
    until: Instant,
    error: OriginError,
}

/// An open connection with the fetch statement prepared.
pub(crate) struct Open {
    pub(crate) client: Client,
    pub(crate) fetch: Statement,
    /// A cancellation is on its way.
    cancelling: AtomicBool,
    _driver: Driver,
}

/// What drives a connection. It would wait for the answers to statements that nobody waits for any more.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The origin goes on with a statement this much longer than anybody waits for it.
const BEYOND_FETCH: Duration = Duration::from_secs(1);

/// At most so long is the pause after the first failed attempt to connect, twice as long after the next, and so on …
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after so many failed attempts: of all that it could be, this `share`. Drawn evenly from nothing to everything, attempts
/// of many connections that failed together are as far apart as they can be.
fn pause(attempts: u32, share: f64) -> Duration {
    let doubled = FIRST_PAUSE * 2_u32.pow(attempts.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(share)
}

/// Why the origin could not be used, in words without values or credentials.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct OriginError {
    pub(crate) message: String,
    /// Trying again will not help before somebody changes something.
    pub(crate) permanent: bool,
}

impl OriginError {
    /// The origin runs, but takes no connections: it shuts down, or is not up yet (SQLSTATE cannot_connect_now).
    pub(crate) fn takes_no_connections(&self) -> bool {
        self.message.contains("[57P03]")
    }

    pub(crate) fn of(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let source =
                std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            let message = format!("origin out of reach: {error}{source}");
            // The library has no other name for a connection string that does not say what the server asks for.
            let mend = if message.ends_with("password missing") {
                Some("the origin asks for a password: put it into --origin, or into FORESHARD_ORIGIN")
            } else {
                refused_by_tls(error)
            };
            return match mend {
                Some(mend) => OriginError { message: format!("{message}; {mend}"), permanent: true },
                None => OriginError { message, permanent: false },
            };
        };
        let code = db.code();
        let permanent = [
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_CATALOG_NAME,
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::UNDEFINED_TABLE,
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::UNDEFINED_OBJECT,
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        ];
        let mend = if *code == SqlState::INVALID_PASSWORD {
            "; check the password in --origin"
        } else if [SqlState::UNDEFINED_FUNCTION, SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME]
            .contains(code)
        {
            "; run CREATE EXTENSION foreshard in this database"
        } else if *code == SqlState::INSUFFICIENT_PRIVILEGE && db.hint().is_none() {
            "; connect as the role that foreshard.create_edge named for this edge (role => ...)"
        } else if *code == SqlState::INVALID_CATALOG_NAME {
            "; check the database in --origin"
        } else if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
            "; check the user in --origin, and pg_hba.conf"
        } else {
            ""
        };
        let hint = db.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let message = format!("origin: {} [{}]{hint}{mend}", db.message(), code.code());
        OriginError { message, permanent: permanent.contains(code) }
    }
}

impl Origin {
    pub(crate) fn new(config: &Config, purpose: &str) -> Self {
        let mut address = config.origin.clone();
        address.pg.application_name(format!("foreshard {} {purpose}", config.edge));
        Origin {
            address,
            connect_timeout: config.connect_timeout,
            statement_timeout: config.fetch_timeout + BEYOND_FETCH,
            state: Mutex::default(),
        }
    }

    pub(crate) async fn get(&self) -> Result<Arc<Open>, OriginError> {
        let mut state = self.state.lock().await;
        if let Some(open) = state.open.as_ref().filter(|open| !open.client.is_closed()) {
            return Ok(open.clone());
        }
        if let Some(failed) = &state.failed
            && Instant::now() < failed.until
        {
            return Err(failed.error.clone());
        }
        match self.open().await {
            Ok(open) => {
                (state.open, state.failed) = (Some(open.clone()), None);
                Ok(open)
            }
            Err(error) => {
                let attempts = state.failed.as_ref().map_or(1, |failed| failed.attempts + 1);
                let until = Instant::now() + pause(attempts, rand::random_range(0.0..=1.0));
                (state.open, state.failed) = (None, Some(Failed { attempts, until, error: error.clone() }));
                Err(error)
            }
        }
    }

    /// How often this sidecar has come to the origin on other connections: once it has again, there is no reason for a pause.
    pub(crate) async fn heard(&self, times: u64) {
        let mut state = self.state.lock().await;
        if times > state.heard {
            (state.heard, state.failed) = (times, None);
        }
    }

    async fn open(&self) -> Result<Arc<Open>, OriginError> {
        let (client, driver) = drive(&self.address, self.connect_timeout).await?;
        let driver = Driver(driver);
        // A statement that waits for a lock outlives whoever asked, unless the server ends it: it is told how long to go on, and to
        // look whether anybody is still there. Not every system can do the latter.
        let bounds =
            format!("SET statement_timeout = {}", self.statement_timeout.as_millis().min(i32::MAX as u128));
        let prepared = async {
            let (bounded, attentive, fetch) = tokio::join!(
                client.batch_execute(&bounds),
                client.batch_execute("SET client_connection_check_interval = '1s'"),
                client.prepare("SELECT part FROM foreshard.fetch($1, $2) AS part"),
            );
            if let Err(error) = attentive {
                tracing::debug!(%error, "the origin does not notice that a connection is gone");
            }
            bounded.and(fetch)
        };
        let fetch = timeout(self.connect_timeout, prepared).await.map_err(|_| slow())?;
        let fetch = fetch.map_err(|error| OriginError::of(&error))?;
        Ok(Arc::new(Open { client, fetch, cancelling: AtomicBool::new(false), _driver: driver }))
    }

    /// A statement on this connection was not answered in time: it is cancelled, and the next user opens another connection. Those
    /// whose statements wait behind it go on.
    pub(crate) async fn forget(&self, open: &Arc<Open>) {
        let mut state = self.state.lock().await;
        state.open.take_if(|current| Arc::ptr_eq(current, open));
        drop(state);
        // Each of many that wait behind the same lock gives up; one cancellation at a time is enough.
        if open.cancelling.swap(true, Ordering::Relaxed) {
            return;
        }
        let (open, token) = (Arc::downgrade(open), open.client.cancel_token());
        let (protection, within) = (self.address.protection.clone(), self.connect_timeout);
        tokio::spawn(async move {
            match timeout(within, cancel(&token, &protection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error, "a statement could not be cancelled"),
                Err(_) => tracing::debug!("a statement could not be cancelled in time"),
            }
            if let Some(open) = open.upgrade() {
                open.cancelling.store(false, Ordering::Relaxed);
            }
        });
    }
}

async fn cancel(token: &CancelToken, protection: &Protection) -> Result<(), String> {
    let cancelled = match protection {
        Protection::None => token.cancel_query(NoTls).await,
        Protection::Tls(tls) => token.cancel_query(tls.connector()?).await,
    };
    cancelled.map_err(|error| error.to_string())
}

/// Why the origin could not be used, as a label of a metric, from the words of the error.
pub(crate) fn reason(words: &str) -> &'static str {
    let code = words.split('[').skip(1).find_map(|rest| rest.get(..6)?.strip_suffix(']'));
    match code {
        Some(code) if code.starts_with("28") => "authentication",
        Some("53300") => "connection_limit",
        Some("57P01" | "57P02" | "57P03") => "shutting_down",
        None if words.contains("out of reach") => "unreachable",
        _ => "other",
    }
}

pub(crate) fn slow() -> OriginError {
    OriginError { message: "origin out of reach: no answer in time".into(), permanent: false }
}

/// Opens a connection, protected as the address says; the task that drives it ends with the client.
pub(crate) async fn connect(address: &OriginAddress, within: Duration) -> Result<Client, OriginError> {
    drive(address, within).await.map(|(client, _)| client)
}

/// The same, with a handle that ends the connection whatever is under way on it.
async fn drive(address: &OriginAddress, within: Duration) -> Result<(Client, AbortHandle), OriginError> {
    let mut config = address.pg.clone();
    config.connect_timeout(within).keepalives_idle(Duration::from_secs(10)).tcp_user_timeout(within * 3);
    match &address.protection {
        Protection::None => open(&config, NoTls, within).await,
        Protection::Tls(tls) => {
            let connector = tls.connector().map_err(|message| OriginError { message, permanent: true })?;
            open(&config, connector, within).await
        }
    }
}

async fn open<T>(
    config: &tokio_postgres::Config,
    tls: T,
    within: Duration,
) -> Result<(Client, AbortHandle), OriginError>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let connecting = timeout(within, config.connect(tls)).await.map_err(|_| slow())?;
    let (client, connection) = connecting.map_err(|error| OriginError::of(&error))?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the origin ended");
        }
    });
    Ok((client, driver.abort_handle()))
}

/// One row, within a time.
pub(crate) async fn one_row(
    client: &Client,
    within: Duration,
    query: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<tokio_postgres::Row, OriginError> {
    let row = timeout(within, client.query_one(query, parameters)).await.map_err(|_| slow())?;
    row.map_err(|error| OriginError::of(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds() {
        let most: Vec<u128> = (1..=8).map(|attempts| pause(attempts, 1.0).as_millis()).collect();
        assert_eq!(most, [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000]);
        assert_eq!((pause(u32::MAX, 1.0), pause(3, 0.5)), (LONGEST_PAUSE, FIRST_PAUSE * 2));
        assert_eq!(pause(6, 0.0), Duration::ZERO, "some try at once");
    }

    /// Nobody listens there.
    #[tokio::test]
    async fn an_attempt_that_failed_is_not_made_again_at_once_and_word_of_the_origin_ends_the_pause() {
        let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = OriginAddress::parse(&format!("postgresql://u@{nowhere}/d")).unwrap();
        let second = Duration::from_secs(1);
        let origin =
            Origin { address, connect_timeout: second, statement_timeout: second, state: Mutex::default() };
        let attempts = async || origin.state.lock().await.failed.as_ref().map_or(0, |failed| failed.attempts);
        assert!(origin.get().await.is_err());
        assert_eq!(attempts().await, 1);
        if let Some(failed) = &mut origin.state.lock().await.failed {
            failed.until = Instant::now() + Duration::from_secs(60);
        }
        assert!(origin.get().await.is_err());
        assert_eq!(attempts().await, 1, "told so without an attempt");
        if let Some(failed) = &mut origin.state.lock().await.failed {
            failed.until = Instant::now();
        }
        assert!(origin.get().await.is_err());
        assert_eq!(attempts().await, 2);
        origin.heard(0).await;
        assert_eq!(attempts().await, 2, "that is no news");
        origin.heard(1).await;
        assert_eq!(attempts().await, 0);
    }

    #[test]
    fn failures_have_reasons() {
        for (words, expected) in [
            (
                "origin: password authentication failed for user \"e\" [28P01]; check the password",
                "authentication",
            ),
            ("origin: pg_hba.conf rejects connection for host \"[::1]\" [28000]", "authentication"),
            ("origin: too many connections for role \"e\" [53300]", "connection_limit"),
            ("origin: the database system is starting up [57P03]", "shutting_down"),
            ("origin out of reach: no answer in time", "unreachable"),
            ("origin: permission denied [42501]", "other"),
            ("an empty message in the change stream", "other"),
        ] {
            assert_eq!(reason(words), expected, "{words}");
        }
    }
}
