//! What writers, readers and bad luck do.

use foreshard_edge::{Reply, Request};
use foreshard_protocol::{Lsn, Schedule, ScheduleEntry};
use rand::Rng;

use crate::catalog::{CatalogOp, FUNCTIONS, KEYS, SHARDS, function_name, instance};
use crate::checker::Asked;
use crate::origin::{ROWS, RowValue, State, TABLES, Told, TxnId};
use crate::world::{Kind, Step, World};

impl World {
    /// A writer starts a transaction, with all its changes.
    pub(crate) fn write(&mut self) {
        if self.calm {
            return;
        }
        let wanted = self.draw(Kind::Write);
        let pause = self.rng.random_range(0..self.profile.write_pause * 2);
        self.after(pause, Step::Write);
        if !self.origin_up || !wanted {
            return;
        }
        if self.rng.random_bool(0.1) {
            let bytes = self.rng.random_range(8..200);
            self.origin.write(bytes, 0);
        }
        let (mut writes, mut truncates, mut ops, mut schedule) = (Vec::new(), None, Vec::new(), None);
        if self.rng.random_bool(self.profile.catalog_change) {
            ops.push(self.catalog_op());
        } else if self.rng.random_bool(0.04) {
            truncates = Some(self.rng.random_range(0..TABLES));
        } else if self.rng.random_bool(0.08) {
            schedule = Some(self.schedule());
        }
        if truncates.is_none() {
            for _ in 0..self.rng.random_range(0..4) {
                let row = (self.rng.random_range(0..TABLES), self.rng.random_range(0..ROWS));
                if writes.iter().all(|(known, _)| *known != row) {
                    writes.push((row, self.row_value(self.origin.row(row.0, row.1))));
                }
            }
        }
        let told = match self.rng.random_range(0..20) {
            0..2 => Told::Coarse,
            2 => Told::NotAllValues,
            _ if self.profile.deltas => Told::Rows,
            _ => Told::Keys,
        };
        let subtransactions = if self.rng.random_bool(0.2) { self.rng.random_range(1..4) } else { 0 };
        if let Some(id) = self.origin.begin(writes, truncates, ops, schedule, (told, subtransactions)) {
            self.origin.txns[id].write = self.number(Kind::Write);
            self.summary.transactions += 1;
            let length = self.rng.random_range(0..4_000);
            let abort = self.rng.random_bool(0.15);
            self.note(|| format!("transaction {id} begins"));
            self.after(length, if abort { Step::Abort(id) } else { Step::Commit(id) });
        }
    }

    /// Insert, delete, or an update that may move the key and flip the flag.
    fn row_value(&mut self, old: RowValue) -> RowValue {
        match old {
            Some(_) if self.rng.random_bool(0.2) => None,
            Some((key, flag)) => {
                let key = if self.rng.random_bool(0.3) { self.rng.random_range(0..KEYS) } else { key };
                Some((key, flag ^ self.rng.random_bool(0.3)))
            }
            None => Some((self.rng.random_range(0..KEYS), self.rng.random_bool(0.5))),
        }
    }

    fn catalog_op(&mut self) -> CatalogOp {
        let shard = self.rng.random_range(0..SHARDS.len());
        let function = self.rng.random_range(0..FUNCTIONS);
        let generation = self.origin.new_generation();
        let defs = &self.origin.defs;
        match self.rng.random_range(0..10) {
            0..3 if defs.shards.contains_key(&shard) => CatalogOp::Redefine { shard, generation },
            3 if defs.shards.contains_key(&shard) => CatalogOp::Drop { shard },
            _ if !defs.shards.contains_key(&shard) => CatalogOp::Create { shard, generation },
            4..6 if defs.functions.contains_key(&function) => CatalogOp::Unmap { function },
            _ => {
                let known: Vec<usize> = defs.shards.keys().copied().collect();
                let chosen = known.into_iter().filter(|_| self.rng.random_bool(0.5)).collect::<Vec<_>>();
                match chosen.is_empty() {
                    true => CatalogOp::Unmap { function },
                    false => CatalogOp::Map { function, shards: chosen },
                }
            }
        }
    }

