//! What is read again while the sidecar runs, when it is told to.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use foreshard_tests::{SidecarOptions, eventually};
use rustix::process::Signal;

use crate::certificates::Authority;
use crate::shop::Shop;

const SOON: Duration = Duration::from_secs(30);

/// Replaces what is in a file so that nobody who looks at its length and its times finds a difference.
fn replace_unseen(file: &Path, before: &str, after: &str) -> Result<()> {
    let text = std::fs::read_to_string(file)?.replace(before, after);
    let modified = std::fs::metadata(file)?.modified()?;
    std::fs::write(file, text)?;
    std::fs::File::options().write(true).open(file)?.set_modified(modified)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_has_everything_read_again() -> Result<()> {
    let shop = Shop::open().await?;
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let issued = Authority::new("authority")?.issue("edge.example")?;
    std::fs::write(at("cert"), &issued.certificate)?;
    std::fs::write(at("key"), &issued.key)?;
    std::fs::write(at("tokens"), "a-shared-secret-of-the-edge-in-paris")?;
    std::fs::write(at("keys"), "5e".repeat(32))?;
    let text = |name: &str| at(name).display().to_string();
    std::fs::write(
        at("edge.toml"),
        format!(
            "log = \"info\" \nauth_key_file = {:?}\ntls_cert = {:?}\ntls_key = {:?}\ncache_dir = {:?}\ncache_key_file = {:?}\n",
            text("tokens"),
            text("cert"),
            text("key"),
            text("cache"),
            text("keys")
        ),
    )?;
    let mut options = SidecarOptions::of(&shop.login);
    options.arguments = vec!["--config".into(), text("edge.toml")];
    let mut edge = options.spawn()?;
    eventually("it serves", SOON, || async { Ok(edge.log_text().contains("serving").then_some(())) }).await?;
    ensure!(!edge.log_text().contains("DEBUG"), "{}", edge.log_text());
    replace_unseen(&at("edge.toml"), "\"info\" ", "\"debug\"")?;
    edge.process().signal(Signal::HUP)?;
    for what in ["log levels", "token keys", "certificates", "keys of the persistent cache"] {
        eventually(what, SOON, || async {
            Ok(edge.log_text().contains(&format!("{what} read again")).then_some(()))
        })
        .await?;
    }
    eventually("more is said", SOON, || async { Ok(edge.log_text().contains("DEBUG").then_some(())) })
        .await?;
    // What can't be used leaves everything as it was.
    replace_unseen(&at("edge.toml"), "\"debug\"", "\"=loud\"")?;
    edge.process().signal(Signal::HUP)?;
    eventually("it is refused", SOON, || async {
        Ok(edge.log_text().contains("log levels can't be used as they are now").then_some(()))
    })
    .await?;
    edge.process().must_be_alive()
}
