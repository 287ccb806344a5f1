//! Options of single endpoints (`driver-opt`): heeded, refused by name, or kept as the notes of somebody else.

use muster_calls::{Error, Result};
use muster_model::engine::Strings;

/// The name of the interface in the container.
pub(super) const IFNAME_OPTION: &str = "com.docker.network.endpoint.ifname";

/// The namespace of Docker's options.
const OWN: &str = "com.docker.network.";

/// Checks the one option that the engine heeds itself on networks of plugins: the others are the plugin's.
///
/// # Errors
/// `Invalid` naming the option.
pub(crate) fn check_ifname(options: &Strings) -> Result<()> {
    match options.get(IFNAME_OPTION) {
        Some(name) if !is_ifname(name) => Err(Error::invalid(format!(
            "invalid endpoint option {IFNAME_OPTION}={name}: expected an interface name of 1 to 15 bytes, not lo"
        ))),
        _ => Ok(()),
    }
}

/// Refuses options of an endpoint that nobody would heed. Those outside of Docker's namespace ask nothing of any driver of
/// ours, and are kept and shown for whoever wrote them, as dockerd does.
///
/// # Errors
/// `Unimplemented`, `Invalid` naming the option.
pub(crate) fn check_driver_opts(options: &Strings) -> Result<()> {
    check_ifname(options)?;
    match options.iter().find(|(key, _)| *key != IFNAME_OPTION && (key.starts_with(OWN) || key.is_empty())) {
        Some((key, value)) => Err(Error::unimplemented(format!("endpoint option {key}={value}"))),
        None => Ok(()),
    }
}

/// Whether an option of a network is a note, as those of endpoints are. What has no namespace (`mtu`, `parent`) may be meant
/// for the driver, and is none.
pub(super) fn is_note(key: &str) -> bool {
    key.split('.').count() > 1 && !key.split('.').any(str::is_empty) && !key.starts_with(OWN)
}

fn is_ifname(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=15).contains(&name.len()) && name.bytes().all(good) && !matches!(name, "lo" | "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_an_endpoint_are_heeded_or_refused_by_name() {
        let of = |key: &str, value: &str| check_driver_opts(&[(key.to_owned(), value.to_owned())].into());
        assert!(of(IFNAME_OPTION, "lan0").is_ok());
        for bad in ["", "lo", "a/b", "0123456789abcdef"] {
            assert!(of(IFNAME_OPTION, bad).is_err(), "{bad}");
        }
        for unknown in ["com.docker.network.endpoint.colour", ""] {
            assert!(of(unknown, "1").expect_err("unknown").message.contains(&format!("{unknown}=1")));
        }
        assert!(of("com.example.x", "1").is_ok() && of("colour", "1").is_ok());
        assert!(
            is_note("com.example.x") && !is_note("colour") && !is_note("colour.") && !is_note("com.docker.network.x")
        );
    }
}
