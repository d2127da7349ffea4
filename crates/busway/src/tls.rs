//! Certificates: who we are, and whose signature we believe.
//!
//! A [`Tls`] is made of PEM texts: the certificate of the cluster's CA, our own, and its key. Links that have one are
//! encrypted with TLS 1.3 and nothing older. Who a peer is stands in its certificate, as the URI
//! `busway://CLUSTER/node/INDEX` or `busway://CLUSTER/client/NAME`; names of hosts play no part. This file does not move
//! bytes: that is `runtime/cipher.rs`.
//!
//! Invariant: a key that others can read is never used, and nothing shows a key, in no log and no `Debug`.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use busway_protocol::Principal;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    PeerIncompatible, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::error::{Code, Error};

/// Bytes of a file of certificates or keys: a hundred certificates. A larger one is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of our own certificates: with them, all that a handshake says at once fits the buffer of a fresh socket.
const CHAIN_BYTES_MAX: usize = 16 << 10;

/// Who we are on links, and whom we believe: certificates and a key.
///
/// `busway cert new` makes the files. Cloning copies nothing.
///
/// ```no_run
/// # fn main() -> Result<(), busway::Error> {
/// let tls = busway::Tls::from_files("pki/ca.pem", "pki/node-0.pem", "pki/node-0.key")?;
/// let bus = busway::Bus::open("default")?;
/// let listen = "0.0.0.0:4420".parse().expect("an address");
/// let node = busway::Node::builder().cluster("north").index(0).listen(listen).tls(tls).open(&bus)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    dial: Arc<ClientConfig>,
    /// `None` without a certificate of our own: then we can only dial.
    accept: Option<Arc<ServerConfig>>,
    /// The names in our own certificate.
    names: Vec<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("names", &self.0.names).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the CA's certificate, our own with those between it and the CA if there are any, and its key.
    ///
    /// # Errors
    /// [`Code::BadCredentials`]: a file cannot be read or holds something else, the key can be read by others, does not
    /// belong to the certificate, or the CA has not signed it.
    pub fn from_files(
        ca: impl AsRef<Path>,
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, Error> {
        let (ca, cert, key) = (ca.as_ref(), cert.as_ref(), key.as_ref());
        let secret = read_secret(key)?;
        Self::from_pem(&read(ca)?, &read(cert)?, &secret).map_err(|error| {
            if error.place().is_empty() { error.at(cert.display().to_string()) } else { error }
        })
    }

    /// As [`Tls::from_files`], of the texts themselves.
    ///
    /// # Errors
    /// [`Code::BadCredentials`], as there.
    pub fn from_pem(ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Self, Error> {
        let roots = roots_of(ca)?;
        let chain = certificates(cert, "the certificate")?;
        if chain.iter().map(|one| one.len()).sum::<usize>() > CHAIN_BYTES_MAX {
            return Err(bad(
                "the certificates are larger than 16 KiB together",
                "leave the CA's own one out",
            ));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            bad(format!("the key cannot be read: {error}"), "use the PEM file of the key")
        })?;
        let provider = Arc::new(ring::default_provider());
        check_signed(&chain, &roots, &provider)?;
        let names = names_of(&chain)?;
        let refuse = |error: rustls::Error| {
            bad(
                format!("certificate and key are of no use together: {error}"),
                "use the key of this certificate",
            )
        };
        let roots = Arc::new(roots);
        let dial = dialing(&roots, &provider)?
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(refuse)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            // Who has none is told so in words, after the handshake; or it has a token.
            .allow_unauthenticated()
            .build()
            .map_err(|error| bad(format!("the CA is of no use: {error}"), "use another CA"))?;
        let mut accept = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(refuse)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(refuse)?;
        // A link lives long, and who was let in by an old certificate must not come back by a ticket.
        accept.send_tls13_tickets = 0;
        accept.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self(Arc::new(Inner { dial: Arc::new(finished(dial)), accept: Some(Arc::new(accept)), names })))
    }

    /// For a client that shows a token and no certificate: it believes nodes whose certificate this CA has signed.
    ///
    /// # Errors
    /// [`Code::BadCredentials`]: the file cannot be read or holds no certificate.
    pub fn from_ca_file(ca: impl AsRef<Path>) -> Result<Self, Error> {
        let ca = ca.as_ref();
        Self::from_ca_pem(&read(ca)?).map_err(|error| error.at(ca.display().to_string()))
    }

    /// As [`Tls::from_ca_file`], of the text itself.
    ///
    /// # Errors
    /// [`Code::BadCredentials`], as there.
    pub fn from_ca_pem(ca: &[u8]) -> Result<Self, Error> {
        let roots = roots_of(ca)?;
        let provider = Arc::new(ring::default_provider());
        let dial = dialing(&Arc::new(roots), &provider)?.with_no_client_auth();
        Ok(Self(Arc::new(Inner { dial: Arc::new(finished(dial)), accept: None, names: Vec::new() })))
    }

    /// Who our own certificate says that we are in this cluster; `None` if we have none. The id of a client is
    /// [`Principal::id`].
    ///
    /// # Errors
    /// [`Code::BadCredentials`]: it is of another cluster, or names no member of one.
    pub fn identity(&self, cluster: &str) -> Result<Option<Principal>, Error> {
        self.own(cluster).map_err(|reason| bad(reason, "use a certificate of this cluster: busway cert new"))
    }

    pub(crate) fn dial(&self) -> Arc<ClientConfig> {
        self.0.dial.clone()
    }

    pub(crate) fn accept(&self) -> Option<Arc<ServerConfig>> {
        self.0.accept.clone()
    }

    /// Who our own certificate says that we are in this cluster; `None` if we have none.
    ///
    /// # Errors
    /// Why it does not say it.
    pub(crate) fn own(&self, cluster: &str) -> Result<Option<Principal>, String> {
        if self.0.accept.is_none() { Ok(None) } else { one_of(cluster, &self.0.names).map(Some) }
    }
}

