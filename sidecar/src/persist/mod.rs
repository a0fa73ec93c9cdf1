//! The persistent cache: what is held is kept on disk, encrypted, so that a restart finds it.
//!
//! What was kept counts only in the very history of the origin that it is of (`feed::past`), and only as a whole; a file
//! that is damaged, of another version or of another edge is thrown away. The slot is never acknowledged beyond what is
//! durable, so nothing that a successor needs is forgotten by the origin.

mod keys;
mod store;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, bail};
use foreshard_edge::{Layout, ShardCopy};
use foreshard_protocol::{KeptCopy, KeptState, Lsn, Witness};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Keep;
use crate::feed::{Identity, Past};
use crate::serve::Shared;
pub(crate) use keys::Keys;
use store::{Kept, Step, Store, Unusable};

/// After the disk has failed it is tried again so many steps later.
const TRY_AGAIN_AFTER: u32 = 30;

/// Keeps copies.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    edge: String,
    file: PathBuf,
    keep: Keep,
    inner: Mutex<Inner>,
}

/// What a predecessor kept.
pub(crate) struct Found {
    /// Where it was.
    pub(crate) position: Lsn,
    /// What tells its past of the origin from another one.
    pub(crate) witness: Witness,
    pub(crate) copies: Vec<ShardCopy>,
}

struct Inner {
    /// `None` while the disk fails.
    store: Option<Store>,
    failed_at: Instant,
    keys: Keys,
    /// What a predecessor kept, until the stream has started.
    kept: Option<Kept>,
    /// Of which stream: system, timeline, slot.
    of: Option<(String, u32, String)>,
    /// The next step replaces everything.
    afresh: bool,
}

