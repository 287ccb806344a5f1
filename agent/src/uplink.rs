//! The host's way out, as far as sizes go.

/// The MTU of the interface that the default route leaves by, in bytes; 1500 where there is none.
pub fn mtu() -> u16 {
    default_interface()
        .and_then(|name| std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok())
        .unwrap_or(1500)
}

/// `/proc/net/route` (proc_pid_net(5)): the interface of the route to 0.0.0.0.
fn default_interface() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/net/route").ok()?;
    let route = text
        .lines()
        .skip(1)
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|f| f.get(1) == Some(&"00000000"))?;
    route.first().map(|name| (*name).to_owned())
}
