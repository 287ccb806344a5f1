/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Reading and rewriting a packet. Offsets that vary go through skb_load and skb_store; only fixed ones are read directly,
 * and never across a helper that may move the packet. */
#pragma once
#include "maps.h"

struct packet {
    u32 saddr, daddr;
    u16 sport, dport;   /* ICMP echo: both are its identifier */
    u16 len;            /* IP total length, host byte order */
    u16 l4;             /* offset of the transport header */
    u8 proto, tcp_flags, has_ports;
    u8 later_fragment;  /* no transport header in this one */
    u8 dont_fragment, icmp_type;
    u8 fragment;        /* this is not the whole of it */
    u8 pad;
    u32 tcp_ack;        /* network order, as is the next */
    u32 tcp_end;        /* what acknowledges all of this segment, its FIN counted */
};

inline int drop(u32 reason)
{
    count(reason);
    return TC_ACT_SHOT;
}

inline int is_icmp_echo(struct packet *p)
{
    return (p->proto == IP_ICMP && (p->icmp_type == 8 || p->icmp_type == 0)) ||
           (p->proto == IP_ICMPV6 && (p->icmp_type == 128 || p->icmp_type == 129));
}

inline int is_first_syn(struct packet *p)
{
    return p->proto == IP_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

inline int is_tcp_or_udp(struct packet *p)
{
    return p->has_ports && (p->proto == IP_TCP || p->proto == IP_UDP);
}

/* What it belongs to can be told. */
inline int is_whole(struct packet *p)
{
    return p->has_ports || !p->later_fragment;
}

/* What lies behind the end that the IP header gives is not of the packet, though it be of the frame: who gets the packet never
 * sees it. */
inline int parse_ports(struct __sk_buff *skb, struct packet *p)
{
    u32 end = p->len ? p->len + ETH_LEN : skb->len;     /* larger than 64 KiB: the header cannot say */
    if (p->proto == IP_TCP) {
        struct tcp t;
        if (p->l4 + sizeof t > end || skb_load(skb, p->l4, &t, sizeof t))
            return -1;
        p->sport = t.sport;
        p->dport = t.dport;
        p->tcp_flags = t.flags;
        p->tcp_ack = t.ack;
        p->tcp_end = htonl(ntohl(t.seq) + end - p->l4 - (t.offset >> 4) * 4 + 1);
        p->has_ports = 1;
    } else if (p->proto == IP_UDP) {
        u16 ports[2];
        if (p->l4 + sizeof(struct udp) > end || skb_load(skb, p->l4, ports, sizeof ports))
            return -1;
        p->sport = ports[0];
        p->dport = ports[1];
        p->has_ports = 1;
    } else if (p->proto == IP_ICMP || p->proto == IP_ICMPV6) {
        struct icmp i;
        if (p->l4 + sizeof i > end || skb_load(skb, p->l4, &i, sizeof i))
            return -1;
        p->icmp_type = i.type;
        if (is_icmp_echo(p)) {
            p->sport = p->dport = i.id;
            p->has_ports = 1;
        }
    }
    return 0;
}

/* Fills p from the IPv4 packet behind the Ethernet header. scope keeps fragments of equal addresses apart. A second fragment of
 * TCP that begins within the header would rewrite what the first one said of itself (RFC 3128): it is not read. */
inline int parse(struct __sk_buff *skb, struct packet *p, u32 scope)
{
    struct ipv4 ip;
    if (skb_load(skb, ETH_LEN, &ip, sizeof ip))
        return -1;
    u32 header = (ip.version_ihl & 15) * 4;
    if ((ip.version_ihl >> 4) != 4 || header < sizeof ip)
        return -1;
    memcpy(&p->saddr, &ip.saddr, 4);
    memcpy(&p->daddr, &ip.daddr, 4);
    p->proto = ip.proto;
    p->len = ntohs(ip.len);
    p->l4 = ETH_LEN + header;
    p->dont_fragment = !!(ip.frag & htons(0x4000));
    if (!p->len && !skb->gso_size)
        return -1;
    p->fragment = !!(ip.frag & htons(0x3fff));
    if (!p->fragment)
        return parse_ports(skb, p);
    if (p->proto == IP_TCP && (ip.frag & htons(0x1fff)) == htons(1))
        return -1;

    struct frag_key key = { .scope = scope, .saddr = p->saddr, .daddr = p->daddr, .id = ip.id, .proto = p->proto };
    if (!(ip.frag & htons(0x1fff))) {   /* the first fragment tells the others' ports */
        if (parse_ports(skb, p))
            return -1;
        struct frag first = { .sport = p->sport, .dport = p->dport };
        map_update(&frags, &key, &first, 0);
        return 0;
    }
    p->later_fragment = 1;
    struct frag *first = map_lookup(&frags, &key);
    if (first) {
        p->sport = first->sport;
        p->dport = first->dport;
        p->has_ports = 1;
    }
    return 0;
}

/* Rewrites one end of the packet. at_dst: 0 the source, 1 the destination. Checksums are adjusted, also half-made ones
 * (CHECKSUM_PARTIAL), which is why the kernel's helpers do it. */
outlined rewrite(struct __sk_buff *skb, struct packet *p, int at_dst, u32 ip, u16 port)
{
    if (!p)
        return -1;
    u32 old_ip = at_dst ? p->daddr : p->saddr;
    u16 old_port = at_dst ? p->dport : p->sport;
    u32 ip_at = ETH_LEN + (at_dst ? 16 : 12), port_at = p->l4 + (at_dst ? 2 : 0);
    u32 check_at = 0;
    u64 flags = 0;
    if (!p->later_fragment && p->proto == IP_TCP)
        check_at = p->l4 + 16;
    if (!p->later_fragment && p->proto == IP_UDP) {
        check_at = p->l4 + 6;
        flags = F_MARK_MANGLED_0;
    }
    if (check_at) {
        if (old_ip != ip && l4_csum_replace(skb, check_at, old_ip, ip, F_PSEUDO_HDR | 4 | flags))
            return -1;
        if (old_port != port) {
            if (l4_csum_replace(skb, check_at, old_port, port, 2 | flags))
                return -1;
            if (skb_store(skb, port_at, &port, 2, 0))
                return -1;
        }
    }
    if (old_ip != ip) {
        if (l3_csum_replace(skb, ETH_LEN + 10, old_ip, ip, 4))
            return -1;
        if (skb_store(skb, ip_at, &ip, 4, 0))
            return -1;
    }
    if (at_dst) {
        p->daddr = ip;
        p->dport = port;
    } else {
        p->saddr = ip;
        p->sport = port;
    }
    return 0;
}
