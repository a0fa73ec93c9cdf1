//! Instances that a fetch could not read because of an ERROR, noted where `foreshard.health()` finds them.
//!
//! A fetch may run in a transaction that is read-only and must not wait for others, so this is a file in the slot's directory, as
//! that of `output_plugin::failures` and with the same fate. Several fetches may be under way for one edge: each replaces the file as a
//! whole, and what one of them notes may be lost to another until the next fetch fails.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Value, json};

/// More shards than this are not told of; those that failed longest ago are left out.
const MOST_SHARDS: usize = 1000;
/// What fails all the time is noted this often, in microseconds.
const AGAIN_AFTER: i64 = 10_000_000;
/// Classes of SQLSTATEs that say nothing about the shard: rollbacks, resources, locks, interventions, the system.
const PASSING: [&str; 5] = ["40", "53", "55", "57", "58"];

/// The last fetch of a shard that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unread {
    /// The definition that it happened to.
    pub(super) generation: u64,
    pub(super) state: String,
    /// When: microseconds since 1970-01-01 UTC.
    pub(super) last: i64,
    /// Which instance, without telling its key.
    instance: u64,
}

/// What is noted for an edge's slot. Read only when it is needed, or there may be something to strike out.
pub(super) struct Notes {
    slot: String,
    shards: BTreeMap<String, Unread>,
    changed: bool,
}

impl Notes {
    /// What was written for a slot; nothing if that can't be read.
    pub(super) fn of(slot: &str) -> Self {
        let shards = fs::read(file(slot)).ok().and_then(|bytes| parse(&bytes)).unwrap_or_default();
        Notes { slot: slot.to_owned(), shards, changed: false }
    }

    pub(super) fn shards(self) -> BTreeMap<String, Unread> {
        self.shards
    }

    /// Reading an instance failed.
    pub(super) fn failed(&mut self, shard: &str, generation: u64, instance: &str, state: &str, now: i64) {
        if PASSING.iter().any(|class| state.starts_with(class)) {
            return;
        }
        let known = self.shards.get(shard).is_some_and(|known| {
            (known.generation, known.state.as_str()) == (generation, state)
                && now < known.last.saturating_add(AGAIN_AFTER)
        });
        if known {
            return;
        }
        let unread = Unread { generation, state: state.to_owned(), last: now, instance: digest(instance) };
        self.shards.insert(shard.to_owned(), unread);
        while self.shards.len() > MOST_SHARDS {
            let oldest = self.shards.iter().min_by_key(|(_, unread)| unread.last);
            let Some(oldest) = oldest.map(|(shard, _)| shard.clone()) else { break };
            self.shards.remove(&oldest);
        }
        self.changed = true;
    }

    /// An instance was read: if it is the one that failed, the shard is sound again as far as is known.
    pub(super) fn read(&mut self, shard: &str, instance: &str) {
        if self.shards.get(shard).is_some_and(|unread| unread.instance == digest(instance)) {
            self.shards.remove(shard);
            self.changed = true;
        }
    }

    /// Writes what has changed. Without a slot there is no place for it, and no sidecar that fetches.
    pub(super) fn keep(&self) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        let file = file(&self.slot);
        let fresh = file.with_extension(format!("unread-{}", std::process::id()));
        fs::write(&fresh, self.text())?;
        fs::rename(fresh, file)
    }

    fn text(&self) -> String {
        let shards = self.shards.iter().map(|(shard, unread)| {
            json!([shard, unread.generation, unread.state, unread.last, unread.instance])
        });
        shards.collect::<Value>().to_string()
    }
}

fn parse(bytes: &[u8]) -> Option<BTreeMap<String, Unread>> {
    let all: Value = serde_json::from_slice(bytes).ok()?;
    let unread = |entry: &Value| {
        let unread = Unread {
            generation: entry.get(1)?.as_u64()?,
            state: entry.get(2)?.as_str()?.to_owned(),
            last: entry.get(3)?.as_i64()?,
            instance: entry.get(4)?.as_u64()?,
        };
        Some((entry.get(0)?.as_str()?.to_owned(), unread))
    };
    all.as_array()?.iter().map(unread).collect()
}

/// Relative to the data directory, where every process of the server works.
fn file(slot: &str) -> PathBuf {
    Path::new("pg_replslot").join(slot).join("foreshard.unread")
}

fn digest(instance: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    instance.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Notes {
        Notes { slot: "slot".into(), shards: BTreeMap::new(), changed: false }
    }

    #[test]
    fn the_last_failure_is_noted_until_that_instance_is_read() {
        let mut notes = nothing();
        notes.failed("a", 1, "a?k=1", "22012", 100);
        notes.failed("a", 1, "a?k=2", "22012", 200);
        assert_eq!((notes.shards["a"].last, notes.changed), (100, true), "not at every turn");
        notes.read("a", "a?k=2");
        notes.read("b", "b");
        assert_eq!(notes.shards["a"].state, "22012");
        assert_eq!(parse(notes.text().as_bytes()).unwrap(), notes.shards);
        notes.failed("a", 2, "a?k=2", "22012", 200);
        assert_eq!((notes.shards["a"].last, notes.shards["a"].generation), (200, 2));
        notes.failed("a", 2, "a?k=3", "22012", 200 + AGAIN_AFTER);
        assert_eq!(notes.shards["a"].last, 200 + AGAIN_AFTER);
        notes.read("a", "a?k=3");
        assert!(notes.shards.is_empty());
    }

    #[test]
    fn what_passes_by_itself_is_not_noted() {
        let mut notes = nothing();
        for state in ["40001", "53200", "55P03", "57014", "58030"] {
            notes.failed("a", 1, "a", state, 100);
        }
        assert!(notes.shards.is_empty() && !notes.changed);
    }

    #[test]
    fn the_latest_are_kept() {
        let mut notes = nothing();
        for number in 0..MOST_SHARDS as i64 + 5 {
            notes.failed(&number.to_string(), 1, "x", "22012", number);
        }
        assert_eq!(notes.shards.len(), MOST_SHARDS);
        assert!(!notes.shards.contains_key("4") && notes.shards.contains_key("5"));
    }

    #[test]
    fn a_file_that_is_no_such_file_notes_nothing() {
        assert_eq!(parse(b"[]"), Some(BTreeMap::new()));
        for wrong in ["", "{}", "[[]]", r#"[["a",1,"22012"]]"#] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
