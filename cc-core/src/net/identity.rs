//! The cluster's CA, certificates that name node and role, and the TLS settings made of them.
//!
//! A certificate's one DNS name says who its holder is: `n3.<handle>.agent` for the agent
//! on node 3, `driver.<handle>.driver` for a driver. Names are checked, addresses never are:
//! nodes change theirs.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::ids::{Handle, NodeIndex};

/// What the holder of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A driver or tool of the cluster's owner.
    Driver,
    /// The agent of a node.
    Agent(NodeIndex),
}

/// Who the holder of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The cluster.
    pub handle: Handle,
    /// The role in it.
    pub role: Role,
}

impl Subject {
    /// The DNS name in the certificate.
    pub fn dns_name(&self) -> String {
        match self.role {
            Role::Driver => format!("driver.{}.driver", self.handle),
            Role::Agent(node) => format!("n{}.{}.agent", node.0, self.handle),
        }
    }

    /// Reads a DNS name from a certificate.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let (first, handle, last) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let handle = handle.parse().ok()?;
        let role = match last {
            "driver" if first == "driver" => Role::Driver,
            "agent" => Role::Agent(NodeIndex(first.strip_prefix('n')?.parse().ok()?)),
            _ => return None,
        };
        Some(Self { handle, role })
    }
}

/// What went wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate or key could not be made or read.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// PEM that is none.
    #[error("PEM: {0}")]
    Pem(String),
    /// TLS settings that rustls refuses.
    #[error("TLS settings: {0}")]
    Tls(String),
}

/// A certificate and its private key, in PEM, with the CA's certificate.
///
/// `Debug` leaves the key out.
#[derive(Clone)]
pub struct Credentials {
    /// The holder's certificate.
    pub certificate: String,
    /// The holder's private key.
    pub key: String,
    /// The cluster's CA.
    pub ca: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// The CA of one cluster. Its key stays on the machine that deployed the cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a CA for a cluster.
    ///
    /// # Errors
    /// Fails when the key cannot be made.
    pub fn create(handle: Handle) -> Result<(Self, String), IdentityError> {
        let key = KeyPair::generate()?;
        let pem = key.serialize_pem();
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("cluster {handle}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok((
            Self {
                issuer: Issuer::new(params, key),
                certificate,
            },
            pem,
        ))
    }

    /// Takes up a CA from its certificate and key, in PEM.
    ///
    /// # Errors
    /// Fails when they cannot be read.
    pub fn load(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key)?;
        Ok(Self {
            issuer,
            certificate: certificate.to_owned(),
        })
    }

    /// The CA's certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes a key and a certificate for a subject on this machine.
    ///
    /// # Errors
    /// Fails when the key cannot be made.
    pub fn issue(&self, subject: Subject) -> Result<Credentials, IdentityError> {
        let key = KeyPair::generate()?;
        let certificate = params(subject)?.signed_by(&key, &self.issuer)?.pem();
        Ok(Credentials {
            certificate,
            key: key.serialize_pem(),
            ca: self.certificate.clone(),
        })
    }

    /// Signs a request. Only its public key is taken from it: the subject is what the signer
    /// says.
    ///
    /// # Errors
    /// Fails when the request is malformed or not signed by its own key.
    pub fn sign(&self, request: &str, subject: Subject) -> Result<String, IdentityError> {
        let mut request = CertificateSigningRequestParams::from_pem(request)?;
        request.params = params(subject)?;
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

/// A private key, and a request for a certificate for it, both in PEM.
///
/// # Errors
/// Fails when the key cannot be made.
pub fn request(subject: Subject) -> Result<(String, String), IdentityError> {
    let key = KeyPair::generate()?;
    let request = params(subject)?.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn params(subject: Subject) -> Result<CertificateParams, IdentityError> {
    let dns = subject.dns_name();
    let mut params = CertificateParams::new(vec![dns.clone()])?;
    params.distinguished_name = name(&dns);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match subject.role {
        Role::Driver => vec![ExtendedKeyUsagePurpose::ClientAuth],
        // Agents connect to each other.
        Role::Agent(_) => {
            vec![
                ExtendedKeyUsagePurpose::ClientAuth,
                ExtendedKeyUsagePurpose::ServerAuth,
            ]
        }
    };
    Ok(params)
}

/// Who a peer is, from the certificate chain that TLS has checked.
pub fn peer_subject(connection: &quinn::Connection) -> Option<Subject> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let certificate = webpki::EndEntityCert::try_from(chain.first()?).ok()?;
    let mut names = certificate.valid_dns_names();
    let subject = Subject::parse(names.next()?)?;
    // A certificate of ours has one name.
    names.next().is_none().then_some(subject)
}

/// The application protocol that both ends must speak.
const ALPN: &[u8] = b"cloudclusters";

struct Parsed {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<rustls::RootCertStore>,
}

fn parse(credentials: &Credentials) -> Result<Parsed, IdentityError> {
    let pem = |e: rustls::pki_types::pem::Error| IdentityError::Pem(e.to_string());
    let certificate =
        CertificateDer::from_pem_slice(credentials.certificate.as_bytes()).map_err(pem)?;
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).map_err(pem)?;
    let ca = CertificateDer::from_pem_slice(credentials.ca.as_bytes()).map_err(pem)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).map_err(tls)?;
    Ok(Parsed {
        chain: vec![certificate],
        key,
        roots: Arc::new(roots),
    })
}

