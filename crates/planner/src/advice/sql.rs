//! Statements. Names and values come from the log and from catalogs: every one is quoted.

use super::origin::{Definitions, QueryShard, Shard};

/// A text as an SQL literal, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A name as an SQL identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as a list of identifiers.
pub(super) fn identifiers(names: &[String]) -> String {
    names.iter().map(|n| identifier(n)).collect::<Vec<_>>().join(", ")
}

fn array(names: &[String], of: &str) -> String {
    let items: Vec<String> = names.iter().map(|n| literal(n)).collect();
    format!("ARRAY[{}]::{of}[]", items.join(", "))
}

/// As the owner, if that is somebody else: who defines a shard owns it, and fetches have its owner's rights.
fn as_owner(definitions: &Definitions, owner: &str, statement: String) -> String {
    if owner.is_empty() || owner == definitions.role {
        return statement;
    }
    format!("SET ROLE {};\n{statement}\nRESET ROLE;", identifier(owner))
}

/// The statement that defines the shard, in place of one of that name.
pub(super) fn define(definitions: &Definitions, shard: &Shard) -> String {
    let mut sql =
        format!("SELECT foreshard.create_shard({}, {}", literal(&shard.name), literal(&shard.table));
    if let Some(predicate) = &shard.predicate {
        sql += &format!(", predicate => {}", literal(predicate));
    }
    if !shard.key.is_empty() {
        sql += &format!(", key => {}", array(&shard.key, "name"));
    }
    if let Some(columns) = &shard.columns {
        sql += &format!(", columns => {}", array(columns, "name"));
    }
    as_owner(definitions, &shard.owner, sql + ", or_replace => true);")
}

/// The statement that defines a query shard.
pub(super) fn define_query(definitions: &Definitions, shard: &QueryShard) -> String {
    let mut sql =
        format!("SELECT foreshard.create_query_shard({}, {}", literal(&shard.name), literal(&shard.query));
    if !shard.params.is_empty() {
        sql += &format!(", params => {}", array(&shard.params, "name"));
    }
    as_owner(definitions, &shard.owner, sql + ");")
}

/// The statement that removes a shard.
pub(super) fn drop_shard(name: &str) -> String {
    format!("SELECT foreshard.drop_shard({});", literal(name))
}

/// The statement that sets a function's shards.
pub(super) fn map(function: &str, shards: &[String]) -> String {
    if shards.is_empty() {
        return format!("SELECT foreshard.unmap_function({});", literal(function));
    }
    format!("SELECT foreshard.map_function({}, {});", literal(function), array(shards, "text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_is_it_stays_one() {
        assert_eq!(literal(r"it's \ here"), r"E'it''s \\ here'");
        assert_eq!(identifier("a\"; DROP TABLE x; --"), "\"a\"\"; DROP TABLE x; --\"");
        let shards = vec!["a','b".to_owned()];
        assert_eq!(
            map("f'); --", &shards),
            "SELECT foreshard.map_function('f''); --', ARRAY['a'',''b']::text[]);"
        );
    }

    #[test]
    fn a_shard_of_somebody_else_stays_his() {
        let definitions = Definitions { role: "me".into(), ..Definitions::default() };
        let mut shard = Shard { name: "s".into(), table: "t".into(), owner: "me".into(), ..Shard::default() };
        assert!(!define(&definitions, &shard).contains("ROLE"));
        shard.owner = "x\"y".into();
        assert!(define(&definitions, &shard).starts_with("SET ROLE \"x\"\"y\";\n"));
    }
}
