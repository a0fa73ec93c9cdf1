//! `foreshard plan`: the daemon around the predictive analytics engine. It reads the execution log as it grows, learns,
//! and publishes a prefetch schedule for every edge.

mod advising;
mod catalog;
mod explain;
mod hints;
mod learner;
mod listen;
mod measured;
mod origin;
mod others;
mod past;
mod settings;
mod state;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use foreshard_planner::{EdgeSchedule, WindowRequest};
use rand::Rng;
use tracing::{debug, info, warn};

use crate::config::Mistakes;
use advising::Advising;
use catalog::Catalog;
pub(crate) use explain::{ExplainArgs, explain};
use learner::Learner;
use listen::Page;
use measured::Withheld;
use origin::{Failure, Origin};
pub(crate) use settings::PlanArgs;
use settings::Settings;

/// Whether `plan` could run with this file.
pub(crate) fn check(file: &Path) -> Result<(), Mistakes> {
    Settings::load(&PlanArgs { config: Some(file.to_owned()), ..PlanArgs::default() }).map(drop)
}

/// Runs the planner until it is told to stop, or for one round with `--once`.
///
/// # Errors
/// When the settings make no sense, when the origin refuses (wrong password, no extension) at the start, or, with
/// `--once`, when the round could not be completed.
pub(crate) async fn run(args: PlanArgs) -> anyhow::Result<()> {
    let settings = Settings::load(&args)?;
    let page = Page::default();
    if let Some(at) = settings.listen.filter(|_| !args.once) {
        listen::serve(at, page.clone()).await?;
    }
    let mut planner = Planner::new(settings, page);
    if args.once {
        planner.once().await?;
        planner.save();
        return Ok(());
    }
    let stop = stop_signal();
    let result = tokio::select! {
        result = planner.forever() => result,
        _ = stop => {
            info!("stopping");
            Ok(())
        }
    };
    planner.save();
    result
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// First and longest pause before another attempt to reach the origin.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a catalog that was read is good for, in real time.
const CATALOG_AGE: Duration = Duration::from_secs(2);
/// How often the log tells how things go, in real time.
const SUMMARY_EVERY: Duration = Duration::from_secs(60);
/// How often the execution log is kept within its retention, in real time.
const MAINTAIN_EVERY: Duration = Duration::from_secs(3600);
/// How often what was learned is written to the file that keeps it, in real time.
const SAVE_EVERY: Duration = Duration::from_secs(300);
const MOST_ENTRIES: usize = 5_000;

struct Planner {
    settings: Settings,
    learner: Learner,
    /// Edges whose schedule in force has entries.
    scheduled: HashSet<String>,
    rounds: u64,
    summary: Option<Instant>,
    maintained: Option<Instant>,
    /// Withheld, and not yet written down at the origin.
    withheld: Vec<Withheld>,
    withheld_total: u64,
    /// Whether the origin has refused to take measures, which is told once.
    unreported: bool,
    /// The same for the schedules of others.
    alone_told: bool,
    page: Page,
    advising: Advising,
    /// Which database the learner learned from.
    learned_from: String,
    saved: Instant,
}

/// A connection that works, and what was read through it.
struct Session {
    origin: Origin,
    catalog: Catalog,
    read_at: Instant,
    leading: bool,
    waiting_told: bool,
}

impl Planner {
    fn new(settings: Settings, page: Page) -> Self {
        let learner = Learner::new(&settings);
        Planner {
            settings,
            learner,
            scheduled: HashSet::new(),
            rounds: 0,
            summary: None,
            maintained: None,
            withheld: Vec::new(),
            withheld_total: 0,
            unreported: false,
            alone_told: false,
            page,
            advising: Advising::default(),
            learned_from: String::new(),
            saved: Instant::now(),
        }
    }

    async fn once(&mut self) -> anyhow::Result<()> {
        let mut session = self.connect().await?;
        self.catch_up(&mut session).await?;
        if !session.leading {
            anyhow::bail!("another planner is leading for this origin: nothing was published");
        }
        self.round(&mut session).await?;
        Ok(())
    }

    async fn forever(&mut self) -> anyhow::Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut reached = false;
        loop {
            match self.serve(&mut pause, &mut reached).await {
                Err(failure) if failure.permanent && !reached => return Err(failure.into()),
                Err(failure) => warn!("{failure}; next attempt in about {pause:?}"),
                Ok(()) => return Ok(()),
            }
            // Jitter: planners and edges that lost the same origin should not all come back at once.
            tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.5..1.5))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Works through one connection until it fails.
    async fn serve(&mut self, pause: &mut Duration, reached: &mut bool) -> Result<(), Failure> {
        let mut session = self.connect().await?;
        *reached = true;
        self.catch_up(&mut session).await?;
        loop {
            self.round(&mut session).await?;
            *pause = FIRST_PAUSE;
            let every = self.settings.every;
            let now = self.settings.clock.now();
            let next = (now.timestamp().div_euclid(every) + 1) * every;
            let next = DateTime::from_timestamp(next, 0).unwrap_or(now);
            tokio::time::sleep(self.settings.clock.until(next)).await;
        }
    }

    async fn connect(&self) -> Result<Session, Failure> {
        let origin = Origin::connect(&self.settings.origin).await?;
        let catalog = origin.catalog().await?;
        let leading = origin.try_lead().await?;
        Ok(Session { origin, catalog, read_at: Instant::now(), leading, waiting_told: false })
    }

    /// Reads the log: all of it at the first time, else what was missed.
    async fn catch_up(&mut self, session: &mut Session) -> Result<(), Failure> {
        let begun = Instant::now();
        let now = self.settings.clock.now();
        self.recall(&session.origin).await?;
        self.learner.quality.draw(session.origin.salt().await?);
        self.learner.locate(&session.catalog, now);
        let rows = if self.learner.cursor().is_none() {
            session.origin.history(&mut self.learner, now, self.settings.history).await?
        } else {
            session.origin.increment(&mut self.learner, now).await?
        };
        info!(rows, histories = self.learner.engine().histories(), took = ?begun.elapsed(), "learned from the execution log");
        Ok(())
    }

    /// Takes over what was kept, before anything is learned; and learns anew when the origin is another one than before.
    async fn recall(&mut self, origin: &Origin) -> Result<(), Failure> {
        let (identity, latest) = origin.identity().await?;
        if self.learned_from == identity && self.learner.cursor().is_none_or(|c| c.xid < latest) {
            return Ok(());
        }
        if self.learner.cursor().is_some() {
            warn!(
                "this is another origin than before, or one restored to an earlier state: learning from its log"
            );
            self.learner = Learner::new(&self.settings);
        }
        self.learned_from = identity;
        let Some(path) = &self.settings.state else { return Ok(()) };
        match state::load(path, &self.settings, &self.learned_from, latest) {
            Ok(None) => {}
            Ok(Some(learner)) => {
                info!(histories = learner.engine().histories(), "going on from {}", path.display());
                self.learner = learner;
            }
            Err(reason) => warn!("{} is of no use, learning from the log: {reason}", path.display()),
        }
        Ok(())
    }

    fn save_sometimes(&mut self) {
        if self.saved.elapsed() > SAVE_EVERY {
            self.save();
        }
    }

    /// Writes what was learned to the file that keeps it, if there is one.
    fn save(&mut self) {
        let Some(path) = &self.settings.state else { return };
        self.saved = Instant::now();
        match tokio::task::block_in_place(|| state::save(path, &self.learner, &self.learned_from)) {
            Ok(bytes) => debug!(bytes, "state written to {}", path.display()),
            Err(error) => warn!("state can't be written to {}: {error}", path.display()),
        }
    }

    /// Forgets everything if it was learned by a clock that was ahead of `now`; the log tells it again.
    fn start_over_if_ahead(&mut self, now: DateTime<Utc>) -> bool {
        let ahead = self.learner.ahead(now, self.settings.every);
        if ahead {
            warn!(
                "the clock was set back: what was learned is of a time that has not come, learning from the log again"
            );
            self.learner = Learner::new(&self.settings);
        }
        ahead
    }

    async fn round(&mut self, session: &mut Session) -> Result<(), Failure> {
        let begun = Instant::now();
        if session.read_at.elapsed() > CATALOG_AGE {
            session.catalog = session.origin.catalog().await?;
            session.read_at = Instant::now();
            if !session.leading {
                session.leading = session.origin.try_lead().await?;
            }
        }
        let mut now = self.settings.clock.now();
        if self.start_over_if_ahead(now) {
            self.catch_up(session).await?;
            now = self.settings.clock.now();
        }
        self.learner.locate(&session.catalog, now);
        let rows = session.origin.increment(&mut self.learner, now).await?;
        self.learner.settle(now);
        if !session.leading {
            self.save_sometimes();
            self.page.show(&self.metrics(false, 0, begun.elapsed(), now));
            if !std::mem::replace(&mut session.waiting_told, true) {
                info!("another planner is leading; learning along until it is gone");
            }
            return Ok(());
        }
        let published = self.publish(session, now).await?;
        self.rounds += 1;
        if self.maintained.is_none_or(|at| at.elapsed() > MAINTAIN_EVERY) {
            self.maintained = Some(Instant::now());
            match session.origin.maintain().await {
                // The right to do so is not needed for planning; health() tells if nobody has it.
                Err(failure) if failure.refused => {
                    info!("the execution log is left to others to maintain: {failure}")
                }
                done => done?,
            }
        }
        self.report(session).await?;
        self.advising.look(&self.settings);
        self.save_sometimes();
        let took = begun.elapsed();
        self.page.show(&self.metrics(true, published, took, now));
        debug!(rows, published, ?took, now = %now, "round");
        if self.summary.is_none_or(|s| s.elapsed() > SUMMARY_EVERY) {
            self.summary = Some(Instant::now());
            let counters = self.learner.engine().counters();
            info!(
                rounds = self.rounds,
                histories = self.learner.engine().histories(),
                executions = counters.accepted,
                future = counters.future + self.learner.unbelievable(),
                evicted = counters.evicted,
                published,
                ?took,
                "planning"
            );
        }
        Ok(())
    }

    /// Publishes the schedule of every registered edge; returns the number of entries.
    async fn publish(&mut self, session: &Session, now: DateTime<Utc>) -> Result<usize, Failure> {
        let starts = now + TimeDelta::seconds(self.settings.publish_lead);
        let ends = starts + TimeDelta::seconds(self.settings.window);
        let request = WindowRequest {
            now: now.timestamp(),
            starts_at: starts.timestamp(),
            ends_at: ends.timestamp(),
            lead: self.settings.publish_lead,
            floor: self.settings.floor,
            max_entries: MOST_ENTRIES,
        };
        let mut schedules = match self.learner.engine().schedule(&request) {
            Ok(schedules) => schedules,
            Err(error) => {
                warn!("no schedule: {error}");
                return Ok(0);
            }
        };
        for edge in &session.catalog.edges {
            if self.scheduled.contains(&edge.name) && !schedules.iter().any(|s| s.edge == edge.name) {
                // Nothing is expected any more: say so, or the edge goes on with what was.
                schedules.push(EdgeSchedule { edge: edge.name.clone(), entries: Vec::new() });
            }
        }
        let theirs = session.origin.of_others(starts, ends).await?;
        if theirs.is_none() && !std::mem::replace(&mut self.alone_told, true) {
            warn!(
                "this role has no SELECT on foreshard.schedules: what others publish for an edge is replaced at the next round"
            );
        }
        let theirs = others::in_force(theirs.unwrap_or_default(), starts.timestamp(), ends.timestamp());
        let mut published = 0;
        for mut schedule in schedules {
            if !session.catalog.restrict(&mut schedule) {
                continue;
            }
            let decided = self.draw(&mut schedule, (starts.timestamp(), ends.timestamp()));
            others::beside(&mut schedule, &theirs);
            session.catalog.restrict(&mut schedule);
            let mut outcome = session.origin.publish(&schedule, starts, ends).await;
            // The log remembers keys of before a column got another type.
            while let Err(failure) = &outcome
                && without(&mut schedule, &failure.misfits)
            {
                outcome = session.origin.publish(&schedule, starts, ends).await;
            }
            match outcome {
                Ok(()) => {
                    self.note(&schedule.edge, decided);
                    published += schedule.entries.len();
                    if schedule.entries.is_empty() {
                        self.scheduled.remove(&schedule.edge);
                    } else {
                        self.scheduled.insert(schedule.edge);
                    }
                }
                // The origin answered, and refused this one: the others may still be good.
                Err(failure) if failure.refused => warn!(edge = schedule.edge, "schedule refused: {failure}"),
                Err(failure) => return Err(failure),
            }
        }
        Ok(published)
    }
}

