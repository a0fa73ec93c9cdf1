use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How the connections to the origin are protected.
#[derive(Clone, Debug)]
pub(crate) enum Protection {
    /// Not at all.
    None,
    Tls(Tls),
}

/// What the origin has to show, and what is shown to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) verify: Verify,
    pub(crate) roots: Roots,
    /// Certificate chain and key, both PEM.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

/// What is checked of the origin's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Nothing: the line is encrypted, to whoever answers.
    Nothing,
    /// That a trusted authority issued it, to anybody.
    Chain,
    /// That a trusted authority issued it to this host.
    Name,
}

/// Which authorities are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Those that Mozilla trusts, as of this build.
    Public,
    /// Those of a PEM file.
    File(PathBuf),
}

impl Tls {
    /// What tokio-postgres connects with. Files are read now, so a renewed certificate counts from the next connection on.
    pub(crate) fn connector(&self) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let config = config.map_err(|error| format!("TLS: {error}"))?;
        let verifier = Verifier::new(self, provider)?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &self.client {
            None => config.with_no_client_auth(),
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("sslkey {} cannot be used: {error}", key.display()))?;
                let chain = certificates("sslcert", cert)?;
                let config = config.with_client_auth_cert(chain, key);
                config.map_err(|error| format!("sslcert and sslkey cannot be used: {error}"))?
            }
        };
        Ok(MakeRustlsConnect::new(config))
    }

    /// As the client of the change stream takes it: `sslmode`, and the file of `sslrootcert`.
    pub(crate) fn of_stream(&self) -> (&'static str, Option<&Path>) {
        let mode = match self.verify {
            Verify::Nothing => "require",
            Verify::Chain => "verify-ca",
            Verify::Name => "verify-full",
        };
        match &self.roots {
            Roots::File(file) => (mode, Some(file)),
            Roots::Public => (mode, None),
        }
    }
}

fn certificates(what: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| format!("{what} {shown} cannot be used: {error}"))?;
    if read.is_empty() { Err(format!("{what} {shown} holds no certificate in PEM")) } else { Ok(read) }
}

/// Checks as much of the origin's certificate as the operator asked for; signatures always.
#[derive(Debug)]
struct Verifier {
    verify: Verify,
    /// Not there when nothing is verified.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        if tls.verify == Verify::Nothing {
            return Ok(Verifier { verify: tls.verify, chain: None, provider });
        }
        let mut roots = RootCertStore::empty();
        match &tls.roots {
            Roots::Public => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Roots::File(file) => {
                for certificate in certificates("sslrootcert", file)? {
                    let added = roots.add(certificate);
                    added
                        .map_err(|error| format!("sslrootcert {} cannot be used: {error}", file.display()))?;
                }
            }
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let chain = chain.map_err(|error| format!("sslrootcert cannot be used: {error}"))?;
        Ok(Verifier { verify: tls.verify, chain: Some(chain), provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last: everything else was in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.verify == Verify::Chain => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What to do about a connection that TLS ended; `None` if it was something else. Waiting mends none of these.
pub(crate) fn refused_by_tls(error: &tokio_postgres::Error) -> Option<&'static str> {
    if error.to_string().contains("does not support TLS") || caused(error, "does not support TLS") {
        return Some("turn ssl on at the origin, or say sslmode=disable if the way to it is private");
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner.or(error.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(what)) => return Some(mend(what)),
            Some(rustls::Error::AlertReceived(_)) => {
                return Some(
                    "the origin ended the handshake: see its log; a role may need sslcert and sslkey",
                );
            }
            _ => cause = error.source(),
        }
    }
    None
}

fn caused(error: &tokio_postgres::Error, words: &str) -> bool {
    error.source().is_some_and(|source| source.to_string().contains(words))
}

fn mend(what: &CertificateError) -> &'static str {
    match what {
        // Another authority of the same name counts as unknown, too.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "give the certificate of its authority as sslrootcert"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "connect by a name that the certificate has, or have it issued to this one"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the origin's certificate and reload the server"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "look at the clocks of origin and edge"
        }
        _ => "the origin's certificate cannot be trusted",
    }
}
