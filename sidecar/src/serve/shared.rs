//! The core behind one lock, and the channels through which its decisions reach the tasks that carry them out.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foreshard_edge::{Action, Answer, EdgeCore, FlightOrder, Now, Refusal, Reply, Request, RequestId};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::clock::Clock;

/// State of one sidecar.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    started: Instant,
    pub(crate) clock: Clock,
    fetches: mpsc::UnboundedSender<FlightOrder>,
    /// The feed is asked to find out how far the stream is.
    pub(crate) ask_for_progress: Notify,
    /// Somebody waits for a record that an idle origin does not write.
    pub(crate) ask_for_record: Notify,
    /// The stream is not of the origin that answers.
    pub(crate) reconnect: Notify,
    /// The definitions have to be loaded.
    pub(crate) load_catalog: Notify,
    /// The origin takes no connections any more while the stream is still open: it shuts down.
    pub(crate) origin_closes: Notify,
    /// Why the sidecar is not ready, in words for the operator.
    trouble: Mutex<Trouble>,
    /// Executions dropped because the buffer was full.
    pub(crate) executions_dropped: AtomicU64,
    /// Executions written to the origin.
    pub(crate) executions_logged: AtomicU64,
    /// Times the stream was connected.
    pub(crate) stream_connects: AtomicU64,
    /// Times the control connection was made.
    pub(crate) origin_met: AtomicU64,
    /// The origin has synchronous standbys: a commit may wait until this edge says that it is applied.
    pub(crate) commits_wait: AtomicBool,
    /// Times the persistent cache could not be written.
    pub(crate) cache_failures: AtomicU64,
    /// Why the past was lost, and how often.
    pasts_lost: Mutex<BTreeMap<&'static str, u64>>,
    /// Why the origin could not be used, and how often.
    origin_failures: Mutex<BTreeMap<&'static str, u64>>,
}

/// What is wrong with each way to the origin.
#[derive(Default)]
struct Trouble {
    stream: Option<String>,
    control: Option<String>,
}

struct Inner {
    core: EdgeCore,
    waiting: HashMap<RequestId, oneshot::Sender<Result<Answer, Refusal>>>,
}

impl Shared {
    pub(crate) fn new(core: EdgeCore, clock: Clock, fetches: mpsc::UnboundedSender<FlightOrder>) -> Self {
        Shared {
            inner: Mutex::new(Inner { core, waiting: HashMap::new() }),
            started: Instant::now(),
            clock,
            fetches,
            ask_for_progress: Notify::new(),
            ask_for_record: Notify::new(),
            reconnect: Notify::new(),
            load_catalog: Notify::new(),
            origin_closes: Notify::new(),
            trouble: Mutex::new(Trouble { stream: Some("starting".into()), control: None }),
            executions_dropped: AtomicU64::new(0),
            executions_logged: AtomicU64::new(0),
            stream_connects: AtomicU64::new(0),
            origin_met: AtomicU64::new(0),
            commits_wait: AtomicBool::new(false),
            cache_failures: AtomicU64::new(0),
            pasts_lost: Mutex::default(),
            origin_failures: Mutex::default(),
        }
    }

    /// Microseconds since the sidecar started.
    pub(crate) fn mono(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.mono(), trace: self.clock.now().timestamp_micros() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The core keeps no half-done state across a call that panics: every entry point finishes its bookkeeping
        // before it returns, and a panic is a bug that tests look for. Serving on is better than every answer failing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something on the core and carries out what it decided.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut EdgeCore, Now) -> T) -> T {
        let mut inner = self.lock();
        let now = self.now();
        let result = act(&mut inner.core, now);
        self.carry_out(&mut inner);
        result
    }

    /// Looks at the core without changing it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&EdgeCore, Now) -> T) -> T {
        let inner = self.lock();
        look(&inner.core, self.now())
    }

    /// Asks for an answer; `prepare` builds the request under the same lock, from the definitions in force.
    pub(crate) async fn request<E>(
        &self,
        prepare: impl FnOnce(&EdgeCore) -> Result<Request, E>,
    ) -> Result<Result<Answer, Refusal>, E> {
        let (id, receiver) = {
            let mut inner = self.lock();
            let request = prepare(&inner.core)?;
            let now = self.now();
            let reply = inner.core.request(now, request);
            let waiting = match reply {
                Reply::Done(result) => Err(result),
                Reply::Waiting(id) => {
                    let (sender, receiver) = oneshot::channel();
                    inner.waiting.insert(id, sender);
                    Ok((id, receiver))
                }
            };
            self.carry_out(&mut inner);
            match waiting {
                Err(result) => return Ok(result),
                Ok(waiting) => waiting,
            }
        };
        let mut guard = CancelOnDrop { shared: self, id, armed: true };
        let result = receiver.await.unwrap_or(Err(Refusal::NotReady));
        guard.armed = false;
        Ok(result)
    }

    fn carry_out(&self, inner: &mut Inner) {
        for action in inner.core.take_actions() {
            match action {
                // The receiver ends only when the sidecar does.
                Action::Fetch(order) => drop(self.fetches.send(order)),
                Action::Reply(id, result) => {
                    if let Some(sender) = inner.waiting.remove(&id) {
                        // The client may have gone.
                        let _ = sender.send(result);
                    }
                }
                Action::AskForProgress => self.ask_for_progress.notify_one(),
                Action::AskForRecord => self.ask_for_record.notify_one(),
                Action::Reconnect => self.reconnect.notify_one(),
                Action::LoadCatalog => self.load_catalog.notify_one(),
            }
        }
    }

    /// Notes why the stream is not followed; `None` when it is.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).stream = trouble;
    }

    /// Notes why the control connection does not work; `None` when it does.
    pub(crate) fn set_control_trouble(&self, trouble: Option<String>) {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).control = trouble;
    }

    /// All that is known to be wrong, once where it is the same.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&trouble.stream, &trouble.control) {
            (Some(stream), Some(control)) if stream != control => {
                Some(format!("{stream}; control connection: {control}"))
            }
            (Some(stream), _) => Some(stream.clone()),
            (None, control) => control.as_ref().map(|control| format!("control connection: {control}")),
        }
    }

    /// The stream could not go on where it was, for this reason.
    pub(crate) fn past_lost(&self, reason: &'static str) {
        *self.pasts_lost.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Reasons with how often each occurred.
    pub(crate) fn pasts_lost(&self) -> BTreeMap<&'static str, u64> {
        self.pasts_lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The stream or the control connection ended, or could not be made, for this reason.
    pub(crate) fn origin_failed(&self, reason: &'static str) {
        *self.origin_failures.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Reasons with how often each occurred.
    pub(crate) fn origin_failures(&self) -> BTreeMap<&'static str, u64> {
        self.origin_failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// A client that goes away takes its request with it.
struct CancelOnDrop<'a> {
    shared: &'a Shared,
    id: RequestId,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            let mut inner = self.shared.lock();
            inner.waiting.remove(&self.id);
            inner.core.cancel(self.id);
        }
    }
}
