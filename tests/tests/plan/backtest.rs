//! `foreshard backtest` as a command.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::Result;
use foreshard_tests::foreshard_binary;
use tempfile::TempDir;

/// A function that is called every three minutes, and one whose name is too long.
fn trace() -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("trace.csv");
    let long = "x".repeat(1025);
    let rows: String = (0..60).map(|m| format!("{},f,1\n{},{long},2\n", m * 3, m * 3)).collect();
    std::fs::write(&path, format!("minute,function_id,count\n{rows}"))?;
    Ok((dir, path))
}

fn backtest(trace: &PathBuf, arguments: &[&str], output: Stdio) -> Result<Output> {
    let mut command = Command::new(foreshard_binary()?);
    Ok(command
        .arg("backtest")
        .arg("--trace")
        .arg(trace)
        .args(arguments)
        .stdout(output)
        .stderr(Stdio::piped())
        .output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn who_reads_the_output_may_have_seen_enough() -> Result<()> {
    let (dir, trace) = trace()?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let (json, page) = (dir.path().join("scores.json"), dir.path().join("page"));
    let files = ["--json", &json.to_string_lossy(), "--report", &page.to_string_lossy()];
    let ran = backtest(&trace, &files, writer.into())?;
    assert!(ran.status.success() && ran.stderr.is_empty(), "{}", text(&ran.stderr));
    assert!(json.exists() && page.join("index.html").exists());
    Ok(())
}

#[test]
fn what_it_does_not_take_is_said_in_words() -> Result<()> {
    let (_dir, trace) = trace()?;
    for (arguments, says) in [
        (["--horizon", "0"], "1 to 1440, not 0"),
        (["--horizon", "1,2,3,4,5,6,7,8,9"], "not 1,2,3,4,5,6,7,8,9"),
        (["--threshold", "nan"], "expected a number from 0 to 1"),
        (["--score-from", "9223372036854775807"], "nothing to score"),
    ] {
        let ran = backtest(&trace, &arguments, Stdio::piped())?;
        let said = text(&ran.stderr);
        assert!(
            !ran.status.success() && said.contains(says) && !said.contains("Horizon {"),
            "{arguments:?}: {said}"
        );
    }
    // A start before the trace begins is its beginning, and what is left out is counted.
    let ran = backtest(&trace, &["--score-from=-9223372036854775808"], Stdio::piped())?;
    let said = text(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("scored from minute 0 to 177"),
        "{said}{}",
        text(&ran.stderr)
    );
    assert!(said.contains("120 calls are left out"), "{said}");
    Ok(())
}
