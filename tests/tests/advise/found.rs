//! The advice finds the shards that were known to be best, and what it says about hits comes true.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{advised, find, report};
use crate::shop::{CALLS, EDGE_BYTES, Hits, Shop, patterns};

/// What is best by construction: the pattern of calls, the kind of advice, its subject, and a part of the statement.
const BEST: [(&str, &str, &str, &str); 14] = [
    ("orders", "keyed", "orders", "key => ARRAY['customer_id']"),
    ("ticket", "predicate", "ticket", "\"status\" = ''open''"),
    ("parcel", "predicate", "parcel", "\"state\" IN (''s1'', ''s2'')"),
    ("event", "range", "event", "\"day\" >= ''2024-05-15''"),
    ("sale", "partition", "sale", "'shop.sale_eu'"),
    ("visit", "partition", "visit", "'shop.\"Visit, new\"'"),
    ("currency", "whole", "currency", "create_shard('currency', 'shop.currency', or_replace"),
    ("article", "columns", "article", "columns => ARRAY['id', 'title']"),
    ("stock", "keyed", "stock", "key => ARRAY['store', 'shelf']"),
    ("by team", "split", "task", "\"team\" = ''team3''"),
    ("by phase", "split", "task", "\"phase\" = ''phase4''"),
    ("mail", "merge", "inbox, outbox", "((box = ''box1''::text)) OR ((box = ''box2''::text))"),
    ("profile", "query", "addresses, customer", "jsonb_agg"),
    ("reviews", "index", "reviews", "CREATE INDEX \"foreshard_reviews_key\" ON shop.review (\"product_id\")"),
];

/// What else is to be said, of what no call asks for.
const BESIDES: [(&str, &str); 3] =
    [("drop", "audit"), ("unmap", "f:currency"), ("replica_identity", "reviews")];

/// How far a predicted hit ratio may be from the one measured.
const BOUND: f64 = 0.1;

const SEED: u64 = 7;

// All is logged within seconds.
const TERMS: [&str; 6] = ["--edge-bytes", EDGE_BYTES, "--enough", "8", "--unread-days", "0"];

fn ratio(all: &[(&str, Hits)], pattern: &str) -> f64 {
    all.iter().find(|(name, _)| *name == pattern).map_or(f64::NAN, |(_, hits)| hits.ratio())
}

fn total(all: &[(&str, Hits)]) -> f64 {
    let sum = |of: fn(&Hits) -> usize| all.iter().map(|(_, h)| of(h)).sum::<usize>();
    Hits { calls: sum(|h| h.calls), hits: sum(|h| h.hits) }.ratio()
}

