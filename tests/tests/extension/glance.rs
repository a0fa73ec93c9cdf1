//! Rows that concern no shard are ruled out where their columns lie in the log, without being taken apart: never too many.

use anyhow::Result;

use crate::origin::Origin;

/// Columns of every width and alignment that is looked at, with a value that the predicate asks for and one that it does not.
const COLUMNS: [(&str, &str, &str, &str); 8] = [
    ("flag", "boolean", "true", "false"),
    ("small", "smallint", "-2", "2"),
    ("medium", "int", "-70000", "70000"),
    ("tiny", "\"char\"", "'a'", "'b'"),
    ("large", "bigint", "-5000000000", "5000000000"),
    ("object", "oid", "4000000000", "1"),
    ("day", "date", "'2024-02-29'", "'1999-01-01'"),
    ("mood", "mood", "'glad'", "'sad'"),
];

fn table() -> String {
    let columns = COLUMNS.map(|(name, kind, ..)| format!("{name} {kind}")).join(", ");
    format!(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE t ({columns}, id int PRIMARY KEY, note text)"
    )
}

#[tokio::test]
async fn exactly_the_rows_that_are_asked_for_are_told() -> Result<()> {
    let origin = Origin::followed(&table()).await?;
    let shards = COLUMNS.map(|(name, _, wanted, _)| {
        format!("SELECT foreshard.create_shard('of_{name}', 't', predicate => $${name} = {wanted}$$)")
    });
    // One shard at a time: with all of them every column is looked at for every row.
    for (at, (name, ..)) in COLUMNS.iter().enumerate() {
        origin.after(&shards[at]).await?;
        origin.after(&format!("SELECT foreshard.map_function('f', '{{of_{name}}}')")).await?;
        for identity in ["FULL", "USING INDEX of_all"] {
            let with_index = identity != "FULL";
            origin.after("DELETE FROM t").await?;
            if with_index {
                let all = COLUMNS.map(|(name, ..)| name).join(", ");
                let not_null = COLUMNS.map(|(name, ..)| format!("ALTER {name} SET NOT NULL")).join(", ");
                origin.after(&format!("ALTER TABLE t {not_null}")).await?;
                origin.after(&format!("CREATE UNIQUE INDEX of_all ON t ({all}, id)")).await?;
            }
            origin.after(&format!("ALTER TABLE t REPLICA IDENTITY {identity}")).await?;
            changes(&origin, at, with_index).await?;
            if with_index {
                let nullable = COLUMNS.map(|(name, ..)| format!("ALTER {name} DROP NOT NULL")).join(", ");
                origin.after("ALTER TABLE t REPLICA IDENTITY FULL; DROP INDEX of_all").await?;
                origin.after(&format!("ALTER TABLE t {nullable}")).await?;
            }
        }
        origin.after("DELETE FROM t").await?;
        origin.after(&format!("SELECT foreshard.drop_shard('of_{name}')")).await?;
    }
    Ok(())
}

/// Every way a row with and without the value can come, change and go; the other columns have values or NULLs.
async fn changes(origin: &Origin, at: usize, not_null: bool) -> Result<()> {
    let (name, _, wanted, other) = COLUMNS[at];
    let told = [format!("of_{name} Whole(Rows)")];
    let expect = |tell: bool| if tell { &told[..] } else { &[] };
    let values = if not_null { vec![wanted, other] } else { vec![wanted, other, "NULL"] };
    for others in if not_null { vec![true] } else { vec![true, false] } {
        for before in &values {
            for after in &values {
                let row = COLUMNS.iter().enumerate().map(|(column, (.., value))| match column {
                    _ if column == at => *before,
                    _ if others => *value,
                    _ => "NULL",
                });
                let row: Vec<&str> = row.collect();
                let what = format!("{name}: {before} then {after}, {row:?}, identity complete: {not_null}");
                let insert = format!("INSERT INTO t VALUES ({}, 1, 'n')", row.join(", "));
                assert_eq!(origin.after(&insert).await?, expect(*before == wanted), "insert {what}");
                let touch = "UPDATE t SET note = note || 'x'";
                assert_eq!(origin.after(touch).await?, expect(*before == wanted), "touch {what}");
                let update = format!("UPDATE t SET {name} = {after}");
                // An UPDATE that changes nothing is told or not by what the log has of the old row.
                let either = *before == wanted || *after == wanted;
                if before == after {
                    origin.after("DELETE FROM t").await?;
                    continue;
                }
                assert_eq!(origin.after(&update).await?, expect(either), "update {what}");
                assert_eq!(origin.after("DELETE FROM t").await?, expect(*after == wanted), "delete {what}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn rows_from_before_a_column_came_or_went_are_read_right() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, gone text, small smallint, note text);
         ALTER TABLE t REPLICA IDENTITY FULL;
         INSERT INTO t VALUES (1, 'x', 1, 'n'), (2, 'x', 2, 'n');
         ALTER TABLE t ADD late int NOT NULL DEFAULT 5;
         SELECT foreshard.create_shard('late', 't', predicate => 'late = 5');
         SELECT foreshard.create_shard('small', 't', predicate => 'small = 2');
         SELECT foreshard.map_function('f', '{late,small}')",
    )
    .await?;
    let both = ["late Whole(Rows)", "small Whole(Rows)"];
    // The old rows have no such column: they read as its default.
    assert_eq!(origin.after("UPDATE t SET late = 6 WHERE id = 1").await?, both[..1]);
    assert_eq!(origin.after("DELETE FROM t WHERE id = 2").await?, both);
    assert!(origin.after("UPDATE t SET note = 'm' WHERE id = 1").await?.is_empty());
    origin.after("ALTER TABLE t DROP gone").await?;
    assert!(origin.after("INSERT INTO t VALUES (3, 1, 'n', 6)").await?.is_empty());
    assert_eq!(origin.after("UPDATE t SET small = 2 WHERE id = 3").await?, both[1..]);
    assert_eq!(origin.after("UPDATE t SET late = 5 WHERE id = 1").await?, both[..1]);
    Ok(())
}
