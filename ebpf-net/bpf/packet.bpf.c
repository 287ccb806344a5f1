/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The packet programs: from_container (ingress of each host side veth), to_container (egress of some of them), from_uplink (ingress
 * of each uplink), from_host (egress of the device that leads from the host's stack to remote endpoints). */
#include "deliver.h"
#include "v6.h"

inline int backend_lives(struct conn *c)
{
    struct endpoint *e = find_endpoint(c->scope, c->daddr);
    return e && (e->kind == EP_LOCAL || e->kind == EP_REMOTE);
}

/* The entry that a packet to a front (VIP, published port) shall follow; null: choose a backend anew. A repeated SYN
 * follows the first one. To a connection that lives a SYN belongs too, be it only that somebody with a false address would end it: the
 * backend knows what to say to it (RFC 5961, section 4). */
inline struct conn *front_conn(struct conn_key *key, struct packet *p)
{
    struct conn *c = conn_find(key);
    if (!c || !backend_lives(c))
        return 0;
    return is_first_syn(p) && conn_over(c, IP_TCP, time_coarse_ns()) ? 0 : c;
}

/* Begins a connection of p, which is for a front, to the backend that was chosen. */
outlined to_backend(struct __sk_buff *skb, struct packet *p, struct iface *from, struct choice *b)
{
    if (!p || !from || !b)
        return TC_ACT_SHOT;
    u32 scope = from->scope;
    /* A container that is its own backend would answer itself directly: its request comes from the gateway. */
    struct conn to = { .saddr = b->ip == p->saddr ? from->gateway : p->saddr, .daddr = b->ip,
                       .dport = b->port ? b->port : p->dport, .scope = scope };
    if (conn_open(p, scope, &to, 0, 0))
        return drop(D_PORT_CONFLICT);
    if (rewrite(skb, p, 0, to.saddr, to.sport) || rewrite(skb, p, 1, to.daddr, to.dport))
        return drop(D_REWRITE);
    count(C_VIP_PACKET);
    return deliver(skb, p, scope);
}

/* The socket that sent this SYN has sent it before. */
inline int socket_repeats(struct __sk_buff *skb)
{
    struct bpf_sock *sk = skb->sk;
    if (!sk || !(sk = full_socket(sk)))
        return 0;
    struct bpf_tcp_sock *tcp = tcp_socket(sk);
    return tcp && tcp->total_retrans;
}

/* What the socket that sent p asked for when it was given this backend; 0: this very address. */
inline u32 socket_asked(struct __sk_buff *skb, struct packet *p)
{
    struct peer_key key = { .socket = socket_cookie(skb), .ip = p->daddr, .port = p->dport };
    struct peer *asked = map_lookup(&peers, &key);
    return asked ? asked->ip : 0;
}

enum leaving { STAYS, FOLLOWS, LEAVES };

/* A SYN to a backend, or any segment to one that connections left. A socket that was given the backend for a VIP knows no other: when
 * it repeats its SYN, the connection is led to another backend from here on (LEAVES, to b), whose packets come back as if from the
 * first. FOLLOWS: it is led already. */
outlined leave_backend(struct __sk_buff *skb, struct packet *p, u32 scope, struct choice *b)
{
    if (!p || !b)
        return STAYS;
    int left = was_left(scope, p->daddr);
    struct conn_key key, back;
    conn_key_of(&key, p, scope, DIR_FORWARD);
    struct conn *c = left ? front_conn(&key, p) : 0;
    u32 backend = p->daddr;
    if (c) {
        if (!conn_is_unanswered(c, p)) {
            keep_left(scope, p->daddr);
            return FOLLOWS;
        }
        backend = c->daddr;
    }
    if (!is_first_syn(p))
        return STAYS;
    conn_direct_back(&back, p, scope);
    b->scope = scope;
    b->unanswered = backend;
    u32 asked = c || socket_repeats(skb) ? socket_asked(skb, p) : 0;
    struct endpoint *vip = asked ? find_endpoint(scope, asked) : 0;
    if (!vip || vip->kind != EP_VIP || choose_of_vip(b, asked, vip) || b->ip == b->unanswered) {
        if (c)
            return FOLLOWS;
        if (left) {     /* another connection, to this very backend: what was of an earlier one is none of its */
            map_delete(&opening, &back);
            map_delete(&opening, &key);
            conn_drop(&key);
        }
        return STAYS;
    }
    if (c)
        conn_leave(&key, c);
    else
        conn_leave_at(&back);
    keep_left(scope, p->daddr);
    return LEAVES;
}

/* A packet to a VIP from a socket that the socket hooks did not see. */
inline int to_vip(struct __sk_buff *skb, struct packet *p, struct iface *from, struct endpoint *vip)
{
    u32 scope = from->scope;
    if (is_icmp_echo(p))
        return answer_echo(skb, p);
    if (!is_tcp_or_udp(p))
        return drop(D_PROTOCOL);
    struct conn_key key;
    conn_key_of(&key, p, scope, DIR_FORWARD);
    struct conn *c = front_conn(&key, p);
    if (c && !conn_is_unanswered(c, p))
        return follow(skb, p, &key, c, C_VIP_PACKET);
    if (p->later_fragment)
        return drop(D_NO_CONNECTION);
    if (p->proto == IP_TCP && !is_first_syn(p))
        return answer_reset(skb, p, D_NO_CONNECTION);
    struct choice b = { .scope = scope, .unanswered = c ? c->daddr : 0 };
    if (choose_of_vip(&b, p->daddr, vip))
        return refuse(skb, p, D_NO_BACKEND);
    if (c && b.ip == b.unanswered)
        return follow(skb, p, &key, c, C_VIP_PACKET);
    if (c)
        conn_leave(&key, c);
    return to_backend(skb, p, from, &b);
}

/* A packet to a published port. key: the packet as it was met; c: the connection it belongs to, null for a new one to `pub`.
 * source: the address that the backend shall see (0: the client's own); out: the uplink it came from, 0 for a container of
 * ours. */
inline int to_published(struct __sk_buff *skb, struct packet *p, struct conn_key *key, struct conn *c, u32 source,
                        u32 out, struct published *pub)
{
    int unanswered = c && conn_is_unanswered(c, p);
    struct choice b = { .scope = pub->scope, .unanswered = unanswered ? c->daddr : 0 };
    if ((!c || unanswered) && choose_of_published(&b, p->daddr, p->dport, p->proto, pub))
        return refuse(skb, p, D_NO_BACKEND);
    if (!c || (unanswered && b.ip != b.unanswered)) {
        if (c)
            conn_leave(key, c);
        struct conn to = { .saddr = source ? source : p->saddr, .daddr = b.ip, .dport = b.port ? b.port : p->dport,
                           .scope = pub->scope };
        if (conn_open(p, key->scope, &to, !source, out))
            return drop(D_PORT_CONFLICT);
        c = map_lookup(&opening, key);
        if (!c)
            return drop(D_NO_CONNECTION);
    }
    struct endpoint *e = find_endpoint(c->scope, c->daddr);
    u32 scope = c->scope;
    u32 *network = map_lookup(&networks, &scope), mtu = network ? *network & NETWORK_MTU : 0;
    if (e && e->kind == EP_REMOTE && mtu && p->len > mtu && skb->gso_segs <= 1) {
        if (p->dont_fragment && out)
            return answer_unreachable(skb, p, 4, mtu, D_TOO_BIG);
        return drop(D_TOO_BIG);
    }
    return follow(skb, p, key, c, C_INGRESS);
}

/* A router on the way to a client says that an answer of ours was too big or got nowhere (RFC 792, RFC 1191): it quotes what the client
 * would have got, and the backend must hear it of what it sent. In the quoted header the changes of address and checksum cancel
 * each other out in the sum over all; the port remains to be told to it. */
inline int icmp_error_to_backend(struct __sk_buff *skb, struct packet *p)
{
    struct ipv4 q;
    u16 ports[2];
    u32 at = p->l4 + 8;
    if (skb_load(skb, at, &q, sizeof q) || q.version_ihl != 0x45 || (q.frag & htons(0x1fff)) ||
        (q.proto != IP_TCP && q.proto != IP_UDP) || skb_load(skb, at + sizeof q, ports, sizeof ports))
        return TC_ACT_UNSPEC;
    struct conn_key key = { .scope = SCOPE_OUTSIDE, .saddr = q.daddr, .daddr = q.saddr, .sport = ports[1],
                            .dport = ports[0], .proto = q.proto, .dir = DIR_FORWARD };
    struct conn *c = conn_find(&key);
    if (!c)
        return TC_ACT_UNSPEC;
    u32 scope = c->scope, backend = c->daddr;
    u16 quoted_ports[2] = { c->dport, c->sport };
    if (l3_csum_replace(skb, at + 10, q.saddr, backend, 4) || skb_store(skb, at + 12, &backend, 4, 0) ||
        l4_csum_replace(skb, p->l4 + 2, ports[0], quoted_ports[0], 2) ||
        l4_csum_replace(skb, p->l4 + 2, ports[1], quoted_ports[1], 2) ||
        skb_store(skb, at + sizeof q, quoted_ports, sizeof quoted_ports, 0) || rewrite(skb, p, 1, backend, 0))
        return drop(D_REWRITE);
    count(C_INGRESS);
    return deliver(skb, p, scope);
}

/* An ICMP error about what a container sent out with its own address. */
inline int is_expected_error(struct __sk_buff *skb, struct packet *p)
{
    struct { struct ipv4 ip; u16 ports[2]; } q;
    if (p->proto != IP_ICMP || (p->icmp_type != 3 && p->icmp_type != 11 && p->icmp_type != 12) || p->later_fragment ||
        skb_load(skb, p->l4 + 8, &q, sizeof q) || q.ip.version_ihl != 0x45 || q.ip.saddr != p->daddr)
        return 0;
    int ports = q.ip.proto == IP_TCP || q.ip.proto == IP_UDP;
    struct conn_key key = { .scope = SCOPE_OUTSIDE, .saddr = q.ip.daddr, .daddr = q.ip.saddr,
                            .sport = ports ? q.ports[1] : 0, .dport = ports ? q.ports[0] : 0, .proto = q.ip.proto,
                            .dir = DIR_REPLY };
    return conn_find(&key) != 0;
}

inline int is_group_address(u32 ip, struct iface *from)
{
    return (ip & htonl(0xf0000000)) == htonl(0xe0000000) || ip == 0xffffffff ||
           (from->mask != 0xffffffff && ip == (from->subnet | ~from->mask));
}

/* To an address of the host itself: a published port, or its own services. From an internal network it hears answers, so that it can
 * check on its containers, and what is sent to the network's own gateway where the host has that address, as Docker's
 * internal bridges let be; but no published port, which would lead into another network. */
inline int to_host(struct __sk_buff *skb, struct packet *p, struct iface *from)
{
    if (is_tcp_or_udp(p)) {
        struct published *pub = find_published(p->daddr, p->dport, p->proto);
        if (pub && (from->flags & IFACE_INTERNAL) && (p->proto == IP_UDP || is_first_syn(p)))
            return refuse(skb, p, D_INTERNAL);
        struct conn_key key;
        conn_key_of(&key, p, from->scope, DIR_FORWARD);
        struct conn *c = pub ? front_conn(&key, p) : 0;
        if (pub && (c || (!p->later_fragment && (p->proto == IP_UDP || is_first_syn(p)))))
            return to_published(skb, p, &key, c, p->daddr, 0, pub);
    }
    if ((from->flags & IFACE_INTERNAL) && p->daddr != from->gateway) {
        int answer = (p->proto == IP_TCP && !is_first_syn(p)) || (p->proto == IP_ICMP && p->icmp_type == 0);
        if (!answer)
            return answer_unreachable(skb, p, 0, 0, D_INTERNAL);
    }
    count(C_HOST_IN);
    return TC_ACT_UNSPEC;
}

/* A datagram to where this host or another one opens what comes out of tunnels. Masqueraded, it would have this host's address, and be
 * taken for a packet of any network by any sender. */
inline int is_for_tunnel(struct packet *p)
{
    struct config *cfg = get_config();
    if (p->proto != IP_UDP || !p->has_ports || !cfg || !cfg->vtep_ip || p->dport != cfg->vxlan_port)
        return 0;
    u32 daddr = p->daddr;
    return map_lookup(&vteps, &daddr) || map_lookup(&host_addrs, &daddr);
}

/* No endpoint of the container's own network has the address. */
inline int leave_network(struct __sk_buff *skb, struct packet *p, struct iface *from)
{
    if (is_for_tunnel(p))
        return drop(D_TUNNEL_SPOOF);
    if (p->has_ports) {
        struct conn_key key;
        conn_key_of(&key, p, from->scope, DIR_REPLY);
        struct conn *c = conn_find(&key);
        if (c)
            return follow(skb, p, &key, c, C_INGRESS_REPLY);
    }
    if (is_group_address(p->daddr, from))
        return p->proto == IP_IGMP ? drop(D_MULTICAST) : to_members(skb, from);     /* no router listens to reports */
    if ((p->daddr & htonl(0xff000000)) == htonl(0x7f000000))
        return drop(D_NO_ENDPOINT);     /* a host may be set to let its loopback be reached from elsewhere (route_localnet) */
    if ((p->daddr & from->mask) == from->subnet)
        return answer_unreachable(skb, p, 1, 0, D_NO_ENDPOINT);
    u32 daddr = p->daddr;
    if (map_lookup(&host_addrs, &daddr))
        return to_host(skb, p, from);
    if (from->flags & IFACE_INTERNAL)
        return answer_unreachable(skb, p, 0, 0, D_INTERNAL);
    struct subnet_key net = { .prefix = 32, .ip = p->daddr };
    if (map_lookup(&subnets, &net))
        return drop(D_ISOLATION);
    if (from->flags & IFACE_NO_OUTBOUND)
        return drop(D_NO_OUTBOUND);
    if ((from->flags & IFACE_ROUTED) && is_whole(p) && conn_learn_via(p, SCOPE_OUTSIDE, 0))
        return drop(D_PORT_CONFLICT);
    count(C_OUTBOUND);
    return TC_ACT_UNSPEC;
}

inline int same_mac(u8 *a, u8 *b)
{
    u32 high_a, high_b;
    u16 low_a, low_b;
    memcpy(&high_a, a, 4);
    memcpy(&high_b, b, 4);
    memcpy(&low_a, a + 4, 2);
    memcpy(&low_b, b + 4, 2);
    return high_a == high_b && low_a == low_b;
}

/* A packet of IPv4. */
outlined from_container4(struct __sk_buff *skb, struct iface *from)
{
    if (!from)
        return TC_ACT_SHOT;
    struct packet p = {};
    u32 scope = from->scope, source;
    if (skb_load(skb, ETH_LEN + 12, &source, sizeof source))
        return drop(D_MALFORMED);
    if (!from->ip || source != from->ip)
        return drop(D_SPOOFED_IP);
    if (parse(skb, &p, scope))
        return drop(D_MALFORMED);

    if (is_tcp_or_udp(&p) && (ntohs(p.dport) >= PORT_FIRST || was_left(scope, p.saddr))) {
        struct conn_key key;
        conn_key_of(&key, &p, scope, DIR_REPLY);
        struct conn *c = conn_find(&key);
        if (c && c->action != CONN_VIA)
            return follow(skb, &p, &key, c, C_VIP_REPLY);
    }
    if (p.proto == IP_TCP && p.has_ports && (is_first_syn(&p) || was_left(scope, p.daddr))) {
        struct choice b = {};
        int leaving = leave_backend(skb, &p, scope, &b);
        if (leaving == LEAVES)
            return to_backend(skb, &p, from, &b);
        struct conn_key key;
        conn_key_of(&key, &p, scope, DIR_FORWARD);
        struct conn *c = leaving == FOLLOWS ? conn_find(&key) : 0;
        if (c)
            return follow(skb, &p, &key, c, C_VIP_PACKET);
    }
    struct endpoint *to = find_endpoint(scope, p.daddr);
    if (!to)
        return leave_network(skb, &p, from);
    if (to->kind == EP_LOCAL && (from->flags & IFACE_ALONE))
        return drop(D_ISOLATION);
    if (to->kind == EP_LOCAL)
        return deliver_local(skb, to);
    if (to->kind == EP_REMOTE)
        return tunnel(skb, &p, scope, to->vtep);
    if (to->kind == EP_VIP)
        return to_vip(skb, &p, from, to);
    u32 daddr = p.daddr;
    if (map_lookup(&host_addrs, &daddr))
        return to_host(skb, &p, from);  /* a gateway on a device of the host: its services are the host's */
    if (is_icmp_echo(&p))
        return answer_echo(skb, &p);
    return refuse(skb, &p, D_NO_ENDPOINT);      /* any other has no services */
}

SEC("classifier")
int from_container(struct __sk_buff *skb)
{
    u32 ifindex = skb->ifindex;
    struct iface *from = map_lookup(&ifaces, &ifindex);
    if (!from)
        return drop(D_UNKNOWN_INTERFACE);
    struct eth e;
    if (skb->vlan_present)
        return drop(D_PROTOCOL);        /* the tag would leave with the packet, into a network of the host's surroundings */
    if (skb_load(skb, 0, &e, sizeof e))
        return drop(D_MALFORMED);
    if (!same_mac(e.src, from->mac))
        return drop(D_SPOOFED_MAC);
    if (e.proto == ETH_IPV4)
        return from_container4(skb, from);
    if (e.proto == ETH_IPV6)
        return from_container6(skb, from);
    return e.proto == ETH_ARP ? answer_arp(skb, from) : drop(D_PROTOCOL);
}

/* Into the host's own stack, as if it came from the device that leads to remote endpoints. */
inline int deliver_host(struct __sk_buff *skb)
{
    struct config *cfg = get_config();
    if (!cfg || !cfg->host_if)
        return drop(D_NO_ENDPOINT);
    if (skb_store(skb, 0, cfg->host_if_mac, 6, 0))
        return drop(D_REWRITE);
    count(C_HOST_IN);
    return redirect(cfg->host_if, F_INGRESS);
}

/* What came out of the tunnel from the host at vtep. */
inline int from_tunnel(struct __sk_buff *skb, u32 scope, u32 vtep)
{
    struct packet p = {};
    if (parse(skb, &p, scope))
        return drop(D_MALFORMED);
    count(C_TUNNEL_IN);
    struct endpoint *from = find_endpoint(scope, p.saddr);
    if (from && !(from->kind == EP_REMOTE && from->vtep == vtep))
        return drop(D_TUNNEL_SPOOF);
    struct endpoint *to = find_endpoint(scope, p.daddr);
    int here = to && to->kind == EP_LOCAL;
    if (p.has_ports && (!here || ntohs(p.dport) >= PORT_FIRST || was_left(scope, p.saddr))) {
        struct conn_key key;
        conn_key_of(&key, &p, scope, DIR_REPLY);
        struct conn *c = conn_find(&key);
        if (c && c->action != CONN_VIA)
            return follow(skb, &p, &key, c, c->action == CONN_OUT ? C_INGRESS_REPLY : C_VIP_REPLY);
    }
    if (here) {
        if (!from && p.has_ports && conn_learn_via(&p, scope, vtep))
            return drop(D_PORT_CONFLICT);
        return deliver_local(skb, to);
    }
    u32 daddr = p.daddr;
    if (!to && from && map_lookup(&host_addrs, &daddr))
        return deliver_host(skb);
    return drop(D_NO_ENDPOINT);
}

/* A VXLAN packet for us: checked, stripped, delivered. */
inline int decapsulate(struct __sk_buff *skb, struct packet *p)
{
    u32 vtep = p->saddr;
    if (!map_lookup(&vteps, &vtep))
        return drop(D_UNKNOWN_VTEP);
    host_heard(vtep);
    struct { struct vxlan vx; struct eth inner; } packed h;
    if (p->l4 != ETH_LEN + 20 || p->fragment || skb_load(skb, p->l4 + sizeof(struct udp), &h, sizeof h) ||
        !(h.vx.flags & htonl(0x08000000)))
        return drop(D_MALFORMED);
    u32 scope = ntohl(h.vx.vni) >> 8;
    if (!map_lookup(&networks, &scope))
        return drop(D_UNKNOWN_VNI);
    if (h.inner.proto != ETH_IPV4)
        return drop(D_PROTOCOL);
    if (skb_adjust_room(skb, -(int)sizeof(struct tunnel_head), ROOM_MAC, ROOM_FIXED_GSO))
        return drop(D_REWRITE);
    return from_tunnel(skb, scope, vtep);
}

/* What the host forwards to a container of an internal network, or of one whose packets leave with its own address: whatever interface
 * it came in by, a container hears only what it asked for. Who else sends with the host's address than the host is no concern of ours:
 * the kernel takes no such packet in. */
outlined to_container4(struct __sk_buff *skb)
{
    struct packet p = {};
    if (parse(skb, &p, SCOPE_OUTSIDE))
        return drop(D_MALFORMED);
    return conn_expects(&p) || is_expected_error(skb, &p) ? TC_ACT_UNSPEC : drop(D_DIRECT);
}

SEC("classifier")
int to_container(struct __sk_buff *skb)
{
    u32 ifindex = skb->ifindex;
    if (!skb->ingress_ifindex || skb->ingress_ifindex == ifindex)
        return TC_ACT_UNSPEC;   /* the host's own; what from_container answered in place */
    u8 first;
    if (!skb_load(skb, 0, &first, 1) && (first & 1))
        return TC_ACT_UNSPEC;   /* to all of the network, by one of them: nothing like it is forwarded */
    struct iface *to = map_lookup(&ifaces, &ifindex);
    if (!to || !(to->flags & IFACE_ROUTED) || (to->flags & IFACE_INTERNAL))
        return drop(D_DIRECT);
    if (skb->protocol == ETH_IPV4)
        return to_container4(skb);
    return skb->protocol == ETH_IPV6 ? to_container6(skb) : drop(D_PROTOCOL);
}

/* An address that no packet from outside has honestly: a container's, or the host's own. */
inline int is_from_inside(u32 ip)
{
    struct subnet_key net = { .prefix = 32, .ip = ip };
    return map_lookup(&subnets, &net) || map_lookup(&host_addrs, &ip);
}

/* A packet of IPv4 that is for this host's hardware address. */
outlined from_uplink4(struct __sk_buff *skb)
{
    struct packet p = {};
    int unread = parse(skb, &p, SCOPE_OUTSIDE);         /* the addresses are known all the same */
    struct config *cfg = get_config();
    if (!cfg)
        return TC_ACT_UNSPEC;
    if (!unread && p.daddr == cfg->vtep_ip && p.proto == IP_UDP && p.dport == cfg->vxlan_port)
        return decapsulate(skb, &p);
    u32 daddr = p.daddr;
    if (!map_lookup(&host_addrs, &daddr)) {
        /* The host would forward it: nobody outside gets into a network by naming an address of it. */
        struct subnet_key net = { .prefix = 32, .ip = p.daddr };
        u32 *scope = map_lookup(&subnets, &net);
        return !scope || is_routed(*scope) ? TC_ACT_UNSPEC : drop(D_DIRECT);
    }
    if (unread)
        return TC_ACT_UNSPEC;
    if (p.proto == IP_ICMP && p.icmp_type == 3 && !p.later_fragment)
        return icmp_error_to_backend(skb, &p);
    if (!is_tcp_or_udp(&p))
        return TC_ACT_UNSPEC;
    struct published *pub = find_published(p.daddr, p.dport, p.proto);
    if (!pub)
        return TC_ACT_UNSPEC;
    struct conn_key key;
    conn_key_of(&key, &p, SCOPE_OUTSIDE, DIR_FORWARD);
    struct conn *c = front_conn(&key, &p);
    /* What neither begins nor belongs to a connection of ours is the host's: an answer to a masqueraded connection that
     * happens to have this port, or something to be reset. */
    if (!c && p.proto == IP_TCP && !is_first_syn(&p))
        return TC_ACT_UNSPEC;
    if (!c && p.later_fragment)
        return drop(D_NO_CONNECTION);
    if (!c && is_from_inside(p.saddr))
        return drop(D_SPOOFED_IP);
    return to_published(skb, &p, &key, c, 0, skb->ifindex, pub);
}

/* Takes off tags of VLAN 0, which say no more than a priority, and which the host's stack takes off too. More than two in a row are
 * nothing that a sender in good faith makes. */
inline int untag(struct __sk_buff *skb)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (skb->vlan_present && !(skb->vlan_tci & VLAN_ID) && skb_vlan_pop(skb))
            return -1;
    return skb->vlan_present && !(skb->vlan_tci & VLAN_ID) ? -1 : 0;
}