    fn schedule(&mut self) -> Schedule {
        let entries = (0..self.rng.random_range(1..5)).map(|_| {
            let function = self.rng.random_range(0..FUNCTIONS);
            let shards = self.origin.defs.functions.get(&function).cloned().unwrap_or_default();
            let shard_list = shards.into_iter().map(|shard| self.spelled(shard).to_string()).collect();
            let confidence = self.rng.random_range(0.0..1.0);
            ScheduleEntry { function_id: function_name(function), shard_list, confidence }
        });
        let entries = entries.collect();
        let starts_at = self.now as i64 + self.rng.random_range(-20_000..40_000);
        let ends_at = starts_at + self.rng.random_range(30_000..300_000);
        self.next_schedule += 1;
        Schedule { id: self.next_schedule, starts_at, ends_at, entries }
    }

    pub(crate) fn commit(&mut self, id: TxnId) {
        self.draw_as(Kind::Commit, self.origin.txns[id].write);
        if self.origin.txns[id].state != State::Running {
            return;
        }
        self.origin.commit(id);
        let end = self.origin.txns[id].end_lsn;
        let flush = self.rng.random_range(20..3_000);
        self.note(|| format!("transaction {id} commits up to {}", end.0));
        if self.rng.random_bool(self.profile.asynchronous_commit) {
            let late = self.rng.random_range(0..40_000);
            self.after(late, Step::Flush(end));
            self.after(0, Step::Visible(id));
            return;
        }
        self.after(flush, Step::Flush(end));
        let until_visible = match !self.calm && self.rng.random_bool(self.profile.hang) {
            true => self.rng.random_range(20_000..2_000_000),
            false => self.rng.random_range(0..self.profile.visibility * 2),
        };
        self.after(flush + until_visible, Step::Visible(id));
    }

    pub(crate) fn abort(&mut self, id: TxnId) {
        self.draw_as(Kind::Commit, self.origin.txns[id].write);
        if self.origin.txns[id].state == State::Running {
            self.note(|| format!("transaction {id} aborts"));
            self.origin.abort(id);
            let (at, end) = (self.rng.random_range(0..40_000), self.origin.insert);
            self.after(at, Step::Flush(end));
        }
    }

    pub(crate) fn visible(&mut self, id: TxnId) {
        if self.origin.txns[id].state == State::Committed {
            let now = self.now;
            self.note(|| format!("transaction {id} is visible"));
            self.origin.make_visible(now, id);
        }
    }

    /// A function asks; now and then for what it may not read, or in a spelling of its own.
    pub(crate) fn ask(&mut self) -> Result<(), String> {
        if self.calm {
            return Ok(());
        }
        let wanted = self.draw(Kind::Ask);
        let pause = self.rng.random_range(0..self.profile.request_pause * 2);
        self.after(pause, Step::Ask);
        if !wanted {
            return Ok(());
        }
        let function = self.rng.random_range(0..FUNCTIONS);
        let mut shards = self.origin.defs.functions.get(&function).cloned().unwrap_or_default();
        if shards.is_empty() || self.rng.random_bool(0.05) {
            shards = vec![self.rng.random_range(0..SHARDS.len())];
        }
        if self.rng.random_bool(0.3) {
            shards.truncate(1);
        }
        let wanted = shards.into_iter().map(|shard| (shard, self.rng.random_range(0..KEYS))).collect();
        let min_lsn = match self.rng.random_range(0..10) {
            0..2 => Some(self.origin.insert),
            2 => Some(Lsn(self.origin.insert.0 + 60)),
            3 => Some(Lsn(1)),
            _ => None,
        };
        self.ask_for(function, wanted, min_lsn)
    }