impl Keeper {
    /// Opens what a predecessor left, or begins anew where that is of no use. An error if an operator has to decide.
    pub(crate) fn open(keep: &Keep, edge: &str, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let shown = keep.dir.display();
        std::fs::create_dir_all(&keep.dir).with_context(|| format!("cache_dir {shown} cannot be made"))?;
        let file = keep.dir.join("copies");
        let (store, kept) = match Store::open(&file, &keep.keys) {
            Ok((_, Some(kept))) if kept.state.edge != edge => {
                anew(&file, keep, &format!("it is of edge {:?}", kept.state.edge))?
            }
            Ok((store, kept)) => (Some(store), kept),
            Err(Unusable::Refused(why)) => bail!("cache_dir {shown}: {why}"),
            Err(Unusable::Worthless(why)) => anew(&file, keep, &why)?,
        };
        match &store {
            Some(_) => {
                let acknowledged = kept.as_ref().map_or(Lsn::ZERO, |kept| kept.state.acknowledged);
                shared.with(|core, _| core.keep(acknowledged));
            }
            None => Shared::count(&shared.cache_failures, 1),
        }
        let inner = Inner {
            afresh: kept.is_none() || !store.as_ref().is_some_and(|store| store.is_current(&keep.keys)),
            store,
            failed_at: Instant::now(),
            keys: keep.keys.clone(),
            kept,
            of: None,
        };
        Ok(Keeper { shared, edge: edge.to_owned(), file, keep: keep.clone(), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a predecessor was.
    pub(crate) fn past(&self) -> Option<Past> {
        let inner = self.lock();
        let KeptState { system, timeline, position, acknowledged, .. } = &inner.kept.as_ref()?.state;
        Some(Past::kept(system.clone(), *timeline, *position, *acknowledged))
    }

    /// The stream starts; with `lost` nothing of the past counts. What was kept and still counts, with its position.
    pub(crate) fn started(&self, origin: &Identity, slot: &str, lost: bool) -> Option<Found> {
        let mut inner = self.lock();
        inner.of = Some((origin.system.clone(), origin.timeline, slot.to_owned()));
        let kept = inner.kept.take();
        let other = kept.as_ref().is_some_and(|kept| kept.state.slot != slot);
        if lost || other {
            if kept.is_some() {
                tracing::warn!("the persistent cache is of another past of the origin: it is thrown away");
            }
            // At once: the origin may grow until its past looks like the one that was kept.
            let forgotten = inner.store.as_mut().map_or(Ok(()), Store::forget);
            if let Err(error) = forgotten {
                self.fail(&mut inner, &error);
                return None;
            }
            inner.afresh = true;
            self.shared.with(|core, _| core.keep(Lsn::ZERO));
            return None;
        }
        let Kept { state, copies } = kept?;
        tracing::info!(copies = copies.len(), position = %state.position, "copies were kept");
        let KeptState { position, witness, .. } = state;
        Some(Found { position, witness, copies: copies.into_iter().map(unpack).collect() })
    }

    /// Files whose change calls for [`Self::reload`].
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.keep.key_file.iter().cloned().collect()
    }

    /// Reads the keys again. If another one is the first now, everything is encrypted anew with it.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        let Some(file) = &self.keep.key_file else { return Ok(()) };
        let keys = Keys::read(file).map_err(anyhow::Error::msg)?;
        let mut inner = self.lock();
        inner.afresh |= inner.store.as_ref().is_some_and(|store| !store.is_current(&keys));
        inner.keys = keys;
        Ok(())
    }

    /// Writes what has changed, again and again.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut every = interval(self.keep.every);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let keeper = self.clone();
            // Waiting for a disk is not for the threads that answer requests.
            if tokio::task::spawn_blocking(move || keeper.step()).await.is_err() {
                tracing::error!("writing the persistent cache panicked");
            }
        }
    }

    /// Writes what has changed since the last time, as one.
    pub(crate) fn step(&self) {
        let mut inner = self.lock();
        let Some((system, timeline, slot)) = inner.of.clone() else { return };
        if inner.store.is_none() {
            self.try_again(&mut inner);
        }
        let Inner { store: Some(store), afresh, keys, .. } = &mut *inner else { return };
        let Some(step) = self.shared.with(|core, _| core.durable_step(*afresh)) else { return };
        if step.refused {
            tracing::warn!(
                "the persistent cache is of another past of the origin, which has grown since an older state was restored: it is thrown away"
            );
            self.shared.past_lost("older_origin");
            *afresh = true;
        }
        if *afresh {
            store.rotate(keys);
        }
        let acknowledged = step.acknowledged;
        let (mut put, mut removed) = (Vec::new(), Vec::new());
        for (instance, copy) in step.changed {
            match copy {
                Some(copy) => put.push(pack(&copy)),
                None => removed.push(instance.to_string()),
            }
        }
        let state = KeptState {
            edge: self.edge.clone(),
            system,
            timeline,
            slot,
            position: step.position,
            acknowledged,
            witness: step.witness,
            copies: 0,
            digest: [0; 16],
        };
        match store.write(Step { afresh: *afresh, put, removed, state }) {
            Ok(()) => {
                *afresh = false;
                self.shared.with(|core, _| core.durable(acknowledged));
            }
            Err(error) => self.fail(&mut inner, &error),
        }
    }

    /// The disk is full or broken: nothing is kept for a while, and nothing of what was is ever found.
    fn fail(&self, inner: &mut Inner, error: &str) {
        Shared::count(&self.shared.cache_failures, 1);
        tracing::error!(error, "the persistent cache can't be written: it is thrown away");
        (inner.store, inner.failed_at) = (None, Instant::now());
        if let Err(error) = remove(&self.file) {
            // It is of a past that the slot will have left: a successor finds that out.
            tracing::error!(%error, "the persistent cache can't be removed");
        }
        self.shared.with(|core, _| core.keep_no_more());
    }

    fn try_again(&self, inner: &mut Inner) {
        if inner.failed_at.elapsed() < self.keep.every * TRY_AGAIN_AFTER {
            return;
        }
        inner.failed_at = Instant::now();
        match remove(&self.file)
            .map_err(|error| error.to_string())
            .and_then(|()| Store::open(&self.file, &inner.keys).map_err(|error| error.to_string()))
        {
            Ok((store, _)) => {
                tracing::info!("copies are kept again");
                (inner.store, inner.afresh) = (Some(store), true);
                self.shared.with(|core, _| core.keep(core.acknowledged()));
            }
            Err(error) => {
                Shared::count(&self.shared.cache_failures, 1);
                tracing::debug!(error, "the persistent cache still can't be written");
            }
        }
    }
}

/// Throws away what is there. On a disk that takes nothing there is no store for now, as if it had failed later.
fn anew(file: &std::path::Path, keep: &Keep, why: &str) -> anyhow::Result<(Option<Store>, Option<Kept>)> {
    tracing::warn!(file = %file.display(), why, "the persistent cache is thrown away");
    remove(file).with_context(|| format!("{} cannot be removed", file.display()))?;
    match Store::open(file, &keep.keys) {
        Ok((store, kept)) => Ok((Some(store), kept)),
        Err(Unusable::Refused(why)) => bail!("{} cannot be made: {why}", file.display()),
        Err(error) => {
            tracing::error!(%error, "the persistent cache can't be written: nothing is kept for now");
            Ok((None, None))
        }
    }
}

fn remove(file: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn pack(copy: &ShardCopy) -> KeptCopy {
    KeptCopy {
        instance: copy.instance.to_string(),
        generation: copy.layout.generation,
        columns: copy.layout.columns.clone(),
        identity: copy.layout.identity.clone(),
        order: copy.layout.order.clone(),
        rows: copy.rows.clone(),
        snapshot: (*copy.snapshot).clone(),
        settled_at: copy.settled_at,
    }
}

fn unpack(kept: KeptCopy) -> ShardCopy {
    let KeptCopy { instance, generation, columns, identity, order, rows, snapshot, settled_at } = kept;
    let layout = Layout::new(generation, columns, identity, order);
    ShardCopy::new(instance.into(), layout.into(), rows, snapshot.into(), settled_at, 0, 0)
}