#[tokio::test]
async fn the_advice_finds_the_best_shards_and_hits_rise_as_predicted() -> Result<()> {
    let mut shop = Shop::open().await?;
    let url = shop.origin.url();
    let before = shop.run(SEED, &patterns(false)).await?;
    shop.logged(before.len() * CALLS).await?;
    let advice = report(&url, &TERMS).await?;
    let said = serde_json::to_string_pretty(&advice)?;

    for (_, kind, subject, statement) in BEST {
        let one = find(&advice, kind, subject).with_context(|| format!("{kind} of {subject} in\n{said}"))?;
        let sql = one["statement"].as_str().unwrap_or_default();
        assert!(sql.contains(statement), "{statement} in {sql}");
    }
    for (kind, subject) in BESIDES {
        assert!(find(&advice, kind, subject).is_some(), "{kind} of {subject} in\n{said}");
    }
    // Nothing is proposed for what is as it should be, and no shard twice.
    let list = advice["advice"].as_array().context("a list")?;
    let shapes =
        |a: &&Value| !["index", "replica_identity", "unmap"].contains(&a["kind"].as_str().unwrap_or(""));
    let mut subjects: Vec<&str> = list.iter().filter(shapes).filter_map(|a| a["subject"].as_str()).collect();
    subjects.sort_unstable();
    let mut expected: Vec<&str> =
        BEST.iter().filter(|b| b.1 != "index").map(|b| b.2).chain(["audit"]).collect();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(subjects, expected, "{said}");

    let stored: i64 = shop
        .db
        .query_one("SELECT count(*) FROM foreshard.advice WHERE applied_at IS NULL", &[])
        .await?
        .get(0);
    assert_eq!(stored as usize, list.len());
    // What tables lack first: it rests on shards that other proposals replace.
    let (tables, rest): (Vec<&Value>, Vec<&Value>) =
        list.iter().partition(|a| a["kind"] == "index" || a["kind"] == "replica_identity");
    for one in tables.into_iter().chain(rest) {
        advised(&url, &["--apply", &one["id"].to_string()]).await?;
    }

    shop.sidecar.stop().await?;
    shop.sidecar.start_again().await?;
    // The same calls once more: what is predicted is what they would have found.
    let after = shop.run(SEED, &patterns(true)).await?;
    let mut wrong = Vec::new();
    let mut compare = |what: &str, predicted: &Value, measured: f64| {
        let predicted = predicted.as_f64().unwrap_or(f64::NAN);
        let line = format!("{what}: predicted {predicted:.2}, measured {measured:.2}");
        println!("{line}");
        if (predicted - measured).abs() > BOUND || !predicted.is_finite() {
            wrong.push(line);
        }
    };
    for (pattern, kind, subject, _) in BEST.into_iter().filter(|b| b.1 != "index") {
        let one = find(&advice, kind, subject).context("found before")?;
        let ratios = &one["expected"]["hit_ratio"];
        // A shard that was split serves two patterns alike: the advice speaks of both together.
        compare(&format!("{pattern} before"), &ratios[0], ratio(&before, pattern));
        compare(&format!("{pattern} after"), &ratios[1], ratio(&after, pattern));
    }
    compare("all before", &advice["hit_ratio"][0], total(&before));
    compare("all after", &advice["hit_ratio"][1], total(&after));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(total(&after) > total(&before) + 0.4, "{} to {}", total(&before), total(&after));
    for change in CHANGES {
        changes_are_as_predicted(&shop, &change, list).await?;
    }
    shop.sidecar.stop().await?;
    shop.sidecar.start_again().await?;
    bytes_are_as_predicted(&shop, list).await
}

/// What one piece of advice expects of a quantity, as it was and as it would be.
fn expected(advice: &Value, what: &str) -> (f64, f64) {
    let at = |i: usize| advice["expected"][what][i].as_f64().unwrap_or(f64::NAN);
    (at(0), at(1))
}

