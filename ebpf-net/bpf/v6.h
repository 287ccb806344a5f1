/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* IPv6 on networks of this host: whose packet it is, neighbour discovery answered in place (RFC 4861), from container to container,
 * to a published port and back (published6.h), or on to the host's stack, which masquerades (src/masquerade.rs). There are
 * no virtual addresses and no tunnels. */
#pragma once
#include "published6.h"

/* The link-local address that an interface makes of its hardware address (RFC 4291, appendix A). */
inline void link_local_of(struct addr6 *ip, u8 *mac)
{
    u8 bytes[16] = { 0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5] };
    memcpy(ip, bytes, 16);
}

inline int is_unspecified6(struct addr6 *ip)
{
    return !(ip->w[0] | ip->w[1] | ip->w[2] | ip->w[3]);
}

/* Who has this address? The host side of the veth pair, for the gateway and for neighbours alike. */
outlined answer_neighbour(struct __sk_buff *skb, struct iface *from, struct iface6 *from6, u32 at)
{
    if (!from || !from6)
        return TC_ACT_SHOT;
    struct ipv6 ip;
    struct neighbour_message nd;
    if (skb_load(skb, ETH_LEN, &ip, sizeof ip) || skb_load(skb, at, &nd, 24))
        return drop(D_MALFORMED);
    struct addr6 own = from6->ip;
    /* Nobody asks for itself but to find it in use, and silence says no. */
    if (ip.hops != 255 || nd.code || is_unspecified6(&ip.saddr) || same_addr6(&nd.target, &own))
        return drop(D_PROTOCOL);
    struct endpoint *e = find_endpoint6(from->scope, &nd.target);
    if (!e)
        return drop(D_NO_ENDPOINT);
    /* The answer is made out of the question: solicited, overrides; a gateway is a router. */
    ip.version = htonl(0x60000000);
    ip.len = htons(sizeof nd);
    ip.next = IP_ICMPV6;
    ip.daddr = ip.saddr;
    ip.saddr = nd.target;
    nd.type = 136;
    nd.check = 0;
    nd.flags = htonl(e->kind == EP_GATEWAY ? 0xe0000000 : 0x60000000);
    nd.option = 2;
    nd.option_len = 1;
    memcpy(nd.mac, from->host_mac, 6);
    u32 upper[2] = { htonl(sizeof nd), htonl(IP_ICMPV6) };
    u32 sum = csum_diff(0, 0, &ip.saddr, 2 * sizeof ip.saddr, 0);
    sum = csum_diff(0, 0, upper, sizeof upper, sum);
    sum = csum_diff(0, 0, &nd, sizeof nd, sum);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    nd.check = ~sum;
    struct eth head = { .proto = ETH_IPV6 };
    memcpy(head.dst, from->mac, 6);
    memcpy(head.src, from->host_mac, 6);
    if (skb_change_tail(skb, ETH_LEN + sizeof ip + sizeof nd, 0) ||
        skb_store(skb, 0, &head, sizeof head, F_INVALIDATE_HASH) || skb_store(skb, ETH_LEN, &ip, sizeof ip, 0) ||
        skb_store(skb, ETH_LEN + sizeof ip, &nd, sizeof nd, 0))
        return drop(D_REWRITE);
    count(C_NEIGHBOUR);
    return redirect(skb->ifindex, 0);
}

/* ping of the gateway, which no machine is. */
inline int answer_echo6(struct __sk_buff *skb, struct packet6 *p)
{
    if (p->p.proto != IP_ICMPV6 || p->p.icmp_type != 128 || p->p.later_fragment)
        return drop(D_NO_ENDPOINT); /* the gateway has no services */
    u8 reply = 129;
    struct addr6 ends[2] = { p->daddr, p->saddr };      /* the sum stays what it was */
    if (l4_csum_replace(skb, p->p.l4 + 2, htons(0x8000), htons(0x8100), 2) || skb_store(skb, p->p.l4, &reply, 1, 0) ||
        skb_store(skb, ETH_LEN + 8, ends, sizeof ends, 0))
        return drop(D_REWRITE);
    count(C_ECHO);
    return send_back(skb);
}

