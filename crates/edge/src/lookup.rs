//! From a request to its answer: prefetch cache, else reactive cache, else origin, as one consistent cut.

use std::sync::Arc;

use foreshard_protocol::{InstanceId, Lsn};

use crate::copy::ShardCopy;
use crate::core::{EdgeCore, FlightId};
use crate::definitions::FunctionShard;
use crate::flights::{Cut, Wanted};
use crate::now::Now;
use crate::requests::{Answer, Part, Pending, Refusal, Reply, Request, RequestId, ServedFrom};

/// What became of a waiting request.
pub(crate) enum Step {
    Done(Result<Answer, Refusal>),
    Wait,
}

impl EdgeCore {
    /// Answers at once where every instance is held and fresh; otherwise the request waits for a fetch or for the stream.
    pub fn request(&mut self, now: Now, request: Request) -> Reply {
        if let Err(refusal) = self.allowed(&request) {
            return Reply::Done(Err(refusal));
        }
        let texts: Vec<Arc<str>> = request.instances.iter().map(|id| id.to_string().into()).collect();
        if self.needed(request.min_lsn) <= self.stream.stamp()
            && self.is_fresh(now)
            && let Some(answer) = self.answer_from(&texts, &[], &[])
        {
            return Reply::Done(Ok(answer));
        }
        if self.requests.pending.len() >= self.config.max_waiting {
            return Reply::Done(Err(Refusal::Overloaded));
        }
        let id = self.requests.new_id();
        let deadline = now.mono + self.config.request_timeout;
        let count = texts.len();
        let pending = Pending {
            request,
            texts,
            waited: vec![false; count],
            pinned: vec![None; count],
            deadline,
            lsn_deadline: now.mono + self.config.min_lsn_wait,
            torn_since: None,
            cut_flight: None,
            cut_attempts: 0,
            resorted_at: None,
            proven: Lsn::ZERO,
            vouched: false,
            awaited_lsn: None,
        };
        self.requests.pending.insert(id, pending);
        self.requests.at_time(deadline, id);
        match self.step(now, id) {
            Step::Done(result) => {
                self.leave(id);
                Reply::Done(result)
            }
            Step::Wait => Reply::Waiting(id),
        }
    }

    /// The answer to a request for one instance that was allowed under definitions of `version`, if it can be given at once:
    /// what [`Self::request`] would answer then, without asking again what it asked. `None` where that has to be asked again.
    pub fn answer_again(
        &mut self,
        now: Now,
        version: u64,
        instance: &Arc<str>,
        min_lsn: Option<Lsn>,
    ) -> Option<Answer> {
        let known = self.definitions.ready() && self.definitions.version() == version;
        if !known || self.needed(min_lsn) > self.stream.stamp() || !self.is_fresh(now) {
            return None;
        }
        self.answer_from(std::slice::from_ref(instance), &[], &[])
    }

    /// Nobody waits for this request any more.
    pub fn cancel(&mut self, id: RequestId) {
        self.leave(id);
    }

    /// The request is over. False: it was before.
    fn leave(&mut self, id: RequestId) -> bool {
        let Some(pending) = self.requests.remove(id) else { return false };
        let shared = pending.texts.iter().filter_map(|text| self.flights.id_of(text));
        let flights: Vec<FlightId> = shared.chain(pending.cut_flight).collect();
        flights.into_iter().for_each(|flight| self.flights.leave(flight, id));
        true
    }

    /// Looks at a waiting request again, because something it waits for may have happened.
    pub(crate) fn look_again(&mut self, now: Now, id: RequestId) {
        if self.requests.pending.contains_key(&id)
            && let Step::Done(result) = self.step(now, id)
        {
            self.finish(id, result);
        }
    }

    pub(crate) fn finish(&mut self, id: RequestId, result: Result<Answer, Refusal>) {
        if self.leave(id) {
            self.stats.refused += u64::from(result.is_err());
            self.actions.push(crate::core::Action::Reply(id, result));
        }
    }

    /// The mapping is checked before every answer, so that one that was removed bites at once.
    fn allowed(&self, request: &Request) -> Result<(), Refusal> {
        if !self.definitions.ready() {
            return Err(Refusal::NotReady);
        }
        for id in &request.instances {
            match self.definitions.function_shard(&request.function, &id.shard) {
                FunctionShard::UnknownFunction => return Err(Refusal::UnknownFunction),
                FunctionShard::UnknownShard => return Err(Refusal::UnknownShard(id.shard.clone())),
                FunctionShard::NotMapped => return Err(Refusal::NotMapped(id.shard.clone())),
                FunctionShard::Mapped(def) => {
                    if !def.key.iter().eq(id.key.iter().map(|part| &part.column)) {
                        let (shard, key) = (id.shard.clone(), def.key.clone());
                        return Err(Refusal::KeyMismatch { shard, key });
                    }
                }
            }
        }
        Ok(())
    }

