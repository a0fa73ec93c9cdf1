//! Random tables and shards, known here column by column, so that what a shard must hold can be asked without the extension.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

/// Types of columns; each has a few values that meet often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Id,
    /// References the first table.
    Parent,
    Int,
    Small,
    Text,
    Bool,
    Date,
    Moment,
    Uuid,
    Mood,
    Few,
    Number,
    Float,
    Long,
    Array,
    Json,
    Pair,
    Range,
    Bytes,
    Generated,
    Identity,
}

use Kind::*;

/// What any table may have.
const EVERYWHERE: [Kind; 17] = [
    Int, Int, Text, Text, Small, Bool, Date, Moment, Uuid, Mood, Few, Number, Float, Long, Array, Json, Pair,
];
/// What only tables without partitions have.
const NOT_PARTITIONED: [Kind; 4] = [Generated, Identity, Range, Bytes];

pub(super) const TYPES: &str = "CREATE SCHEMA \"S q\"; CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN few AS int CHECK (value < 9);
    CREATE TYPE pair AS (a int, b text); SET timezone = 'UTC'; SET jit = off;";

impl Kind {
    pub(super) fn sql_type(self) -> &'static str {
        match self {
            Id => "int NOT NULL",
            Parent => "int",
            Int => "int",
            Small => "smallint",
            Text | Long => "text",
            Bool => "bool",
            Date => "date",
            Moment => "timestamptz",
            Uuid => "uuid",
            Mood => "mood",
            Few => "few",
            Number => "numeric",
            Float => "float8",
            Array => "int[]",
            Json => "jsonb",
            Pair => "pair",
            Range => "int4range",
            Bytes => "bytea",
            Generated => "int GENERATED ALWAYS AS (id % 4) STORED",
            Identity => "bigint GENERATED ALWAYS AS IDENTITY",
        }
    }

    /// Constants to write; empty where nothing can be written.
    fn values(self) -> &'static [&'static str] {
        match self {
            Id | Parent | Generated | Identity => &[],
            Int | Few => &["0", "1", "2", "3"],
            Small => &["-1", "0", "7"],
            Text => &["''", "'a'", "'b'", "'ä \"q\" ö'", "'it''s'"],
            Bool => &["true", "false"],
            Date => &["'2024-02-29'", "'infinity'", "'0044-03-15 BC'"],
            Moment => &["'2024-05-01 10:00+02'", "'-infinity'", "'2024-05-01 08:00:00.25+00'"],
            Uuid => &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'00000000-0000-0000-0000-000000000000'"],
            Mood => &["'sad'", "'so so'"],
            Number => &["1.50", "0", "'NaN'", "12345678901234567890.5"],
            Float => &["0.1", "'-Infinity'", "1e300"],
            Long => &[
                "'short'",
                "repeat('x', 2100)",
                "repeat('yz', 1500)",
                "'short'",
                "'other'",
                "repeat('ö', 20)",
            ],
            Array => &["'{1,NULL}'", "'{}'", "'{{1,2},{3,4}}'"],
            Json => &["'{\"a\": [1, 2]}'", "'{}'", "'{\"a\": \"1\", \"b\": null}'"],
            Pair => &["row(1, 'x')::pair", "row(NULL, '\"')::pair"],
            Range => &["'[1,5)'", "'empty'", "'[3,)'"],
            Bytes => &["'\\x00ff'", "'\\x'"],
        }
    }

    pub(super) fn value(self, rng: &mut StdRng, nullable: bool) -> String {
        if nullable && rng.random_bool(0.12) {
            return "NULL".to_owned();
        }
        (*self.values().choose(rng).unwrap_or(&"DEFAULT")).to_owned()
    }

    pub(super) fn is_written(self) -> bool {
        !self.values().is_empty()
    }

    fn is_key(self) -> bool {
        matches!(
            self,
            Id | Parent
                | Int
                | Small
                | Text
                | Bool
                | Date
                | Moment
                | Uuid
                | Mood
                | Few
                | Generated
                | Identity
        )
    }

    /// Conditions, with § for the column.
    fn conditions(self) -> &'static [&'static str] {
        match self {
            Id => &["§ < 12", "§ % 3 = 1"],
            Parent | Int => &["§ > 1", "§ IS NULL", "§ = 2", "§ IN (0, 3)", "§ <> 0 AND 12 / § > 4"],
            Small => &["§ = 7", "§ IS DISTINCT FROM -1"],
            Text => &["§ = 'b'", "§ LIKE 'a%'", "length(§) > 1", "§ IS DISTINCT FROM 'a'", "§ <> ''"],
            Bool => &["§", "NOT §", "§ IS NOT TRUE"],
            Date => &["§ > '2024-01-01'", "isfinite(§)"],
            Moment => &["§ < '2024-05-01 08:00:00.1+00'"],
            Uuid => &["§ = '00000000-0000-0000-0000-000000000000'"],
            Mood => &["§ = 'sad'", "§ > 'sad'"],
            Few => &["§ > 1"],
            Number => &["§ > 1.2", "§ = 'NaN'"],
            Float => &["§ > 0"],
            Long => &["length(§) > 2000", "§ IS NULL", "§ = 'short'"],
            Array => &["§ && '{1}'", "cardinality(§) > 1"],
            Json => &["§ ? 'a'", "§ ->> 'a' = '1'"],
            Pair => &["(§) IS NOT NULL"],
            Range => &["§ @> 3", "isempty(§)"],
            Bytes => &["length(§) > 1"],
            Generated => &["§ = 2"],
            Identity => &["§ % 2 = 0"],
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
}

impl Column {
    fn quoted(&self) -> String {
        quoted(&self.name)
    }
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Quoted, with the schema.
    pub(super) name: String,
    /// In the order in which rows show them.
    pub(super) columns: Vec<Column>,
    /// Tables that hold the rows: partitions, or the table itself.
    pub(super) leaves: Vec<String>,
    pub(super) has_key: bool,
}

impl Table {
    pub(super) fn is_partitioned(&self) -> bool {
        self.leaves.len() > 1
    }

    /// Columns that statements may write.
    pub(super) fn written(&self) -> Vec<&Column> {
        self.columns.iter().filter(|column| column.kind.is_written()).collect()
    }

    pub(super) fn columns_sql(&self) -> String {
        let one = |column: &Column| {
            let null = if column.nullable { "" } else { " NOT NULL" };
            format!(
                "{} {}{}",
                column.quoted(),
                column.kind.sql_type(),
                if column.kind == Id { "" } else { null }
            )
        };
        self.columns.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// A shard, by numbers into its table's columns.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) table: usize,
    /// One partition only.
    pub(super) leaf: Option<usize>,
    condition: Option<(usize, &'static str)>,
    pub(super) key: Vec<usize>,
    columns: Option<Vec<usize>>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) tables: Vec<Table>,
    pub(super) shards: Vec<Shard>,
    pub(super) named: usize,
}

/// Trigger of the first table: it writes to `audit`, which is the last one.
const TRIGGER: &str = "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF coalesce(new.id, old.id) % 3 = 0 THEN
            INSERT INTO audit (k, s) VALUES (coalesce(new.id, old.id), tg_op);
        ELSE
            UPDATE audit SET k = k + 1 WHERE id % 5 = coalesce(new.id, old.id) % 5;
        END IF;
        RETURN NULL; END $$;";

impl World {
    /// Random tables; and the statements that make them.
    pub(super) fn random(rng: &mut StdRng) -> (World, String) {
        let mut world = World { tables: Vec::new(), shards: Vec::new(), named: 0 };
        let mut sql = TYPES.to_owned();
        for number in 0..4 {
            let name = ["\"S q\".\"Äpfel\"", "child", "parts", "\"lo\"\"ose\""][number];
            let partitioned = number == 2;
            let has_key = number != 3;
            let mut kinds: Vec<Kind> = EVERYWHERE.choose_multiple(rng, 6).copied().collect();
            if !partitioned {
                kinds.extend(NOT_PARTITIONED.choose_multiple(rng, 2));
            }
            if number == 1 {
                kinds.push(Parent);
            }
            kinds.push(Id);
            kinds.shuffle(rng);
            let columns = kinds.iter().enumerate().map(|(place, kind)| {
                let name = match kind {
                    Id => "id".to_owned(),
                    Parent => "parent".to_owned(),
                    _ => format!("{}{place}", ["c", "C ", "ç\"", "select "][rng.random_range(0..4)]),
                };
                let nullable = *kind != Id && *kind != Identity && rng.random_bool(0.7);
                Column { name, kind: *kind, nullable }
            });
            let columns: Vec<Column> = columns.collect();
            let leaves = if partitioned {
                vec!["parts_low".to_owned(), "parts_high".to_owned()]
            } else {
                vec![name.to_owned()]
            };
            let table = Table { name: name.to_owned(), columns, leaves, has_key };
            sql += &create(&table, rng);
            world.tables.push(table);
        }
        let audit = |name: &str, kind| Column { name: name.into(), kind, nullable: kind != Id };
        world.tables.push(Table {
            name: "audit".to_owned(),
            columns: vec![audit("id", Id), audit("k", Int), audit("s", Text)],
            leaves: vec!["audit".to_owned()],
            has_key: true,
        });
        sql += "CREATE TABLE audit (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, k int, s text);";
        sql += &format!(
            "{TRIGGER} CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION note();
             ALTER TABLE child ADD FOREIGN KEY (parent) REFERENCES {0} ON DELETE CASCADE ON UPDATE CASCADE;",
            world.tables[0].name
        );
        for table in 0..world.tables.len() {
            sql += &world.identity(table, rng);
            for number in 0..2 {
                let shard = world.shard(format!("s{table}_{number}"), table, None, rng);
                sql += &world.define(&shard, false);
                world.shards.push(shard);
            }
        }
        let leaf = world.shard("leaf".to_owned(), 2, Some(1), rng);
        sql += &world.define(&leaf, false);
        world.shards.push(leaf);
        (world, sql)
    }

    /// Statements that give the table a replica identity.
    pub(super) fn identity(&self, table: usize, rng: &mut StdRng) -> String {
        let table = &self.tables[table];
        let mut sql = String::new();
        for (number, leaf) in table.leaves.iter().enumerate() {
            let known: Vec<&Column> = table
                .columns
                .iter()
                .filter(|column| !column.nullable && column.kind.is_key() && column.kind != Id)
                .collect();
            sql += &match rng.random_range(0..10) {
                0..4 => format!("ALTER TABLE {leaf} REPLICA IDENTITY FULL;"),
                4..6 => format!("ALTER TABLE {leaf} REPLICA IDENTITY DEFAULT;"),
                6 => format!("ALTER TABLE {leaf} REPLICA IDENTITY NOTHING;"),
                _ if known.is_empty() || !table.has_key => {
                    format!("ALTER TABLE {leaf} REPLICA IDENTITY FULL;")
                }
                _ => {
                    let unique = format!("unique_{}_{number}", rng.random::<u32>());
                    let columns: Vec<String> = known.iter().map(|column| column.quoted()).collect();
                    format!(
                        "CREATE UNIQUE INDEX {unique} ON {leaf} ({}, id); ALTER TABLE {leaf} REPLICA IDENTITY USING INDEX {unique};",
                        columns.join(", ")
                    )
                }
            };
        }
        sql
    }

    pub(super) fn shard(&self, name: String, table: usize, leaf: Option<usize>, rng: &mut StdRng) -> Shard {
        let columns = &self.tables[table].columns;
        // Columns that come later may go again.
        let stable: Vec<usize> =
            (0..columns.len()).filter(|number| !columns[*number].name.starts_with("extra")).collect();
        let condition = rng.random_bool(0.6).then(|| {
            let column = *stable.choose(rng).unwrap_or(&0);
            (column, *columns[column].kind.conditions().choose(rng).unwrap_or(&"true"))
        });
        let keys: Vec<usize> =
            stable.iter().copied().filter(|number| columns[*number].kind.is_key()).collect();
        let count = if rng.random_bool(0.65) { *[1, 1, 1, 2, 3, 4].choose(rng).unwrap_or(&1) } else { 0 };
        let key = keys.choose_multiple(rng, count).copied().collect();
        let chosen = rng.random_bool(0.4).then(|| {
            let count = rng.random_range(1..=stable.len());
            stable.choose_multiple(rng, count).copied().collect()
        });
        Shard { name, table, leaf, condition, key, columns: chosen }
    }

    fn source(&self, shard: &Shard) -> &str {
        let table = &self.tables[shard.table];
        shard.leaf.map_or(&table.name, |leaf| &table.leaves[leaf])
    }

    fn condition(&self, shard: &Shard) -> Option<String> {
        let (column, condition) = shard.condition?;
        Some(condition.replace('§', &self.tables[shard.table].columns[column].quoted()))
    }

    /// The call that defines a shard.
    pub(super) fn define(&self, shard: &Shard, replace: bool) -> String {
        let columns = &self.tables[shard.table].columns;
        let names = |numbers: &[usize]| {
            let names: Vec<String> = numbers
                .iter()
                .map(|number| format!("'{}'", columns[*number].name.replace('\'', "''")))
                .collect();
            format!("array[{}]::name[]", names.join(", "))
        };
        format!(
            "SELECT foreshard.create_shard('{}', $t${}$t$, {}, {}, {}, or_replace => {replace});",
            shard.name,
            self.source(shard),
            self.condition(shard).map_or("NULL".to_owned(), |condition| format!("$p${condition}$p$")),
            if shard.key.is_empty() { "NULL".to_owned() } else { names(&shard.key) },
            shard.columns.as_deref().map_or("NULL".to_owned(), names),
        )
    }

    /// The query for what every shard must hold, and for where the log is: `lsn`, and an object of lists of `[key, row]` by shard.
    pub(super) fn state(&self) -> String {
        let shards = self.shards.iter().map(|shard| {
            let columns = &self.tables[shard.table].columns;
            let key = shard.key.iter().map(|number| {
                let name = columns[*number].quoted();
                format!("CASE WHEN {name} IS NOT NULL THEN format('%s', {name}) END")
            });
            let all: Vec<usize> = (0..columns.len()).collect();
            let row = shard.columns.as_ref().unwrap_or(&all).iter().map(|number| {
                let name = columns[*number].quoted();
                match columns[*number].kind {
                    Json => format!("{name}::text"),
                    _ => format!("to_json({name}) #>> '{{}}'"),
                }
            });
            format!(
                "'{}', (SELECT json_agg(json_build_array(json_build_array({}), json_build_array({}))) FROM {}{})",
                shard.name,
                key.collect::<Vec<_>>().join(", "),
                row.collect::<Vec<_>>().join(", "),
                self.source(shard),
                self.condition(shard).map_or(String::new(), |condition| format!(" WHERE {condition}"))
            )
        });
        format!(
            "SELECT pg_current_wal_insert_lsn(), json_build_object({})",
            shards.collect::<Vec<_>>().join(", ")
        )
    }

    /// Names of a shard's key columns.
    pub(super) fn key_names(&self, shard: &str) -> Vec<String> {
        let Some(shard) = self.shards.iter().find(|known| known.name == shard) else { return Vec::new() };
        shard.key.iter().map(|number| self.tables[shard.table].columns[*number].name.clone()).collect()
    }
}

fn create(table: &Table, rng: &mut StdRng) -> String {
    let columns = table.columns_sql();
    let key = if table.has_key { ", PRIMARY KEY (id)" } else { "" };
    let Table { name, .. } = table;
    let long = table.columns.iter().filter(|column| column.kind == Long);
    let mut sql = if table.is_partitioned() {
        // One partition has its columns in another order, and holes.
        let mut other = table.clone();
        other.columns.shuffle(rng);
        format!(
            "CREATE TABLE {name} ({columns}{key}) PARTITION BY RANGE (id);
             CREATE TABLE parts_low (gone int, {}, lost text{key}); ALTER TABLE parts_low DROP gone, DROP lost;
             ALTER TABLE {name} ATTACH PARTITION parts_low FOR VALUES FROM (0) TO (12);
             CREATE TABLE parts_high PARTITION OF {name} FOR VALUES FROM (12) TO (24);",
            other.columns_sql()
        )
    } else {
        format!("CREATE TABLE {name} (gone int, {columns}{key}); ALTER TABLE {name} DROP gone;")
    };
    for column in long {
        for leaf in &table.leaves {
            sql += &format!("ALTER TABLE {leaf} ALTER {} SET STORAGE EXTERNAL;", column.quoted());
        }
    }
    sql
}
