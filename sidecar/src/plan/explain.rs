//! `foreshard explain`: why a function is scheduled at an edge, or not, in words or as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use anyhow::bail;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use foreshard_planner::{Explanation, WindowRequest};
use serde::Serialize;

use super::catalog::Catalog;
use super::learner::Learner;
use super::origin::{Origin, Schedule};
use super::settings::{PlanArgs, Settings};

/// Flags of `explain`: those of `plan`, whose settings decide what is published.
#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// The function
    #[arg(value_name = "FUNCTION")]
    function: String,
    /// The edge
    #[arg(long, value_name = "NAME")]
    edge: String,
    /// Writes everything as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plan: PlanArgs,
}

/// What is said about a function at an edge.
#[derive(Serialize)]
struct Answer {
    /// One sentence.
    verdict: String,
    starts_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    #[serde(flatten)]
    explanation: Explanation,
    /// The expressions of its hints, by their numbers.
    declared: BTreeMap<i64, String>,
    /// Shards the function may read; nothing can be scheduled for one without.
    mapped_shards: Vec<String>,
    /// The schedule in force, with this function's entries, where there is one and it may be read.
    in_force: Option<Schedule>,
    /// Until when it is withheld as part of the control group, if it is.
    withheld_until: Option<DateTime<Utc>>,
}

/// Reads the log as a planner would, and says why the function is expected or not.
///
/// # Errors
/// When the settings make no sense, the origin can't be used, or the function or edge was never seen.
pub(crate) async fn explain(args: ExplainArgs) -> anyhow::Result<()> {
    let settings = Settings::load(&args.plan)?;
    let origin = Origin::connect(&settings.origin).await?;
    let catalog = origin.catalog().await?;
    if !catalog.edges.iter().any(|e| e.name == args.edge) {
        let known: Vec<&str> = catalog.edges.iter().map(|e| e.name.as_str()).take(20).collect();
        bail!("edge {:?} is not registered; there are: {}", args.edge, known.join(", "));
    }
    let now = settings.clock.now();
    let mut learner = Learner::new(&settings);
    learner.locate(&catalog, now);
    origin.history(&mut learner, now, settings.history).await?;
    let starts_at = now + TimeDelta::seconds(settings.publish_lead);
    let ends_at = starts_at + TimeDelta::seconds(settings.window);
    let request = WindowRequest {
        now: now.timestamp(),
        starts_at: starts_at.timestamp(),
        ends_at: ends_at.timestamp(),
        lead: settings.publish_lead,
        floor: settings.floor,
        max_entries: 1,
    };
    let Some(explanation) = learner.engine().explain(&args.edge, &args.function, &request) else {
        let mapped = if catalog.mappings.contains_key(&args.function) { "" } else { ", nor is it mapped" };
        bail!(
            "function {:?} never ran in the last {} days as far as the execution log goes{mapped}: nothing is expected of it",
            args.function,
            settings.history.num_days()
        );
    };
    let published = origin.published(&args.edge, &args.function, now).await?;
    let mapped_shards = mapped(&catalog, &args.function);
    let answer = Answer {
        verdict: verdict(&explanation, !mapped_shards.is_empty(), published.withheld_until),
        starts_at,
        ends_at,
        explanation,
        declared: declared(&catalog, &args.function),
        mapped_shards,
        in_force: published.schedule,
        withheld_until: published.withheld_until,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{answer}");
    }
    Ok(())
}

fn mapped(catalog: &Catalog, function: &str) -> Vec<String> {
    catalog.mappings.get(function).map(|shards| shards.iter().cloned().collect()).unwrap_or_default()
}

fn declared(catalog: &Catalog, function: &str) -> BTreeMap<i64, String> {
    let hints = catalog.hints.iter().filter(|hint| hint.function == function);
    hints.map(|hint| (hint.id, hint.text.clone())).collect()
}

fn percent(p: f64) -> String {
    if p > 0.0 && p < 0.01 { format!("{:.2} %", p * 100.0) } else { format!("{:.0} %", p * 100.0) }
}

