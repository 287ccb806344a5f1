/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* IPv6 on networks of this host: whose packet it is, neighbour discovery answered in place (RFC 4861), from container to container,
 * or on to the host's stack. Published ports and masquerading are the host's NAT (src/masquerade.rs): there are no
 * virtual addresses and no tunnels to be kept apart from it here. */
#pragma once
#include "deliver.h"

inline int same_v6(u32 *a, u32 *b)
{
    return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

inline struct endpoint *find_endpoint6(u32 scope, u32 *ip)
{
    struct endpoint6_key key = { .scope = scope };
    memcpy(key.ip, ip, 16);
    return map_lookup(&endpoints6, &key);
}

/* The link-local address that an interface makes of its hardware address (RFC 4291, appendix A). */
inline void link_local_of(u32 *ip, u8 *mac)
{
    u8 bytes[16] = { 0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5] };
    memcpy(ip, bytes, 16);
}

/* Who has this address? The host side of the veth pair, for the gateway and for neighbours alike. */
outlined answer_neighbour(struct __sk_buff *skb, struct iface *from, struct iface6 *from6)
{
    if (!from || !from6)
        return TC_ACT_SHOT;
    struct ipv6 ip;
    struct neighbour_message ask;
    if (skb_load(skb, ETH_LEN, &ip, sizeof ip) || skb_load(skb, ETH_LEN + sizeof ip, &ask, 24))
        return drop(D_MALFORMED);
    u32 target[4];
    memcpy(target, ask.target, 16);
    /* Nobody asks for itself but to find it in use, and silence says no. */
    if (ip.hops != 255 || ask.code || !(ip.saddr[0] | ip.saddr[1] | ip.saddr[2] | ip.saddr[3]) ||
        same_v6(target, from6->ip))
        return drop(D_PROTOCOL);
    struct endpoint *e = find_endpoint6(from->scope, target);
    if (!e)
        return drop(D_NO_ENDPOINT);
    struct { struct eth eth; struct ipv6 ip; struct neighbour_message nd; } packed out = {};
    memcpy(out.eth.dst, from->mac, 6);
    memcpy(out.eth.src, from->host_mac, 6);
    out.eth.proto = ETH_IPV6;
    struct ipv6 head = { .version = htonl(0x60000000), .len = htons(sizeof out.nd), .next = IP_ICMPV6, .hops = 255 };
    memcpy(head.saddr, target, 16);
    memcpy(head.daddr, ip.saddr, 16);
    /* Solicited, overrides; a gateway is a router. */
    struct neighbour_message nd = { .type = 136, .flags = htonl(e->kind == EP_GATEWAY ? 0xe0000000 : 0x60000000),
                                    .option = 2, .option_len = 1 };
    memcpy(nd.target, target, 16);
    memcpy(nd.mac, from->host_mac, 6);
    struct { u32 saddr[4], daddr[4], len, next; } pseudo = { .len = htonl(sizeof nd), .next = htonl(IP_ICMPV6) };
    memcpy(pseudo.saddr, head.saddr, 16);
    memcpy(pseudo.daddr, head.daddr, 16);
    u32 sum = csum_diff(0, 0, &pseudo, sizeof pseudo, 0);
    sum = csum_diff(0, 0, &nd, sizeof nd, sum);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    nd.check = ~sum;
    memcpy(&out.ip, &head, sizeof head);
    memcpy(&out.nd, &nd, sizeof nd);
    if (skb_change_tail(skb, sizeof out, 0) || skb_store(skb, 0, &out, sizeof out, F_INVALIDATE_HASH))
        return drop(D_REWRITE);
    count(C_NEIGHBOUR);
    return redirect(skb->ifindex, 0);
}

/* A packet of a container that has an IPv6 address. */
inline int from_container6(struct __sk_buff *skb, struct iface *from)
{
    u32 ifindex = skb->ifindex;
    struct iface6 *from6 = map_lookup(&ifaces6, &ifindex);
    if (!from6)
        return drop(D_IPV6);
    struct ipv6 ip;
    if (skb_load(skb, ETH_LEN, &ip, sizeof ip) || (ip.version & htonl(0xf0000000)) != htonl(0x60000000))
        return drop(D_MALFORMED);
    u8 type = 0;
    if (ip.next == IP_ICMPV6 && skb_load(skb, ETH_LEN + sizeof ip, &type, 1))
        return drop(D_MALFORMED);
    u32 saddr[4], daddr[4], own[4];
    memcpy(saddr, ip.saddr, 16);
    memcpy(daddr, ip.daddr, 16);
    memcpy(own, from6->ip, 16);
    int is_own = same_v6(saddr, own);
    if (ip.next == IP_ICMPV6 && type == 135) {
        link_local_of(own, from->mac);
        int unspecified = !(saddr[0] | saddr[1] | saddr[2] | saddr[3]);
        return is_own || unspecified || same_v6(saddr, own) ? answer_neighbour(skb, from, from6) : drop(D_SPOOFED_IP);
    }
    if ((daddr[0] & htonl(0xff000000)) == htonl(0xff000000))
        return drop(D_MULTICAST);   /* router solicitations and group reports among them, whatever their source */
    if (!is_own)
        return drop(D_SPOOFED_IP);
    struct endpoint *to = find_endpoint6(from->scope, daddr);
    if (to && to->kind == EP_LOCAL && (from->flags & IFACE_ALONE))
        return drop(D_ISOLATION);
    if (to && to->kind == EP_LOCAL)
        return deliver_local(skb, to);
    if (to)
        return drop(D_NO_ENDPOINT); /* the gateway has no services */
    if (from->flags & IFACE_INTERNAL)
        return drop(D_INTERNAL);
    struct subnet6_key net = { .prefix = 128 };
    memcpy(net.ip, daddr, 16);
    u32 *scope = map_lookup(&subnets6, &net);
    if (scope)
        return drop(*scope == from->scope ? D_NO_ENDPOINT : D_ISOLATION);
    if ((daddr[0] & htonl(0xffc00000)) == htonl(0xfe800000))
        return drop(D_NO_ENDPOINT);
    count(C_OUTBOUND);
    return TC_ACT_UNSPEC;
}

/* The host would forward it: nobody outside gets into a network by naming an address of it. What belongs to a masqueraded or
 * published connection is addressed to the host. */
inline int from_uplink6(struct __sk_buff *skb)
{
    struct ipv6 ip;
    if (skb->pkt_type != PACKET_HOST || skb_load(skb, ETH_LEN, &ip, sizeof ip))
        return TC_ACT_UNSPEC;
    struct subnet6_key net = { .prefix = 128 };
    memcpy(net.ip, ip.daddr, 16);
    return map_lookup(&subnets6, &net) ? drop(D_DIRECT) : TC_ACT_UNSPEC;
}
