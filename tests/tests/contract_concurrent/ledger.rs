//! Which transactions there were, and whether an answer can be explained by them.
//!
//! Every row that writers insert carries its transaction's id, and rows are never changed: what an answer holds is a set of
//! transactions, even while commits overlap and become visible in another order than that of the log.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// A committed transaction.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) xid: u64,
    /// Instances that hold a row of it.
    pub(crate) instances: BTreeSet<String>,
    /// Before its first statement was sent, and after its COMMIT had been answered.
    pub(crate) began: Instant,
    pub(crate) done: Instant,
}

/// One instance of an answer, with the transactions in it.
pub(crate) type Part = (String, BTreeSet<u64>);

/// All of them, with the end of each commit record.
pub(crate) struct Ledger {
    by_instance: HashMap<String, Vec<(u64, u64)>>,
    all: HashMap<u64, (u64, Committed)>,
}

impl Ledger {
    pub(crate) fn new(committed: Vec<(u64, Committed)>) -> Self {
        let mut by_instance: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
        for (end, txn) in &committed {
            for instance in &txn.instances {
                by_instance.entry(instance.clone()).or_default().push((txn.xid, *end));
            }
        }
        let all = committed.into_iter().map(|(end, txn)| (txn.xid, (end, txn))).collect();
        Ledger { by_instance, all }
    }

    fn touching(&self, instance: &str) -> &[(u64, u64)] {
        self.by_instance.get(instance).map_or(&[], Vec::as_slice)
    }

    /// Why the parts cannot be an answer at `lsn`, if so.
    pub(crate) fn fault(&self, parts: &[Part], lsn: u64) -> Option<String> {
        let (mut last_held, mut first_lacked) = (0, u64::MAX);
        for (instance, held) in parts {
            if let Some(strange) =
                held.iter().find(|xid| !self.touching(instance).iter().any(|(x, _)| x == *xid))
            {
                return Some(format!("{instance} holds transaction {strange}, which did not commit there"));
            }
            for (xid, end) in self.touching(instance) {
                if held.contains(xid) {
                    last_held = last_held.max(*end);
                } else if *end <= lsn {
                    return Some(format!(
                        "{instance} at {lsn:X} lacks transaction {xid}, committed at {end:X}"
                    ));
                } else {
                    first_lacked = first_lacked.min(*end);
                }
            }
        }
        // The transactions up to one place of the log, or what one reader at the origin can have seen.
        if last_held < first_lacked { None } else { self.torn(parts) }
    }

    fn torn(&self, parts: &[Part]) -> Option<String> {
        let held: BTreeSet<u64> = parts.iter().flat_map(|(_, held)| held.iter().copied()).collect();
        let lacked: BTreeSet<u64> = parts
            .iter()
            .flat_map(|(instance, held)| {
                self.touching(instance).iter().map(|(xid, _)| *xid).filter(|xid| !held.contains(xid))
            })
            .collect();
        if let Some(half) = held.intersection(&lacked).next() {
            return Some(format!("transaction {half} is in one part and not in another"));
        }
        let last_begun = held.iter().map(|xid| &self.all[xid].1).max_by_key(|txn| txn.began)?;
        let mut before = lacked.iter().filter(|xid| self.all[*xid].1.done < last_begun.began);
        let lost = before.next()?;
        Some(format!(
            "transaction {lost} is lacking, but {}, which began after its end, is there",
            last_begun.xid
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Transaction 1 (end 10) on a and b, 2 (end 20) on a, 3 (end 30) on b; 3 began after 2 was done.
    fn ledger() -> Ledger {
        let start = Instant::now();
        let at = |ms| start + std::time::Duration::from_millis(ms);
        let txn = |xid, instances: &[&str], began, done| Committed {
            xid,
            instances: instances.iter().map(|id| (*id).to_owned()).collect(),
            began: at(began),
            done: at(done),
        };
        Ledger::new(vec![
            (10, txn(1, &["a", "b"], 0, 50)),
            (20, txn(2, &["a"], 0, 20)),
            (30, txn(3, &["b"], 30, 60)),
        ])
    }

    fn fault(a: &[u64], b: &[u64], lsn: u64) -> Option<String> {
        let part = |id: &str, held: &[u64]| (id.to_owned(), held.iter().copied().collect());
        ledger().fault(&[part("a", a), part("b", b)], lsn)
    }

    #[test]
    fn places_of_the_log_and_states_of_readers_are_right() {
        assert_eq!(fault(&[], &[], 9), None);
        assert_eq!(fault(&[1], &[1], 10), None);
        assert_eq!(fault(&[1, 2], &[1, 3], 30), None);
        assert_eq!(fault(&[2], &[3], 5), None, "1 becomes visible last");
    }

    #[test]
    fn everything_else_is_found() {
        assert!(fault(&[], &[], 10).unwrap().contains("lacks transaction 1"));
        assert!(fault(&[1], &[], 5).unwrap().contains("in one part"));
        assert!(fault(&[1], &[1, 3], 15).unwrap().contains("2 is lacking"));
        assert!(fault(&[1, 3], &[1], 15).unwrap().contains("did not commit there"));
    }
}
