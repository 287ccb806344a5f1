//! What the authority puts into certificates, and what it refuses to sign.

use crate::harness::{DAY, ca, cluster, issue, issue_at, node, now};
use muster_model::{ClusterId, Timestamp};
use muster_mtls::{Ca, CertRole, Credentials, Error, KeyRequest, Leaf, NodeIdentity};
use std::{os::unix::fs::PermissionsExt, time::Duration};

#[test]
fn a_certificate_says_node_cluster_role_and_lifetime() {
    let ca = ca();
    for role in [CertRole::Worker, CertRole::Manager, CertRole::Operator] {
        let at = now();
        let leaf = issue_at(&ca, 7, role, DAY, at).leaf().clone();
        assert_eq!(leaf.identity, NodeIdentity { node_id: node(7), cluster_id: cluster(), role });
        assert_eq!(leaf.not_after.as_secs(), at.after(DAY).as_secs());
        assert!(!leaf.expired(at) && leaf.expired(at.after(2 * DAY)));
    }
}

#[test]
fn only_the_key_of_a_request_is_taken() {
    // A request that asks to be a manager of that name: its names and subject go nowhere.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
    let mut params = rcgen::CertificateParams::new(vec![format!("manager.{}.muster", cluster())]).expect("params");
    params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "manager");
    let csr = params.serialize_request(&key).expect("csr");
    let identity = NodeIdentity { node_id: node(9), cluster_id: cluster(), role: CertRole::Worker };
    let leaf = ca().sign_csr(csr.der(), identity, DAY, now()).expect("signed");
    assert_eq!(NodeIdentity::from_certificate(&leaf).expect("readable"), identity);
    assert!(!leaf.windows(8).any(|w| w == b"manager."), "the asked-for name is in the certificate");
}

#[test]
fn what_is_no_proper_request_is_refused() {
    let ca = ca();
    let identity = NodeIdentity { node_id: node(1), cluster_id: cluster(), role: CertRole::Worker };
    let good = KeyRequest::new().expect("key");
    let mut forged = good.csr().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
    let p384 = rcgen::CertificateParams::default().serialize_request(&p384).expect("csr");
    for bad in [&b""[..], b"hello", &forged, &[0x30; 5000], p384.der()] {
        assert!(matches!(ca.sign_csr(bad, identity, DAY, now()), Err(Error::Csr(_))));
    }
    assert!(matches!(ca.sign_csr(good.csr(), identity, Duration::ZERO, now()), Err(Error::Lifetime(_))));
    let stranger = NodeIdentity { cluster_id: ClusterId::from_u128(5), ..identity };
    assert!(matches!(ca.sign_csr(good.csr(), stranger, DAY, now()), Err(Error::OtherCluster { .. })));
}

#[test]
fn an_authority_loads_from_its_certificate_and_key_and_signs_on() {
    let first = ca();
    let again = Ca::load(first.certificate(), first.key_der()).expect("loads");
    assert_eq!((again.cluster_id(), again.digest()), (first.cluster_id(), first.digest()));
    let credentials = issue(&again, 3, CertRole::Worker);
    assert!(credentials.with_roots(vec![first.certificate().clone()]).is_ok());
    let other = ca();
    assert!(matches!(Ca::load(first.certificate(), other.key_der()), Err(Error::Ca(_))));
    assert!(matches!(Ca::load(b"x", first.key_der()), Err(Error::Ca(_))));
}

#[test]
fn credentials_rest_in_one_private_file_and_come_back_whole() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("identity.pem");
    assert!(Credentials::load(&path).expect("no file is no error").is_none());
    let ca = ca();
    for id in [1, 2] {
        let saved = issue(&ca, id, CertRole::Manager);
        saved.save(&path).expect("saved");
        let loaded = Credentials::load(&path).expect("readable").expect("there");
        assert_eq!((loaded.leaf(), loaded.roots()), (saved.leaf(), saved.roots()));
    }
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing else is left behind");
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
    assert!(matches!(Credentials::load(&path), Err(Error::Content { .. })));
}

#[test]
fn a_key_without_its_certificate_or_a_root_of_another_cluster_is_refused() {
    let (a, b) = (ca(), ca());
    let credentials = issue(&a, 1, CertRole::Worker);
    assert!(matches!(credentials.with_roots(vec![]), Err(Error::Ca(_))));
    assert!(matches!(credentials.with_roots(vec![b.certificate().clone()]), Err(Error::Ca(_))));
    let foreign = Ca::create(ClusterId::from_u128(2), now()).expect("authority");
    let roots = vec![a.certificate().clone(), foreign.certificate().clone()];
    assert!(matches!(credentials.with_roots(roots), Err(Error::OtherCluster { .. })));
    let request = KeyRequest::new().expect("key");
    let leaf = KeyRequest::new().expect("key");
    let identity = NodeIdentity { node_id: node(1), cluster_id: cluster(), role: CertRole::Worker };
    let leaf = a.sign_csr(leaf.csr(), identity, DAY, now()).expect("signed");
    assert!(matches!(request.complete(leaf.to_vec(), vec![a.certificate().clone()]), Err(Error::Key(_))));
}

#[test]
fn renewal_is_due_at_two_thirds_of_the_life_give_or_take_a_tenth() {
    let leaf = Leaf {
        identity: NodeIdentity { node_id: node(1), cluster_id: cluster(), role: CertRole::Worker },
        serial: String::new(),
        not_before: Timestamp(0),
        not_after: Timestamp(3_000),
    };
    assert_eq!(leaf.renew_at(0.0), Timestamp(2_000));
    assert_eq!(leaf.renew_at(-1.0), Timestamp(1_700));
    assert_eq!(leaf.renew_at(9.0), Timestamp(2_300));
}
