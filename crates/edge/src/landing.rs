//! Fetches: started, landed, refused, stored.

use std::collections::HashSet;
use std::sync::Arc;

use foreshard_protocol::Lsn;

use crate::agent::{Ended, Reserved};
use crate::beyond::Verdict;
use crate::cache::{Cache, Removed};
use crate::copy::ShardCopy;
use crate::core::{Action, EdgeCore, Fetched, FlightId, FlightOrder};
use crate::deltas::{Missed, fits};
use crate::flights::{Cut, Flight, Wanted};
use crate::now::Now;
use crate::requests::{Refusal, RequestId};

/// After a failed prefetch none is started for this long.
const PAUSE_AFTER_ERROR: u64 = 500_000;

impl EdgeCore {
    /// The result of a fetch; an error is one of the whole fetch (origin out of reach, time-out), in words for the log.
    pub fn fetch_done(&mut self, now: Now, id: FlightId, result: Result<Fetched, String>) {
        let Some(flight) = self.flights.finish(id) else { return };
        match result {
            Err(_) => self.fetch_failed(now, flight),
            Ok(fetched) if fetched.ends() < flight.position && !flight.poisoned => {
                self.doubt();
                self.fetch_failed(now, flight);
            }
            Ok(fetched) => self.land(now, id, flight, fetched),
        }
        self.pump(now);
    }

    fn fetch_failed(&mut self, now: Now, flight: Flight) {
        self.stats.fetch_errors += 1;
        if flight.ahead_of_demand {
            self.agent.failed(now.mono, flight.reserved);
            self.prefetch_paused_until = now.mono + PAUSE_AFTER_ERROR;
            for wanted in &flight.instances {
                self.agenda.again(&wanted.text);
            }
        }
        for id in flight.waiters {
            self.finish(id, Err(Refusal::OriginUnavailable));
        }
    }

    fn land(&mut self, now: Now, id: FlightId, flight: Flight, fetched: Fetched) {
        let waiters = flight.waiters;
        let under_way = self.flights.counts().0 + usize::from(flight.ahead_of_demand);
        self.agent.ended(
            now.mono,
            &Ended {
                ahead_of_demand: flight.ahead_of_demand,
                took: now.mono.saturating_sub(flight.started_at),
                bytes: fetched.bytes(),
                reserved: flight.reserved,
                under_way,
            },
        );
        for (wanted, instance) in flight.instances.iter().zip(&fetched.instances) {
            if let Ok(instance) = instance {
                self.agent.costs.text(&wanted.id.shard, instance.bytes());
            }
        }
        if flight.poisoned || fetched.instances.len() != flight.instances.len() {
            for waiter in waiters {
                self.detach(waiter, id);
                self.look_again(now, waiter);
            }
            return;
        }
        let snapshot = Arc::new(fetched.header.snapshot);
        self.seen(&snapshot);
        let proving = flight.cut.as_ref().is_some_and(|cut| cut.proving);
        let horizon = fetched.horizon.unwrap_or_default();
        let mut rejected = Vec::new();
        for (wanted, result) in flight.instances.into_iter().zip(fetched.instances) {
            match result {
                Ok(instance) if *instance.canonical != *wanted.text => {
                    // Stream events name the canonical key, so this fetch was not watched under the right name.
                    self.rename(&waiters, &wanted.text, &instance.canonical);
                }
                // A failure may be due to what the snapshot lacks, too: a definition that has just been made.
                Err(_) if !wanted.suspects.seen_by(&snapshot) => {
                    rejected.push(wanted);
                }
                Err((failure, message)) => {
                    for waiter in self.waiting_for(&waiters, &wanted.text) {
                        let instance = wanted.text.to_string();
                        let message = message.clone();
                        self.finish(waiter, Err(Refusal::Failed { instance, failure, message }));
                    }
                }
                Ok(instance) => {
                    let mut copy = Arc::new(ShardCopy::new(
                        wanted.text.clone(),
                        Arc::new(instance.layout),
                        instance.rows,
                        snapshot.clone(),
                        fetched.header.wal_lsn,
                        id,
                        now.mono,
                    ));
                    if !self.complete(&wanted, &mut copy) {
                        rejected.push(wanted);
                        continue;
                    }
                    if flight.ahead_of_demand {
                        self.refetch.landed(&wanted.text);
                    }
                    self.pin(&waiters, &copy);
                    self.store(&wanted, copy, flight.ahead_of_demand);
                }
            }
        }
        self.stats.rejected_by_snapshot += rejected.len() as u64;
        for wanted in &mut rejected {
            wanted.attempts += 1;
        }
        match flight.cut {
            None if rejected.is_empty() => {}
            None => self.retry(now, rejected, flight.ahead_of_demand, &waiters),
            // It has to be one snapshot: its requests start it again as a whole.
            Some(_) if !rejected.is_empty() => waiters.iter().for_each(|waiter| self.unpin_all(*waiter)),
            Some(_) => waiters.iter().for_each(|waiter| self.proven(*waiter, &horizon)),
        }
        for waiter in waiters {
            self.detach(waiter, id);
            if proving {
                match self.verdict(waiter, &horizon, flight.started_at) {
                    Verdict::Refused(refusal) => {
                        self.finish(waiter, Err(refusal));
                        continue;
                    }
                    Verdict::Mapped => self.vouch(waiter),
                    Verdict::Doubtful => self.unpin_all(waiter),
                }
            }
            self.look_again(now, waiter);
        }
    }