/* To an address of the host itself: a published port, or its own services, as to_host. is_gateway: that of the container's network. */
inline int to_host6(struct __sk_buff *skb, struct packet6 *p, struct iface *from, int is_gateway)
{
    if (is_icmp6_error(p)) {
        int verdict = translate_error6(skb, p, from->scope, DIR_FORWARD);
        if (verdict != TC_ACT_UNSPEC)
            return verdict;
    }
    if (is_tcp_or_udp(&p->p)) {
        struct published6 *pub = find_published6(&p->daddr, p->p.dport, p->p.proto);
        /* A port that is published at every address leads into a container without IPv6 too: the host relays what comes by TCP. */
        int is_front = pub || (p->p.proto == IP_TCP && find_published(0, p->p.dport, IP_TCP));
        if (is_front && (from->flags & IFACE_INTERNAL) && (p->p.proto == IP_UDP || is_first_syn(&p->p)))
            return drop(D_INTERNAL);
        struct conn6_key key;
        conn6_key_of(&key, p, from->scope, DIR_FORWARD);
        struct conn6 *c = pub ? front_conn6(&key, p, pub) : 0;
        if (pub && (c || (!p->p.later_fragment && (p->p.proto == IP_UDP || is_first_syn(&p->p)))))
            return to_published6(skb, p, &key, c, &p->daddr, 0, pub);
    }
    if ((from->flags & IFACE_INTERNAL) && !is_gateway) {
        int answer = (p->p.proto == IP_TCP && !is_first_syn(&p->p)) ||
                     (p->p.proto == IP_ICMPV6 && p->p.icmp_type == 129);
        if (!answer)
            return drop(D_INTERNAL);
    }
    count(C_HOST_IN);
    return TC_ACT_UNSPEC;
}

/* No container of the network has the address. */
inline int leave_network6(struct __sk_buff *skb, struct packet6 *p, struct iface *from)
{
    if (is_tcp_or_udp(&p->p)) {
        struct conn6_key key;
        conn6_key_of(&key, p, from->scope, DIR_REPLY);
        struct conn6 *c = conn6_find(&key);
        if (c)
            return follow6(skb, p, &key, c, C_INGRESS_REPLY);
    }
    if (is_icmp6_error(p)) {
        int verdict = translate_error6(skb, p, from->scope, DIR_REPLY);
        if (verdict != TC_ACT_UNSPEC)
            return verdict;
    }
    int is_gateway = find_endpoint6(from->scope, &p->daddr) != 0;
    if (map_lookup(&host_addrs6, &p->daddr))
        return to_host6(skb, p, from, is_gateway);
    if (is_gateway)
        return answer_echo6(skb, p);
    if (from->flags & IFACE_INTERNAL)
        return drop(D_INTERNAL);
    struct subnet6_key net = { .prefix = 128, .ip = p->daddr };
    u32 *scope = map_lookup(&subnets6, &net);
    if (scope)
        return drop(*scope == from->scope ? D_NO_ENDPOINT : D_ISOLATION);
    if (is_link_local6(&p->daddr))
        return drop(D_NO_ENDPOINT);
    if ((from->flags & IFACE_ROUTED) && is_whole(&p->p) && conn6_learn(p))
        return drop(D_PORT_CONFLICT);
    count(C_OUTBOUND);
    return TC_ACT_UNSPEC;
}

/* A packet of a container that has an IPv6 address. */
outlined from_container6(struct __sk_buff *skb, struct iface *from)
{
    if (!from)
        return TC_ACT_SHOT;
    u32 ifindex = skb->ifindex;
    struct iface6 *from6 = map_lookup(&ifaces6, &ifindex);
    if (!from6)
        return drop(D_IPV6);
    struct packet6 p = {};
    if (skb_load(skb, ETH_LEN + 8, &p.saddr, sizeof p.saddr))
        return drop(D_MALFORMED);
    int is_own = same_addr6(&p.saddr, &from6->ip);
    if (parse6(skb, &p, from->scope, is_own))
        return drop(D_MALFORMED);
    /* Whatever headers stand in front of it: parse6 reads past all that the receiver would read past. */
    int discovery = p.p.proto == IP_ICMPV6 && p.p.icmp_type >= 133 && p.p.icmp_type <= 137 ? p.p.icmp_type : 0;
    if (discovery == 135) {
        struct addr6 local;
        link_local_of(&local, from->mac);
        int may_ask = is_own || is_unspecified6(&p.saddr) || same_addr6(&p.saddr, &local);
        return may_ask ? answer_neighbour(skb, from, from6, p.p.l4) : drop(D_SPOOFED_IP);
    }
    if ((p.daddr.w[0] & htonl(0xff000000)) == htonl(0xff000000)) {
        struct addr6 local;
        link_local_of(&local, from->mac);
        int is_report = p.p.proto == IP_ICMPV6 && ((p.p.icmp_type >= 130 && p.p.icmp_type <= 132) || p.p.icmp_type == 143);
        if (discovery || is_report || (!is_own && !same_addr6(&p.saddr, &local)))
            return drop(D_MULTICAST);
        return to_members(skb, from);
    }
    if (!is_own)
        return drop(D_SPOOFED_IP);
    if (discovery)
        return drop(D_PROTOCOL);    /* who is where says the host, and nobody else */
    struct endpoint *to = find_endpoint6(from->scope, &p.daddr);
    if (!to || to->kind != EP_LOCAL)
        return leave_network6(skb, &p, from);
    return from->flags & IFACE_ALONE ? drop(D_ISOLATION) : deliver_local(skb, to);
}

