//! Operators' certificates: which are listed, and which are called back.

mod cluster;

use cluster::Cluster;
use muster_controller_core::{Call, CallError, Reply};
use muster_model::cluster::OperatorCertificate;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn give(c: &mut Cluster, serial: &str, name: &str, hours: u32) {
    let issued = c.state().time();
    let certificate = OperatorCertificate {
        serial: serial.into(),
        name: name.into(),
        issued,
        not_after: issued.after(HOUR * hours),
        revoked: None,
    };
    c.ok(Call::RecordOperator { certificate: Box::new(certificate) });
}

fn revoke(c: &mut Cluster, name: &str) -> Result<Vec<String>, CallError> {
    match c.call(Call::RevokeOperator { name: name.into() })? {
        Reply::Operators(revoked) => Ok(revoked.into_iter().map(|c| c.serial).collect()),
        other => panic!("{other:?}"),
    }
}

fn listed(c: &Cluster) -> Vec<(String, bool)> {
    let cluster = c.state().cluster().expect("founded");
    cluster.operators.iter().map(|c| (c.serial.clone(), c.revoked.is_some())).collect()
}

#[test]
fn a_name_calls_back_all_of_its_certificates_and_a_serial_one() {
    let mut c = Cluster::new(0);
    for (serial, name) in [("a1", "lab"), ("b2", "lab"), ("c3", "ci")] {
        give(&mut c, serial, name, 9);
    }
    assert_eq!(revoke(&mut c, "00:C3").expect("however it is written"), ["c3"]);
    assert_eq!(revoke(&mut c, "lab").expect("all"), ["a1", "b2"]);
    assert!(matches!(revoke(&mut c, "lab"), Err(CallError::Conflict(_))));
    for unknown in ["nobody", "", "d4", "not-hexadecimal-and-long"] {
        assert!(matches!(revoke(&mut c, unknown), Err(CallError::NotFound(_))), "{unknown}");
    }
    assert_eq!(listed(&c), [("a1".into(), true), ("b2".into(), true), ("c3".into(), true)]);
    // A new one of the name is not called back with the old ones.
    give(&mut c, "e5", "lab", 9);
    assert_eq!(revoke(&mut c, "lab").expect("the new one"), ["e5"]);
}

#[test]
fn a_whole_serial_that_is_on_no_list_is_called_back_all_the_same() {
    let mut c = Cluster::new(0);
    let serial = "3f00000000000000000000000000000000000001";
    assert_eq!(revoke(&mut c, serial).expect("called back"), [serial]);
    assert_eq!(listed(&c), [(serial.to_owned(), true)]);
}

#[test]
fn certificates_that_have_ended_are_listed_no_more_whether_or_not_they_were_called_back() {
    let mut c = Cluster::new(0);
    give(&mut c, "a1", "short", 1);
    give(&mut c, "b2", "gone", 1);
    give(&mut c, "c3", "long", 9);
    assert_eq!(revoke(&mut c, "gone").expect("called back"), ["b2"]);
    c.pass(HOUR * 2);
    give(&mut c, "d4", "new", 1);
    assert_eq!(listed(&c), [("c3".into(), false), ("d4".into(), false)]);
}