/// Takes shard instances out of a schedule; false if it has none of them.
fn without(schedule: &mut EdgeSchedule, instances: &[String]) -> bool {
    let count = |schedule: &EdgeSchedule| schedule.entries.iter().map(|e| e.shard_list.len()).sum::<usize>();
    let before = count(schedule);
    let instances: HashSet<&String> = instances.iter().collect();
    schedule.entries.retain_mut(|entry| {
        entry.shard_list.retain(|instance| !instances.contains(instance));
        !entry.shard_list.is_empty()
    });
    count(schedule) < before
}

#[cfg(test)]
mod tests {
    use super::*;
    use learner::{Cursor, LogRow};

    #[test]
    fn a_clock_that_jumped_ahead_and_came_back_is_learned_from_anew() {
        let args = PlanArgs { origin: Some("host=localhost".to_owned()), ..PlanArgs::default() };
        let mut planner = Planner::new(Settings::load(&args).unwrap(), Page::default());
        let time = |at: i64| DateTime::from_timestamp(1_704_067_200 + at, 0).unwrap();
        let ran = |at: i64| LogRow {
            edge: "ams1".into(),
            function: "f".into(),
            started_at: time(at).timestamp(),
            shards: vec!["products".into()],
            missed: true,
            wait_us: 1,
            bytes: 1,
        };
        let minute = |planner: &Planner| planner.learner.engine().clock();
        planner.learner.learn(&ran(0), time(0));
        planner.learner.read_up_to(Cursor { xid: 700, id: 1 });
        planner.learner.settle(time(0));
        // A little ahead is how an edge's clock may be.
        planner.learner.learn(&ran(110), time(0));
        assert!(!planner.start_over_if_ahead(time(0)) && planner.learner.cursor().is_some());
        // For one round the clock is a month ahead.
        planner.learner.settle(time(30 * 86_400));
        assert!(!planner.start_over_if_ahead(time(30 * 86_400)));
        assert!(planner.start_over_if_ahead(time(300)));
        assert_eq!(
            (minute(&planner), planner.learner.cursor()),
            (None, None),
            "all of the log is read again"
        );
        planner.learner.learn(&ran(300), time(300));
        planner.learner.settle(time(900));
        assert!(minute(&planner).is_some_and(|minute| minute * 60 <= time(900).timestamp()));
        assert!(!planner.start_over_if_ahead(time(900)));
    }
}
