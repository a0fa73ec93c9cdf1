//! HTTPS towards functions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use foreshard_tests::{Endpoint, Sidecar, SidecarOptions, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

use crate::certificates::{Authority, Issued};
use crate::shop::Shop;

const SOON: Duration = Duration::from_secs(30);

/// Certificate files of a sidecar.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Result<Self> {
        Ok(Files(tempfile::tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn install(&self, issued: &Issued) -> Result<()> {
        std::fs::write(self.path("key"), &issued.key)?;
        Ok(std::fs::write(self.path("cert"), &issued.certificate)?)
    }

    fn flags(&self, client_ca: bool) -> Vec<String> {
        let mut names = vec!["cert", "key"];
        names.extend(client_ca.then_some("client-ca"));
        let flag = |name: &str| [format!("--tls-{name}"), self.path(name).display().to_string()];
        names.into_iter().flat_map(flag).collect()
    }
}

fn start(shop: &Shop, files: &Files, client_ca: bool) -> Result<Sidecar> {
    let mut options = SidecarOptions::of(&shop.login);
    options.arguments.extend(files.flags(client_ca));
    options.spawn()
}

/// The serving certificate and the answer to GET.
async fn get(
    edge: &Sidecar,
    roots: &Authority,
    as_client: Option<&Issued>,
    path: &str,
) -> Result<(Vec<u8>, String)> {
    let Endpoint::Unix(socket) = edge.http.endpoint() else { bail!("not on a Unix socket") };
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_slice(roots.certificate().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(trusted);
    let config = match as_client {
        None => config.with_no_client_auth(),
        Some(issued) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?,
        )?,
    };
    let stream = UnixStream::connect(socket).await?;
    let name = ServerName::try_from("edge.example")?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().context("no certificate")?;
    let served = certificates[0].as_ref().to_vec();
    let request = format!("GET {path} HTTP/1.1\r\nhost: edge.example\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok((served, String::from_utf8_lossy(&answer).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_without_a_restart() -> Result<()> {
    let shop = Shop::open().await?;
    let (authority, files) = (Authority::new("one")?, Files::new()?);
    files.install(&authority.issue("edge.example")?)?;
    let edge = start(&shop, &files, false)?;
    let (first, _) = eventually("it is ready", SOON, || async {
        let (served, answer) = get(&edge, &authority, None, "/ready").await?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some((served, answer)))
    })
    .await?;
    let (_, rows) = get(&edge, &authority, None, "/v1/functions/checkout/shards/products/rows").await?;
    assert!(rows.starts_with("HTTP/1.1 200") && rows.contains("product 1"), "{rows}");
    ensure!(edge.http.get("/live").await.is_err(), "plain HTTP is not spoken here");

    // Half of a renewal: the certificate does not belong to the key, and the former one stays.
    let renewed = authority.issue("edge.example")?;
    std::fs::write(files.path("cert"), &renewed.certificate)?;
    eventually("the mistake is told", SOON, || async {
        let (served, _) = get(&edge, &authority, None, "/live").await?;
        ensure!(served == first);
        Ok(edge.log_text().contains("the former ones stay").then_some(()))
    })
    .await?;
    std::fs::write(files.path("key"), &renewed.key)?;
    eventually("the new certificate is served", SOON, || async {
        let (served, _) = get(&edge, &authority, None, "/live").await?;
        Ok((served != first).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_where_one_is_asked_for() -> Result<()> {
    let shop = Shop::open().await?;
    let (authority, other, files) = (Authority::new("one")?, Authority::new("other")?, Files::new()?);
    files.install(&authority.issue("edge.example")?)?;
    std::fs::write(files.path("client-ca"), authority.certificate())?;
    let edge = start(&shop, &files, true)?;
    let (known, stranger) = (authority.issue("function.example")?, other.issue("function.example")?);
    eventually("a client that is known is answered", SOON, || async {
        let (_, answer) = get(&edge, &authority, Some(&known), "/live").await?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
    })
    .await?;
    for client in [None, Some(&stranger)] {
        let answer = get(&edge, &authority, client, "/live").await;
        assert!(answer.as_ref().map_or(true, |(_, answer)| answer.is_empty()), "{answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_can_not_be_used_are_named_at_the_start() -> Result<()> {
    let shop = Shop::open().await?;
    let (authority, files) = (Authority::new("one")?, Files::new()?);
    files.install(&Issued { key: authority.issue("x.example")?.key, ..authority.issue("edge.example")? })?;
    let mut edge = start(&shop, &files, false)?;
    assert!(!edge.process().wait_exit(SOON).await?.success());
    let said = edge.log_text();
    assert!(said.contains("tls_cert") && !said.contains("PRIVATE"), "{said}");
    Ok(())
}
