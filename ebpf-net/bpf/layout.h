/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What each map holds: the contract with src/layout.rs, which mirrors every struct and asserts its size.
 * Addresses and ports are in network byte order, everything else in the machine's. No struct has implicit padding. */
#pragma once
#include "kernel.h"

/* One entry: what the programs must know of this host. */
struct config {
    u32 vtep_ip;        /* 0: no tunnels */
    u32 uplink;         /* ifindex that tunnels leave through */
    u32 host_if;        /* ifindex of the device between the host's stack and remote endpoints; 0: none */
    u16 vxlan_port;
    u8 host_if_mac[6];
    u32 pad;
};

/* ifindex of a host side veth -> the one endpoint behind it. */
#define IFACE_INTERNAL 1        /* no way out of the network */
#define IFACE_ALONE 4           /* containers of the network do not reach each other directly */
#define IFACE_ROUTED 8          /* packets leave with the container's address */
#define IFACE_NO_OUTBOUND 2     /* the host has no route back to this endpoint: its address is used twice here */
struct iface {
    u32 scope, ip, subnet, mask, gateway, flags;
    u8 mac[6], host_mac[6];
};

/* (scope, address) -> where it lives. */
enum endpoint_kind { EP_LOCAL = 1, EP_REMOTE = 2, EP_VIP = 3, EP_GATEWAY = 4 };
struct endpoint_key { u32 scope, ip; };
struct endpoint {
    u32 kind;
    u32 ifindex;        /* local: host side veth */
    u32 vtep;           /* remote: tunnel address of its host */
    u32 count;          /* VIP: how many backends */
    u64 set;            /* VIP: which backends */
    u8 mac[6], host_mac[6]; /* local: both ends of the veth pair */
    u32 pad;
};

/* The same for IPv6, on networks of this host. */
struct iface6 { struct addr6 ip; };
struct endpoint6_key { u32 scope; struct addr6 ip; };   /* -> struct endpoint: local or gateway */
struct subnet6_key { u32 prefix; struct addr6 ip; };    /* longest prefix match -> scope */

/* (set, 0..count) -> backend. A set is never changed: another list of backends is another set. */
struct backend_key { u64 set; u32 index, pad; };
struct backend { u32 ip; u16 port; u16 pad; };  /* port 0: the port that was asked for */

struct published_key { u32 host_ip; u16 port; u8 proto, pad; }; /* host_ip 0: any address of the host */
struct published { u64 set; u32 count, scope; };

/* The same for IPv6: each leads to one container of this host. host_ip :: any address of the host. */
struct published6_key { struct addr6 host_ip; u16 port; u8 proto, pad; };
struct published6 { struct addr6 ip, gateway; u32 scope; u16 port, pad; };

/* cookie of a network namespace -> what the socket hooks do for it. */
#define NETNS_HOST 1
#define NETNS_HOST_V6 2         /* the host has an IPv6 address that its containers can answer to */
#define NETNS_SCOPES 16
struct netns {
    u32 flags;
    u16 dns_udp, dns_tcp;       /* 0: no DNS server there */
    u32 scopes;
    u32 scope[NETNS_SCOPES];
};

/* (scope, 0, 1, ...) -> ifindex of a host side veth: who is in a network, on this host. A gap ends the list. */
struct member_key { u32 scope, index; };

struct subnet_key { u32 prefix, ip; };  /* longest prefix match -> scope */

/* scope -> the network's MTU, and of what kind it is. */
#define NETWORK_MTU 0xffff
#define NETWORK_ROUTED 0x10000  /* what is forwarded to its containers is looked at on their own interfaces */

/* Connection tables: each translated connection has two entries that name each other, keyed by the packet as it is met. Both are in
 * the same table: that of opening ones, or that of those which are kept. */