/* An ICMPv6 error about what a container sent out with its own address. */
inline int is_expected_error6(struct __sk_buff *skb, struct packet6 *p)
{
    struct quoted6 q;
    if (!is_icmp6_error(p) || skb_load(skb, p->p.l4 + 8, &q, sizeof q) || !same_addr6(&q.ip.saddr, &p->daddr))
        return 0;
    if (q.ip.next != IP_TCP && q.ip.next != IP_UDP)
        q.ports[0] = q.ports[1] = 0;
    return quoted_conn6(&q, SCOPE_OUTSIDE, DIR_REPLY) != 0;
}

/* As to_container4. */
outlined to_container6(struct __sk_buff *skb)
{
    struct packet6 p = {};
    if (parse6(skb, &p, SCOPE_OUTSIDE, 1))
        return drop(D_MALFORMED);
    return conn6_expects(&p) || is_expected_error6(skb, &p) ? TC_ACT_UNSPEC : drop(D_DIRECT);
}

/* As is_from_inside. */
inline int is_from_inside6(struct addr6 *ip)
{
    struct subnet6_key net = { .prefix = 128, .ip = *ip };
    return map_lookup(&subnets6, &net) || map_lookup(&host_addrs6, &net.ip);
}

/* What comes from outside for a published port or, as the error of a router, for who has one. Nobody outside gets into a network by
 * naming an address of it, which the host would forward; what belongs to a masqueraded connection is addressed to the host, and
 * routed networks have to_container. */
outlined from_uplink6(struct __sk_buff *skb)
{
    struct packet6 p = {};
    int unread = parse6(skb, &p, SCOPE_OUTSIDE, 1);        /* the addresses are known all the same */
    if (!map_lookup(&host_addrs6, &p.daddr)) {
        struct subnet6_key net = { .prefix = 128, .ip = p.daddr };
        u32 *scope = map_lookup(&subnets6, &net);
        return !scope || is_routed(*scope) ? TC_ACT_UNSPEC : drop(D_DIRECT);
    }
    if (unread)
        return TC_ACT_UNSPEC;
    if (is_icmp6_error(&p))
        return translate_error6(skb, &p, SCOPE_OUTSIDE, DIR_FORWARD);
    if (!is_tcp_or_udp(&p.p))
        return TC_ACT_UNSPEC;
    struct published6 *pub = find_published6(&p.daddr, p.p.dport, p.p.proto);
    if (!pub)
        return TC_ACT_UNSPEC;
    struct conn6_key key;
    conn6_key_of(&key, &p, SCOPE_OUTSIDE, DIR_FORWARD);
    struct conn6 *c = front_conn6(&key, &p, pub);
    /* As in from_uplink. */
    if (!c && p.p.proto == IP_TCP && !is_first_syn(&p.p))
        return TC_ACT_UNSPEC;
    if (!c && p.p.later_fragment)
        return drop(D_NO_CONNECTION);
    if (!c && is_from_inside6(&p.saddr))
        return drop(D_SPOOFED_IP);
    /* A container cannot answer to an address that is valid on another link only: to it, the gateway asks. */
    return to_published6(skb, &p, &key, c, is_link_local6(&p.saddr) ? &pub->gateway : 0, skb->ifindex, pub);
}