/// For each piece of advice that concerns reads, an edge that makes these reads holds about the bytes that it was expected to need.
async fn bytes_are_as_predicted(shop: &Shop, advice: &[Value]) -> Result<()> {
    let (patterns, mut wrong) = (patterns(true), Vec::new());
    let mut compare = |what: &str, predicted: f64, measured: f64| {
        let line = format!("{what}: {predicted} bytes predicted, {measured} measured");
        println!("{line}");
        // Sizes come from ANALYZE's sample and are of rows: within a factor of two of what an edge counts.
        if !(0.5..2.0).contains(&(measured / predicted)) {
            wrong.push(line);
        }
    };
    let mut subjects: Vec<(&str, &str)> =
        BEST.iter().map(|b| (b.1, b.2)).filter(|b| b.0 != "index").collect();
    subjects.dedup();
    let (mut all, mut held) = (0.0, 0.0);
    for (kind, subject) in subjects {
        for best in BEST.iter().filter(|b| b.2 == subject) {
            shop.repeat(SEED, &patterns, best.0).await?;
        }
        let one = advice.iter().find(|a| a["kind"] == kind && a["subject"] == subject);
        let predicted = expected(one.context("found before")?, "bytes_per_edge").1;
        let now = shop.sidecar.metric("foreshard_reactive_cache_bytes").await?;
        compare(&format!("{kind} of {subject}"), predicted, now - held);
        (all, held) = (all + predicted, now);
    }
    compare("all", all, held);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Single-row changes of what a piece of advice is about.
struct Change {
    kind: &'static str,
    subject: &'static str,
    /// Rows of the tables: as often as they were inserted, the advice expects them to be changed.
    rows: f64,
    /// The `i`th change: of all rows alike, for changes know nothing of who reads.
    update: &'static str,
}

const CHANGES: [Change; 12] = [
    Change::of("keyed", "orders", 3000.0, "UPDATE shop.orders SET note = note || '.' WHERE id = 3 * i"),
    Change::of("predicate", "ticket", 3000.0, "UPDATE shop.ticket SET note = note || '.' WHERE id = 3 * i"),
    Change::of("predicate", "parcel", 3000.0, "UPDATE shop.parcel SET note = note || '.' WHERE id = 3 * i"),
    Change::of("range", "event", 3000.0, "UPDATE shop.event SET note = note || '.' WHERE id = 3 * i"),
    Change::of("partition", "sale", 3000.0, "UPDATE shop.sale SET note = note || '.' WHERE id = 3 * i"),
    Change::of("partition", "visit", 3000.0, "UPDATE shop.visit SET note = note || '.' WHERE id = 3 * i"),
    Change::of("whole", "currency", 20.0, "UPDATE shop.currency SET rate = i WHERE code = 'C' || 1 + i % 20"),
    Change::of("columns", "article", 600.0, "UPDATE shop.article SET body = 'b' || i WHERE id = 1 + i % 600"),
    Change::of("keyed", "stock", 3000.0, "UPDATE shop.stock SET note = note || '.' WHERE id = 3 * i"),
    Change::of("split", "task", 3000.0, "UPDATE shop.task SET note = note || '.' WHERE id = 3 * i"),
    // Of the merged shard, too, the log brings the columns from then on.
    Change::of(
        "replica_identity",
        "inbox, outbox",
        3000.0,
        "UPDATE shop.message SET note = note || '.' WHERE id = 1 + 7 * i % 3000",
    ),
    Change::of(
        "query",
        "addresses, customer",
        5000.0,
        "IF i % 5 < 2 THEN UPDATE shop.customer SET name = name || '.' WHERE id = 1 + 7 * i % 2000;
         ELSE UPDATE shop.address SET street = street || '.' WHERE id = 1 + 7 * i % 3000; END IF",
    ),
];

impl Change {
    const fn of(kind: &'static str, subject: &'static str, rows: f64, update: &'static str) -> Self {
        Change { kind, subject, rows, update }
    }
}

/// Of the changes of a table the edge feels about the share that the advice expected.
async fn changes_are_as_predicted(shop: &Shop, change: &Change, advice: &[Value]) -> Result<()> {
    let Change { kind, subject, rows, update } = change;
    let felt = async || -> Result<f64> {
        Ok(shop.sidecar.metric("foreshard_deltas_applied_total").await?
            + shop.sidecar.metric("foreshard_invalidated_total").await?)
    };
    let load = |kind: &str, subject: &str| {
        let one = advice.iter().find(|a| a["kind"] == kind && a["subject"] == subject);
        one.map(|one| expected(one, "invalidation_load")).context("found before")
    };
    // Of the table of orders, every change concerned an edge.
    let all = load("keyed", "orders")?.0 * rows / 3000.0;
    let before = felt().await?;
    shop.db
        .batch_execute(&format!("DO $$ BEGIN FOR i IN 1..1000 LOOP {update}; COMMIT; END LOOP; END $$"))
        .await?;
    let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    let path = "/v1/functions/f:currency/shards/currency/rows?code=eq.C1";
    let caught_up = shop.sidecar.http.get_with(path, &[("Foreshard-Min-Lsn", &token)]).await?;
    assert_eq!(caught_up.status, 200, "{}", caught_up.text());
    let mut predicted = load(kind, subject)?.1;
    if *kind == "query" {
        // The identity that was applied, too, tells which addresses a change concerns.
        let (without, with) = load("replica_identity", "addresses")?;
        predicted -= without - with;
    }
    let (predicted, measured) = (predicted / all, (felt().await? - before) / 1000.0);
    let line =
        format!("{kind} of {subject}: share of changes predicted {predicted:.3}, measured {measured:.3}");
    println!("{line}");
    assert!((predicted - measured).abs() < 0.02, "{line}");
    Ok(())
}
