//! Judges every answer and every acknowledgement, knowing the whole history.

use std::collections::{BTreeMap, BTreeSet};

use foreshard_edge::{Answer, FlightId, Request, ServedFrom};
use foreshard_protocol::{Lsn, Row};

use crate::catalog::{Defs, FUNCTIONS, SHARDS, Sorted, resolve};
use crate::origin::{Origin, State, TxnId};
use crate::rows;

/// What the checker knows of a request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) at: u64,
    pub(crate) deadline: u64,
}

/// Of the edge at the moment of an answer.
pub(crate) struct Moment {
    pub(crate) now: u64,
    pub(crate) applied: Lsn,
    pub(crate) max_staleness: u64,
    /// The stream is proved to be fresh.
    pub(crate) fresh: bool,
    /// The edge has reconnected to the origin since the origin last crashed.
    pub(crate) met_the_crash: bool,
}

#[derive(Default)]
pub(crate) struct Checker {
    last_lsn: Lsn,
}

/// One part of an answer: its instance and the transactions in it.
struct Seen {
    shard: usize,
    key: Option<u32>,
    holds: BTreeSet<TxnId>,
    from: ServedFrom,
}

impl Checker {
    /// A new process: its first position may be lower than the last of its predecessor.
    pub(crate) fn new_process(&mut self) {
        self.last_lsn = Lsn::ZERO;
    }

    pub(crate) fn answer(
        &mut self,
        origin: &Origin,
        asked: &Asked,
        answer: &Answer,
        moment: &Moment,
        reads: &BTreeMap<FlightId, Defs>,
    ) -> Result<(), String> {
        let lsn = answer.lsn;
        let position = Lsn(lsn.0 + 1);
        let read_at_the_origin = answer.parts.iter().all(|part| part.served_from == ServedFrom::Origin);
        check(position == moment.applied || (position > moment.applied && read_at_the_origin), || {
            format!("answer at {lsn}, but {} is applied", moment.applied)
        })?;
        check(lsn >= self.last_lsn, || format!("position goes back from {} to {lsn}", self.last_lsn))?;
        self.last_lsn = lsn;
        check(asked.request.min_lsn.is_none_or(|min| lsn >= min), || {
            format!("answer at {lsn} is older than the position asked for")
        })?;
        check(answer.parts.len() == asked.request.instances.len(), || "wrong number of parts".into())?;
        let mut parts = Vec::new();
        for (id, part) in asked.request.instances.iter().zip(&answer.parts) {
            let (shard, key) = resolve(id).ok_or_else(|| format!("{id} was answered"))?;
            let canonical = crate::catalog::instance(shard, key.map(|key| key.to_string())).to_string();
            check(*part.copy.instance == *canonical, || {
                format!("{id} was answered with {}", part.copy.instance)
            })?;
            let function = asked.request.function.trim_start_matches('f').parse().unwrap_or(FUNCTIONS);
            // The definitions that the stream has brought are of no use while it does not come, or not of that position.
            let beyond = !moment.fresh || position > moment.applied;
            match part.copy.fetch.and_then(|flight| reads.get(&flight)).filter(|_| beyond) {
                None => self.mapped(origin, function, shard, position)?,
                Some(read) => check(read.maps(function, shard), || {
                    let name = SHARDS[shard].name;
                    format!(
                        "f{function} was answered with {name}, which it could not read when that was read"
                    )
                })?,
            }
            let ids = part.copy.rows.iter().map(rows::journal_of).collect::<Option<Vec<_>>>();
            let holds: BTreeSet<TxnId> = ids.ok_or("unreadable rows")?.into_iter().flatten().collect();
            left_by(origin, shard, key, &holds, &part.copy.rows)?;
            parts.push(Seen { shard, key, holds, from: part.served_from });
        }
        for part in &parts {
            self.part(origin, part, lsn, asked, moment)?;
        }
        if parts.iter().any(|part| part.from != ServedFrom::Origin) {
            fresh(origin, position, moment)?;
        }
        one_cut(origin, &parts, position)
    }

    fn part(
        &self,
        origin: &Origin,
        part: &Seen,
        lsn: Lsn,
        asked: &Asked,
        moment: &Moment,
    ) -> Result<(), String> {
        let name = SHARDS[part.shard].name;
        for id in &part.holds {
            let txn = &origin.txns[*id];
            check(txn.touches(part.shard, part.key), || format!("{name} holds foreign transaction {id}"))?;
            // What was delivered is in copies before readers at the origin see it.
            let delivered = txn.state == State::Committed && txn.end_lsn <= moment.applied;
            let real = txn.state == State::Visible
                || delivered
                || (txn.state == State::Lost && !moment.met_the_crash);
            check(real, || format!("{name} holds transaction {id}, which is {:?}", txn.state))?;
        }
        let missing = origin
            .log
            .iter()
            .copied()
            .filter(|id| !part.holds.contains(id) && origin.txns[*id].touches(part.shard, part.key));
        for id in missing {
            let txn = &origin.txns[id];
            check(txn.commit_lsn > lsn, || {
                format!(
                    "{name} at {lsn} lacks transaction {id} (xid {}), committed at {}",
                    txn.xid, txn.commit_lsn
                )
            })?;
            let due = asked.at.saturating_sub(moment.max_staleness);
            check(txn.visible.is_none_or(|(_, at)| at > due), || {
                format!("{name} lacks transaction {id}, visible longer than max_staleness before the request")
            })?;
        }
        Ok(())
    }