    /// Brings a copy up to what was delivered: it lacks those suspects that its snapshot does not see. False: not all that they
    /// did is known.
    fn complete(&mut self, wanted: &Wanted, copy: &mut Arc<ShardCopy>) -> bool {
        if wanted.suspects.seen_by(&copy.snapshot) {
            return true;
        }
        let Some(missed) = self.stream.missed(&wanted.id, &wanted.suspects, &copy.snapshot) else {
            return false;
        };
        for (deltas, instance) in missed.iter().filter_map(Missed::deltas) {
            let rows = &deltas.instances[instance].rows;
            let applied = fits(&copy.layout, deltas).and_then(|()| ShardCopy::apply(copy, rows));
            if let Err(refused) = applied {
                self.refused(refused);
                return false;
            }
        }
        self.stats.deltas_completed += 1;
        true
    }

    /// Asks again for instances whose snapshot lacked a delivered transaction. That ends within milliseconds, unless
    /// the origin waits for a synchronous standby: hence the growing delay.
    fn retry(&mut self, now: Now, instances: Vec<Wanted>, ahead_of_demand: bool, waiters: &[RequestId]) {
        let awaited = |wanted: &Wanted| !self.waiting_for(waiters, &wanted.text).is_empty();
        // What nobody waits for is not asked for again on demand, or a commit that hangs would keep one fetch per instance going long
        // after its requests are gone.
        let (instances, others): (Vec<_>, Vec<_>) = instances.into_iter().partition(awaited);
        if ahead_of_demand {
            // Back in line, as anything that is to be fetched ahead: there are places and bytes for so much and no more.
            others.iter().for_each(|wanted| self.refetch.refused(now.mono, &wanted.text));
        }
        let Some(attempts) = instances.iter().map(|wanted| wanted.attempts).max() else { return };
        let delay = (1_000 << attempts.min(6)).min(50_000);
        let texts: HashSet<&str> = instances.iter().map(|wanted| &*wanted.text).collect();
        let waiters = waiters.iter().copied().filter(|id| {
            let pending = self.requests.pending.get(id);
            pending.is_some_and(|pending| pending.texts.iter().any(|text| texts.contains(&**text)))
        });
        let waiters: Vec<RequestId> = waiters.collect();
        self.launch(now, instances, false, None, waiters, delay);
    }

    pub(crate) fn launch(
        &mut self,
        now: Now,
        instances: Vec<Wanted>,
        ahead_of_demand: bool,
        cut: Option<Cut>,
        waiters: Vec<RequestId>,
        delay: u64,
    ) -> FlightId {
        let id = self.flights.add(Flight {
            instances,
            ahead_of_demand,
            cut,
            started_at: now.mono + delay,
            position: Lsn::ZERO,
            poisoned: false,
            reserved: Reserved::default(),
            waiters,
        });
        if ahead_of_demand {
            self.begin(now, id);
        } else {
            self.take_turns(now);
        }
        id
    }

