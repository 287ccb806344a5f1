/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Answers made out of the packet itself and sent back where it came from. Every function ends the packet. */
#pragma once
#include "packet.h"

/* Back out of the interface that it came in by, to the one that sent it. */
inline int send_back(struct __sk_buff *skb)
{
    u8 mac[12];
    if (skb_load(skb, 0, mac, 12))
        return drop(D_MALFORMED);
    u8 swapped[12];
    memcpy(swapped, mac + 6, 6);
    memcpy(swapped + 6, mac, 6);
    if (skb_store(skb, 0, swapped, 12, 0))
        return drop(D_REWRITE);
    return redirect(skb->ifindex, 0);
}

inline int swap_addresses(struct __sk_buff *skb, struct packet *p)
{
    u32 ends[2] = { p->daddr, p->saddr };       /* the sum stays what it was */
    return skb_store(skb, ETH_LEN + 12, ends, sizeof ends, 0);
}

/* ARP (RFC 826): who has an address of this network? The host side of the veth pair, whoever it is. Unknown addresses are
 * not answered, so that the asking program gets EHOSTUNREACH. */
outlined answer_arp(struct __sk_buff *skb, struct iface *from)
{
    if (!from)
        return TC_ACT_SHOT;
    struct arp a;
    if (skb_load(skb, ETH_LEN, &a, sizeof a))
        return drop(D_MALFORMED);
    if (a.op != htons(1) || a.pro != ETH_IPV4)
        return drop(D_PROTOCOL);
    u32 asked = a.tpa;
    if (asked == from->ip)
        return drop(D_PROTOCOL);        /* is my own address in use? Silence says no */
    if (!find_endpoint(from->scope, asked))
        return drop(D_NO_ENDPOINT);
    a.op = htons(2);
    memcpy(a.tha, a.sha, 6);
    a.tpa = a.spa;
    memcpy(a.sha, from->host_mac, 6);
    a.spa = asked;
    struct eth e = { .proto = ETH_ARP };
    memcpy(e.dst, a.tha, 6);
    memcpy(e.src, from->host_mac, 6);
    if (skb_store(skb, 0, &e, sizeof e, 0) || skb_store(skb, ETH_LEN, &a, sizeof a, 0))
        return drop(D_REWRITE);
    count(C_ARP);
    return redirect(skb->ifindex, 0);
}

/* ping of an address that no machine has: a VIP, a gateway. */
inline int answer_echo(struct __sk_buff *skb, struct packet *p)
{
    if (p->icmp_type != 8 || p->later_fragment)
        return drop(D_PROTOCOL);
    u8 reply = 0;
    if (l4_csum_replace(skb, p->l4 + 2, htons(0x0800), 0, 2) || skb_store(skb, p->l4, &reply, 1, 0) ||
        swap_addresses(skb, p))
        return drop(D_REWRITE);
    count(C_ECHO);
    return send_back(skb);
}

/* Makes the reset that refuses a TCP segment (RFC 9293 section 3.5.2) out of it. Its length stays, and all that changes can be told to the
 * checksum piece by piece. Its options become data, which means nothing in a reset: a timestamp of the receiver's own clock would
 * make it seem an old one (RFC 7323, section 5.3). -1: it was dropped. */
outlined make_reset(struct __sk_buff *skb, struct packet *p, u32 reason)
{
    if (!p)
        return -1;
    struct tcp t;
    count(reason);
    if (p->later_fragment || (p->tcp_flags & TCP_RST) || skb->gso_segs > 1 || skb_load(skb, p->l4, &t, sizeof t))
        return -1;
    u32 seq = t.flags & TCP_ACK ? t.ack : 0;
    u32 ack = t.flags & TCP_ACK ? 0 : htonl(ntohl(t.seq) + 1);
    u8 flags = t.flags & TCP_ACK ? TCP_RST : TCP_RST | TCP_ACK;
    u16 old_word, new_word;
    u8 word[2] = { t.offset, t.flags };
    memcpy(&old_word, word, 2);
    word[0] = 5 << 4;
    word[1] = flags;
    memcpy(&new_word, word, 2);
    u32 check_at = p->l4 + 16;
    u16 ports[2] = { t.dport, t.sport };
    if (l4_csum_replace(skb, check_at, t.seq, seq, 4) || l4_csum_replace(skb, check_at, t.ack, ack, 4) ||
        l4_csum_replace(skb, check_at, old_word, new_word, 2))
        return -1;
    if (skb_store(skb, p->l4, ports, 4, 0) || skb_store(skb, p->l4 + 4, &seq, 4, 0) ||
        skb_store(skb, p->l4 + 8, &ack, 4, 0) || skb_store(skb, p->l4 + 12, word, 2, 0) || swap_addresses(skb, p))
        return -1;
    return 0;
}

/* Refuses a TCP segment. */
outlined answer_reset(struct __sk_buff *skb, struct packet *p, u32 reason)
{
    return make_reset(skb, p, reason) ? TC_ACT_SHOT : send_back(skb);
}

/* What an ICMP error quotes: the offending IP header and 8 bytes behind it (RFC 792); of TCP the whole header, because the kernel
 * keeps a packet from being cut in front of a checksum that is yet to be made. */
#define QUOTED 28
#define QUOTED_TCP 40

/* Destination unreachable (RFC 792), from the address that was asked for. code 0 network, 1 host, 3 port, 4 too big for mtu. */
outlined answer_unreachable(struct __sk_buff *skb, struct packet *p, u8 code, u16 mtu, u32 reason)
{
    if (!p)
        return TC_ACT_SHOT;
    struct { struct ipv4 ip; u8 type, code; u16 check, unused, mtu; } packed head = {};
    u8 quoted[QUOTED_TCP] = {};
    u32 n = p->proto == IP_TCP ? QUOTED_TCP : QUOTED;
    if (p->later_fragment || skb->gso_segs > 1 || p->l4 != ETH_LEN + 20 || (p->proto == IP_ICMP && !is_icmp_echo(p)))
        return drop(reason);
    if (skb_load(skb, ETH_LEN, quoted, n))
        return drop(reason);
    if (skb_adjust_room(skb, sizeof head, ROOM_MAC, ROOM_FIXED_GSO) ||
        skb_change_tail(skb, ETH_LEN + sizeof head + n, 0))
        return drop(D_REWRITE);
    head.ip.version_ihl = 0x45;
    head.ip.len = htons(sizeof head + n);
    head.ip.ttl = 64;
    head.ip.proto = IP_ICMP;
    head.ip.saddr = p->daddr;
    head.ip.daddr = p->saddr;
    u32 sum = csum_diff(0, 0, (void *)&head.ip, 20, 0);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    head.ip.check = ~sum;
    head.type = 3;
    head.code = code;
    head.mtu = htons(mtu);
    sum = csum_diff(0, 0, (void *)&head.type, 8, 0);
    sum = csum_diff(0, 0, (void *)quoted, sizeof quoted, sum);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    head.check = ~sum;
    if (skb_store(skb, ETH_LEN, &head, sizeof head, F_INVALIDATE_HASH) ||
        skb_store(skb, ETH_LEN + sizeof head, quoted, n, 0))
        return drop(D_REWRITE);
    count(reason);
    return send_back(skb);
}

/* The connection is refused: nobody is there. */
inline int refuse(struct __sk_buff *skb, struct packet *p, u32 reason)
{
    if (p->proto == IP_TCP)
        return answer_reset(skb, p, reason);
    return answer_unreachable(skb, p, 3, 0, reason);
}
