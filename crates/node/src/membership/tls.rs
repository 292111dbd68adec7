//! TLS 1.3, mutual, pinned.
//!
//! Both sides prove the key they are known by. The verifiers look at nothing in a certificate but
//! its key, ask [`Trust`] (or the one id that was dialled) about it, and leave the proof of
//! possession to the provider's `verify_tls13_signature`: a copied certificate without its key is
//! refused. No resumption and no 0-RTT: each connection asks membership again.

use std::sync::Arc;

use blockferry_delta::NodeId;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    OtherError, PeerIncompatible, ServerConfig, SignatureScheme,
};

use crate::error::Result;
use crate::events::now_unix_ms;
use crate::membership::identity::{Identity, PublicKey};
use crate::membership::trust::{Standing, Trust};

/// What a connection is for; the handshake says it, so that a member can show a ticket too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Two members keep their stores equal.
    Session,
    /// A ticket is shown.
    Pairing,
}

impl Purpose {
    /// The protocol as ALPN names it. Its number is that of frames and hellos; which version of the
    /// messages is spoken the hellos say. A node that knows a later one offers that as well as this.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Purpose::Session => b"blockferry/1",
            Purpose::Pairing => b"blockferry-pairing/1",
        }
    }

    /// What `alpn` stands for.
    pub fn of_alpn(alpn: &[u8]) -> Option<Purpose> {
        [Purpose::Session, Purpose::Pairing].into_iter().find(|purpose| purpose.alpn() == alpn)
    }
}

/// Alert by which a peer learns that its key is unknown (TLS `access_denied`).
const ALERT_UNKNOWN: u8 = 49;
/// Alert by which a peer learns that its key was revoked (TLS `certificate_revoked`).
const ALERT_REVOKED: u8 = 44;
/// Alert by which a peer learns that it doesn't hold its certificate's key (TLS `decrypt_error`).
const ALERT_BAD_SIGNATURE: u8 = 51;

/// Alert by which a peer learns that it names no protocol that is spoken there (TLS
/// `no_application_protocol`).
const ALERT_NO_PROTOCOL: u8 = 120;

/// The stable code for a TLS alert of the other side.
pub fn code_of_alert(alert: u8) -> &'static str {
    match alert {
        ALERT_UNKNOWN => "PEER_UNKNOWN",
        ALERT_REVOKED => "PEER_REVOKED",
        ALERT_BAD_SIGNATURE => "TLS_BAD_SIGNATURE",
        ALERT_NO_PROTOCOL => "VERSION_UNSUPPORTED",
        _ => "TLS_REFUSED",
    }
}

/// How we answer: every client must prove a member's key, or knock with a ticket in hand.
pub fn server_config(identity: &Identity, trust: Arc<Trust>) -> Result<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Gate { trust, provider: provider.clone() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(identity), key(identity))?;
    config.alpn_protocols =
        [Purpose::Session, Purpose::Pairing].map(|p| p.alpn().to_vec()).to_vec();
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// How we dial: the other side must prove exactly the key of `expected`.
pub fn client_config(
    identity: &Identity,
    expected: NodeId,
    purpose: Purpose,
) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Pinned { expected, us: identity.id(), provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain(identity), key(identity))?;
    config.alpn_protocols = vec![purpose.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// The node key in a certificate. Anything but an Ed25519 key is refused.
pub fn key_of(certificate: &CertificateDer<'_>) -> Result<PublicKey, TlsError> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    PublicKey::from_spki(&parsed.subject_public_key_info())
        .ok_or(TlsError::InvalidCertificate(CertificateError::BadEncoding))
}

fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    vec![identity.certificate()]
}

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(identity.private_key())
}

/// What both verifiers do with the handshake's signature: the provider checks it, always.
fn prove(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, TlsError> {
    let algorithms = &provider.signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, algorithms)
}

