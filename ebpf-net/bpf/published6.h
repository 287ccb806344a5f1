/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Published ports at IPv6 addresses of this host: in to the container that has the port, back out to who asked, and what routers and
 * ends say of such connections (ICMPv6 errors). Each port leads to one container of this host. */
#pragma once
#include "conn6.h"
#include "deliver.h"

inline int deliver6(struct __sk_buff *skb, struct packet6 *p, u32 scope)
{
    struct endpoint *to = find_endpoint6(scope, &p->daddr);
    if (to && to->kind == EP_LOCAL)
        return deliver_local(skb, to);
    return drop(D_NO_ENDPOINT);
}

/* Does what the connection table says with a packet that was met under key. */
outlined follow6(struct __sk_buff *skb, struct packet6 *p, struct conn6_key *key, struct conn6 *c, u32 counted)
{
    if (!p || !key || !c)
        return TC_ACT_SHOT;
    u8 action = c->c.action;
    u32 scope = c->c.scope, out = c->c.ifindex;
    u16 sport = c->c.sport, dport = c->c.dport;
    struct addr6 saddr = c->saddr, daddr = c->daddr;
    conn6_note(key, c, p, key->dir);
    if (rewrite6(skb, p, 0, &saddr, sport) || rewrite6(skb, p, 1, &daddr, dport))
        return drop(D_REWRITE);
    count(counted);
    if (action == CONN_OUT)
        return redirect_neigh(out, 0, 0, 0);
    return deliver6(skb, p, scope);
}

/* As front_conn, but that a connection which leads elsewhere than the port does now is over: a port is one container's. */
inline struct conn6 *front_conn6(struct conn6_key *key, struct packet6 *p, struct published6 *pub)
{
    struct conn6 *c = conn6_find(key);
    if (!c || c->c.scope != pub->scope || c->c.dport != pub->port || !same_addr6(&c->daddr, &pub->ip))
        return 0;
    return is_first_syn(&p->p) && conn_over(&c->c, IP_TCP, time_coarse_ns()) ? 0 : c;
}

/* As to_published. source: the address that the container shall see, null for the client's own. */
inline int to_published6(struct __sk_buff *skb, struct packet6 *p, struct conn6_key *key, struct conn6 *c,
                         struct addr6 *source, u32 out, struct published6 *pub)
{
    if (!c) {
        struct endpoint *e = find_endpoint6(pub->scope, &pub->ip);
        if (!e || e->kind != EP_LOCAL)
            return drop(D_NO_BACKEND);
        if (conn6_open(p, key->scope, pub, source, out))
            return drop(D_PORT_CONFLICT);
        c = map_lookup(&opening6, key);
        if (!c)
            return drop(D_NO_CONNECTION);
    }
    return follow6(skb, p, key, c, C_INGRESS);
}

/* What an ICMPv6 error quotes, as far as we look at it. */
struct quoted6 { struct ipv6 ip; u16 ports[2]; };

/* The connection that a quoted packet belongs to. dir: the way that the error goes. */
inline struct conn6 *quoted_conn6(struct quoted6 *q, u32 scope, u8 dir)
{
    struct conn6_key key = { .scope = scope, .saddr = q->ip.daddr, .daddr = q->ip.saddr, .sport = q->ports[1],
                             .dport = q->ports[0], .proto = q->ip.next, .dir = dir };
    return conn6_find(&key);
}

/* p is an ICMPv6 error (RFC 4443, section 3). When it quotes a packet of a translated connection, as that was on its way, who sent
 * the packet must hear of it as he sent it. Only outside there are routers, which speak of packets that are not for them.
 * TC_ACT_UNSPEC: nothing that was translated is quoted. */
outlined translate_error6(struct __sk_buff *skb, struct packet6 *p, u32 scope, u8 dir)
{
    if (!p)
        return TC_ACT_SHOT;
    struct quoted6 q;
    u32 at = p->p.l4 + 8;
    if (skb_load(skb, at, &q, sizeof q) || (q.ip.version & htonl(0xf0000000)) != htonl(0x60000000) ||
        (q.ip.next != IP_TCP && q.ip.next != IP_UDP))
        return TC_ACT_UNSPEC;
    int of_the_end = same_addr6(&p->saddr, &q.ip.daddr);
    struct conn6 *c = of_the_end || scope == SCOPE_OUTSIDE ? quoted_conn6(&q, scope, dir) : 0;
    if (!c)
        return TC_ACT_UNSPEC;
    struct { struct addr6 saddr, daddr; u16 ports[2]; } sent = { c->daddr, c->saddr, { c->c.dport, c->c.sport } };
    u32 difference = csum_diff(&q.ip.saddr, sizeof sent, &sent, sizeof sent, 0);
    u32 out = c->c.action == CONN_OUT ? c->c.ifindex : 0, to_scope = c->c.scope;
    if (l4_csum_replace(skb, p->p.l4 + 2, 0, difference, 0) || skb_store(skb, at + 8, &sent, sizeof sent, 0) ||
        (of_the_end && rewrite6(skb, p, 0, &sent.daddr, 0)) || rewrite6(skb, p, 1, &sent.saddr, 0))
        return drop(D_REWRITE);
    count(dir == DIR_FORWARD ? C_INGRESS : C_INGRESS_REPLY);
    if (out)
        return redirect_neigh(out, 0, 0, 0);
    return deliver6(skb, p, to_scope);
}
