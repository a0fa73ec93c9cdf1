//! Scripts as a DBA would run them in psql, each with the output it must have: `sql/NAME.sql` and `sql/NAME.out`.
//!
//! `FORESHARD_BLESS=1` writes the outputs; look at the difference before committing them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use foreshard_tests::Cluster;

#[tokio::test]
async fn scripts_give_their_output() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/extension/sql");
    let mut scripts: Vec<_> =
        std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    scripts.sort();
    ensure!(!scripts.is_empty(), "no scripts in {}", folder.display());
    let cluster = Cluster::start().await?;
    let db = cluster.connect().await?;
    let mut differing = Vec::new();
    for script in scripts {
        let name = script.file_stem().and_then(|name| name.to_str()).context("a script's name")?.to_owned();
        db.batch_execute(&format!("CREATE DATABASE regress_{name}")).await?;
        let mut psql = cluster.client_program("psql");
        psql.args(["-X", "-a", "-q", "-d", &format!("regress_{name}")]);
        psql.args([
            "-v",
            "VERBOSITY=terse",
            "-v",
            "SHOW_CONTEXT=never",
            "-P",
            "format=unaligned",
            "-P",
            "footer=off",
            "-P",
            "null=NULL",
        ]);
        // Errors between the rows, where they happen.
        let input = std::fs::File::open(&script)?;
        let (reader, writer) = std::io::pipe()?;
        let mut child = psql.stdin(input).stdout(writer.try_clone()?).stderr(writer).spawn()?;
        drop(psql);
        let got = std::io::read_to_string(reader)?;
        child.wait()?;
        let expected = script.with_extension("out");
        if std::env::var_os("FORESHARD_BLESS").is_some() {
            std::fs::write(&expected, &got)?;
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        if got != wanted {
            let line = got.lines().zip(wanted.lines()).position(|(got, wanted)| got != wanted);
            let at = line.unwrap_or_else(|| got.lines().count().min(wanted.lines().count()));
            differing.push(format!(
                "{name}, line {}:\n  got    {}\n  wanted {}",
                at + 1,
                got.lines().nth(at).unwrap_or("the end"),
                wanted.lines().nth(at).unwrap_or("the end")
            ));
        }
    }
    ensure!(differing.is_empty(), "{}", differing.join("\n"));
    Ok(())
}