/// The verifier of a listening node.
struct Gate {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl ClientCertVerifier for Gate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let id = key_of(end_entity)?.node_id();
        let standing = self.trust.standing(&id);
        if standing == Standing::Member || self.trust.may_knock(&id, now_unix_ms()) {
            return Ok(ClientCertVerified::assertion());
        }
        let refusal = match standing {
            Standing::Revoked => CertificateError::Revoked,
            _ => CertificateError::ApplicationVerificationFailure,
        };
        Err(TlsError::InvalidCertificate(refusal))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        prove(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// What a handshake says that met this node's own key at the other end.
pub const OWN_KEY: &str = "this node's own key answers there";

#[derive(Debug, thiserror::Error)]
#[error("{OWN_KEY}")]
struct OwnKey;

/// The verifier of a dialling node.
struct Pinned {
    expected: NodeId,
    us: NodeId,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pinned({})", self.expected.short())
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let found = key_of(end_entity)?.node_id();
        if found == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        let refusal = match found == self.us {
            true => CertificateError::Other(OtherError(Arc::new(OwnKey))),
            false => CertificateError::ApplicationVerificationFailure,
        };
        Err(TlsError::InvalidCertificate(refusal))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        prove(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConnection, ServerConnection};

    /// Runs a handshake in memory; the error of the side that refused.
    fn shake(client: ClientConfig, server: ServerConfig) -> Result<(), TlsError> {
        let name = ServerName::try_from(crate::membership::identity::SERVER_NAME).expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        for _ in 0..10 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).expect("into memory");
            }
            server.read_tls(&mut wire.as_slice()).expect("from memory");
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).expect("into memory");
            }
            client.read_tls(&mut wire.as_slice()).expect("from memory");
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(())
    }

    fn pair() -> (Identity, Identity, Arc<Trust>) {
        let (hub, branch) = (Identity::generate().expect("hub"), Identity::generate().expect("b"));
        let trust = Arc::new(Trust::default());
        trust.admit(branch.id());
        (hub, branch, trust)
    }

    fn refusal(result: Result<(), TlsError>) -> CertificateError {
        match result {
            Err(TlsError::InvalidCertificate(error)) => error,
            other => panic!("expected a refused certificate, got {other:?}"),
        }
    }

    #[test]
    fn members_meet() {
        let (hub, branch, trust) = pair();
        let client = client_config(&branch, hub.id(), Purpose::Session).expect("client");
        let server = server_config(&hub, trust).expect("server");
        shake(client, server).expect("members meet");
    }

    #[test]
    fn of_several_protocols_the_one_in_common_is_spoken() {
        let (hub, branch, trust) = pair();
        let naming = |names: &[&str]| {
            let mut client = client_config(&branch, hub.id(), Purpose::Session).expect("client");
            client.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            let server = server_config(&hub, trust.clone()).expect("server");
            shake(client, server)
        };
        naming(&["blockferry/2", "blockferry/1"]).expect("one of a later version knows this one");
        let none = naming(&["blockferry/2", "h3"]);
        assert!(matches!(none, Err(TlsError::NoApplicationProtocol)), "{none:?}");
        assert_eq!(code_of_alert(ALERT_NO_PROTOCOL), "VERSION_UNSUPPORTED");
    }

    #[test]
    fn an_unknown_key_is_refused_unless_a_ticket_is_out() {
        let (hub, _, trust) = pair();
        let stranger = Identity::generate().expect("stranger");
        let client = || client_config(&stranger, hub.id(), Purpose::Session).expect("client");
        let server = || server_config(&hub, trust.clone()).expect("server");
        let error = refusal(shake(client(), server()));
        assert_eq!(error, CertificateError::ApplicationVerificationFailure);
        trust.set_tickets(i64::MAX, 1);
        shake(client(), server()).expect("may knock");
        trust.set_tickets(1, 1);
        assert!(shake(client(), server()).is_err(), "the ticket ran out");
    }

    #[test]
    fn a_revoked_key_is_refused_even_while_an_old_ticket_is_out() {
        let (hub, branch, trust) = pair();
        trust.revoke(branch.id(), 1000);
        trust.set_tickets(i64::MAX, 999);
        let client = client_config(&branch, hub.id(), Purpose::Session).expect("client");
        let error = refusal(shake(client, server_config(&hub, trust).expect("server")));
        assert_eq!(error, CertificateError::Revoked);
    }

    #[test]
    fn another_node_at_the_dialled_address_is_refused() {
        let (hub, branch, trust) = pair();
        let client = client_config(&branch, branch.id(), Purpose::Session).expect("client");
        let error = refusal(shake(client, server_config(&hub, trust).expect("server")));
        assert_eq!(error, CertificateError::ApplicationVerificationFailure);
    }

    /// A signer that shows a certificate whose key it doesn't hold.
    fn impostor(victim: &Identity, own: &Identity) -> Arc<rustls::sign::CertifiedKey> {
        let signer = aws_lc_rs::sign::any_eddsa_type(&own.private_key()).expect("a key");
        Arc::new(rustls::sign::CertifiedKey::new(vec![victim.certificate()], signer))
    }

    #[derive(Debug)]
    struct Shows(Arc<rustls::sign::CertifiedKey>);

    impl rustls::client::ResolvesClientCert for Shows {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
        fn has_certs(&self) -> bool {
            true
        }
    }

    impl rustls::server::ResolvesServerCert for Shows {
        fn resolve(
            &self,
            _: rustls::server::ClientHello<'_>,
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
    }

    #[test]
    fn the_right_certificate_with_another_key_is_refused() {
        let (hub, branch, trust) = pair();
        let thief = Identity::generate().expect("thief");
        let mut client = client_config(&branch, hub.id(), Purpose::Session).expect("client");
        client.client_auth_cert_resolver = Arc::new(Shows(impostor(&branch, &thief)));
        let server = server_config(&hub, trust.clone()).expect("server");
        assert_eq!(refusal(shake(client, server)), CertificateError::BadSignature);

        let client = client_config(&branch, hub.id(), Purpose::Session).expect("client");
        let mut server = server_config(&hub, trust).expect("server");
        server.cert_resolver = Arc::new(Shows(impostor(&hub, &thief)));
        assert_eq!(refusal(shake(client, server)), CertificateError::BadSignature);
    }

    #[test]
    fn a_client_without_certificate_is_refused() {
        let (hub, branch, trust) = pair();
        let mut client = client_config(&branch, hub.id(), Purpose::Session).expect("client");
        client.client_auth_cert_resolver = Arc::new(NoCertificate);
        let result = shake(client, server_config(&hub, trust).expect("server"));
        assert!(matches!(result, Err(TlsError::NoCertificatesPresented)), "{result:?}");
    }

    #[derive(Debug)]
    struct NoCertificate;

    impl rustls::client::ResolvesClientCert for NoCertificate {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            None
        }
        fn has_certs(&self) -> bool {
            false
        }
    }

    #[test]
    fn alerts_have_codes() {
        assert_eq!(code_of_alert(49), "PEER_UNKNOWN");
        assert_eq!(code_of_alert(44), "PEER_REVOKED");
        assert_eq!(code_of_alert(51), "TLS_BAD_SIGNATURE");
        assert_eq!(code_of_alert(40), "TLS_REFUSED");
    }
}
