//! The cryptography of TLS: what Docker's clients use, from the library that encrypts frames too.
//!
//! The library's own choice adds algorithms that no certificate of a Docker host has, and their size.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use tokio_rustls::rustls::crypto::aws_lc_rs::{DEFAULT_CIPHER_SUITES, kx_group, sign};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms,
};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::sign::SigningKey;
use tokio_rustls::rustls::{Error, SignatureScheme};
use webpki::aws_lc_rs as webpki_algorithms;

/// All of it.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: DEFAULT_CIPHER_SUITES.to_vec(),
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        signature_verification_algorithms: SIGNATURES,
        secure_random: &Library,
        key_provider: &Library,
    }
}

#[derive(Debug)]
struct Library;

impl SecureRandom for Library {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        use aws_lc_rs::rand::SecureRandom;
        SystemRandom::new().fill(bytes).map_err(|_| GetRandomFailed)
    }
}

impl KeyProvider for Library {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        if let Ok(key) = sign::RsaSigningKey::new(&key) {
            return Ok(Arc::new(key));
        }
        match (sign::any_ecdsa_type(&key), &key) {
            (Ok(key), _) => Ok(key),
            (Err(_), PrivateKeyDer::Pkcs8(key)) => sign::any_eddsa_type(key),
            (Err(error), _) => Err(error),
        }
    }
}

/// Signatures of clients and of who vouches for them.
static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        webpki_algorithms::ECDSA_P256_SHA256,
        webpki_algorithms::ECDSA_P256_SHA384,
        webpki_algorithms::ECDSA_P384_SHA256,
        webpki_algorithms::ECDSA_P384_SHA384,
        webpki_algorithms::ECDSA_P521_SHA512,
        webpki_algorithms::ED25519,
        webpki_algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        webpki_algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        webpki_algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        webpki_algorithms::RSA_PKCS1_2048_8192_SHA256,
        webpki_algorithms::RSA_PKCS1_2048_8192_SHA384,
        webpki_algorithms::RSA_PKCS1_2048_8192_SHA512,
    ],
    // In TLS 1.2 a scheme does not say which curve it is on.
    mapping: &[
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[
                webpki_algorithms::ECDSA_P384_SHA384,
                webpki_algorithms::ECDSA_P256_SHA384,
            ],
        ),
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[
                webpki_algorithms::ECDSA_P256_SHA256,
                webpki_algorithms::ECDSA_P384_SHA256,
            ],
        ),
        (
            SignatureScheme::ECDSA_NISTP521_SHA512,
            &[webpki_algorithms::ECDSA_P521_SHA512],
        ),
        (SignatureScheme::ED25519, &[webpki_algorithms::ED25519]),
        (
            SignatureScheme::RSA_PSS_SHA512,
            &[webpki_algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY],
        ),
        (
            SignatureScheme::RSA_PSS_SHA384,
            &[webpki_algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY],
        ),
        (
            SignatureScheme::RSA_PSS_SHA256,
            &[webpki_algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY],
        ),
        (
            SignatureScheme::RSA_PKCS1_SHA512,
            &[webpki_algorithms::RSA_PKCS1_2048_8192_SHA512],
        ),
        (
            SignatureScheme::RSA_PKCS1_SHA384,
            &[webpki_algorithms::RSA_PKCS1_2048_8192_SHA384],
        ),
        (
            SignatureScheme::RSA_PKCS1_SHA256,
            &[webpki_algorithms::RSA_PKCS1_2048_8192_SHA256],
        ),
    ],
};
