//! What a definition means is decided by the settings of the session that writes it; how it is kept, by nobody's.

use anyhow::{Context, Result};

use crate::origin::Origin;

/// As far from the defaults as a session can be, and the way back.
const ODD: &str = "SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = -10; SET timezone = 'Asia/Kolkata';
    SET bytea_output = 'escape'; SET quote_all_identifiers = on; SET standard_conforming_strings = off; SET escape_string_warning = off;
    SET array_nulls = off; SET transform_null_equals = on; SET lc_monetary = 'C'";
const DEFAULTS: &str = "RESET ALL";

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, d date, i interval, f float8, z timestamptz, b bytea, s text, a text[]);
    INSERT INTO t VALUES (1, '2024-01-02', '1 day', 1, '2024-03-04 05:06:07+00', '\\xff01', 'a\\b', '{NULL}')";

/// The same conditions in the words of an odd session and of a default one.
const CONDITIONS: [(&str, &str, &str); 8] = [
    ("date", "d >= '02/01/2024'", "d >= '2024-01-02'"),
    ("interval", "i > '-1 2:03:00'", "i > '-1 days -02:03:00'"),
    ("float", "f > 0.1234567890123456", "f > 0.1234567890123456"),
    ("instant", "z < '05/03/2024 10:36:07'", "z < '2024-03-05 05:06:07+00'"),
    ("bytea", "b >= '\\\\001\\\\377'", "b >= '\\x01ff'"),
    ("text", "s = 'a\\\\b'", "s = 'a\\b'"),
    ("array", "a <> '{NULL}'", "a <> '{\"NULL\"}'"),
    ("null", "s = NULL OR id > 0", "s IS NULL OR id > 0"),
];

fn define(name: &str, condition: &str) -> String {
    format!(
        "SELECT foreshard.create_shard('{name}', 't', $${condition}$$, or_replace => true);
         SELECT foreshard.create_query_shard('{name} query', $$SELECT id FROM public.t WHERE {condition}$$, or_replace => true)"
    )
}

/// Everything that is kept of the definitions of one condition, but for their names and generations.
async fn kept(origin: &Origin, name: &str) -> Result<String> {
    origin
        .value(&format!(
            r"SELECT jsonb_agg(jsonb_build_array(s.predicate, s.defect, q.query, v.depends_on,
                regexp_replace(concat(s.predicate_tree, q.query_tree), ':location -?\d+|:stmt_(location|len) -?\d+', '', 'g')) ORDER BY s.name)::text
              FROM foreshard.shard s JOIN foreshard.shards v USING (name) LEFT JOIN foreshard.shard_query q ON q.shard = s.name
              WHERE s.name IN ('{name}', '{name} query')"
        ))
        .await
}

const GENERATIONS: &str = "SELECT string_agg(name || generation, ' ' ORDER BY name) FROM foreshard.shard";

#[tokio::test]
async fn definitions_are_kept_alike_whatever_the_session_s_settings() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(TABLE).await?;
    for (name, odd, plain) in CONDITIONS {
        for (settings, name, condition) in
            [(ODD, format!("odd {name}"), odd), (DEFAULTS, format!("plain {name}"), plain)]
        {
            origin.db.batch_execute(settings).await?;
            origin.db.batch_execute(&define(&name, condition)).await.with_context(|| name)?;
        }
    }
    origin.db.batch_execute(DEFAULTS).await?;
    let rows = async |name: &str| -> Result<Vec<String>> { origin.rows(&format!("{name}%20query")).await };
    origin.map_all().await?;
    for settings in [DEFAULTS, ODD] {
        let mut all = Vec::new();
        for (name, ..) in CONDITIONS {
            let plain = kept(&origin, &format!("plain {name}")).await?;
            assert!(plain.contains(", null, "), "no defect in {plain}");
            assert_eq!(kept(&origin, &format!("odd {name}")).await?, plain);
            assert_eq!(rows(&format!("odd%20{name}")).await?, ["1"], "{name}");
            all.push(plain);
        }
        // Parsed again, by whoever it is.
        origin.db.batch_execute(settings).await?;
        origin
            .db
            .batch_execute("SELECT foreshard.rederive(); ALTER TABLE t ALTER s SET STATISTICS 50")
            .await?;
        origin.db.batch_execute(DEFAULTS).await?;
        for ((name, ..), before) in CONDITIONS.iter().zip(&all) {
            assert_eq!(&kept(&origin, &format!("odd {name}")).await?, before);
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_identical_redefinition_changes_nothing_whatever_the_settings() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(TABLE).await?;
    for (name, _, plain) in CONDITIONS {
        origin.db.batch_execute(&define(name, plain)).await.with_context(|| name)?;
    }
    let before: String = origin.value(GENERATIONS).await?;
    for (settings, odd) in [
        (ODD, true),
        (DEFAULTS, false),
        ("SET quote_all_identifiers = on", false),
        ("SET datestyle = 'German'", false),
    ] {
        for (name, in_odd, plain) in CONDITIONS {
            origin.db.batch_execute(settings).await?;
            origin
                .db
                .batch_execute(&define(name, if odd { in_odd } else { plain }))
                .await
                .with_context(|| name)?;
            origin.db.batch_execute(DEFAULTS).await?;
        }
        assert_eq!(origin.value::<String>(GENERATIONS).await?, before, "{settings}");
    }
    Ok(())
}

/// The functions that parse what is kept pin the same settings.
#[tokio::test]
async fn what_is_kept_is_parsed_under_the_same_settings_everywhere() -> Result<()> {
    let origin = Origin::start().await?;
    let pins = "SELECT concat(count(*), ' ', count(DISTINCT proconfig)) FROM pg_proc WHERE pronamespace = 'foreshard'::regnamespace
        AND 'quote_all_identifiers=off' = ANY (proconfig)";
    assert_eq!(origin.value::<String>(pins).await?, "5 1");
    Ok(())
}