    /// Starts the fetches on demand that have waited longest, as far as there are places. Not before the definitions are known, and with
    /// them what had committed invisibly before the stream began: no fetch would be suspected of lacking that.
    pub(crate) fn take_turns(&mut self, now: Now) {
        while self.definitions.ready()
            && self.flights.counts().1 < self.config.fetch_concurrency
            && let Some((id, flight)) = self.flights.next()
        {
            let awaited = flight.waiters.iter().any(|waiter| self.requests.pending.contains_key(waiter));
            if awaited {
                self.begin(now, id);
            } else {
                self.flights.finish(id);
            }
        }
    }

    /// What is read from now on holds all that was delivered before, or its snapshot tells.
    fn begin(&mut self, now: Now, id: FlightId) {
        let position = self.relied_on();
        let Some(flight) = self.flights.begin(id) else { return };
        for wanted in &mut flight.instances {
            wanted.suspects = self.stream.suspects(&wanted.id);
        }
        let delay = flight.started_at.saturating_sub(now.mono);
        (flight.started_at, flight.position, flight.poisoned) = (now.mono + delay, position, false);
        match flight.ahead_of_demand {
            true => self.stats.prefetch_fetches += 1,
            false => self.stats.demand_fetches += 1,
        }
        self.actions.push(Action::Fetch(FlightOrder {
            id,
            instances: flight.instances.iter().map(|wanted| wanted.text.clone()).collect(),
            ahead_of_demand: flight.ahead_of_demand,
            prove: flight.cut.as_ref().is_some_and(|cut| cut.proving),
            delay,
        }));
    }

    fn store(&mut self, wanted: &Wanted, copy: Arc<ShardCopy>, ahead_of_demand: bool) {
        let (bytes, shard) = (copy.bytes() as u64, &wanted.id.shard);
        self.agent.costs.copy(shard, copy.bytes());
        let instance = copy.instance.clone();
        // Of two copies the one that is further ahead stays, so that a reader never sees a row go back.
        let newest =
            |cache: &Cache| cache.peek(&instance).is_none_or(|held| held.settled_at <= copy.settled_at);
        let newest = newest(&self.prefetch) && newest(&self.reactive);
        if ahead_of_demand && !wanted.hot {
            self.stats.prefetch_bytes += bytes;
            self.stats.prefetch_copies += 1;
            if newest {
                self.reactive.remove(&instance);
                self.stats.explored += u64::from(self.agenda.fetched(&instance));
                let agenda = &self.agenda;
                let removed = self.prefetch.insert(shard, copy, |other| agenda.rank(other));
                self.note_prefetch_evicted(removed, &instance);
                if self.prefetch.peek(&instance).is_none() {
                    self.prefetch_full = true;
                    self.stats.prefetch_unused_bytes += bytes;
                }
            } else {
                self.stats.prefetch_unused_bytes += bytes;
            }
        } else {
            self.stats.demand_bytes += bytes;
            if newest {
                if let Some(removed) = self.prefetch.remove(&instance) {
                    self.note_prefetch_removed(&removed);
                }
                self.reactive.remove(&instance);
                // What a schedule wants need not be fetched for it once more.
                if self.agenda.wants(&instance) && self.keep_ahead(shard, copy.clone()) {
                    return;
                }
                let removed = self.reactive.insert(shard, copy, |_| 0);
                self.stats.evicted += removed.len() as u64;
            }
        }
    }

    pub(crate) fn note_prefetch_evicted(&mut self, removed: Vec<Removed>, inserted: &str) {
        for removed in removed {
            if *removed.instance != *inserted {
                self.stats.evicted += 1;
            }
            self.note_prefetch_removed(&removed);
        }
    }

    pub(crate) fn note_prefetch_removed(&mut self, removed: &Removed) {
        if !removed.used {
            self.stats.prefetch_unused_bytes += removed.bytes as u64;
        }
    }
}
