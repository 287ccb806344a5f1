/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The last step of a packet: into a container here, through the tunnel to another host, or out to a client. */
#pragma once
#include "conn.h"
#include "answer.h"

/* What the tunnel puts in front of the inner IP packet, between the Ethernet header that is there and it (RFC 7348). */
struct tunnel_head { struct ipv4 ip; struct udp udp; struct vxlan vx; struct eth inner; } packed;
_Static_assert(sizeof(struct tunnel_head) == 50, "VXLAN over IPv4 costs 50 bytes");

inline int deliver_local(struct __sk_buff *skb, struct endpoint *to)
{
    u8 mac[12];
    memcpy(mac, to->mac, 6);
    memcpy(mac + 6, to->host_mac, 6);
    u32 ifindex = to->ifindex;
    if (skb_store(skb, 0, mac, 12, 0))
        return drop(D_REWRITE);
    skb_change_type(skb, PACKET_HOST);
    count(C_LOCAL);
    return redirect_peer(ifindex, 0);
}

inline void mac_of(u8 *mac, u32 ip)
{
    mac[0] = 0x02;
    mac[1] = 0x42;
    memcpy(mac + 2, &ip, 4);
}

inline u16 ip_checksum(struct ipv4 *ip)
{
    u32 sum = csum_diff(0, 0, (void *)ip, sizeof *ip, 0);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* Through the tunnel to vtep. ENCAP_L2 counts the inner Ethernet header only: with more, segmentation offload of the
 * packet fails in the driver. The source port spreads flows over links and queues. */
outlined tunnel(struct __sk_buff *skb, struct packet *p, u32 scope, u32 vtep)
{
    if (!p)
        return TC_ACT_SHOT;
    struct config *cfg = get_config();
    if (!cfg || !cfg->vtep_ip || !cfg->uplink || scope >> 24)
        return drop(D_NO_ENDPOINT);
    u32 inner = skb->len - ETH_LEN;
    u32 hash = skb_hash(skb);
    if (skb_adjust_room(skb, sizeof(struct tunnel_head), ROOM_MAC,
                        ROOM_FIXED_GSO | ROOM_ENCAP_L3_IPV4 | ROOM_ENCAP_L4_UDP | ROOM_ENCAP_L2_ETH |
                            ROOM_ENCAP_L2(ETH_LEN)))
        return drop(D_REWRITE);
    struct tunnel_head h = {};
    h.ip.version_ihl = 0x45;
    u32 total = inner + sizeof h;
    h.ip.len = htons(total > 0xffff ? 0xffff : total);  /* more than fits is cut into segments yet, which are counted anew */
    h.ip.frag = htons(0x4000);
    h.ip.ttl = 64;
    h.ip.proto = IP_UDP;
    h.ip.saddr = cfg->vtep_ip;
    h.ip.daddr = vtep;
    struct ipv4 outer = h.ip;
    h.ip.check = ip_checksum(&outer);
    h.udp.sport = htons(0xc000 | (hash & 0x3fff));
    h.udp.dport = cfg->vxlan_port;
    h.udp.len = htons(inner + sizeof h - sizeof h.ip);
    h.vx.flags = htonl(0x08000000);
    h.vx.vni = htonl(scope << 8);
    mac_of(h.inner.dst, p->daddr);
    mac_of(h.inner.src, p->saddr);
    h.inner.proto = ETH_IPV4;
    if (skb_store(skb, ETH_LEN, &h, sizeof h, F_INVALIDATE_HASH))
        return drop(D_REWRITE);
    if (is_first_syn(p))
        host_asked(vtep);
    count(C_TUNNEL_OUT);
    return redirect_neigh(cfg->uplink, 0, 0, 0);
}

/* As many containers of a network on one host as hear what is sent to all: as many as fit on one of the kernel's bridges. */
#define MEMBERS 1024

/* To all other containers of the network on this host, as the frame is: each takes what it has asked its own interface for. Who is
 * not to reach others alone does not reach them all. */
outlined to_members(struct __sk_buff *skb, struct iface *from)
{
    if (!from)
        return TC_ACT_SHOT;
    u8 first;
    if (skb_load(skb, 0, &first, 1) || !(first & 1))
        return drop(D_MULTICAST);
    if (from->flags & IFACE_ALONE)
        return drop(D_ISOLATION);
    struct member_key key = { .scope = from->scope };
    for (int i = 0; i < MEMBERS; i++) {
        key.index = i;
        u32 *ifindex = map_lookup(&members, &key);
        if (!ifindex)
            break;
        if (*ifindex != skb->ifindex)
            clone_redirect(skb, *ifindex, 0);
    }
    count(C_GROUP);
    return TC_ACT_SHOT;     /* its copies went */
}

/* To the endpoint that the packet is addressed to, in this scope. */
inline int deliver(struct __sk_buff *skb, struct packet *p, u32 scope)
{
    struct endpoint *to = find_endpoint(scope, p->daddr);
    if (to && to->kind == EP_LOCAL)
        return deliver_local(skb, to);
    if (to && to->kind == EP_REMOTE)
        return tunnel(skb, p, scope, to->vtep);
    return drop(D_NO_ENDPOINT);
}

/* A backend that was left answers. */
inline int refuse_late(struct __sk_buff *skb, struct packet *p, u32 scope)
{
    if (p->proto != IP_TCP || make_reset(skb, p, D_LATE))
        return TC_ACT_SHOT;
    u32 backend = p->saddr;
    p->saddr = p->daddr;
    p->daddr = backend;
    p->tcp_flags = TCP_RST;
    return deliver(skb, p, scope);
}

/* Does what the connection table says with a packet that was met under key. */
outlined follow(struct __sk_buff *skb, struct packet *p, struct conn_key *key, struct conn *c, u32 counted)
{
    if (!p || !key || !c)
        return TC_ACT_SHOT;
    u8 action = c->action;
    if (action == CONN_LEFT)
        return refuse_late(skb, p, key->scope);
    u32 saddr = c->saddr, daddr = c->daddr, scope = c->scope, out = c->ifindex, vtep = c->vtep;
    u16 sport = c->sport, dport = c->dport;
    conn_note(key, c, p, key->dir);
    if (action != CONN_VIA && (rewrite(skb, p, 0, saddr, sport) || rewrite(skb, p, 1, daddr, dport)))
        return drop(D_REWRITE);
    if (action == CONN_VIA)
        return tunnel(skb, p, key->scope, vtep);
    count(counted);
    if (action == CONN_OUT)
        return redirect_neigh(out, 0, 0, 0);
    return deliver(skb, p, scope);
}
