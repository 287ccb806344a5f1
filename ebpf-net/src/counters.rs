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
    17 Moved "moved",
    18 UnknownInterface "unknown_interface",
    19 SpoofedMac "spoofed_mac",
    20 SpoofedIp "spoofed_ip",
    21 Ipv6 "ipv6",
    22 Protocol "protocol",
    23 Malformed "malformed",
    24 NoEndpoint "no_endpoint",
    25 NoBackend "no_backend",
    26 NoConnection "no_connection",
    27 Multicast "multicast",
    28 Internal "internal",
    29 Isolation "isolation",
    30 NoOutbound "no_outbound",
    31 UnknownVtep "unknown_vtep",
    32 UnknownVni "unknown_vni",
    33 TunnelSpoof "tunnel_spoof",
    34 PortConflict "port_conflict",
    35 TooBig "too_big",
    36 Direct "direct",
    37 Rewrite "rewrite",
    38 Late "late",
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
