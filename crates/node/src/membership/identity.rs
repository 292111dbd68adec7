//! The node's key: who we are, and how we prove it.
//!
//! One Ed25519 key in `identity.key` (PKCS#8 PEM, mode 0600). A node's name among peers is the
//! SHA-256 of the key's SubjectPublicKeyInfo ([`NodeId`]); certificates are made afresh at each
//! start, carry nothing that is believed, and never expire in a way that matters.
//! A key file that others may read is refused, not repaired.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use blockferry_delta::NodeId;
use rcgen::{CertificateParams, DistinguishedName, DnType, PKCS_ED25519};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::error::{Error, Result};

/// DER in front of the 32 key bytes of an Ed25519 SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Longest key file that is read, in bytes; a real one has about 200.
const KEY_FILE_BYTES_MAX: u64 = 8192;

/// A public key of a node: the 32 bytes of an Ed25519 key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes a SubjectPublicKeyInfo in DER; only Ed25519 is a node key.
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        let key = spki.strip_prefix(&SPKI_PREFIX)?;
        key.try_into().ok().map(Self)
    }

    /// Wraps the 32 bytes of a key. Whether they are one shows when a signature is checked.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The id of the node that holds this key: SHA-256 of the SubjectPublicKeyInfo.
    pub fn node_id(&self) -> NodeId {
        let mut spki = [0u8; 44];
        spki[..12].copy_from_slice(&SPKI_PREFIX);
        spki[12..].copy_from_slice(&self.0);
        let hash = digest::digest(&digest::SHA256, &spki);
        NodeId::from_bytes(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Whether `signature` is this key's over `statement`, made by [`Identity::sign`].
    pub fn verify(&self, statement: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(statement, signature).is_ok()
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.node_id().short())
    }
}

/// Our key with the certificate that carries it. Never printed, cheap to clone.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    pkcs8: PrivatePkcs8KeyDer<'static>,
    signer: Ed25519KeyPair,
    certificate: CertificateDer<'static>,
    public: PublicKey,
    id: NodeId,
}

impl Identity {
    /// A new key that no file holds.
    pub fn generate() -> Result<Self> {
        let (identity, _) = fresh()?;
        Ok(identity)
    }

    /// Makes a new key and writes it to `path` with mode 0600; refuses if the file exists.
    pub fn create(path: &Path) -> Result<Self> {
        let (identity, pem) = fresh()?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io("create", path, e))?;
        file.write_all(pem.as_bytes()).map_err(|e| Error::io("write", path, e))?;
        file.sync_all().map_err(|e| Error::io("sync", path, e))?;
        sync_parent(path)?;
        Ok(identity)
    }

    /// Reads the key of `path`; refuses a file that others may read or write (`KEY_UNSAFE`).
    pub fn load(path: &Path) -> Result<Self> {
        let file = fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let info = file.metadata().map_err(|e| Error::io("stat", path, e))?;
        let mode = info.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::KeyUnsafe { path: path.to_owned(), mode });
        }
        let invalid = |what: String| Error::KeyInvalid { path: path.to_owned(), what };
        let mut pem = Vec::new();
        file.take(KEY_FILE_BYTES_MAX)
            .read_to_end(&mut pem)
            .map_err(|e| Error::io("read", path, e))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|e| invalid(e.to_string()))?;
        from_pkcs8(key).map_err(|e| invalid(e.to_string()))
    }

    /// Reads the key of `path`, or makes one if there is no such file.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        match Self::load(path) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Self::create(path)
            }
            other => other,
        }
    }

    /// Our id.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// Our public key.
    pub fn public(&self) -> PublicKey {
        self.inner.public
    }

    /// Signs a statement, so that [`PublicKey::verify`] accepts it. Statements begin with what they
    /// are for (`blockferry receipt v1`), so that a signature for one purpose fits no other.
    pub fn sign(&self, statement: &[u8]) -> [u8; 64] {
        let signature = self.inner.signer.sign(statement);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// A secret for `purpose`, the same at every start with this key.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.inner.pkcs8.secret_pkcs8_der())
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.inner.certificate.clone()
    }

    pub(crate) fn private_key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.inner.pkcs8.clone_key()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.inner.id.short())
    }
}

/// Makes the name of a rename or a new file durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let dir = fs::File::open(parent).map_err(|e| Error::io("open", parent, e))?;
    dir.sync_all().map_err(|e| Error::io("sync", parent, e))
}

fn fresh() -> Result<(Identity, String)> {
    let pair = rcgen::KeyPair::generate_for(&PKCS_ED25519)
        .map_err(|_| Error::Crypto { what: "making a key" })?;
    let identity = from_pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()))?;
    Ok((identity, pair.serialize_pem()))
}

fn from_pkcs8(pkcs8: PrivatePkcs8KeyDer<'static>) -> Result<Identity> {
    let wrong = |_| Error::Crypto { what: "reading an Ed25519 key" };
    let signer = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8.secret_pkcs8_der())
        .map_err(|_| Error::Crypto { what: "reading an Ed25519 key" })?;
    let raw: [u8; 32] = signer
        .public_key()
        .as_ref()
        .try_into()
        .map_err(|_| Error::Crypto { what: "reading an Ed25519 key" })?;
    let public = PublicKey(raw);
    let id = public.node_id();
    let pair =
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519).map_err(wrong)?;
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(wrong)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.short());
    let certificate = params.self_signed(&pair).map_err(wrong)?;
    let certificate = certificate.der().clone();
    Ok(Identity { inner: Arc::new(Inner { pkcs8, signer, certificate, public, id }) })
}

/// The name asked for in TLS. It means nothing: keys are pinned.
pub(crate) const SERVER_NAME: &str = "blockferry.invalid";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("identity.key");
        let made = Identity::load_or_create(&path).expect("made");
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let read = Identity::load_or_create(&path).expect("read");
        assert_eq!(made.id(), read.id());
        assert!(matches!(Identity::create(&path), Err(Error::Io { .. })), "never overwritten");
        assert!(fs::read_to_string(&path).expect("text").starts_with("-----BEGIN PRIVATE KEY"));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("identity.key");
        Identity::create(&path).expect("made");
        for mode in [0o644, 0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let error = Identity::load(&path).expect_err("unsafe");
            assert_eq!(error.code(), "KEY_UNSAFE", "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("identity.key");
        let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("made");
        for text in [String::new(), "garbage".into(), p256.serialize_pem()] {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            assert_eq!(Identity::load(&path).expect_err("no key").code(), "KEY_INVALID");
        }
    }

    #[test]
    fn only_the_own_signature_over_the_same_statement_fits() {
        let (a, b) = (Identity::generate().expect("a"), Identity::generate().expect("b"));
        let signature = a.sign(b"statement");
        assert!(a.public().verify(b"statement", &signature));
        assert!(!a.public().verify(b"statemenT", &signature));
        assert!(!b.public().verify(b"statement", &signature));
        assert!(!a.public().verify(b"statement", &signature[1..]));
        assert!(!a.public().verify(b"statement", b""));
    }
}
