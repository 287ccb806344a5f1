//! Where the Docker API is served, as configuration writes it: unix sockets, and TCP with TLS.

use anyhow::{Context as _, bail};
use muster_docker_api::Role;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The port that Docker's clients expect TLS at.
const TLS_PORT: u16 = 2376;

/// One place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Unix(PathBuf),
    /// Always with TLS and client certificates.
    Tls(SocketAddr),
}

/// What TLS is done with. The files are read when the daemon starts and when it is told to reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate of this host, with those between it and the authority behind it. PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities whose clients are let in, PEM.
    pub ca: PathBuf,
    /// Who of them may do what; empty: every one everything.
    pub allow: Vec<Allowed>,
}

/// One entry of the list of those let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// A common name, or a DNS name, address, mail address or URI of the certificate's subjectAltName.
    pub name: String,
    pub role: Role,
}

/// As given, field by field.
#[derive(Debug, Default)]
pub struct TlsGiven {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub allow: Vec<String>,
}

/// Reads endpoints: `unix://PATH`, `tcp://IP[:PORT]`.
///
/// # Errors
/// Names the field and what would be accepted.
pub fn listens(field: &str, given: Option<Vec<String>>, default: PathBuf) -> anyhow::Result<Vec<Listen>> {
    let all = match given {
        None => vec![Listen::Unix(default)],
        Some(urls) => urls.iter().map(|url| listen(field, url)).collect::<anyhow::Result<_>>()?,
    };
    if all.is_empty() {
        bail!("{field}: expected at least one of unix://PATH and tcp://IP[:PORT]");
    }
    for (n, one) in all.iter().enumerate() {
        if all[..n].contains(one) {
            bail!("{field}: {one:?} is given twice");
        }
        if let Listen::Unix(path) = one {
            check_length(field, path)?;
        }
    }
    Ok(all)
}

fn listen(field: &str, url: &str) -> anyhow::Result<Listen> {
    let expected = || format!("{field}: {url:?}: expected unix:// and an absolute path, or tcp:// and IP[:PORT]");
    if let Some(path) = url.strip_prefix("unix://") {
        if !path.starts_with('/') {
            bail!(expected());
        }
        return Ok(Listen::Unix(path.into()));
    }
    let addr = url.strip_prefix("tcp://").with_context(expected)?.trim_end_matches('/');
    let with_port = addr.parse().or_else(|_| {
        let ip = addr.trim_start_matches('[').trim_end_matches(']');
        ip.parse().map(|ip| SocketAddr::new(ip, TLS_PORT))
    });
    with_port.map(Listen::Tls).ok().with_context(expected)
}

// sockaddr_un holds 108 bytes with the final zero (unix(7)).
fn check_length(field: &str, path: &Path) -> anyhow::Result<()> {
    if path.as_os_str().len() > 107 {
        bail!("{field}: {}: a socket's path has at most 107 bytes", path.display());
    }
    Ok(())
}

/// Reads the TLS fields, which belong to TCP endpoints and are needed by them.
///
/// # Errors
/// Names the field that is missing or of no use.
pub fn tls(given: TlsGiven, tcp: bool) -> anyhow::Result<Option<TlsFiles>> {
    let TlsGiven { cert, key, ca, allow } = given;
    let set = [("docker-tls-cert", cert.is_some()), ("docker-tls-key", key.is_some()), ("docker-tls-ca", ca.is_some())];
    if !tcp {
        let lists = [("docker-tls-allow", !allow.is_empty())];
        if let Some((field, _)) = set.iter().chain(&lists).find(|(_, given)| *given) {
            bail!("{field}: there is no tcp:// among docker-host and docker-cluster-host that it would be for");
        }
        return Ok(None);
    }
    let (Some(cert), Some(key), Some(ca)) = (cert, key, ca) else {
        let missing: Vec<_> = set.iter().filter(|(_, given)| !given).map(|(field, _)| *field).collect();
        bail!(
            "docker-host: the Docker API is root on this host, and over TCP it is served to clients with a certificate only: set {} too",
            missing.join(", ")
        );
    };
    let allow = allow.iter().map(|entry| allowed(entry)).collect::<anyhow::Result<_>>()?;
    Ok(Some(TlsFiles { cert, key, ca, allow }))
}

/// `NAME`, `NAME=full` or `NAME=read-only`. A name may hold `=` itself (URIs do): the role is what stands behind the last.
fn allowed(entry: &str) -> anyhow::Result<Allowed> {
    let (name, role) = match entry.rsplit_once('=') {
        None => (entry, Role::Full),
        Some((name, "full")) => (name, Role::Full),
        Some((name, "read-only")) => (name, Role::ReadOnly),
        Some((_, role)) => bail!("docker-tls-allow: {entry:?}: the role {role:?} is none of full and read-only"),
    };
    if name.trim().is_empty() {
        bail!("docker-tls-allow: {entry:?}: expected NAME, NAME=full or NAME=read-only");
    }
    Ok(Allowed { name: name.to_owned(), role })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(urls: &[&str]) -> anyhow::Result<Vec<Listen>> {
        listens("docker-host", Some(urls.iter().map(|u| (*u).to_owned()).collect()), "/d".into())
    }

    #[test]
    fn endpoints_are_sockets_and_addresses() {
        let all = of(&["unix:///run/x.sock", "tcp://127.0.0.1:2400", "tcp://0.0.0.0", "tcp://[::1]"]).expect("valid");
        let tls = |addr: &str| Listen::Tls(addr.parse().expect("an address"));
        assert_eq!(
            all,
            [Listen::Unix("/run/x.sock".into()), tls("127.0.0.1:2400"), tls("0.0.0.0:2376"), tls("[::1]:2376")]
        );
        assert_eq!(listens("docker-host", None, "/d".into()).expect("valid"), [Listen::Unix("/d".into())]);
        let long = format!("unix:///{}", "x".repeat(120));
        for bad in ["tcp://localhost:1", "tcp://", "unix://x", "fd://", "/x", "tcp://1.2.3.4:x", &long] {
            let e = of(&[bad]).expect_err(bad);
            assert!(e.to_string().contains("docker-host"), "{e}");
        }
        assert!(of(&["tcp://0.0.0.0", "tcp://0.0.0.0:2376"]).expect_err("twice").to_string().contains("twice"));
    }

    #[test]
    fn tcp_needs_certificates_and_certificates_need_tcp() {
        let given = |allow: &[&str]| TlsGiven {
            cert: Some("/c".into()),
            key: Some("/k".into()),
            ca: Some("/a".into()),
            allow: allow.iter().map(|a| (*a).to_owned()).collect(),
        };
        let refused = tls(TlsGiven { ca: None, ..given(&[]) }, true).expect_err("no CA").to_string();
        assert!(refused.contains("docker-tls-ca") && !refused.contains("docker-tls-key"), "{refused}");
        assert!(tls(given(&[]), false).expect_err("no TCP").to_string().contains("docker-tls-cert"));
        assert_eq!(tls(TlsGiven::default(), false).expect("nothing"), None);
        let files = tls(given(&["alice", "ci=read-only", "spiffe://x/y=z=full"]), true).expect("valid").expect("given");
        let allowed: Vec<_> = files.allow.iter().map(|a| (a.name.as_str(), a.role)).collect();
        assert_eq!(allowed, [("alice", Role::Full), ("ci", Role::ReadOnly), ("spiffe://x/y=z", Role::Full)]);
        for bad in ["ci=write", "=full", ""] {
            let e = tls(given(&[bad]), true).expect_err(bad);
            assert!(e.to_string().contains("docker-tls-allow"), "{e}");
        }
    }
}
