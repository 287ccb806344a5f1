//! What the client at a connection may do. At a unix socket the file's mode has decided; over TLS the certificate's names do.

use crate::fault::Fault;
use http::{Method, StatusCode};

/// How far a client may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Everything: as root on the host.
    #[default]
    Full,
    /// What changes nothing and gives no power: lists, inspections, logs, stats, events, files. Not join tokens.
    ReadOnly,
    /// Nothing but to be told so.
    Nothing,
}

/// A client, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub role: Role,
    /// Who it is, for messages and traces; empty at a unix socket.
    pub who: String,
}

/// Calls that are no GET or HEAD and change nothing.
const READS: &[&str] = &["/containers/{name}/wait"];
/// GET calls that do more than look: stdin of a container, and the secrets that let a host into the cluster.
const POWERS: &[&str] = &["/containers/{name}/attach/ws", "/swarm", "/swarm/unlockkey"];

impl Access {
    /// # Errors
    /// 403 that names the client and what it lacks.
    pub(crate) fn check(&self, method: &Method, pattern: &str) -> Result<(), Fault> {
        let looks = matches!(*method, Method::GET | Method::HEAD) && !POWERS.contains(&pattern);
        let lack = match self.role {
            Role::Full => return Ok(()),
            Role::ReadOnly if looks || READS.contains(&pattern) => return Ok(()),
            Role::ReadOnly => format!("it may only read, which {method} {pattern} is not"),
            Role::Nothing => "it is on no list of those that may use this endpoint".to_owned(),
        };
        Err(Fault::new(
            StatusCode::FORBIDDEN,
            format!("authorization denied for the certificate of {}: {lack}", self.who),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_looks_and_changes_nothing() {
        let of = |role| Access { role, who: "ci".into() };
        let may = |role, method: Method, pattern| of(role).check(&method, pattern).is_ok();
        assert!(may(Role::Full, Method::POST, "/containers/create"));
        assert!(may(Role::ReadOnly, Method::GET, "/containers/json"));
        assert!(may(Role::ReadOnly, Method::HEAD, "/_ping"));
        assert!(may(Role::ReadOnly, Method::POST, "/containers/{name}/wait"));
        for (method, pattern) in [
            (Method::POST, "/containers/create"),
            (Method::POST, "/exec/{name}/start"),
            (Method::DELETE, "/images/{name}"),
            (Method::PUT, "/containers/{name}/archive"),
            (Method::GET, "/swarm"),
            (Method::GET, "/containers/{name}/attach/ws"),
        ] {
            assert!(!may(Role::ReadOnly, method.clone(), pattern), "{method} {pattern}");
        }
        assert!(!may(Role::Nothing, Method::GET, "/_ping"));
        let refusal = of(Role::ReadOnly).check(&Method::POST, "/commit").expect_err("refused");
        assert!(refusal.status == StatusCode::FORBIDDEN && refusal.message.contains("ci"), "{refusal}");
    }
}
