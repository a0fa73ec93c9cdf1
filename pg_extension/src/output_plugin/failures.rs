//! Predicates that raised an ERROR on a row, counted where `foreshard.health()` finds it.
//!
//! The process that decodes can't write a table, and shared memory would need the library to be preloaded and would forget at every
//! restart. So the counts are a file in the slot's own directory. PostgreSQL removes that directory with the slot, leaves files it
//! does not know alone, and keeps it out of base backups, pg_rewind and pg_upgrade: counts belong to one slot of one cluster, on a
//! standby too. A slot has one reader at a time, which is the file's only writer. It replaces the file as a whole, without waiting
//! for the disk: after a crash of the machine an older count, or none, does no harm. Nor does it write the file for each of many commits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use foreshard_protocol::Lsn;
use serde_json::{Value, json};

/// More shards than this are not told of; those that failed longest ago are left out.
const MOST_SHARDS: usize = 1000;

/// The file is written at most so often.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Counts for the consumer of a slot. What is not yet written when it goes is written then; a process that ends at once loses that second.
pub(crate) struct Counter {
    slot: String,
    /// Read when the first predicate fails.
    failures: Option<Failures>,
    unwritten: bool,
    written: Option<Instant>,
}

impl Counter {
    /// Of this slot.
    pub(crate) fn of(slot: String) -> Self {
        Counter { slot, failures: None, unwritten: false, written: None }
    }

    /// Adds the failures of a transaction.
    pub(crate) fn add(&mut self, commit_lsn: Lsn, commit_time: i64, failed: Failed) {
        let failures = self.failures.get_or_insert_with(|| Failures::of(&self.slot));
        self.unwritten |= failures.add(commit_lsn, commit_time, failed);
        self.write_if_due();
    }

    /// Writes what has not been, unless the file was written a moment ago.
    pub(crate) fn write_if_due(&mut self) {
        if self.unwritten
            && self.written.is_none_or(|written| written.elapsed() >= WRITE_EVERY)
            && let Err(problem) = self.write()
        {
            // The stream matters more than the count.
            let slot = &self.slot;
            pgrx::log!("foreshard can't write how often predicates failed for slot {slot}: {problem}");
        }
    }

    fn write(&mut self) -> io::Result<()> {
        (self.unwritten, self.written) = (false, Some(Instant::now()));
        self.failures.as_ref().map_or(Ok(()), |failures| failures.write(&self.slot))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if self.unwritten {
            // The server must not be called while memory is given back, so nobody hears if it fails.
            let _ = self.write();
        }
    }
}

/// What is known of one shard's predicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The definition that it happened to.
    pub(crate) generation: u64,
    /// Row changes.
    pub(crate) rows: u64,
    /// SQLSTATE of the last one.
    pub(crate) state: String,
    /// When the last one was committed: microseconds since 1970-01-01 UTC.
    pub(crate) last: i64,
}

/// Failures of one transaction: by shard its generation, the number of row changes and the last SQLSTATE (an errcodes number).
pub(crate) type Failed = BTreeMap<String, (u64, u64, u32)>;

/// Failures that a slot's stream has come across.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// Start of the last commit that was counted. What is decoded once more is not counted again.
    until: Lsn,
    pub(crate) shards: BTreeMap<String, Failure>,
}

impl Failures {
    /// What was written for a slot; nothing if that can't be read.
    pub(crate) fn of(slot: &str) -> Self {
        fs::read(file(slot)).ok().and_then(|bytes| parse(&bytes)).unwrap_or_default()
    }

    /// Adds those of a transaction. False if it had been counted before.
    pub(crate) fn add(&mut self, commit_lsn: Lsn, commit_time: i64, failed: Failed) -> bool {
        if commit_lsn <= self.until {
            return false;
        }
        self.until = commit_lsn;
        for (shard, (generation, rows, state)) in failed {
            let before = self.shards.get(&shard).filter(|before| before.generation == generation);
            let rows = before.map_or(0, |before| before.rows).saturating_add(rows);
            self.shards
                .insert(shard, Failure { generation, rows, state: sqlstate(state), last: commit_time });
        }
        while self.shards.len() > MOST_SHARDS {
            let oldest = self.shards.iter().min_by_key(|(_, failure)| failure.last);
            let Some(oldest) = oldest.map(|(shard, _)| shard.clone()) else { break };
            self.shards.remove(&oldest);
        }
        true
    }

