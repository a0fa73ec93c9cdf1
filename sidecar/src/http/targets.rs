//! Targets of requests that were answered: what they ask for is worked out once, and not again until a definition changes.

use std::sync::{Arc, Mutex, PoisonError};

use foreshard_edge::rows::Query;
use foreshard_protocol::InstanceId;
use lru::LruCache;

/// Targets that are kept …
const MOST: usize = 8192;
/// … and bytes that one may have: longer ones are read anew each time.
const LONGEST: usize = 1024;

/// What a target asks for under one version of the definitions.
#[derive(Debug)]
pub(super) struct Known {
    /// The definitions' version (`Definitions::version`).
    pub(super) version: u64,
    pub(super) function: String,
    /// As the request spells it.
    pub(super) instance: InstanceId,
    /// As copies are named.
    pub(super) copy: Arc<str>,
    pub(super) table: String,
    pub(super) parameters: Vec<(String, String)>,
    /// What is left of the parameters once the key is taken out.
    pub(super) query: Query,
}

/// Targets by their bytes, the ones asked for last.
pub(crate) struct Targets(Mutex<LruCache<Box<str>, Arc<Known>>>);

impl Default for Targets {
    fn default() -> Self {
        Targets(Mutex::new(LruCache::unbounded()))
    }
}

impl Targets {
    pub(super) fn get(&self, target: &str) -> Option<Arc<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned()
    }

    pub(super) fn keep(&self, target: &str, known: Arc<Known>) {
        if target.len() > LONGEST {
            return;
        }
        let mut targets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        targets.put(target.into(), known);
        if targets.len() > MOST {
            targets.pop_lru();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_last_is_kept_and_the_number_is_bounded() {
        let known = || {
            Arc::new(Known {
                version: 1,
                function: "f".into(),
                instance: InstanceId::unkeyed("s"),
                copy: "s".into(),
                table: "public.s".into(),
                parameters: Vec::new(),
                query: Query::default(),
            })
        };
        let targets = Targets::default();
        for i in 0..2 * MOST {
            targets.keep(&i.to_string(), known());
            assert!(targets.get("0").is_some(), "the one that is asked for again and again stays");
        }
        targets.keep(&"x".repeat(LONGEST + 1), known());
        assert_eq!(targets.0.lock().unwrap().len(), MOST);
        assert!(targets.get("1").is_none());
    }
}
