//! What the kernel programs count, by name.

use std::fmt;

macro_rules! reasons {
    ($($index:literal $name:ident $text:literal,)+) => {
        /// Something that the kernel programs count. The order is that of `enum reason` in `bpf/layout.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($name = $index),+ }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Lower case, words joined by underscores: an attribute value of a metric.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

reasons! {
    0 Local "local",
    1 TunnelOut "tunnel_out",
    2 TunnelIn "tunnel_in",
    3 Arp "arp",
    4 Outbound "outbound",
    5 VipPacket "vip_packet",
    6 VipReply "vip_reply",
    7 Ingress "ingress",
    8 IngressReply "ingress_reply",
    9 SocketVip "socket_vip",
    10 SocketPublished "socket_published",
    11 SocketDns "socket_dns",
    12 Echo "echo",
    13 HostIn "host_in",
    14 HostOut "host_out",
    15 Neighbour "neighbour",
    16 Group "group",
    17 UnknownInterface "unknown_interface",
    18 SpoofedMac "spoofed_mac",
    19 SpoofedIp "spoofed_ip",
    20 Ipv6 "ipv6",
    21 Protocol "protocol",
    22 Malformed "malformed",
    23 NoEndpoint "no_endpoint",
    24 NoBackend "no_backend",
    25 NoConnection "no_connection",
    26 Multicast "multicast",
    27 Internal "internal",
    28 Isolation "isolation",
    29 NoOutbound "no_outbound",
    30 UnknownVtep "unknown_vtep",
    31 UnknownVni "unknown_vni",
    32 TunnelSpoof "tunnel_spoof",
    33 PortConflict "port_conflict",
    34 TooBig "too_big",
    35 Direct "direct",
    36 Rewrite "rewrite",
}

impl Reason {
    /// Counted packets of this kind went no further (they were dropped, or refused with a reset or an ICMP error).
    pub fn is_drop(self) -> bool {
        self >= Self::UnknownInterface
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named_in_the_order_of_the_kernel_programs() {
        let header = include_str!("../bpf/layout.h");
        let list =
            header.split("enum reason {").nth(1).and_then(|t| t.split("REASONS").next()).expect("the enum is there");
        let words = list.replace("/* drops */", "");
        let kernel: Vec<String> = words
            .split(',')
            .map(|w| w.trim().trim_start_matches("C_").trim_start_matches("D_").to_lowercase())
            .filter(|w| !w.is_empty())
            .collect();
        let ours: Vec<&str> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(kernel, ours);
        assert!(Reason::ALL.iter().enumerate().all(|(i, r)| *r as usize == i));
    }
}