fn tls(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Tls(error.to_string())
}

/// ring's provider with AES-128-GCM first: the fastest here, and the whole negotiation is
/// between our own two ends.
fn crypto() -> Arc<rustls::crypto::CryptoProvider> {
    use rustls::crypto::ring;
    let suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    Arc::new(rustls::crypto::CryptoProvider {
        cipher_suites: suites,
        ..ring::default_provider()
    })
}

/// TLS settings of an agent: clients must show a certificate of the cluster's CA.
///
/// # Errors
/// Fails when the credentials cannot be read.
pub fn server_tls(
    credentials: &Credentials,
) -> Result<quinn::crypto::rustls::QuicServerConfig, IdentityError> {
    let Parsed { chain, key, roots } = parse(credentials)?;
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, crypto())
        .build()
        .map_err(tls)?;
    let mut config = rustls::ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.try_into().map_err(tls)
}

/// TLS settings of a driver, or of an agent that connects to another.
///
/// # Errors
/// Fails when the credentials cannot be read.
pub fn client_tls(
    credentials: &Credentials,
) -> Result<quinn::crypto::rustls::QuicClientConfig, IdentityError> {
    let Parsed { chain, key, roots } = parse(credentials)?;
    let mut config = rustls::ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.try_into().map_err(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_nobody() {
        let handle = Handle::random();
        for role in [
            Role::Driver,
            Role::Agent(NodeIndex(0)),
            Role::Agent(NodeIndex(4_000)),
        ] {
            let subject = Subject { handle, role };
            assert_eq!(Subject::parse(&subject.dns_name()), Some(subject));
        }
        for wrong in [
            "",
            "driver.x.driver",
            "n.abcdefghijklmno.agent",
            "localhost",
        ] {
            assert_eq!(Subject::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_authority_survives_being_written_down() {
        let handle = Handle::random();
        let (authority, key) = Authority::create(handle).unwrap();
        let again = Authority::load(authority.certificate(), &key).unwrap();
        let node = Subject {
            handle,
            role: Role::Agent(NodeIndex(1)),
        };
        let (key, csr) = request(node).unwrap();
        let certificate = again.sign(&csr, node).unwrap();
        let credentials = Credentials {
            certificate,
            key,
            ca: authority.certificate().to_owned(),
        };
        assert!(server_tls(&credentials).is_ok() && client_tls(&credentials).is_ok());
        assert!(!format!("{credentials:?}").contains("KEY"));
    }
}