enum conn_dir { DIR_FORWARD = 0, DIR_REPLY = 1 };
#define SCOPE_OUTSIDE 0xffffffff
struct conn_key { u32 scope, saddr, daddr; u16 sport, dport; u8 proto, dir; u16 pad; };
enum conn_action {
    CONN_ENDPOINT = 1,  /* rewrite, then to the endpoint (scope, daddr) */
    CONN_OUT = 2,       /* rewrite, then out of ifindex to a client outside */
    CONN_VIA = 3,       /* not rewritten: back through the tunnel to the node that the client came in through; from outside
                         * (vtep 0), answers to a container whose packets leave with its own address */
    CONN_LEFT = 4,      /* a backend that did not answer in time: the connection is another's, and what this one says is refused */
};
#define CONN_REPLIED 1
#define CONN_FIN_FORWARD 2
#define CONN_FIN_REPLY 4
#define CONN_RESET 8
#define CONN_ACKED_FORWARD 16   /* that side's FIN was acknowledged: all it sent has arrived */
#define CONN_ACKED_REPLY 32
#define CONN_ASSURED 64         /* who began it has heard the answer: it is no flood from a false address */
#define CONN_KEPT 128           /* the entry is in the table of those that are never pushed out */
struct conn {
    u64 seen;           /* coarse monotonic ns, exact to CONN_REFRESH */
    u32 saddr, daddr;   /* the packet after translation */
    u16 sport, dport;
    u32 scope;          /* where it is after translation: also the partner's key */
    u32 vtep, ifindex;
    u8 action, state;
    u16 owner;          /* the share that it is counted in: that of a container */
    u32 fin[2];         /* by direction: the acknowledgement number that confirms its FIN, or before all is assured what it
                         * sent last; network order */
    u32 pad2;
};

/* The same for IPv6. The connection's own address fields are not used. */
struct conn6_key { u32 scope; struct addr6 saddr, daddr; u16 sport, dport; u8 proto, dir; u16 pad; };
struct conn6 { struct conn c; struct addr6 saddr, daddr; };

/* What another host was asked and said, by its tunnel address: coarse monotonic ns. A host that was asked to open a connection and from
 * which nothing has come since is silent. */
#define HOSTS 4096
struct host { u64 asked, heard; };

/* Which backends were left by connections that had them from the socket programs: until when such connections may live, coarse monotonic
 * ns, by a hash of the backend's address. Only packets to and from such a one are looked up. */
#define LEFTS 4096

/* Where programs put together what does not fit on their stack, which is 512 bytes for all functions that are in the middle of a
 * call. */
struct scratch { struct conn_key key, other, held, held_other; struct conn entry; };
struct scratch6 { struct conn6_key key, other, held, held_other; struct conn6 entry; };

/* Who has how much of a table of kept connections, counted as share_weight does: SHARE_OWNERS counts, by a hash of the container's
 * address; then: */
#define SHARE_OWNERS 4096
#define SHARE_TOTAL SHARE_OWNERS        /* how many there are in all */
#define SHARE_CURSOR (SHARE_OWNERS + 1) /* where in the list of them the next one looks for a place */
#define SHARES (SHARE_OWNERS + 2)

/* Which ports the later fragments of a datagram belong to. */
struct frag_key { u32 scope, saddr, daddr; u16 id; u8 proto, pad; };
struct frag { u16 sport, dport; };
/* Of IPv6 also which protocol: more headers may stand between it and the fragment's. */
struct frag6_key { u32 scope; struct addr6 saddr, daddr; u32 id; };
struct frag6 { u16 sport, dport; u8 proto, pad[3]; };

/* Socket load balancer: what a socket was told it is connected to. */
struct peer_key { u64 socket; u32 ip; u16 port; u16 pad; };
struct peer { u32 ip; u16 port; u16 flags; };
#define PEER_WAS_V6_LOOPBACK 1
struct peer6_key { u64 socket; struct addr6 ip; u16 port; u16 pad; u32 pad2; };
struct peer6 { struct addr6 ip; u16 port; u16 pad; };

/* What a socket that sends datagrams without connecting was given for an address: it keeps it as long as the set. */
struct pick { u64 set; u32 ip; u16 port; u16 pad; };

/* src/counters.rs names them in this order. */
enum reason {
    C_LOCAL, C_TUNNEL_OUT, C_TUNNEL_IN, C_ARP, C_OUTBOUND, C_VIP_PACKET, C_VIP_REPLY, C_INGRESS, C_INGRESS_REPLY,
    C_SOCKET_VIP, C_SOCKET_PUBLISHED, C_SOCKET_DNS, C_ECHO, C_HOST_IN, C_HOST_OUT, C_NEIGHBOUR,
    C_GROUP, C_MOVED,
    /* drops */
    D_UNKNOWN_INTERFACE, D_SPOOFED_MAC, D_SPOOFED_IP, D_IPV6, D_PROTOCOL, D_MALFORMED, D_NO_ENDPOINT, D_NO_BACKEND,
    D_NO_CONNECTION, D_MULTICAST, D_INTERNAL, D_ISOLATION, D_NO_OUTBOUND, D_UNKNOWN_VTEP, D_UNKNOWN_VNI,
    D_TUNNEL_SPOOF, D_PORT_CONFLICT, D_TOO_BIG, D_DIRECT, D_REWRITE, D_LATE,
    REASONS,
};