    /// Mapped as of the answer's position, or in a later state of the definitions that the edge may have loaded.
    fn mapped(&self, origin: &Origin, function: usize, shard: usize, lsn: Lsn) -> Result<(), String> {
        let at = origin.defs_of(|txn| txn.end_lsn <= lsn);
        let later = || {
            let ends = origin.log.iter().map(|id| &origin.txns[*id]);
            let mut later =
                ends.filter(|txn| txn.end_lsn > lsn && !txn.ops.is_empty()).map(|txn| txn.end_lsn);
            later.any(|end| origin.defs_of(|txn| txn.end_lsn <= end).maps(function, shard))
        };
        check(at.maps(function, shard) || later(), || {
            format!("f{function} was answered with {}, which it may not read", SHARDS[shard].name)
        })
    }
}

/// The rows are what these transactions leave, in the order of the origin.
fn left_by(
    origin: &Origin,
    shard: usize,
    key: Option<u32>,
    holds: &BTreeSet<TxnId>,
    rows: &[Row],
) -> Result<(), String> {
    let known = |id: &TxnId| origin.txns.get(*id).map(|txn| (*id, txn));
    let held = holds.iter().map(known).collect::<Option<Vec<_>>>().ok_or("a transaction nobody knows")?;
    let mut expected = rows::content(shard, key, held.into_iter());
    let mut shown = rows.to_vec();
    if SHARDS[shard].order == Sorted::Unsorted {
        expected.sort();
        shown.sort();
    }
    check(expected == shown, || {
        format!("{} with {holds:?} should hold {expected:?}, but shows {shown:?}", SHARDS[shard].name)
    })
}

/// What is served from copies holds all that had been flushed `max_staleness` ago.
fn fresh(origin: &Origin, lsn: Lsn, moment: &Moment) -> Result<(), String> {
    let due = moment.now.saturating_sub(moment.max_staleness);
    let old = |id: &&TxnId| origin.txns[**id].flushed_at.is_some_and(|at| at < due);
    let newest = origin.log.iter().rev().find(old);
    check(newest.is_none_or(|id| origin.txns[*id].end_lsn <= lsn), || {
        format!("served from copies at {lsn}, but the stream is behind what was flushed max_staleness ago")
    })
}

/// Either the transactions up to one place of the log, or what one reader at the origin saw, explains all parts.
fn one_cut(origin: &Origin, parts: &[Seen], lsn: Lsn) -> Result<(), String> {
    let held = |id: &TxnId| parts.iter().any(|part| part.holds.contains(id));
    let all_held: BTreeSet<TxnId> = parts.iter().flat_map(|part| part.holds.iter().copied()).collect();
    let lacked: Vec<TxnId> = (0..origin.txns.len())
        .filter(|id| {
            let txn = &origin.txns[*id];
            parts.iter().any(|part| txn.touches(part.shard, part.key) && !part.holds.contains(id))
        })
        .collect();
    if let Some(torn) = lacked.iter().find(|id| held(id)) {
        return Err(format!("torn: one part holds transaction {torn}, another lacks it"));
    }
    let logged = |id: &&TxnId| !matches!(origin.txns[**id].state, State::Lost);
    let last_held = all_held.iter().filter(logged).map(|id| origin.txns[*id].end_lsn).max();
    let in_log = |id: &&TxnId| matches!(origin.txns[**id].state, State::Committed | State::Visible);
    let first_lacked = lacked.iter().filter(in_log).map(|id| origin.txns[*id].end_lsn).min();
    if first_lacked.is_none_or(|lacked| last_held.unwrap_or(lsn).max(lsn) < lacked) {
        return Ok(());
    }
    let rank = |id: &TxnId| origin.txns[*id].visible.map(|(rank, _)| rank);
    let last_seen = all_held.iter().filter_map(rank).max().unwrap_or(0);
    // A reader after a crash never saw what the crash took away.
    let first_unseen = lacked.iter().filter(logged).filter_map(rank).min().unwrap_or(u64::MAX);
    let all_visible = all_held.iter().filter(logged).all(|id| rank(id).is_some());
    check(all_visible && last_seen < first_unseen, || {
        let (held, lacked) = (format!("{all_held:?}"), format!("{lacked:?}"));
        format!("no cut at or after {lsn} explains an answer that holds {held} and lacks {lacked}")
    })
}

/// Nothing before `position` may be news to a process that starts there.
pub(crate) fn acknowledgement(origin: &Origin, position: Lsn, applied: Lsn) -> Result<(), String> {
    check(position <= applied, || format!("{position} is acknowledged, but only {applied} is applied"))?;
    for id in &origin.log {
        let txn = &origin.txns[*id];
        let resent = txn.commit_lsn >= position;
        check(resent || txn.frame.is_none() || txn.state == State::Visible, || {
            format!("{position} is acknowledged, but transaction {id} before it is not visible yet")
        })?;
    }
    Ok(())
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}
