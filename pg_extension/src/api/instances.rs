use foreshard_protocol::InstanceId;
use pgrx::prelude::*;

/// The shard that an instance id names.
#[pg_extern(sql = false)]
fn instance_shard(instance: &str) -> Option<String> {
    instance.parse::<InstanceId>().ok().map(|id| id.shard)
}

/// What is wrong with an instance id in a schedule; see `foreshard.instance_fault`.
#[pg_extern(sql = false)]
fn instance_fault(
    instance: Option<&str>,
    shard: Option<&str>,
    key: Option<Vec<Option<String>>>,
    mapped: Option<bool>,
) -> Option<String> {
    let key: Vec<String> = key.unwrap_or_default().into_iter().flatten().collect();
    fault(instance.unwrap_or_default(), shard, &key, mapped.unwrap_or(false))
}

fn fault(instance: &str, shard: Option<&str>, key: &[String], mapped: bool) -> Option<String> {
    let id: InstanceId = match instance.parse() {
        Ok(id) => id,
        Err(error) => return Some(error.to_string()),
    };
    if shard.is_none() {
        return Some("no such shard".into());
    }
    if !mapped {
        return Some("the function is not mapped to this shard".into());
    }
    if !id.key.iter().map(|part| &part.column).eq(key) {
        return Some(match key {
            [] => "the shard has no key".into(),
            _ => format!("the shard's key is {}, in this order", key.join(", ")),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_instance_ids() {
        let key = ["a".to_owned(), "b".to_owned()];
        assert_eq!(fault("s?a=1&b=2", Some("s"), &key, true), None);
        assert_eq!(fault("s?a&b=2", Some("s"), &key, true), None);
        assert_eq!(fault("s", Some("s"), &[], true), None);
        assert_eq!(fault("t", None, &[], false).unwrap(), "no such shard");
        assert_eq!(fault("s", Some("s"), &[], false).unwrap(), "the function is not mapped to this shard");
        assert_eq!(fault("s?a=1", Some("s"), &[], true).unwrap(), "the shard has no key");
        for wrong in ["s", "s?a=1", "s?b=2&a=1", "s?a=1&b=2&c=3"] {
            let message = fault(wrong, Some("s"), &key, true).unwrap();
            assert_eq!(message, "the shard's key is a, b, in this order", "{wrong}");
        }
        assert!(fault("?a=1", Some("s"), &key, true).unwrap().contains("starts with the name"));
    }
}