    /// An answer made of pinned and cached copies, if there is one for every instance and together they are one cut.
    pub(crate) fn answer_from(
        &mut self,
        texts: &[Arc<str>],
        pinned: &[Option<Arc<ShardCopy>>],
        waited: &[bool],
    ) -> Option<Answer> {
        let mut parts = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            let waited = waited.get(i).copied().unwrap_or_default();
            let (copy, cached) = self.find(text, pinned.get(i).and_then(Option::as_ref))?;
            let served_from = if waited { ServedFrom::Origin } else { cached };
            parts.push(Part { copy, served_from });
        }
        if !self.is_one_cut(parts.iter().map(|part| &*part.copy)) {
            return None;
        }
        for part in &parts {
            self.prefetch.touch(&part.copy.instance);
            self.reactive.touch(&part.copy.instance);
            match part.served_from {
                ServedFrom::Prefetch => {
                    self.stats.served_prefetch += 1;
                    self.prefetch.hit(&part.copy.instance);
                    self.stats.explored_used += u64::from(self.agenda.used(&part.copy.instance));
                }
                ServedFrom::Reactive => {
                    self.stats.served_reactive += 1;
                    self.reactive.hit(&part.copy.instance);
                }
                ServedFrom::Origin => self.stats.served_origin += 1,
            }
        }
        let lsn = self.stream.stamp();
        self.promised = self.promised.max(lsn);
        Some(Answer { lsn, parts })
    }

    fn find(&self, text: &str, pinned: Option<&Arc<ShardCopy>>) -> Option<(Arc<ShardCopy>, ServedFrom)> {
        let pinned = pinned.map(|copy| (copy.clone(), ServedFrom::Origin));
        pinned
            .or_else(|| self.prefetch.peek(text).map(|copy| (copy.clone(), ServedFrom::Prefetch)))
            .or_else(|| self.reactive.peek(text).map(|copy| (copy.clone(), ServedFrom::Reactive)))
    }

    /// Copies are one cut if none of them is ahead of the stream: then they hold what was delivered and nothing else. Or if they
    /// are exactly what one fetch has read in its snapshot. A copy that is ahead and has been changed since is neither, even
    /// alone: it holds what was delivered and, of what was not, what its snapshot saw.
    fn is_one_cut<'a>(&self, copies: impl Iterator<Item = &'a ShardCopy> + Clone) -> bool {
        let Some(first) = copies.clone().next() else { return true };
        copies.clone().all(|copy| copy.settled_at <= self.stream.position())
            || (first.fetch.is_some() && copies.clone().all(|copy| copy.fetch == first.fetch))
    }

    fn step(&mut self, now: Now, id: RequestId) -> Step {
        let Some(pending) = self.requests.pending.get(&id) else { return Step::Wait };
        if let Err(refusal) = self.allowed(&pending.request) {
            return Step::Done(Err(refusal));
        }
        if now.mono >= pending.deadline {
            return Step::Done(Err(Refusal::TimedOut));
        }
        if self.needed(pending.request.min_lsn) > self.stream.stamp() {
            return self.ahead_of_the_stream(now, id);
        }
        if pending.cut_flight.is_some() {
            // The stream may be faster than the origin.
            let texts = pending.texts.clone();
            let answer = if self.is_fresh(now) { self.answer_from(&texts, &[], &[]) } else { None };
            return answer.map_or(Step::Wait, |answer| Step::Done(Ok(answer)));
        }
        let (texts, pinned, waited) = (pending.texts.clone(), pending.pinned.clone(), pending.waited.clone());
        let fresh = self.is_fresh(now);
        let read_for_it = pending.vouched && pinned.iter().all(Option::is_some);
        if fresh || read_for_it {
            if let Some(answer) = self.answer_from(&texts, &pinned, &waited) {
                return Step::Done(Ok(answer));
            }
        } else {
            // Nothing held may be served as fresh, and a fetch under way may be older than this request. Nor do the definitions
            // known here tell what the function may read now: the origin says so before it reads.
            self.fetch_in_one_snapshot(now, id, true);
            return Step::Wait;
        }
        let missing: Vec<usize> =
            (0..texts.len()).filter(|&i| self.find(&texts[i], pinned[i].as_ref()).is_none()).collect();
        if missing.is_empty() {
            self.wait_for_cut(now, id, &texts, &pinned)
        } else {
            self.fetch_missing(now, id, &missing)
        }
        Step::Wait
    }

    /// Everything is there, but some copies are ahead of the stream: usually it catches up within a millisecond.
    fn wait_for_cut(
        &mut self,
        now: Now,
        id: RequestId,
        texts: &[Arc<str>],
        pinned: &[Option<Arc<ShardCopy>>],
    ) {
        let settled = texts.iter().zip(pinned).filter_map(|(text, pinned)| self.find(text, pinned.as_ref()));
        let settled = settled.map(|(copy, _)| copy.settled_at).max().unwrap_or(Lsn::ZERO);
        let Some(pending) = self.requests.pending.get_mut(&id) else { return };
        let since = *pending.torn_since.get_or_insert(now.mono);
        if now.mono >= since + self.config.cut_wait {
            self.fetch_in_one_snapshot(now, id, false);
        } else {
            self.requests.at_lsn(settled, id);
            self.requests.at_time(since + self.config.cut_wait, id);
            self.actions.push(crate::core::Action::AskForProgress);
        }
    }

    /// Joins the fetches under way for what is missing and starts one for the rest.
    fn fetch_missing(&mut self, now: Now, id: RequestId, missing: &[usize]) {
        let Some(pending) = self.requests.pending.get_mut(&id) else { return };
        pending.vouched = false;
        let mut wanted: Vec<Wanted> = Vec::new();
        for &i in missing {
            pending.waited[i] = true;
            let text = &pending.texts[i];
            if let Some(flight) = self.flights.of(text) {
                if !flight.waiters.contains(&id) {
                    flight.waiters.push(id);
                }
            } else if wanted.iter().all(|other| other.text != *text) {
                let id = pending.request.instances[i].clone();
                wanted.push(Wanted::new(id, text.clone()));
            }
        }
        if !wanted.is_empty() {
            self.launch(now, wanted, false, None, vec![id], 0);
        }
    }

    /// One fetch of everything the request wants, in one snapshot. Requests for the same join one that is under way: what it
    /// reads is not older than a copy may be.
    pub(crate) fn fetch_in_one_snapshot(&mut self, now: Now, id: RequestId, proving: bool) {
        let Some(pending) = self.requests.pending.get_mut(&id) else { return };
        pending.waited.fill(true);
        pending.pinned.fill(None);
        pending.vouched = false;
        let cut = Cut { instances: pending.texts.clone(), proving };
        let recent = now.mono.saturating_sub(self.config.max_staleness);
        if let Some((flight, under_way)) = self.flights.of_cut(&cut, recent) {
            under_way.waiters.push(id);
            pending.cut_flight = Some(flight);
            return;
        }
        let mut wanted: Vec<Wanted> = Vec::new();
        for (instance, text) in pending.request.instances.iter().zip(&pending.texts) {
            if wanted.iter().all(|other| other.text != *text) {
                wanted.push(Wanted::new(instance.clone(), text.clone()));
            }
        }
        // A few milliseconds between attempts: a transaction that was delivered becomes visible within them.
        let delay = match pending.cut_attempts {
            0 => 0,
            attempts => (1_000 << attempts.min(6)).min(50_000),
        };
        pending.cut_attempts += 1;
        let flight = self.launch(now, wanted, false, Some(cut), vec![id], delay);
        if let Some(pending) = self.requests.pending.get_mut(&id) {
            pending.cut_flight = Some(flight);
        }
    }

    /// Requests among `waiters` that want this instance.
    pub(crate) fn waiting_for(&self, waiters: &[RequestId], text: &str) -> Vec<RequestId> {
        let wants = |id: &RequestId| {
            self.requests
                .pending
                .get(id)
                .is_some_and(|pending| pending.texts.iter().any(|wanted| **wanted == *text))
        };
        waiters.iter().copied().filter(wants).collect()
    }

    /// Keeps a copy for the requests that waited for it.
    pub(crate) fn pin(&mut self, waiters: &[RequestId], copy: &Arc<ShardCopy>) {
        for id in waiters {
            let Some(pending) = self.requests.pending.get_mut(id) else { continue };
            for (text, pinned) in pending.texts.iter().zip(&mut pending.pinned) {
                if *text == copy.instance {
                    *pinned = Some(copy.clone());
                }
            }
        }
    }

    pub(crate) fn unpin_all(&mut self, waiter: RequestId) {
        if let Some(pending) = self.requests.pending.get_mut(&waiter) {
            pending.pinned.fill(None);
        }
    }

    /// The request no longer waits for this fetch, if it was one of its own.
    pub(crate) fn detach(&mut self, id: RequestId, flight: FlightId) {
        if let Some(pending) = self.requests.pending.get_mut(&id)
            && pending.cut_flight == Some(flight)
        {
            pending.cut_flight = None;
        }
    }

    /// The instance is known under another spelling of its key: requests go on under that name.
    pub(crate) fn rename(&mut self, waiters: &[RequestId], text: &str, canonical: &str) {
        let Ok(instance) = canonical.parse::<InstanceId>() else { return };
        for id in self.waiting_for(waiters, text) {
            let Some(pending) = self.requests.pending.get_mut(&id) else { continue };
            for (i, wanted) in pending.texts.iter_mut().enumerate() {
                if **wanted == *text {
                    *wanted = canonical.into();
                    pending.request.instances[i] = instance.clone();
                }
            }
        }
    }
}
