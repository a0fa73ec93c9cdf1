//! What may be applied without asking: the kinds that the database's `foreshard.auto_shard` names, so many a day.

use foreshard_planner::advice::{Advice, Kind};
use tokio_postgres::Client;

use super::store::{self, Stored};
use super::{explained, refuse};
use crate::config::parse_bytes;

/// The limits that a DBA has set.
#[derive(Debug, PartialEq)]
pub(super) struct Limits {
    kinds: Vec<Kind>,
    per_day: i64,
    /// Least gain in hit ratio, where one is expected.
    gain: f64,
    /// Bytes of a table up to which it is altered: its writers wait meanwhile.
    table_bytes: usize,
}

/// Kinds after which every read gets what it got before: what `on` stands for.
const HARMLESS: [Kind; 3] = [Kind::Whole, Kind::Index, Kind::ReplicaIdentity];

/// A gigabyte is read and sorted in some seconds.
const TABLE_BYTES: usize = 1 << 30;

impl Limits {
    /// Reads the settings; `None` if it is off.
    fn parse(kinds: &str, per_day: &str, gain: &str, table: &str) -> Result<Option<Self>, String> {
        let kinds = match kinds.trim() {
            "" | "off" => return Ok(None),
            "on" => HARMLESS.to_vec(),
            list => list
                .split(',')
                .map(|name| {
                    let known = Kind::ALL.into_iter().find(|k| k.name() == name.trim());
                    known.ok_or_else(|| {
                        let all: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
                        format!("foreshard.auto_shard: expected on, off or a list of {}", all.join(", "))
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        let number = |name: &str, text: &str, default: f64, most: f64| match text.trim() {
            "" => Ok(default),
            text => text
                .parse()
                .ok()
                .filter(|n: &f64| (0.0..=most).contains(n))
                .ok_or_else(|| format!("{name}: expected a number from 0 to {most}")),
        };
        Ok(Some(Limits {
            kinds,
            per_day: number("foreshard.auto_shard_per_day", per_day, 1.0, 1000.0)? as i64,
            gain: number("foreshard.auto_shard_gain", gain, 0.05, 1.0)?,
            table_bytes: match table.trim() {
                "" => TABLE_BYTES,
                text => parse_bytes(text)
                    .map_err(|mistake| format!("foreshard.auto_shard_table_size: {mistake}"))?,
            },
        }))
    }

    fn allow(&self, advice: &Advice) -> bool {
        let (now, then) = advice.expected.hit_ratio;
        self.kinds.contains(&advice.kind) && (advice.kind.alters_tables() || then - now >= self.gain)
    }
}

/// The limits as the database has them now; `None` if nothing may be applied without asking.
pub(super) async fn limits(client: &Client) -> anyhow::Result<Option<Limits>> {
    let settings = "SELECT coalesce(current_setting('foreshard.auto_shard', true), ''),
        coalesce(current_setting('foreshard.auto_shard_per_day', true), ''),
        coalesce(current_setting('foreshard.auto_shard_gain', true), ''),
        coalesce(current_setting('foreshard.auto_shard_table_size', true), '')";
    let row = client.query_one(settings, &[]).await.map_err(explained)?;
    Limits::parse(row.get(0), row.get(1), row.get(2), row.get(3)).or_else(refuse)
}

/// Applies what the limits allow and nobody took back before, the greatest gain first; says for each what became of it.
pub(super) async fn apply(
    client: &mut Client,
    stored: &Stored,
    limits: &Limits,
) -> anyhow::Result<Vec<String>> {
    let done = "SELECT count(*) FROM foreshard.advice WHERE applied_at > now() - interval '1 day' AND evidence ? 'auto'";
    let done: i64 = client.query_one(done, &[]).await.map_err(explained)?.get(0);
    let left = (limits.per_day - done).max(0) as usize;
    let mut said = Vec::new();
    let taken_back = store::taken_back(client).await?;
    let wanted = |a: &Advice| !taken_back.iter().any(|(kind, of)| kind == a.kind.name() && *of == a.subject);
    let mut allowed: Vec<&(i64, Advice)> =
        stored.advice.iter().filter(|(_, a)| limits.allow(a) && wanted(a)).collect();
    let gain = |a: &Advice| a.expected.hit_ratio.1 - a.expected.hit_ratio.0;
    allowed.sort_by(|(_, a), (_, b)| gain(b).total_cmp(&gain(a)));
    if allowed.len() > left {
        let (all, most) = (allowed.len(), limits.per_day);
        said.push(format!("{left} of {all} are applied now: foreshard.auto_shard_per_day is {most}"));
    }
    let mut applied = 0;
    for (id, advice) in allowed {
        if applied == left {
            break;
        }
        if advice.kind.alters_tables() && largest_table(client, advice).await? > limits.table_bytes as i64 {
            said.push(format!(
                "left to people {id}: {} (its table is larger than foreshard.auto_shard_table_size, and writers would wait for long)",
                advice.text
            ));
            continue;
        }
        match store::apply(client, *id).await {
            Ok(_) => {
                applied += 1;
                let noted =
                    "UPDATE foreshard.advice SET evidence = evidence || '{\"auto\": true}' WHERE id = $1";
                client.execute(noted, &[id]).await.map_err(explained)?;
                said.push(format!(
                    "applied {id}: {} (foreshard advise --revert {id} takes it back)",
                    advice.text
                ));
            }
            // One that fails must not keep the others from being done.
            Err(error) => said.push(format!("not applied {id}: {error:#}")),
        }
    }
    Ok(said)
}

/// Bytes of the largest table, all partitions together, that a proposal alters.
async fn largest_table(client: &Client, advice: &Advice) -> anyhow::Result<i64> {
    let size = "SELECT coalesce(max(bytes), 0)::bigint FROM (SELECT sum(pg_relation_size(leaf)) AS bytes FROM foreshard.shard s,
             LATERAL (SELECT s.source::oid AS leaf UNION SELECT relid FROM pg_partition_tree(s.source)) AS leaves
         WHERE s.name = ANY ($1) GROUP BY s.name) AS tables";
    Ok(client.query_one(size, &[&advice.rests_on.shards]).await.map_err(explained)?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_off_unless_set_and_mistakes_are_named() {
        assert_eq!(Limits::parse("", "", "", ""), Ok(None));
        assert_eq!(Limits::parse("off", "x", "", ""), Ok(None));
        let on = Limits::parse("on", "", "", "").unwrap().unwrap();
        assert_eq!(
            (on.kinds.as_slice(), on.per_day, on.gain, on.table_bytes),
            (&HARMLESS[..], 1, 0.05, 1 << 30)
        );
        let some = Limits::parse("keyed, index", "5", "0.2", "64MiB").unwrap().unwrap();
        assert_eq!(
            (some.kinds, some.per_day, some.gain, some.table_bytes),
            (vec![Kind::Keyed, Kind::Index], 5, 0.2, 64 << 20)
        );
        for (kinds, per_day, gain, table, named) in [
            ("everything", "", "", "", "replica_identity"),
            ("on", "many", "", "", "per_day"),
            ("on", "", "NaN", "", "gain"),
            ("on", "", "", "huge", "table_size"),
        ] {
            assert!(Limits::parse(kinds, per_day, gain, table).unwrap_err().contains(named));
        }
    }
}
