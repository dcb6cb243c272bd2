//! TLS for clients that come over TCP, as the Docker daemon speaks it.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::config::{Paths, TlsFiles, read_small};

/// The largest file of certificates, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What is spoken inside, as the Docker daemon says it too.
const PROTOCOL: &[u8] = b"http/1.1";

/// A server's side of TLS, from files that may change.
pub(super) struct Tls {
    files: TlsFiles,
    paths: Paths,
    state: Mutex<State>,
}

struct State {
    acceptor: TlsAcceptor,
    /// What the files looked like when they were last read.
    seen: Vec<Option<Stamp>>,
    /// Why what they hold now is not used.
    stale: Option<String>,
}

/// Where a file's content is and since when.
type Stamp = (u64, u64, i64, i64);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files; the error names the setting and what would be right.
    pub(super) fn new(files: TlsFiles, paths: Paths) -> Result<Self, String> {
        let seen = stamps(&files, &paths);
        let state = State {
            acceptor: acceptor(&files, &paths)?,
            seen,
            stale: None,
        };
        Ok(Self {
            files,
            paths,
            state: Mutex::new(state),
        })
    }

    /// Whether clients need a certificate.
    pub(super) fn verifies(&self) -> bool {
        self.files.authority.is_some()
    }

    /// What lets the next client in. Files that have changed are read again; while they are no good,
    /// as in the middle of a renewal, what was there before goes on.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = stamps(&self.files, &self.paths);
        if seen != state.seen {
            state.seen = seen;
            match acceptor(&self.files, &self.paths) {
                Ok(acceptor) => {
                    tracing::info!("the certificates of Docker's API have changed");
                    state.acceptor = acceptor;
                    state.stale = None;
                }
                Err(error) => {
                    tracing::warn!(error, "certificates have changed, and are not used");
                    state.stale = Some(error);
                }
            }
        }
        state.acceptor.clone()
    }

    /// Why what the files hold now is not used.
    pub(super) fn stale(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stale.clone()
    }
}

fn stamps(files: &TlsFiles, paths: &Paths) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(paths.of_operator_anywhere(path)?).ok()?;
        let inode = found.ino();
        Some((inode, found.size(), found.mtime(), found.mtime_nsec()))
    };
    files.named().map(|(_, path)| stamp(path)).collect()
}

fn acceptor(files: &TlsFiles, paths: &Paths) -> Result<TlsAcceptor, String> {
    let wrong = |(flag, path): (&str, &PathBuf), error: &dyn fmt::Display| {
        format!("{flag}={}: {error}", path.display())
    };
    let read = |(flag, path): (&'static str, &PathBuf)| {
        let seen = paths.of_operator_anywhere(path).ok_or_else(|| {
            "it is not to be seen from here: the managed plugin sees what is below /run and \
             /var/lib/weave, a launched daemon also directories that were there when it was launched"
                .to_owned()
        });
        let bytes = seen.and_then(|seen| read_small(&seen, MAX_FILE));
        bytes.map_err(|error| wrong((flag, path), &error))
    };
    let certificates = |file: (&'static str, &PathBuf)| {
        let all = CertificateDer::pem_slice_iter(&read(file)?).collect::<Result<Vec<_>, _>>();
        match all {
            Ok(all) if !all.is_empty() => Ok(all),
            Ok(_) => Err(wrong(file, &"expected a certificate in PEM")),
            Err(error) => Err(wrong(file, &format_args!("expected PEM: {error}"))),
        }
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let file = ("--tlscacert", path);
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                let added = roots.add(certificate);
                added.map_err(|error| wrong(file, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|e| wrong(file, &e))?)
        }
    };
    let chain = certificates(("--tlscert", &files.certificate))?;
    let file = ("--tlskey", &files.key);
    let key = PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        PemError::NoItemsFound => wrong(file, &"expected a private key in PEM, not encrypted"),
        error => wrong(file, &format_args!("expected PEM: {error}")),
    })?;
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|error| {
        let text = format!(
            "expected the key of {}: {error}",
            files.certificate.display()
        );
        wrong(file, &text)
    })?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Clients keep their connection; one that resumed a session would be let in as it was once.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// Makes a certificate and its key, `NAME.pem` and `NAME.key`.
    fn make(dir: &Path, name: &str) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-subj", "/CN=x"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .arg("-out")
            .arg(dir.join(format!("{name}.pem")))
            .arg("-keyout")
            .arg(dir.join(format!("{name}.key")))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// A server's files in a directory; clients are verified by its own certificate.
    pub(in super::super) fn files(dir: &Path) -> TlsFiles {
        make(dir, "own");
        TlsFiles {
            authority: Some(dir.join("own.pem")),
            certificate: dir.join("own.pem"),
            key: dir.join("own.key"),
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let good = files(dir.path());
        make(dir.path(), "other");
        let wrong = |files: TlsFiles| Tls::new(files, Paths::of_host()).unwrap_err();
        let mut files = good.clone();
        files.key = dir.path().join("other.key");
        let error = wrong(files);
        assert!(
            error.starts_with("--tlskey=") && error.contains("own.pem"),
            "{error}"
        );
        for (content, said) in [
            ("", "expected a certificate"),
            ("-----BEGIN CERTIFICATE-----\n", "PEM"),
        ] {
            let mut files = good.clone();
            files.authority = Some(dir.path().join("bad.pem"));
            fs::write(dir.path().join("bad.pem"), content).unwrap();
            let error = wrong(files);
            assert!(
                error.starts_with("--tlscacert=") && error.contains(said),
                "{error}"
            );
        }
        let mut files = good.clone();
        files.certificate = "/nonexistent/cert.pem".into();
        let error = wrong(files);
        assert!(
            error.starts_with("--tlscert=/nonexistent/cert.pem: "),
            "{error}"
        );
        assert!(error.contains("managed plugin"), "{error}");
        let mut files = good;
        files.key = dir.path().to_owned();
        assert!(wrong(files).contains("not a regular file"));
    }

    #[test]
    fn files_that_change_are_read_again_and_used_once_they_are_good() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::new(files(dir.path()), Paths::of_host()).unwrap();
        tls.acceptor();
        assert_eq!(tls.stale(), None);
        make(dir.path(), "next");
        let renew = |name: &str| {
            let (from, to) = (format!("next.{name}"), format!("own.{name}"));
            fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
        };
        renew("pem");
        tls.acceptor();
        assert!(
            tls.stale()
                .is_some_and(|error| error.starts_with("--tlskey="))
        );
        renew("key");
        tls.acceptor();
        assert_eq!(tls.stale(), None);
    }
}
