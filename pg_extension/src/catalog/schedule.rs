use foreshard_protocol::{Schedule, ScheduleEntry};
use serde_json::Value;

use crate::pg::scan::Row;

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
pub(crate) const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A row of `foreshard.schedules`; `publish_schedule` has checked its entries, so what does not fit is not there.
pub(crate) fn schedule(row: &Row<'_>) -> Option<Schedule> {
    Some(Schedule {
        id: row.bigint(1)?,
        starts_at: row.bigint(3)?.saturating_add(POSTGRES_EPOCH),
        ends_at: row.bigint(4)?.saturating_add(POSTGRES_EPOCH),
        entries: row.json(5)?.as_array()?.iter().filter_map(entry).collect(),
    })
}

fn entry(value: &Value) -> Option<ScheduleEntry> {
    let shards = value.get("shard_list")?.as_array()?;
    Some(ScheduleEntry {
        function_id: value.get("function_id")?.as_str()?.to_owned(),
        shard_list: shards.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        confidence: value.get("confidence")?.as_f64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_published() {
        let json = serde_json::json!({"function_id": "f", "shard_list": ["a", "b?k=1"], "confidence": 0.25});
        let entry = entry(&json).unwrap();
        assert_eq!((entry.function_id.as_str(), entry.confidence), ("f", 0.25));
        assert_eq!(entry.shard_list, ["a", "b?k=1"]);
    }
}
