//! What is fetched ahead of demand: worked out from the schedules, and started as far as the agent allows.

use std::sync::Arc;

use foreshard_protocol::InstanceId;

use crate::agenda::Terms;
use crate::agent::{Admission, Reserved};
use crate::config::EdgeConfig;
use crate::core::EdgeCore;
use crate::flights::Wanted;
use crate::now::Now;

impl EdgeCore {
    /// Starts what requests wait for, and as many prefetches as the agent allows.
    pub(crate) fn pump(&mut self, now: Now) {
        self.take_turns(now);
        if self.config.prefetch_bytes == 0 || !self.definitions.ready() {
            return;
        }
        if std::mem::take(&mut self.agenda_dirty) {
            self.plan(now);
        }
        let idle = self.agenda.waiting() == 0 || self.prefetch_full || now.mono < self.prefetch_paused_until;
        if idle || !self.is_fresh(now) {
            return;
        }
        loop {
            let (ahead, demand) = self.flights.counts();
            if ahead >= self.agent.limit(now.mono, demand + self.flights.waiting()) {
                return;
            }
            let (batch, reserved) = self.batch(now);
            if batch.is_empty() {
                return;
            }
            self.agent.started(reserved);
            let id = self.launch(now, batch, true, None, Vec::new(), 0);
            self.flights.reserve(id, reserved);
        }
    }

    fn plan(&mut self, now: Now) {
        let EdgeConfig { lead: longest, min_confidence, prefetch_batch, .. } = self.config;
        let coming = self.agenda.coming(now.trace, longest, &self.agent.costs);
        let lead = coming.map_or(longest, |(instances, bytes)| {
            self.agent.safe_lead(now, instances, bytes, prefetch_batch, longest)
        });
        let held = |instance: &str| self.prefetch.peek(instance).or(self.reactive.peek(instance)).is_some();
        let terms = Terms { min_confidence, costs: &self.agent.costs };
        let dropped = self.agenda.recompute(now.trace, lead, &terms, &self.definitions, held);
        self.stats.schedule_entries_dropped += dropped;
        self.agenda_changes_at = self.agenda.next_change(now.trace, [longest, lead]);
        self.prefetch_full = false;
        self.promote();
    }

    /// The next instances to fetch, and what is set aside for them.
    fn batch(&mut self, now: Now) -> (Vec<Wanted>, Reserved) {
        let (mut batch, mut reserved) = (Vec::new(), Reserved::default());
        while batch.len() < self.config.prefetch_batch
            && let Some(text) = self.agenda.next()
        {
            let held = self.prefetch.peek(&text).or(self.reactive.peek(&text)).is_some();
            let Ok(id) = text.parse::<InstanceId>() else { continue };
            if held || self.flights.has(&text) || self.comes_too_late(now, &text, &id) {
                continue;
            }
            let (admission, more) = self.agent.admits(now.mono, reserved, &id.shard);
            if admission == Admission::No {
                self.agenda.again_or_last(&text);
                break;
            }
            reserved = more;
            let hot = !self.agenda.wants(&text);
            batch.push(Wanted { hot, ..Wanted::new(id, text) });
            if admission == Admission::Last {
                break;
            }
        }
        (batch, reserved)
    }

    /// Whether the window of a schedule that wants it is over before a fetch could be.
    fn comes_too_late(&self, now: Now, text: &Arc<str>, id: &InstanceId) -> bool {
        let costs = &self.agent.costs;
        let time =
            costs.fetch_time(costs.bytes(&id.shard)).and_then(|time| self.agent.in_trace_time(now, time));
        self.agenda.wants(text) && time.is_some_and(|time| !self.agenda.wants_at(text, now.trace + time))
    }
}