    pub(crate) fn ask_for(
        &mut self,
        function: usize,
        wanted: Vec<(usize, u32)>,
        min_lsn: Option<Lsn>,
    ) -> Result<(), String> {
        let instances = wanted.into_iter().map(|(shard, key)| self.spelled_key(shard, key)).collect();
        let request = Request { function: function_name(function), instances, min_lsn };
        self.note(|| {
            let ids: Vec<String> = request.instances.iter().map(|id| id.to_string()).collect();
            format!("{} asks for {ids:?}, at least {min_lsn:?}", request.function)
        });
        let deadline = self.now + self.profile.config.request_timeout;
        let asked = Asked { request: request.clone(), at: self.now, deadline };
        let moment = self.moment();
        match self.core.request(moment, request) {
            Reply::Done(result) => self.judge(&asked, result)?,
            Reply::Waiting(id) => {
                self.asked.insert(id, asked);
                if !self.calm && self.rng.random_bool(0.03) {
                    let after = self.rng.random_range(0..20_000);
                    self.after(after, Step::Cancel(id));
                }
            }
        }
        self.act()
    }

    fn spelled(&mut self, shard: usize) -> foreshard_protocol::InstanceId {
        let key = self.rng.random_range(0..KEYS);
        self.spelled_key(shard, key)
    }

    fn spelled_key(&mut self, shard: usize, key: u32) -> foreshard_protocol::InstanceId {
        let canonical = key.to_string();
        let spelled = match self.calm || self.rng.random_bool(0.9) {
            true => canonical,
            false => format!("0{canonical}"),
        };
        instance(shard, SHARDS[shard].keyed.then_some(spelled))
    }

    pub(crate) fn fault(&mut self) {
        if self.calm {
            return;
        }
        self.after(20_000, Step::Fault);
        if !self.draw(Kind::Fault) {
            return;
        }
        if self.rng.random_bool(self.profile.disconnect) {
            self.note(|| "the stream is cut".into());
            self.disconnect();
        }
        if self.rng.random_bool(self.profile.kill_edge) {
            self.kill_edge();
        }
        if self.origin_up && self.rng.random_bool(self.profile.crash_origin) {
            self.note(|| "the origin crashes".into());
            self.summary.crashes += 1;
            let now = self.now;
            self.origin.crash(now);
            self.origin_up = false;
            self.met_the_crash = false;
            if let Some(slot) = &mut self.slot {
                slot.confirmed = slot.persisted;
            }
            self.disconnect();
            let down = self.rng.random_range(1_000..50_000);
            self.after(down, Step::OriginUp);
        }
        if self.origin_up && self.rng.random_bool(self.profile.restore) {
            self.restore();
        }
        if self.rng.random_bool(self.profile.lose_slot) {
            self.note(|| "the slot is lost".into());
            self.summary.slots_lost += 1;
            self.slot = None;
            self.disconnect();
        }
    }

    /// An older state of the origin takes its place, with or without the slot as it was then.
    fn restore(&mut self) {
        let (now, flushed) = (self.now, self.origin.flushed);
        let back = self.rng.random_range(0..600);
        let to = Lsn(flushed.0.saturating_sub(back).max(1_000));
        self.note(|| format!("the origin is restored as of {}", to.0));
        self.summary.restores += 1;
        // A cold backup says nothing of itself, and may have grown past what it had lost before the edge looks.
        let as_it_was = self.rng.random_bool(0.5);
        if as_it_was && self.rng.random_bool(0.7) {
            self.regrowth = flushed.0 - to.0 + self.rng.random_range(0..100);
            self.summary.regrown += 1;
        }
        self.origin.restore(now, to, as_it_was);
        self.origin_up = false;
        (self.met_the_crash, self.met_the_restore) = (false, false);
        self.slot.take_if(|slot| slot.persisted > to);
        if let Some(slot) = &mut self.slot {
            slot.confirmed = slot.persisted;
        }
        self.disconnect();
        let down = self.rng.random_range(1_000..50_000);
        self.after(down, Step::OriginUp);
    }

    /// Writers and readers stop, nothing fails any more.
    pub(crate) fn quieten(&mut self) {
        self.note(|| "quiet".into());
        self.calm = true;
        for id in 0..self.origin.txns.len() {
            self.abort(id);
        }
        let (now, insert) = (self.now, self.origin.insert);
        self.origin.flush(now, insert);
    }

    /// What hung becomes visible.
    pub(crate) fn calm_down(&mut self) {
        self.note(|| "calm".into());
        for id in 0..self.origin.txns.len() {
            self.visible(id);
        }
    }
}
