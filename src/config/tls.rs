//! How the Docker API proxy speaks TLS, as the settings say.

use std::path::PathBuf;

use super::Settings;

/// From where the proxy knows how to speak TLS on TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSource {
    /// It is not to.
    Off,
    /// As the Docker daemon of this host does.
    Docker,
    /// From the settings; or why they do not do.
    Given(Result<TlsFiles, String>),
}

/// The files of a TLS server, by their paths on the host, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whose certificates clients need; `None` where they need none.
    pub authority: Option<PathBuf>,
    /// The server's own certificate, with those that lead to its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// All of them, with the settings that name them.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let authority = self.authority.iter().map(|path| ("--tlscacert", path));
        let own = [("--tlscert", &self.certificate), ("--tlskey", &self.key)];
        authority.chain(own)
    }
}

impl Settings {
    /// How the proxy speaks TLS. Whoever names a certificate wants it.
    pub fn proxy_tls(&self) -> TlsSource {
        let is_wanted = self.tls.0
            || self.tlsverify.0
            || [&self.tlscacert, &self.tlscert, &self.tlskey]
                .into_iter()
                .any(Option::is_some);
        match (is_wanted, self.no_detect_tls.0) {
            (true, _) => TlsSource::Given(self.tls_files()),
            (false, true) => TlsSource::Off,
            (false, false) => TlsSource::Docker,
        }
    }

    fn tls_files(&self) -> Result<TlsFiles, String> {
        let needed = |file: &Option<PathBuf>, flag: &str| {
            let file = file.clone();
            file.ok_or_else(|| format!("{flag} is missing: TLS needs this file"))
        };
        // An authority is there to verify clients.
        let authority = match self.tlsverify.0 || self.tlscacert.is_some() {
            true => Some(needed(&self.tlscacert, "--tlscacert")?),
            false => None,
        };
        Ok(TlsFiles {
            authority,
            certificate: needed(&self.tlscert, "--tlscert")?,
            key: needed(&self.tlskey, "--tlskey")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Paths;

    fn source(line: &str) -> TlsSource {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (settings, rejected) = Settings::load([], &words, &Paths::of_host());
        assert_eq!(rejected, []);
        settings.proxy_tls()
    }

    #[test]
    fn tls_is_as_given_else_as_docker_has_it() {
        assert_eq!(source(""), TlsSource::Docker);
        assert_eq!(source("--no-detect-tls"), TlsSource::Off);
        let given = |line: &str| match source(line) {
            TlsSource::Given(files) => files,
            other => panic!("{other:?}"),
        };
        let files = "--tlscacert=/t/ca.pem --tlscert /t/cert.pem --tlskey=/t/key.pem";
        let verified = given(&format!("--tlsverify {files}")).unwrap();
        assert_eq!(verified.authority, Some("/t/ca.pem".into()));
        let named: Vec<_> = verified.named().map(|(flag, _)| flag).collect();
        assert_eq!(named, ["--tlscacert", "--tlscert", "--tlskey"]);
        assert_eq!(given(files).unwrap(), verified);
        let unverified = given("--tls --tlscert=/t/cert.pem --tlskey=/t/key.pem").unwrap();
        assert_eq!(unverified.authority, None);
        let missing = given("--tls --tlscert=/t/cert.pem").unwrap_err();
        assert!(missing.contains("--tlskey is missing"), "{missing}");
        let missing = given("--tlsverify --tlscert=/t/c --tlskey=/t/k").unwrap_err();
        assert!(missing.contains("--tlscacert"), "{missing}");
    }
}