fn verdict(e: &Explanation, mapped: bool, withheld_until: Option<DateTime<Utc>>) -> String {
    let sure = percent(e.probability);
    if !mapped {
        format!("not scheduled: no shard is mapped to it (it would run with {sure})")
    } else if e.active_minutes == 0 && e.hints.iter().all(|hint| hint.at.is_none()) {
        "not scheduled: it has not run here yet, only at other edges".to_owned()
    } else if e.asleep && !e.reaches_floor {
        "not scheduled: it has not run for so long that it is not looked at".to_owned()
    } else if !e.reaches_floor {
        format!(
            "not scheduled: {sure}, counted at {} for how little is known, is below the floor of {}",
            percent(e.probability * e.trust),
            percent(e.floor)
        )
    } else if let Some(until) = withheld_until {
        format!("withheld until {} as part of the control group; {sure} sure", until.format("%H:%M:%S"))
    } else if !e.reads.iter().any(|r| r.reaches_floor) {
        format!("not scheduled: it runs with {sure}, but no shard instance is sure enough to be read")
    } else {
        format!("scheduled: {sure} sure that it runs")
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.explanation;
        writeln!(f, "{} at {}: {}", e.function, e.edge, self.verdict)?;
        writeln!(
            f,
            "  window      {} to {}",
            self.starts_at.format("%F %T"),
            self.ends_at.format("%F %T UTC")
        )?;
        let last =
            e.idle_minutes.map_or("never here".to_owned(), |m| format!("{m} minutes before the log ends"));
        writeln!(f, "  last run    {last}")?;
        writeln!(
            f,
            "  rate        {:.0} active minutes in the last day, {:.1} a day over {:.1} days",
            e.per_day.0, e.per_day.1, e.known_days
        )?;
        let (hits, days) = e.same_time_of_day;
        writeln!(f, "  season      ran at this time of day on {hits} of the last {days} days")?;
        if let Some((lag, score)) = e.period {
            writeln!(f, "  period      {lag} minutes (its past repeats at it by {})", percent(score))?;
        }
        let kinds: Vec<String> = e
            .archetypes
            .iter()
            .filter(|k| k.1 > 0.05)
            .map(|(k, p)| format!("{k} ({})", percent(*p)))
            .collect();
        if !kinds.is_empty() {
            writeln!(f, "  archetype   {}", kinds.join(", "))?;
        }
        for a in &e.announced_by {
            writeln!(
                f,
                "  announced   by {}, which started {} minutes ago: {}",
                a.function,
                a.minutes_ago,
                percent(a.probability)
            )?;
        }
        for hint in &e.hints {
            let cron = self.declared.get(&hint.id).map_or("", String::as_str);
            let at = hint.at.and_then(|at| DateTime::from_timestamp(at, 0));
            let at = at.map_or("not in this window".to_owned(), |at| at.format("%H:%M UTC").to_string());
            writeln!(
                f,
                "  hint        {cron}: {at}; declared with {}, by what became of it {}, listened to by {}",
                percent(hint.declared),
                percent(hint.says),
                percent(hint.weight)
            )?;
        }
        let fallen = if e.fallen_back { "; the drift guard trusts the plain hazard alone" } else { "" };
        writeln!(
            f,
            "  experts     on minutes {} to {} after the log ends, {} together{fallen}",
            e.horizon.after,
            e.horizon.until,
            percent(e.horizon_probability)
        )?;
        for c in e.experts.iter().filter(|c| c.adds.abs() >= 0.005) {
            let speaks = if c.adds > 0.0 { "for" } else { "against" };
            writeln!(f, "    {:<18} {:>7}  {:+.2} {speaks}", c.expert, percent(c.says), c.adds)?;
        }
        writeln!(
            f,
            "  threshold   {} known well enough by {}: {} has to reach {}",
            percent(e.probability),
            percent(e.trust),
            percent(e.probability * e.trust),
            percent(e.floor)
        )?;
        for r in &e.reads {
            let how = match (r.bound, r.own_history) {
                (true, _) => "another function has just read the key",
                (_, true) => "by its own history",
                _ => "by its share",
            };
            let kept = if r.reaches_floor { "" } else { ", not scheduled" };
            writeln!(
                f,
                "  reads       {}: {} ({how}; {} of the runs){kept}",
                r.instance,
                percent(r.confidence),
                percent(r.share)
            )?;
        }
        f.write_str(&self.in_force_line())
    }
}

impl Answer {
    fn in_force_line(&self) -> String {
        let mut line = String::new();
        if let Some(s) = &self.in_force {
            let n = s.entries.as_array().map_or(0, Vec::len);
            let _ = writeln!(line, "  in force    a schedule with {n} entries of this function");
        }
        line
    }
}
