//! Executions to judge by.

use foreshard_planner::advice::Access;
use serde_json::Value;
use tokio_postgres::Transaction;

/// Pairs of name and value taken from one execution, and their length: an edge may have logged anything.
const MOST_FILTERS: usize = 32;
const LONGEST: usize = 1_000;
/// Instances taken from one execution.
const MOST_INSTANCES: usize = 64;

/// The latest executions.
pub(super) async fn read(
    transaction: &Transaction<'_>,
    days: i32,
    most: i64,
) -> Result<Vec<Access>, tokio_postgres::Error> {
    let rows = transaction
        .query(
            "SELECT edge, function_id, (extract(epoch FROM started_at) * 1000)::bigint, age(logged_xid::xid)::bigint, shards, filters,
                 (extract(epoch FROM logged_at) * 1000)::bigint
             FROM foreshard.executions
             WHERE logged_at > now() - make_interval(days => $1) AND served_from <> 'error' AND isfinite(started_at)
             ORDER BY logged_xid DESC, id DESC LIMIT $2",
            &[&days, &most],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let mut instances: Vec<String> = row.try_get(4)?;
            instances.truncate(MOST_INSTANCES);
            Ok(Access {
                edge: row.try_get(0)?,
                function: row.try_get(1)?,
                at: row.try_get(2)?,
                age: row.try_get::<_, i64>(3)?.max(0) as u64,
                logged: row.try_get(6)?,
                instances,
                filters: pairs(row.try_get(5)?),
            })
        })
        .collect()
}

/// `{"status": "eq.open", "n": 5, "price": ["gte.1", "lt.5"]}` as pairs of texts.
fn pairs(filters: Value) -> Vec<(String, String)> {
    let Value::Object(filters) = filters else { return Vec::new() };
    let mut pairs = Vec::new();
    for (name, value) in filters {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            let text = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(truth) => truth.to_string(),
                _ => continue,
            };
            if name.len() <= LONGEST && text.len() <= LONGEST && pairs.len() < MOST_FILTERS {
                pairs.push((name.clone(), text));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_was_logged_becomes_pairs_of_texts() {
        let of = |value| pairs(value).into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>();
        assert_eq!(
            of(json!({"a": "eq.1", "b": 5, "c": true, "d": null, "e": ["gte.1", "lt.5"]})),
            ["a=eq.1", "b=5", "c=true", "e=gte.1", "e=lt.5"]
        );
        assert!(of(json!([1, 2])).is_empty());
        assert!(of(json!({"long": "x".repeat(2_000)})).is_empty());
        assert_eq!(of(json!({"many": vec!["x"; 500]})).len(), MOST_FILTERS);
    }
}
