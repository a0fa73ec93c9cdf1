//! Judges everything that came back: each answer against the origin's history, and each sidecar's stamps against each other.

use anyhow::{Context, Result};

use crate::edges::Run;
use crate::replay::{Observed, parse_lsn};
use foreshard_tests::history::{History, Verdict};

/// How many examples of each kind of mistake are shown.
const EXAMPLES: usize = 5;

/// What the judgement found.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    pub(crate) answers: usize,
    pub(crate) stale: usize,
    pub(crate) wrong: usize,
    /// Stamps older than one that the same sidecar had given before.
    pub(crate) went_back: usize,
    /// Reads of one's own writes, and those that missed the write.
    pub(crate) own_reads: usize,
    pub(crate) own_misses: usize,
    /// Answers judged again as if stamped with the commit that outdated them, and how many of these were called stale.
    pub(crate) controls: usize,
    pub(crate) controls_stale: usize,
    /// Some mistakes in words.
    pub(crate) examples: Vec<String>,
    stale_of: [[usize; 3]; 2],
}

impl Verdicts {
    /// Whether every promise was kept, and the judgement could have told if not.
    pub(crate) fn clean(&self) -> bool {
        self.stale + self.wrong + self.went_back + self.own_misses == 0 && self.controls_stale > 0
    }

    /// Stale answers of one edge and run.
    pub(crate) fn stale_at(&self, edge: usize, run: Run) -> usize {
        self.stale_of[run as usize][edge]
    }

    fn example(&mut self, seen: &Observed, what: &str) {
        if self.examples.len() < EXAMPLES {
            let parts: Vec<&str> = seen.answer.parts.iter().map(|(id, _)| id.as_str()).collect();
            let (function, lsn) = (&seen.function, seen.answer.lsn);
            let stamp = format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff);
            self.examples.push(format!(
                "{function} ({:?}, {:?}) {parts:?} stamped {stamp}: {what}",
                seen.run, seen.source
            ));
        }
    }
}

/// Judges the answers.
pub(crate) fn judge(history: &History, observed: &[Observed]) -> Result<Verdicts> {
    let mut verdicts = Verdicts { answers: observed.len(), ..Verdicts::default() };
    for seen in observed {
        match history.judge(&seen.answer) {
            Verdict::Right { .. } => {}
            Verdict::Stale { behind } => {
                verdicts.stale += 1;
                verdicts.stale_of[seen.run as usize][seen.edge] += 1;
                verdicts.example(seen, &format!("lacks commits up to {behind} before its stamp"));
            }
            Verdict::Wrong => {
                verdicts.wrong += 1;
                verdicts.example(seen, "equals no state of the origin");
            }
        }
        if let Some(own) = &seen.own {
            verdicts.own_reads += 1;
            let token = parse_lsn(&own.token).context("commit_token")?;
            if seen.answer.lsn < token || history.promised(seen.answer.lsn) < own.commit {
                verdicts.own_misses += 1;
                verdicts.example(seen, &format!("older than Foreshard-Min-Lsn {}", own.token));
            }
        }
        if let Some(outdated) = history.outdated(&seen.answer) {
            verdicts.controls += 1;
            verdicts.controls_stale += usize::from(matches!(history.judge(&outdated), Verdict::Stale { .. }));
        }
    }
    stamps_never_go_back(observed, &mut verdicts);
    Ok(verdicts)
}

/// An answer that was asked for after another had arrived from the same sidecar must not have an older stamp.
fn stamps_never_go_back(observed: &[Observed], verdicts: &mut Verdicts) {
    let mut by_sent: Vec<&Observed> = observed.iter().collect();
    let mut by_received = by_sent.clone();
    by_sent.sort_by_key(|seen| seen.sent);
    by_received.sort_by_key(|seen| seen.received);
    let mut newest = [[0; 3]; 2];
    let mut received = by_received.into_iter().peekable();
    for seen in by_sent {
        while let Some(earlier) = received.next_if(|earlier| earlier.received < seen.sent) {
            let newest = &mut newest[earlier.run as usize][earlier.edge];
            *newest = earlier.answer.lsn.max(*newest);
        }
        if seen.answer.lsn < newest[seen.run as usize][seen.edge] {
            verdicts.went_back += 1;
            verdicts.example(seen, "an earlier answer of this sidecar had a newer stamp");
        }
    }
}
