//! HTTPS: certificates that can be replaced while the sidecar serves.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// The certificate in force.
pub(crate) struct Https {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl Https {
    pub(crate) fn new(files: &TlsFiles) -> anyhow::Result<Self> {
        Ok(Https { current: RwLock::new(Arc::new(load(files)?)), files: files.clone() })
    }

    /// For one connection: those that are open keep what they began with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Files whose change calls for [`Self::reload`].
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let TlsFiles { cert, key, client_ca } = &self.files;
        [cert, key].into_iter().chain(client_ca).cloned().collect()
    }

    /// Reads the files again. On an error the former certificate stays in force.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        let config = Arc::new(load(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }
}

fn load(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("tls_client_ca", file)? {
                roots.add(certificate).with_context(|| format!("tls_client_ca {}", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            config.with_client_cert_verifier(
                verifier.with_context(|| format!("tls_client_ca {}", file.display()))?,
            )
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("tls_key {} cannot be used", files.key.display()))?;
    let chain = certificates("tls_cert", &files.cert)?;
    let mut config = config.with_single_cert(chain, key).context("tls_cert and tls_key cannot be used")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(what: &str, file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.with_context(|| format!("{what} {} cannot be used", file.display()))?;
    ensure!(!read.is_empty(), "{what} {} holds no certificate in PEM", file.display());
    Ok(read)
}