SEC("classifier")
int from_uplink(struct __sk_buff *skb)
{
    if (skb->pkt_type != PACKET_HOST)
        return TC_ACT_UNSPEC;
    if (untag(skb))
        return drop(D_PROTOCOL);
    if (skb->vlan_present)
        return TC_ACT_UNSPEC;   /* another network's, which has its own interface */
    if (skb->protocol == ETH_IPV4)
        return from_uplink4(skb);
    return skb->protocol == ETH_IPV6 ? from_uplink6(skb) : TC_ACT_UNSPEC;
}

SEC("classifier")
int from_host(struct __sk_buff *skb)
{
    if (skb->protocol != ETH_IPV4)
        return drop(skb->protocol == ETH_IPV6 ? D_IPV6 : D_PROTOCOL);
    struct packet p = {};
    if (parse(skb, &p, SCOPE_OUTSIDE))
        return drop(D_MALFORMED);
    struct subnet_key net = { .prefix = 32, .ip = p.daddr };
    u32 *scope = map_lookup(&subnets, &net);
    if (!scope)
        return drop(D_NO_ENDPOINT);
    u32 saddr = p.saddr;
    if (!map_lookup(&host_addrs, &saddr))
        return drop(D_DIRECT);  /* forwarded, not the host's own */
    struct endpoint *to = find_endpoint(*scope, p.daddr);
    if (!to || to->kind != EP_REMOTE)
        return drop(D_NO_ENDPOINT);
    count(C_HOST_OUT);
    return tunnel(skb, &p, *scope, to->vtep);
}

char _license[] SEC("license") = "GPL";