    /// Replaces what was written for the slot.
    pub(crate) fn write(&self, slot: &str) -> io::Result<()> {
        let file = file(slot);
        let fresh = file.with_extension("tmp");
        fs::write(&fresh, self.text())?;
        fs::rename(fresh, file)
    }

    fn text(&self) -> String {
        let shards = self.shards.iter().map(|(shard, failure)| {
            json!([shard, failure.generation, failure.rows, failure.state, failure.last])
        });
        json!({ "until": self.until.0, "shards": shards.collect::<Value>() }).to_string()
    }
}

fn parse(bytes: &[u8]) -> Option<Failures> {
    let all: Value = serde_json::from_slice(bytes).ok()?;
    let failure = |entry: &Value| {
        let failure = Failure {
            generation: entry.get(1)?.as_u64()?,
            rows: entry.get(2)?.as_u64()?,
            state: entry.get(3)?.as_str()?.to_owned(),
            last: entry.get(4)?.as_i64()?,
        };
        Some((entry.get(0)?.as_str()?.to_owned(), failure))
    };
    let shards = all.get("shards")?.as_array()?.iter().map(failure).collect::<Option<_>>()?;
    Some(Failures { until: Lsn(all.get("until")?.as_u64()?), shards })
}

/// Relative to the data directory, where every process of the server works.
fn file(slot: &str) -> PathBuf {
    Path::new("pg_replslot").join(slot).join("foreshard.failures")
}

/// The five characters of an errcodes number, which holds six bits of each.
fn sqlstate(state: u32) -> String {
    (0..5).map(|place| char::from(b'0' + (state >> (6 * place) & 0x3F) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// division_by_zero, as errcodes.h has it.
    const DIVISION: u32 = 2 | 2 << 6 | 1 << 18 | 2 << 24;

    fn failed(shard: &str, generation: u64, rows: u64) -> Failed {
        Failed::from([(shard.to_owned(), (generation, rows, DIVISION))])
    }

    #[test]
    fn counts_add_up_until_the_shard_is_defined_anew() {
        let mut all = Failures::default();
        assert!(all.add(Lsn(10), 100, failed("a \"quoted\"\nname", 1, 2)));
        assert!(all.add(Lsn(20), 200, failed("a \"quoted\"\nname", 1, 3)));
        let wanted = Failure { generation: 1, rows: 5, state: "22012".into(), last: 200 };
        assert_eq!(all.shards["a \"quoted\"\nname"], wanted);
        assert_eq!(parse(all.text().as_bytes()), Some(Failures { until: Lsn(20), ..clone(&all) }));
        assert!(all.add(Lsn(30), 300, failed("a \"quoted\"\nname", 2, 1)));
        assert_eq!(all.shards["a \"quoted\"\nname"].rows, 1);
    }

    fn clone(all: &Failures) -> Failures {
        Failures { until: all.until, shards: all.shards.clone() }
    }

    #[test]
    fn what_is_decoded_once_more_is_not_counted_again() {
        let mut all = Failures::default();
        assert!(all.add(Lsn(10), 100, failed("a", 1, 2)));
        assert!(!all.add(Lsn(10), 100, failed("a", 1, 2)));
        assert!(!all.add(Lsn(9), 100, failed("a", 1, 2)));
        assert_eq!(all.shards["a"].rows, 2);
    }

    #[test]
    fn the_latest_are_kept() {
        let mut all = Failures::default();
        for number in 0..MOST_SHARDS as u64 + 5 {
            assert!(all.add(Lsn(number + 1), number as i64, failed(&number.to_string(), 1, 1)));
        }
        assert_eq!(all.shards.len(), MOST_SHARDS);
        assert!(!all.shards.contains_key("4") && all.shards.contains_key("5"));
    }

    #[test]
    fn a_file_that_is_no_such_file_counts_nothing() {
        let text = Failures::default().text();
        assert_eq!(parse(text.as_bytes()), Some(Failures::default()));
        for wrong in ["", "{}", "[]", r#"{"until":1}"#, r#"{"until":1,"shards":[["a"]]}"#, &text[..5]] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
