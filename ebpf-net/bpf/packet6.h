/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Reading and rewriting a packet of IPv6; packet.h for what both families share. */
#pragma once
#include "packet.h"

/* p's own addresses are not used. */
struct packet6 {
    struct packet p;
    struct addr6 saddr, daddr;
};

/* More than these in front of the transport header is nothing that a sender in good faith makes. */
#define EXTENSIONS 6
#define FRAGMENT_OFFSET htons(0xfff8)
#define FRAGMENT_MORE htons(1)

inline int is_icmp6_error(struct packet6 *p)
{
    return p->p.proto == IP_ICMPV6 && p->p.icmp_type < 128 && !p->p.later_fragment;
}

/* Fills p from the IPv6 packet behind the Ethernet header, past options, a fragment header, and routing headers that lead no further
 * (RFC 8200, section 4), all of which the receiver passes over too. One that leads further is not read: the address in front of it is
 * not who the packet is for. scope keeps fragments of equal addresses apart. honest: the sender is who it says, and its first
 * fragments may tell of later ones. */
outlined parse6(struct __sk_buff *skb, struct packet6 *p, u32 scope, int honest)
{
    if (!p)
        return -1;
    struct ipv6 ip;
    if (skb_load(skb, ETH_LEN, &ip, sizeof ip) || (ip.version & htonl(0xf0000000)) != htonl(0x60000000))
        return -1;
    p->saddr = ip.saddr;
    p->daddr = ip.daddr;
    u32 len = ntohs(ip.len) + sizeof ip, at = ETH_LEN + sizeof ip;
    p->p.len = (ip.len || !skb->gso_size) && len <= 0xffff ? len : 0;
    p->p.proto = ip.next;
    struct frag6_key key = { .scope = scope, .saddr = ip.saddr, .daddr = ip.daddr };
    u16 fragment = 0;
#pragma unroll          /* before kernel 6.2 the loop that clang makes of it is refused */
    for (int i = 0; i <= EXTENSIONS; i++) {
        u8 this = p->p.proto;
        if (this != IP_HOP_OPTIONS && this != IP_DST_OPTIONS && this != IP_FRAGMENT && this != IP_ROUTING)
            break;
        struct extension ext;
        if (i == EXTENSIONS || skb_load(skb, at, &ext, sizeof ext))
            return -1;
        if (this == IP_ROUTING && ext.offset >> 8)
            return -1;
        p->p.proto = ext.next;
        at += this == IP_FRAGMENT ? sizeof ext : (ext.len + 1) * 8;
        if (this != IP_FRAGMENT)
            continue;
        fragment = ext.offset & (FRAGMENT_OFFSET | FRAGMENT_MORE);
        key.id = ext.id;
        if (fragment & FRAGMENT_OFFSET)
            break;
    }
    p->p.l4 = at;
    p->p.fragment = !!fragment;
    if (!(fragment & FRAGMENT_OFFSET)) {
        if (parse_ports(skb, &p->p))
            return -1;
        if (fragment && honest) {       /* the first fragment tells the others' ports */
            struct frag6 first = { .sport = p->p.sport, .dport = p->p.dport, .proto = p->p.proto };
            map_update(&frags6, &key, &first, 0);
        }
        return 0;
    }
    p->p.later_fragment = 1;
    struct frag6 *first = map_lookup(&frags6, &key);
    if (first) {
        p->p.proto = first->proto;
        p->p.sport = first->sport;
        p->p.dport = first->dport;
        p->p.has_ports = 1;
    }
    return 0;
}

/* Where the checksum is that covers the addresses too (RFC 8200, section 8.1); 0: not in this packet. */
inline u32 checksum_at(struct packet *p)
{
    if (p->later_fragment)
        return 0;
    if (p->proto == IP_TCP)
        return p->l4 + 16;
    if (p->proto == IP_UDP)
        return p->l4 + 6;
    return p->proto == IP_ICMPV6 ? p->l4 + 2 : 0;
}

/* Rewrites one end of the packet, as its namesake for IPv4; of ICMP only the address.
 *
 * A network card's sum over the whole packet (CHECKSUM_COMPLETE) stays right only if both steps are told to it: no checksum of
 * IPv6 makes up for the change of address, which the kernel's helper takes for granted unless it is told otherwise by a flag that
 * kernels before 6.16 do not have. Telling it of the new address as well cancels that out on all of them. */
outlined rewrite6(struct __sk_buff *skb, struct packet6 *p, int at_dst, struct addr6 *ip, u16 port)
{
    if (!p || !ip)
        return -1;
    struct addr6 *end = at_dst ? &p->daddr : &p->saddr;
    u16 old_port = at_dst ? p->p.dport : p->p.sport;
    u32 check_at = checksum_at(&p->p), port_at = p->p.l4 + (at_dst ? 2 : 0);
    u64 flags = p->p.proto == IP_UDP ? F_MARK_MANGLED_0 : 0;
    if (!same_addr6(end, ip)) {
        u32 difference = csum_diff(end, sizeof *end, ip, sizeof *ip, 0);
        if (check_at && l4_csum_replace(skb, check_at, 0, difference, F_PSEUDO_HDR | flags))
            return -1;
        if (skb_store(skb, ETH_LEN + (at_dst ? 24 : 8), ip, sizeof *ip, F_RECOMPUTE_CSUM))
            return -1;
        *end = *ip;
    }
    if (p->p.proto == IP_ICMPV6 || old_port == port)
        return 0;
    if (check_at && (l4_csum_replace(skb, check_at, old_port, port, 2 | flags) || skb_store(skb, port_at, &port, 2, 0)))
        return -1;
    if (at_dst)
        p->p.dport = port;
    else
        p->p.sport = port;
    return 0;
}
