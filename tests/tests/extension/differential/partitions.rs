//! The third partition of the partitioned table, which comes and goes.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::schema::{Column, Table, World};

/// Number of the partitioned table.
const PARTITIONED: usize = 2;
/// What the partition holds.
const RANGE: &str = "FOR VALUES FROM (18) TO (24)";

/// Where it is.
#[derive(Clone, Debug)]
pub(super) enum Third {
    Gone,
    /// `leaf` has its rows: the partition itself, or its only partition.
    Attached {
        name: String,
        leaf: String,
    },
    /// A table of its own, with the columns of when it was detached.
    Apart {
        name: String,
        leaf: String,
        columns: Vec<String>,
    },
}

impl World {
    /// Makes, detaches, attaches or drops it.
    pub(super) fn alter_third(&mut self, rng: &mut StdRng) -> String {
        let root = self.tables[PARTITIONED].name.clone();
        match self.third.clone() {
            Third::Gone => self.make_third(rng),
            Third::Attached { name, leaf } => match rng.random_range(0..4) {
                0 => {
                    self.part_with(Third::Gone);
                    format!("DROP TABLE {name}")
                }
                1 => format!(
                    "ALTER TABLE {root} DETACH PARTITION {name}; DELETE FROM {name} WHERE id % 3 = 0;
                     ALTER TABLE {root} ATTACH PARTITION {name} {RANGE}"
                ),
                _ => {
                    let columns = names(&self.tables[PARTITIONED]);
                    self.part_with(Third::Apart { name: name.clone(), leaf, columns });
                    format!("ALTER TABLE {root} DETACH PARTITION {name}")
                }
            },
            Third::Apart { name, leaf, columns } => {
                // Columns that came, went or were renamed meanwhile keep it from being attached.
                if columns == names(&self.tables[PARTITIONED]) && rng.random_bool(0.8) {
                    let written = ["", "DELETE FROM", "UPDATE"][rng.random_range(0..3)];
                    let written = match written {
                        "" => String::new(),
                        "UPDATE" => format!("UPDATE {name} SET id = id WHERE id % 2 = 0; "),
                        delete => format!("{delete} {name} WHERE id % 2 = 0; "),
                    };
                    self.join(name.clone(), leaf);
                    return format!("{written}ALTER TABLE {root} ATTACH PARTITION {name} {RANGE}");
                }
                self.third = Third::Gone;
                format!("DROP TABLE {name}")
            }
        }
    }

    /// A statement that is no part of a transaction.
    pub(super) fn detach_concurrently(&mut self) -> String {
        let Third::Attached { name, leaf } = self.third.clone() else { return "VACUUM audit".to_owned() };
        let table = &self.tables[PARTITIONED];
        let statement = format!("ALTER TABLE {} DETACH PARTITION {name} CONCURRENTLY", table.name);
        let columns = names(table);
        self.part_with(Third::Apart { name, leaf, columns });
        statement
    }

    fn make_third(&mut self, rng: &mut StdRng) -> String {
        self.named += 1;
        let name = format!("parts_{}", self.named);
        let table = &self.tables[PARTITIONED];
        let root = table.name.clone();
        let (sql, leaf) = match rng.random_range(0..3) {
            0 => (format!("CREATE TABLE {name} PARTITION OF {root} {RANGE}"), name.clone()),
            1 => {
                let leaf = format!("{name}_all");
                let sql = format!(
                    "CREATE TABLE {name} PARTITION OF {root} {RANGE} PARTITION BY RANGE (id);
                     CREATE TABLE {leaf} PARTITION OF {name} FOR VALUES FROM (18) TO (24)"
                );
                (sql, leaf)
            }
            _ => {
                let mut other = table.clone();
                other.columns.shuffle(rng);
                let sql = format!(
                    "CREATE TABLE {name} ({}, gone int, PRIMARY KEY (id)); ALTER TABLE {name} DROP gone;
                     ALTER TABLE {root} ATTACH PARTITION {name} {RANGE}",
                    other.columns_sql()
                );
                (sql, name.clone())
            }
        };
        self.join(name, leaf);
        sql
    }

    fn join(&mut self, name: String, leaf: String) {
        self.tables[PARTITIONED].leaves.push(leaf.clone());
        self.third = Third::Attached { name, leaf };
    }

    fn part_with(&mut self, third: Third) {
        self.tables[PARTITIONED].leaves.truncate(2);
        self.third = third;
    }
}

fn names(table: &Table) -> Vec<String> {
    table.columns.iter().map(Column::quoted).collect()
}
