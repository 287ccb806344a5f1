//! Operators' certificates: those that were given are listed until they end, and some are called back before.

use crate::{
    CallError, Reply,
    commands::propose,
    pending::{Answer, Decision},
};
use muster_model::{
    Timestamp,
    cluster::{Cluster, OperatorCertificate},
    spec::Invalid,
};
use muster_state::{Change, Expect, FindError, Key};
use std::{sync::Arc, time::Duration};

/// Certificates that are listed at once: they are part of every snapshot.
const MAX: usize = 4096;
/// Of a certificate that is on no list, when it ends at the latest: no authority of ours gives one for longer.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A serial that is on no list must be whole: 20 bytes at most (RFC 5280, section 4.1.2.2), 8 random ones at least.
const SERIAL_DIGITS: std::ops::RangeInclusive<usize> = 15..=40;

/// Lists a certificate that is about to be given.
pub(crate) fn record(cluster: &Arc<Cluster>, now: Timestamp, new: &OperatorCertificate) -> Result<Decision, CallError> {
    let mut all = lasting(cluster, now);
    if all.len() >= MAX {
        let why = format!("{MAX} operators' certificates have not ended yet: no more are given before one has");
        return Err(CallError::Conflict(why));
    }
    all.push(new.clone());
    Ok(change(cluster, all, Vec::new()))
}

/// Calls back all of a name that have not been, or the one of a serial.
pub(crate) fn revoke(cluster: &Arc<Cluster>, now: Timestamp, name: &str) -> Result<Decision, CallError> {
    let mut all = lasting(cluster, now);
    let serial = OperatorCertificate::serial_of(name);
    let meant = |c: &OperatorCertificate| (!name.is_empty() && c.name == name) || c.serial == serial;
    let mut revoked = Vec::new();
    for certificate in all.iter_mut().filter(|c| meant(c) && c.revoked.is_none()) {
        certificate.revoked = Some(now);
        revoked.push(certificate.clone());
    }
    if revoked.is_empty() && all.iter().any(meant) {
        return Err(CallError::Conflict(format!("the certificate {name} was revoked before")));
    }
    if revoked.is_empty() {
        // Given by an earlier build, which kept no list.
        let is_serial = SERIAL_DIGITS.contains(&serial.len()) && serial.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_serial {
            return Err(CallError::NotFound(FindError::NotFound {
                kind: "operator's certificate",
                text: name.to_owned(),
            }));
        }
        if all.len() >= MAX {
            return Err(Invalid::new("serial", format!("{MAX} certificates are listed, and this one is not")).into());
        }
        let not_after = now.after(LONGEST);
        revoked.push(OperatorCertificate {
            serial,
            name: String::new(),
            issued: Timestamp(0),
            not_after,
            revoked: Some(now),
        });
        all.extend(revoked.clone());
    }
    Ok(change(cluster, all, revoked))
}

/// Without those that have ended: they open nothing anyway.
fn lasting(cluster: &Cluster, now: Timestamp) -> Vec<OperatorCertificate> {
    cluster.operators.iter().filter(|c| c.not_after >= now).cloned().collect()
}

fn change(cluster: &Arc<Cluster>, operators: Vec<OperatorCertificate>, revoked: Vec<OperatorCertificate>) -> Decision {
    let new = Cluster { operators, ..Cluster::clone(cluster) };
    let expects = vec![Expect::version(Key::Cluster, cluster.meta.version)];
    propose(expects, vec![Change::put(new)], Answer::Plain(Reply::Operators(revoked)))
}
