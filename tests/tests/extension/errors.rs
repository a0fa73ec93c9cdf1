//! docs/errors.md lists what is raised, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use foreshard_tests::Cluster;

use crate::origin::error_of;
use crate::{bad_input, bad_queries};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Every file below a folder, one after the other.
fn text_below(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            text.push_str(&text_below(&path)?);
        // What goes through a subtransaction was raised elsewhere.
        } else if !path.ends_with("subtransaction.rs") {
            text.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(text)
}

/// A page's table: codes and condition names of the first column, and the second column.
fn rows(section: &str) -> Vec<(BTreeMap<String, String>, String)> {
    let mut rows = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let codes = cells[0].split(',').filter_map(|code| {
            let (code, name) = code.trim().strip_prefix('`')?.split_once("` ")?;
            Some((code.to_owned(), name.trim().to_owned()))
        });
        rows.push((codes.collect(), cells.get(1).unwrap_or(&"").trim().to_owned()));
    }
    rows
}

/// Condition names that the SQL and the library raise.
fn raised(sql: &str, library: &str) -> BTreeSet<String> {
    let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let in_sql = sql.split("ERRCODE = ").skip(1).flat_map(|rest| {
        let end = rest.find([';', '\n']).unwrap_or(rest.len());
        rest[..end].split('\'').skip(1).step_by(2).filter(is_name).map(str::to_owned)
    });
    let in_library = library.split("::ERRCODE_").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(rest.len());
        rest[..end].to_ascii_lowercase()
    });
    in_sql.chain(in_library).collect()
}

/// The messages of RAISE EXCEPTION, with `…` for each value.
fn messages(sql: &str) -> BTreeSet<String> {
    let quoted = |rest: &str| {
        let rest = rest.replace("''", "\u{1}");
        let end = rest.find('\'').unwrap_or(rest.len());
        rest[..end].replace('\u{1}', "'").replace('%', "…")
    };
    sql.split("RAISE EXCEPTION '").skip(1).map(quoted).collect()
}

#[tokio::test]
async fn the_page_of_errors_has_what_is_raised_and_nothing_else() -> Result<()> {
    let workspace = Path::new(WORKSPACE);
    let page = std::fs::read_to_string(workspace.join("docs/errors.md"))?;
    let (own, others) = page.split_once("## Raised by PostgreSQL").context("two tables")?;
    let (own, others) = (rows(own), rows(others));
    let sql = text_below(&workspace.join("sql"))?;
    let library = text_below(&workspace.join("pg_extension/src"))?;

    let listed: BTreeSet<String> = own.iter().flat_map(|(codes, _)| codes.values().cloned()).collect();
    assert_eq!(listed, raised(&sql, &library), "docs/errors.md and the source");
    let told: BTreeSet<&str> = own.iter().map(|(_, message)| message.as_str()).collect();
    for message in messages(&sql) {
        assert!(told.contains(message.as_str()), "docs/errors.md lacks: {message}");
    }
    // What the page quotes is said somewhere: its words between the values are in the source.
    let source = (sql + &library).replace("''", "'").replace("\\\"", "\"");
    for message in told {
        for words in message.split('…').map(|words| words.trim_matches([' ', ',', ':', '$', '"'])) {
            assert!(source.contains(words), "nothing says {words:?} of {message:?}");
        }
    }

    // What PostgreSQL raises for wrong calls is there, and nothing that no wrong call shows.
    let shown: BTreeSet<String> = bad_input::calls()
        .iter()
        .map(|(_, state, _)| state.code().to_owned())
        .chain(bad_queries::calls().iter().map(|(_, _, state, _)| state.code().to_owned()))
        .collect();
    let every: BTreeMap<&String, &String> = own.iter().chain(&others).flat_map(|(codes, _)| codes).collect();
    for state in &shown {
        assert!(every.contains_key(state), "docs/errors.md lacks {state}");
    }
    for (state, name) in others.iter().flat_map(|(codes, _)| codes) {
        assert!(shown.contains(state) || listed.contains(name), "no wrong call shows {state} {name}");
    }

    // Codes stand beside their names.
    let cluster = Cluster::start().await?;
    let db = cluster.connect().await?;
    for (state, name) in every {
        let raise = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{name}'; END $$");
        assert_eq!(error_of(&db, &raise).await?.code().code(), state, "{name}");
    }
    Ok(())
}
