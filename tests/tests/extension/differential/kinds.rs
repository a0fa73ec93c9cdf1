//! Types of columns, with values that meet often and conditions on them.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

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
pub(super) const EVERYWHERE: [Kind; 17] = [
    Int, Int, Text, Text, Small, Bool, Date, Moment, Uuid, Mood, Few, Number, Float, Long, Array, Json, Pair,
];
/// What only tables without partitions have.
pub(super) const NOT_PARTITIONED: [Kind; 4] = [Generated, Identity, Range, Bytes];

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
    pub(super) fn values(self) -> &'static [&'static str] {
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

    pub(super) fn condition(self, rng: &mut StdRng) -> Condition {
        let fails = match self {
            Int | Few => Some(("12 / § > 4", "§ = 0")),
            // Not an overflow: there is none any more once the column is retyped.
            Small => Some(("12 / (§ - 7) > 0", "§ = 7")),
            Text => Some(("substr(§, 1, length(§) - 1) = ''", "§ = ''")),
            _ => None,
        };
        if let Some((text, rows)) = fails.filter(|_| rng.random_bool(0.3)) {
            return Condition { text, fails: Some(rows) };
        }
        Condition { text: self.conditions().choose(rng).unwrap_or(&"true"), fails: None }
    }

    /// SQL for the text of an expression of this type, as rows have it.
    pub(super) fn text(self, expression: &str) -> String {
        match self {
            Json => format!("{expression}::text"),
            _ => format!("to_json({expression}) #>> '{{}}'"),
        }
    }

    pub(super) fn is_written(self) -> bool {
        !self.values().is_empty()
    }

    pub(super) fn is_key(self) -> bool {
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

    /// Conditions, with § for the column and `'sad'` for the enum's first label.
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

/// Which rows are in a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    pub(super) text: &'static str,
    /// On which rows it raises an error.
    pub(super) fails: Option<&'static str>,
}
