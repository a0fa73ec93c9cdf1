use foreshard_protocol::{InstanceId, KeyPart};
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::pg::Oid;
use crate::pg::rows::key_value;
use crate::pg::value::base_type;

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

/// An instance id with the key values as fetches and the stream write them; see `foreshard.instance_spelled`.
#[pg_extern(sql = false)]
fn instance_spelled(instance: &str, types: Vec<Oid>, typmods: Vec<i32>) -> Option<String> {
    let id: InstanceId = instance.parse().ok()?;
    spelled(&id, &types, &typmods).ok().map(|id| id.to_string())
}

/// The first key column whose value in an instance id is none of its type; see `foreshard.instance_misfit`.
#[pg_extern(sql = false)]
fn instance_misfit(instance: &str, types: Vec<Oid>, typmods: Vec<i32>) -> Option<String> {
    let id: InstanceId = instance.parse().ok()?;
    spelled(&id, &types, &typmods).err()
}

fn spelled(id: &InstanceId, types: &[Oid], typmods: &[i32]) -> Result<InstanceId, String> {
    let mut key = Vec::with_capacity(id.key.len());
    for (part, (of, typmod)) in id.key.iter().zip(types.iter().zip(typmods)) {
        let value = match &part.value {
            Some(text) => Some(canonical(text, base_type(*of), *typmod).ok_or_else(|| part.column.clone())?),
            None => None,
        };
        key.push(KeyPart { column: part.column.clone(), value });
    }
    Ok(InstanceId { shard: id.shard.clone(), key })
}

fn canonical(text: &str, base: Oid, typmod: i32) -> Option<String> {
    // A schedule may name many instances; most keys are numbers or texts that need no look at the catalog.
    let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
    match base {
        pg_sys::INT8OID if number.is_some() => return Some(text.to_owned()),
        pg_sys::INT4OID if number.is_some_and(|number| i32::try_from(number).is_ok()) => {
            return Some(text.to_owned());
        }
        pg_sys::TEXTOID | pg_sys::VARCHAROID if !text.contains('\0') => return Some(text.to_owned()),
        _ => {}
    }
    key_value(text, base, typmod).map(|value| value.canonical)
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
