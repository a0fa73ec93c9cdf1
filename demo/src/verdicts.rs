//! Judges everything that came back: each answer against the origin's history, and each sidecar's stamps against each other.

use anyhow::{Context, Result};

use crate::calls::EDGES;
use crate::edges::{RUNS, Run};
use crate::peers::Peer;
use crate::replay::{Observed, parse_lsn};
use foreshard_tests::history::{History, Stamp, Verdict, went_back};

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
    /// Stale answers of who promises nothing: counted, and no mistake.
    pub(crate) expected_stale: usize,
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
            let stamp = lsn_text(lsn);
            self.examples.push(format!(
                "{function} ({:?}, {:?}) {parts:?} stamped {stamp}: {what}",
                seen.run, seen.source
            ));
        }
    }
}

fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// Judges the answers.
pub(crate) fn judge(history: &History, observed: &[Observed], against: Peer) -> Result<Verdicts> {
    let mut verdicts = Verdicts { answers: observed.len(), ..Verdicts::default() };
    for seen in observed {
        let promised = seen.run == Run::Prefetch || !against.promises_nothing();
        match history.judge(&seen.answer) {
            Verdict::Right { .. } => {}
            Verdict::Stale { .. } if !promised => {
                verdicts.expected_stale += 1;
                verdicts.stale_of[seen.run as usize][seen.edge] += 1;
            }
            Verdict::Stale { lacks, promised } => {
                verdicts.stale += 1;
                verdicts.stale_of[seen.run as usize][seen.edge] += 1;
                let at = lsn_text(history.commit_lsn(lacks).unwrap_or_default());
                verdicts.example(seen, &format!("lacks commit {lacks} (at {at}) of {promised}"));
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
        if let Some(outdated) = history.outdated(&seen.answer).filter(|_| promised) {
            verdicts.controls += 1;
            verdicts.controls_stale += usize::from(matches!(history.judge(&outdated), Verdict::Stale { .. }));
        }
    }
    stamps_never_go_back(observed, against, &mut verdicts);
    Ok(verdicts)
}

/// Within one sidecar, an answer that was asked for after another had arrived must not have an older stamp.
fn stamps_never_go_back(observed: &[Observed], against: Peer, verdicts: &mut Verdicts) {
    for run in RUNS.into_iter().filter(|run| *run == Run::Prefetch || !against.promises_nothing()) {
        for edge in 0..EDGES.len() {
            let of_one: Vec<&Observed> =
                observed.iter().filter(|seen| seen.run == run && seen.edge == edge).collect();
            let stamps: Vec<Stamp> = of_one
                .iter()
                .map(|seen| Stamp { sent: seen.sent, received: seen.received, lsn: seen.answer.lsn })
                .collect();
            for at in went_back(&stamps) {
                verdicts.went_back += 1;
                verdicts.example(of_one[at], "an earlier answer of this sidecar had a newer stamp");
            }
        }
    }
}
