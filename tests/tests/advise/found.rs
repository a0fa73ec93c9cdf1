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

const TERMS: [&str; 4] = ["--edge-bytes", EDGE_BYTES, "--enough", "8"];

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
    bytes_are_as_predicted(&shop, list).await?;
    for table in ["orders", "ticket", "parcel", "event", "stock"] {
        changes_are_as_predicted(&shop, table, list).await?;
    }
    Ok(())
}

/// What one piece of advice expects of a quantity, as it was and as it would be.
fn expected(advice: &Value, what: &str) -> (f64, f64) {
    let at = |i: usize| advice["expected"][what][i].as_f64().unwrap_or(f64::NAN);
    (at(0), at(1))
}

/// The edge holds about the bytes that the advice expected it to need for all that is read.
async fn bytes_are_as_predicted(shop: &Shop, advice: &[Value]) -> Result<()> {
    let reads =
        |a: &&Value| !["drop", "unmap", "replica_identity"].contains(&a["kind"].as_str().unwrap_or(""));
    let predicted: f64 = advice.iter().filter(reads).map(|a| expected(a, "bytes_per_edge").1).sum();
    let measured = shop.sidecar.metric("foreshard_reactive_cache_bytes").await?;
    println!("bytes: predicted {predicted}, measured {measured}");
    // Sizes come from ANALYZE's sample and are of rows: within a factor of two of what an edge counts.
    assert!((0.5..2.0).contains(&(measured / predicted)), "{predicted} predicted, {measured} measured");
    Ok(())
}

/// Of the changes of a table the edge feels about the share that the advice expected.
async fn changes_are_as_predicted(shop: &Shop, table: &str, advice: &[Value]) -> Result<()> {
    let felt = async || -> Result<f64> {
        Ok(shop.sidecar.metric("foreshard_deltas_applied_total").await?
            + shop.sidecar.metric("foreshard_invalidated_total").await?)
    };
    let one = advice.iter().find(|a| a["subject"] == table).context("found before")?;
    let (all, some) = expected(one, "invalidation_load");
    let before = felt().await?;
    // One row a transaction, every third row: changes know nothing of who reads.
    shop.db
        .batch_execute(&format!(
            "DO $$ BEGIN FOR i IN 1..1000 LOOP UPDATE shop.{table} SET note = note || '.' WHERE id = 3 * i; COMMIT; END LOOP; END $$"
        ))
        .await?;
    let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    let path = "/v1/functions/f:currency/shards/currency/rows?code=eq.C1";
    let caught_up = shop.sidecar.http.get_with(path, &[("Foreshard-Min-Lsn", &token)]).await?;
    assert_eq!(caught_up.status, 200, "{}", caught_up.text());
    let (predicted, measured) = (some / all, (felt().await? - before) / 1000.0);
    println!("{table}: share of changes predicted {predicted:.3}, measured {measured:.3}");
    assert!((predicted - measured).abs() < 0.02, "{table}: {predicted} predicted, {measured} measured");
    Ok(())
}
