//! Words of the command line that hold more than one thing: sizes, ports, mounts.

use muster_model::spec;
use std::time::Duration;

/// `1.5` CPUs as billionths.
pub(super) fn cpus(text: &str) -> Result<u64, String> {
    let n: f64 = text.parse().map_err(|_| format!("{text:?}: expected a number of CPUs, e.g. 0.5"))?;
    if n.is_finite() && (0.0..=100_000.0).contains(&n) {
        Ok((n * 1e9).round() as u64)
    } else {
        Err(format!("{text}: expected 0 to 100000"))
    }
}

/// `64m` as bytes; suffixes b, k, m, g as `docker` takes them.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &lower[number.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1u64 << 40,
        other => return Err(format!("{text:?}: {other:?} is no unit: expected b, k, m or g")),
    };
    let n: u64 = number.parse().map_err(|_| format!("{text:?}: expected a number and a unit, e.g. 64m"))?;
    n.checked_mul(unit).ok_or_else(|| format!("{text}: too large"))
}

/// `SERVICE=N` of `service scale`.
pub(super) fn scale(text: &str) -> Result<(String, u64), String> {
    let parsed = text.split_once('=').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
    parsed.filter(|(name, _)| !name.is_empty()).ok_or_else(|| format!("{text:?}: expected SERVICE=N, e.g. web=5"))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{text:?}: {e}: expected for example 10s"))
}

/// `KEY=VALUE`; a bare key has an empty value.
pub fn pair(text: &str) -> (String, String) {
    let (k, v) = text.split_once('=').unwrap_or((text, ""));
    (k.to_owned(), v.to_owned())
}

/// A `--publish` argument.
///
/// # Errors
/// What is wrong with it and what would be accepted.
pub fn port(text: &str) -> anyhow::Result<spec::PublishedPort> {
    let refuse = || {
        anyhow::anyhow!(
            "--publish {text:?}: expected [PUBLISHED:]TARGET[/tcp|/udp] or mode=host,published=P,target=T,protocol=tcp"
        )
    };
    let number = |t: &str| t.parse::<u16>().map_err(|_| refuse());
    let protocol = |t: &str| match t {
        "tcp" => Ok(muster_model::net::Protocol::Tcp),
        "udp" => Ok(muster_model::net::Protocol::Udp),
        _ => Err(refuse()),
    };
    let mut port = spec::PublishedPort::default();
    if text.contains('=') {
        for part in text.split(',') {
            match part.split_once('=').ok_or_else(refuse)? {
                ("mode", "host") => port.mode = spec::PublishMode::Host,
                ("mode", "ingress") => port.mode = spec::PublishMode::Ingress,
                ("published", p) => port.published = number(p)?,
                ("target", t) => port.target = number(t)?,
                ("protocol", p) => port.protocol = protocol(p)?,
                _ => return Err(refuse()),
            }
        }
        return if port.target == 0 { Err(refuse()) } else { Ok(port) };
    }
    let (ports, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    port.protocol = protocol(proto)?;
    match ports.split_once(':') {
        Some((p, t)) => (port.published, port.target) = (number(p)?, number(t)?),
        None => port.target = number(ports)?,
    }
    if port.target == 0 { Err(refuse()) } else { Ok(port) }
}

/// A `--mount` argument.
///
/// # Errors
/// As [`port`].
pub fn mount(text: &str) -> anyhow::Result<spec::Mount> {
    let refuse = || anyhow::anyhow!("--mount {text:?}: expected type=volume|bind|tmpfs,source=S,target=T[,readonly]");
    let mut mount = spec::Mount::default();
    for part in text.split(',') {
        match part.split_once('=').unwrap_or((part, "true")) {
            ("type", "volume") => mount.kind = spec::MountKind::Volume,
            ("type", "bind") => mount.kind = spec::MountKind::Bind,
            ("type", "tmpfs") => mount.kind = spec::MountKind::Tmpfs,
            ("source" | "src", s) => mount.source = s.to_owned(),
            ("target" | "dst" | "destination", t) => mount.target = t.to_owned(),
            ("readonly" | "ro", "true" | "1") => mount.read_only = true,
            ("readonly" | "ro", "false" | "0") => mount.read_only = false,
            _ => return Err(refuse()),
        }
    }
    if mount.target.is_empty() { Err(refuse()) } else { Ok(mount) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_both_forms() {
        let p = port("8080:80/udp").expect("valid");
        assert_eq!((p.published, p.target, p.protocol), (8080, 80, muster_model::net::Protocol::Udp));
        let p = port("mode=host,published=81,target=80").expect("valid");
        assert_eq!((p.published, p.mode), (81, spec::PublishMode::Host));
        for bad in ["", "x", "80:", "0", "70000", "80/sctp", "mode=none,target=1", "published=1"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_cpus_are_read_with_their_units() {
        assert_eq!(bytes("64m"), Ok(64 << 20));
        assert_eq!(cpus("1.5"), Ok(1_500_000_000));
        assert!(
            bytes("64x").is_err()
                && bytes("").is_err()
                && bytes("99999999999t").is_err()
                && cpus("-1").is_err()
                && cpus("NaN").is_err()
        );
    }

    #[test]
    fn mounts_are_read_word_by_word() {
        let m = mount("type=bind,src=/a,dst=/b,ro").expect("valid");
        assert_eq!(
            (m.kind, m.source.as_str(), m.target.as_str(), m.read_only),
            (spec::MountKind::Bind, "/a", "/b", true)
        );
        for bad in ["", "type=nfs,target=/b", "source=a", "target=/b,readonly=maybe", "target=/b,colour=red"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}
