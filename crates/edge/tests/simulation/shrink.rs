//! Makes a failing world smaller: leaves out transactions, requests and faults as long as it still fails.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::account::Account;
use crate::mutant::Mutant;
use crate::world::{Kind, World};

/// Steps of a world that do not happen. Text form: `w1,w2,a7,f3` with `w` for transactions, `a` for requests, `f` for faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut(BTreeSet<(Kind, u64)>);

const LETTERS: [(char, Kind); 3] = [('w', Kind::Write), ('a', Kind::Ask), ('f', Kind::Fault)];

impl LeftOut {
    pub(crate) fn contains(&self, kind: Kind, number: u64) -> bool {
        self.0.contains(&(kind, number))
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (letter, wanted) in LETTERS {
            let mut numbers =
                self.0.iter().filter(|(kind, _)| *kind == wanted).map(|(_, number)| *number).peekable();
            while let Some(first) = numbers.next() {
                let mut last = first;
                while numbers.next_if_eq(&(last + 1)).is_some() {
                    last += 1;
                }
                write!(f, "{between}{letter}{first}")?;
                if last > first {
                    write!(f, "-{last}")?;
                }
                between = ",";
            }
        }
        Ok(())
    }
}

impl FromStr for LeftOut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = BTreeSet::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let wrong = || format!("{item:?}: expected w, a or f and a number or a range, as in w7 or a1-20");
            let (kind, rest) = LETTERS
                .iter()
                .find_map(|(letter, kind)| Some((*kind, item.strip_prefix(*letter)?)))
                .ok_or_else(wrong)?;
            let (first, last) = rest.split_once('-').unwrap_or((rest, rest));
            let (first, last): (u64, u64) =
                (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
            all.extend((first..=last).map(|number| (kind, number)));
        }
        Ok(LeftOut(all))
    }
}

/// Runs that making one world smaller may take.
const MOST_RUNS: usize = 400;

/// What can be left out of a failing world so that it still fails, with the message it then fails with.
pub(crate) fn shrink(seed: u64, mutant: Option<Mutant>) -> (LeftOut, String) {
    let mut runs = 0;
    let mut attempt = |left_out: &LeftOut| -> Option<(String, Vec<(Kind, u64)>)> {
        runs += 1;
        let mut world = World::new(seed, mutant, Account::Dropped, left_out);
        let message = (runs <= MOST_RUNS).then(|| world.run().err())??;
        let happened =
            LETTERS.iter().flat_map(|(_, kind)| (1..=world.number(*kind)).map(|number| (*kind, number)));
        Some((message, happened.filter(|(kind, number)| !left_out.contains(*kind, *number)).collect()))
    };
    let mut best = LeftOut::default();
    let Some((mut message, mut steps)) = attempt(&best) else { return (best, "it does not fail".into()) };
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let chunk = &steps[at..(at + size).min(steps.len())];
            let candidate = LeftOut(best.0.iter().chain(chunk).copied().collect());
            match attempt(&candidate) {
                Some((new, rest)) => (best, message, steps) = (candidate, new, rest),
                None => at += size,
            }
        }
        size /= 2;
    }
    (best, message)
}
