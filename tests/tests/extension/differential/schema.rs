//! Random tables and shards, known here column by column, so that what a shard must hold can be asked without the extension.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::kinds::Kind::{self, *};
use super::kinds::{Condition, EVERYWHERE, NOT_PARTITIONED, TYPES};
use super::partitions::Third;
use super::queries::Query;

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
}

impl Column {
    pub(super) fn quoted(&self) -> String {
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
    condition: Option<(usize, Condition)>,
    pub(super) key: Vec<usize>,
    columns: Option<Vec<usize>>,
}

/// Stands for values of rows on which a condition fails.
pub(super) const FAILS: &str = "<fails>";

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) tables: Vec<Table>,
    pub(super) shards: Vec<Shard>,
    pub(super) queries: Vec<Query>,
    /// The partition that comes and goes.
    pub(super) third: Third,
    /// Labels of the enum; the first is the one that conditions name.
    pub(super) moods: Vec<String>,
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
        let mut world = World {
            tables: Vec::new(),
            shards: Vec::new(),
            queries: Vec::new(),
            third: Third::Gone,
            moods: vec!["sad".to_owned(), "so so".to_owned()],
            named: 0,
        };
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
        for number in 0..4 {
            let query = Query::random(format!("q{number}"), &world, rng);
            sql += &query.define(&world);
            world.queries.push(query);
        }
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
            (column, columns[column].kind.condition(rng))
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
        Some(self.about(&self.tables[shard.table].columns[column], condition.text))
    }

    /// Where the condition raises an error.
    fn failing(&self, shard: &Shard) -> Option<String> {
        let (column, condition) = shard.condition?;
        Some(self.about(&self.tables[shard.table].columns[column], condition.fails?))
    }

    fn about(&self, column: &Column, condition: &str) -> String {
        condition.replace('§', &column.quoted()).replace("'sad'", &format!("'{}'", self.moods[0]))
    }

    /// A value to write, as a constant.
    pub(super) fn value(&self, column: &Column, rng: &mut StdRng) -> String {
        if column.nullable && rng.random_bool(0.12) {
            return "NULL".to_owned();
        }
        match column.kind {
            Mood => self.moods.choose(rng).map_or("NULL".to_owned(), |mood| format!("'{mood}'")),
            kind => (*kind.values().choose(rng).unwrap_or(&"DEFAULT")).to_owned(),
        }
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

    /// The query for what every shard must hold, and for where the log is: `lsn`, and an object of lists of `[key, row]` by shard. Of a
    /// row on which the shard's condition fails, every value is [`FAILS`].
    pub(super) fn state(&self) -> String {
        let shards = self.shards.iter().map(|shard| {
            let columns = &self.tables[shard.table].columns;
            let key = shard.key.iter().map(|number| {
                let name = columns[*number].quoted();
                format!("CASE WHEN {name} IS NOT NULL THEN format('%s', {name}) END")
            });
            let (condition, failing) = (self.condition(shard), self.failing(shard));
            let all: Vec<usize> = (0..columns.len()).collect();
            let row = shard.columns.as_ref().unwrap_or(&all).iter().map(|number| {
                let column = &columns[*number];
                let text = column.kind.text(&column.quoted());
                match &failing {
                    Some(failing) => format!("CASE WHEN {failing} THEN '{FAILS}' ELSE {text} END"),
                    None => text,
                }
            });
            let place = match (condition, &failing) {
                (Some(condition), Some(failing)) => {
                    format!(" WHERE CASE WHEN {failing} THEN true ELSE {condition} END")
                }
                (Some(condition), None) => format!(" WHERE {condition}"),
                (None, _) => String::new(),
            };
            format!(
                "'{}', (SELECT json_agg(json_build_array(json_build_array({}), json_build_array({}))) FROM {}{place})",
                shard.name,
                key.collect::<Vec<_>>().join(", "),
                row.collect::<Vec<_>>().join(", "),
                self.source(shard),
            )
        });
        let queries = self.queries.iter().map(|query| query.state(self));
        format!(
            "SELECT pg_current_wal_insert_lsn(), json_build_object({})",
            shards.chain(queries).collect::<Vec<_>>().join(", ")
        )
    }

    /// Of all shards.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let queries = self.queries.iter().map(|query| query.name.as_str());
        self.shards.iter().map(|shard| shard.name.as_str()).chain(queries)
    }

    /// Names of a shard's key columns.
    pub(super) fn key_names(&self, shard: &str) -> Vec<String> {
        if let Some(query) = self.queries.iter().find(|known| known.name == shard) {
            return query.params().iter().map(|name| (*name).to_owned()).collect();
        }
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
             CREATE TABLE parts_high PARTITION OF {name} FOR VALUES FROM (12) TO (18);",
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