/// Who a peer's certificate says that it is in this cluster.
///
/// # Errors
/// Why it does not say it.
pub(crate) fn principal_of(cluster: &str, chain: &[CertificateDer<'_>]) -> Result<Principal, String> {
    one_of(cluster, &names_of(chain).map_err(|error| error.cause().to_owned())?)
}

fn one_of(cluster: &str, names: &[String]) -> Result<Principal, String> {
    let mut ours = names.iter().filter_map(|name| Principal::of_uri(cluster, name));
    match (ours.next(), ours.next()) {
        (Some(principal), None) => Ok(principal),
        (Some(_), Some(_)) => Err(format!("the certificate names two members of cluster {cluster}")),
        (None, _) if names.is_empty() => Err("the certificate names no member of a cluster".to_owned()),
        (None, _) => {
            let names: Vec<String> = names.iter().map(|name| name.escape_debug().to_string()).collect();
            Err(format!("the certificate is of {}, not of a member of cluster {cluster}", names.join(", ")))
        }
    }
}

/// What went wrong with a peer's TLS, in words for those who have to put it right.
pub(crate) fn told(error: &rustls::Error) -> String {
    use rustls::Error as E;
    let text = match error {
        E::AlertReceived(alert) => {
            let what = match alert {
                AlertDescription::UnknownCA => "another CA has signed our certificate than the peer believes",
                AlertDescription::CertificateExpired => "our certificate has expired",
                AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                    "the peer refuses our certificate"
                }
                AlertDescription::ProtocolVersion => "the peer does not speak TLS 1.3",
                _ => return format!("TLS: the peer ended the handshake: {alert:?}"),
            };
            return format!("TLS: {what} (alert {alert:?})");
        }
        E::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the peer's certificate is not signed by our CA"
        }
        E::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the peer's certificate has expired"
        }
        E::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the peer's certificate is not valid yet; compare the clocks",
        E::NoCertificatesPresented => "the peer shows no certificate",
        E::PeerIncompatible(
            PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "the peer does not speak TLS 1.3",
        other => return format!("TLS: {other}"),
    };
    format!("TLS: {text}")
}

