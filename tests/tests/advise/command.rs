//! Runs `foreshard advise`.

use anyhow::{Context, Result, ensure};
use foreshard_tests::foreshard_binary;
use serde_json::Value;

/// What the command wrote, and whether it succeeded.
pub(crate) struct Ran {
    pub(crate) success: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs it with these arguments.
pub(crate) async fn advise(origin: &str, arguments: &[&str]) -> Result<Ran> {
    let mut command = std::process::Command::new(foreshard_binary()?);
    command.args(["advise", "--origin", origin]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("foreshard advise")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran { success: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) })
}

/// The same, which must succeed; gives what it wrote.
pub(crate) async fn advised(origin: &str, arguments: &[&str]) -> Result<String> {
    let ran = advise(origin, arguments).await?;
    ensure!(ran.success, "foreshard advise {arguments:?}: {}{}", ran.out, ran.err);
    Ok(ran.out)
}

/// The advice as JSON.
pub(crate) async fn report(origin: &str, arguments: &[&str]) -> Result<Value> {
    let out = advised(origin, &[&["--json"], arguments].concat()).await?;
    serde_json::from_str(&out).with_context(|| out.clone())
}

/// The advice of a kind on a subject, if there is any.
pub(crate) fn find<'a>(report: &'a Value, kind: &str, subject: &str) -> Option<&'a Value> {
    report["advice"].as_array()?.iter().find(|a| a["kind"] == kind && a["subject"] == subject)
}
