//! The way to the origin is encrypted, and only to the origin that was meant.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use foreshard_tests::{EdgeLogin, Planner, Sidecar, SidecarOptions, foreshard_binary};
use tempfile::NamedTempFile;

use crate::certificates::Authority;
use crate::shop::Shop;

const SOON: Duration = Duration::from_secs(30);

/// The login with further parameters in its connection string.
fn with(login: &EdgeLogin, parameters: &str) -> EdgeLogin {
    EdgeLogin { url: format!("{}?{parameters}", login.url), ..login.clone() }
}

fn file(text: &str) -> Result<NamedTempFile> {
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}

/// What `foreshard serve` says when it can't start.
async fn refusal(login: &EdgeLogin) -> Result<String> {
    let mut sidecar = SidecarOptions::of(login).spawn()?;
    let status = sidecar.process().wait_exit(SOON).await?;
    ensure!(!status.success(), "it ended well");
    Ok(sidecar.process().log_text())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_is_encrypted_and_its_other_end_verified() -> Result<()> {
    let shop = Shop::open().await?;
    let authority = Authority::new("one")?;
    let issued = authority.issue("127.0.0.1")?;
    shop.origin.use_tls(&issued.certificate, &issued.key).await?;
    let roots = file(&authority.certificate())?;
    let parameters = format!("sslmode=verify-full&sslrootcert={}", roots.path().display());
    let edge = Sidecar::start(&with(&shop.login, &parameters)).await?;
    ensure!(edge.http.rows("checkout", "products", "", &[]).await?.status == 200);
    let query = "SELECT count(*), count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE ssl AND backend_type = 'walsender') \
                 FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename = $1";
    let row = shop.db.query_one(query, &[&shop.login.role]).await?;
    let (all, encrypted, stream): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((all, stream), (encrypted, 1));
    assert!(all >= 3, "stream, control and fetches: {all}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_not_the_one_meant_is_refused_with_the_mend() -> Result<()> {
    let shop = Shop::open().await?;
    let (authority, other) = (Authority::new("one")?, Authority::new("other")?);
    let (roots, wrong_roots) = (file(&authority.certificate())?, file(&other.certificate())?);
    let verify = |mode: &str, roots: &NamedTempFile| {
        with(&shop.login, &format!("sslmode={mode}&sslrootcert={}", roots.path().display()))
    };
    let said = refusal(&verify("verify-full", &roots)).await?;
    assert!(said.contains("turn ssl on"), "a server without TLS: {said}");

    let here = authority.issue("127.0.0.1")?;
    shop.origin.use_tls(&here.certificate, &here.key).await?;
    let said = refusal(&verify("verify-full", &wrong_roots)).await?;
    assert!(said.contains("sslrootcert"), "an authority that is not trusted: {said}");
    let namesake = file(&Authority::new("one")?.certificate())?;
    let said = refusal(&verify("verify-full", &namesake)).await?;
    assert!(said.contains("sslrootcert"), "an authority of the same name: {said}");
    let said = refusal(&with(&shop.login, "sslmode=verify-full")).await?;
    assert!(said.contains("sslrootcert"), "an authority that the world does not know: {said}");
    let missing = with(&shop.login, "sslrootcert=/nowhere/roots.pem");
    assert!(refusal(&missing).await?.contains("/nowhere/roots.pem"));

    let elsewhere = authority.issue("db.example")?;
    shop.origin.use_tls(&elsewhere.certificate, &elsewhere.key).await?;
    let said = refusal(&verify("verify-full", &roots)).await?;
    assert!(said.contains("a name that the certificate has"), "another host: {said}");
    let mut chain = Sidecar::start(&verify("verify-ca", &roots)).await?;
    ensure!(
        chain.http.rows("checkout", "products", "", &[]).await?.status == 200,
        "verify-ca asks for no name"
    );
    chain.stop().await?;

    let expired = authority.issue_until("127.0.0.1", 2001)?;
    shop.origin.use_tls(&expired.certificate, &expired.key).await?;
    for mode in ["verify-full", "verify-ca"] {
        let said = refusal(&verify(mode, &roots)).await?;
        assert!(said.contains("renew"), "{mode}: {said}");
    }
    let mut any = Sidecar::start(&with(&shop.login, "sslmode=require")).await?;
    ensure!(any.http.rows("checkout", "products", "", &[]).await?.status == 200, "require verifies nothing");
    any.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn planner_and_doctor_verify_too() -> Result<()> {
    let shop = Shop::open().await?;
    let (authority, other) = (Authority::new("one")?, Authority::new("other")?);
    let issued = authority.issue("127.0.0.1")?;
    shop.origin.use_tls(&issued.certificate, &issued.key).await?;
    for (trusted, works) in [(&authority, true), (&other, false)] {
        let roots = file(&trusted.certificate())?;
        let url = format!("{}?sslmode=verify-full&sslrootcert={}", shop.origin.url(), roots.path().display());
        let planned = Planner::once(&url, &[], SOON).await;
        assert_eq!(planned.is_ok(), works, "{planned:?}");
        let doctor = Command::new(foreshard_binary()?).args(["doctor", "--origin", &url]).output()?;
        let said =
            String::from_utf8_lossy(&doctor.stdout).into_owned() + &String::from_utf8_lossy(&doctor.stderr);
        assert_eq!(said.contains("wal_level"), works, "{said}");
        assert_eq!(said.contains("sslrootcert"), !works, "{said}");
    }
    Ok(())
}