/// Any node of the CA: which one it must be is compared with the name in its certificate after the handshake.
#[derive(Debug)]
struct SignedByCa {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for SignedByCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

type Dialing = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn dialing(roots: &Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Dialing, Error> {
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| bad(format!("TLS 1.3 is not to be had: {error}"), "report this as a bug"))?;
    let verifier = Arc::new(SignedByCa { roots: roots.clone(), algorithms });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

fn finished(mut dial: ClientConfig) -> ClientConfig {
    dial.resumption = Resumption::disabled();
    dial.enable_sni = false;
    dial
}

fn bad(cause: impl Into<String>, remedy: &str) -> Error {
    Error::new(Code::BadCredentials, cause).remedy(remedy)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_file(path, |_| Ok(()))
}

/// A file that holds a secret: only its owner may read it.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, Error> {
    read_file(path, |mode| {
        if mode & 0o077 == 0 {
            return Ok(());
        }
        let place = path.display().to_string();
        let remedy = format!("chmod 600 {place}");
        Err(bad(format!("others may read this secret (mode {:03o})", mode & 0o777), &remedy).at(place))
    })
}

fn read_file(path: &Path, allowed: impl FnOnce(u32) -> Result<(), Error>) -> Result<Vec<u8>, Error> {
    let place = path.display().to_string();
    let refuse = |cause: String| bad(cause, "name a file that you may read").at(place.clone());
    let unreadable = |error: std::io::Error| refuse(format!("it cannot be read: {error}"));
    // A name of a pipe must not make us wait for who writes it.
    let mut open = std::fs::OpenOptions::new();
    let file = open.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    // Of the file that was opened, whatever its name leads to by now.
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(refuse("it is no regular file".to_owned()));
    }
    allowed(about.permissions().mode())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse("it is larger than 1 MiB".to_owned()));
    }
    Ok(bytes)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| {
        bad(format!("{what} cannot be read: {error}"), "use a PEM file, as of busway cert new")
    })?;
    if found.is_empty() {
        return Err(bad(
            format!("{what} is missing: there is none in the file"),
            "use a PEM file of certificates",
        ));
    }
    Ok(found)
}

fn roots_of(ca: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, "the certificate of the CA")? {
        roots.add(certificate).map_err(|error| {
            bad(format!("the certificate of the CA is of no use: {error}"), "use the one of busway cert new")
        })?;
    }
    Ok(roots)
}

/// A certificate that no peer would believe is found now, not at the first link. One that has expired may be believed
/// by a clock that is right.
fn check_signed(
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let Some((own, between)) = chain.split_first() else { return Ok(()) };
    let of_peer = |error: rustls::Error| {
        bad(format!("the certificate is of no use: {error}"), "use a certificate that this CA has signed")
    };
    let parsed = ParsedCertificate::try_from(own).map_err(of_peer)?;
    let algorithms = provider.signature_verification_algorithms.all;
    let now = UnixTime::now();
    match rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, algorithms)
    {
        Ok(()) => Ok(()),
        Err(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => {
            tracing::warn!(target: "busway::link", "our certificate is not valid today: peers will refuse it");
            Ok(())
        }
        Err(error) => Err(of_peer(error)),
    }
}

fn names_of(chain: &[CertificateDer<'_>]) -> Result<Vec<String>, Error> {
    let Some(own) = chain.first() else { return Ok(Vec::new()) };
    let parsed = webpki::EndEntityCert::try_from(own).map_err(|error| {
        bad(format!("the certificate cannot be read: {error}"), "use an X.509 certificate")
    })?;
    Ok(parsed.valid_uri_names().map(str::to_owned).collect())
}
