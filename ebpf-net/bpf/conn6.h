/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The connection table of IPv6. States, timeouts and ports are those of conn.h; what is here is what the longer addresses make
 * different. */
#pragma once
#include "conn.h"
#include "packet6.h"

inline void conn6_key_of(struct conn6_key *key, struct packet6 *p, u32 scope, u8 dir)
{
    *key = (struct conn6_key){ .scope = scope, .saddr = p->saddr, .daddr = p->daddr, .sport = p->p.sport,
                               .dport = p->p.dport, .proto = p->p.proto, .dir = dir };
}

inline struct conn6 *conn6_find(struct conn6_key *key)
{
    struct conn6 *c = map_lookup(&conns6, key);
    if (!c || conn_expired(&c->c, key->proto, time_coarse_ns()))
        return 0;
    return c;
}

/* As conn_note: `other` is the partner's key afterwards. */
inline void conn6_note(struct conn6_key *key, struct conn6 *c, struct packet6 *p, u8 dir, struct conn6_key *other)
{
    struct conn_event e;
    conn_hear(&e, &c->c, &p->p, dir);
    if (c->c.action == CONN_VIA) {
        if (e.news)
            conn_mark(&c->c, &e);
        return;
    }
    *other = (struct conn6_key){ .scope = c->c.scope, .saddr = c->daddr, .daddr = c->saddr, .sport = c->c.dport,
                                 .dport = c->c.sport, .proto = key->proto, .dir = !key->dir };
    if (!e.news)
        return;
    conn_mark(&c->c, &e);
    struct conn6 *partner = map_lookup(&conns6, other);
    if (partner)
        conn_mark(&partner->c, &e);
}

/* As conn_open: what is met as p goes to the container that has the port. source: the address that the container shall see,
 * null for the sender's own, which keeps its port then. -1: no port is free. */
outlined conn6_open(struct packet6 *p, u32 met, struct published6 *pub, struct addr6 *source, u32 out)
{
    if (!p || !pub)
        return -1;
    u64 now = time_coarse_ns();
    struct conn6_key key = { .scope = pub->scope, .saddr = pub->ip, .daddr = source ? *source : p->saddr,
                             .sport = pub->port, .proto = p->p.proto, .dir = DIR_REPLY };
    int found = 0;
    for (int i = 0; i < PORT_TRIES; i++) {
        key.dport = conn_port(i, !source, p->p.sport);
        struct conn6 *old = map_lookup(&conns6, &key);
        if (!old || conn_over(&old->c, p->p.proto, now) ||
            (old->c.scope == met && same_addr6(&old->saddr, &p->daddr) && same_addr6(&old->daddr, &p->saddr) &&
             old->c.sport == p->p.dport && old->c.dport == p->p.sport)) {
            found = 1;
            break;
        }
    }
    if (!found)
        return -1;
    struct conn6 c = {      /* first the way back */
        .c = { .seen = now, .sport = p->p.dport, .dport = p->p.sport, .scope = met, .ifindex = out,
               .action = out ? CONN_OUT : CONN_ENDPOINT },
        .saddr = p->daddr,
        .daddr = p->saddr,
    };
    if (map_update(&conns6, &key, &c, 0))
        return -1;
    c.saddr = key.daddr;
    c.daddr = key.saddr;
    c.c.sport = key.dport;
    c.c.dport = key.sport;
    c.c.scope = key.scope;
    c.c.ifindex = 0;
    c.c.action = CONN_ENDPOINT;
    conn6_key_of(&key, p, met, DIR_FORWARD);
    return map_update(&conns6, &key, &c, 0) ? -1 : 0;
}

/* As conn_learn_via: a container reaches out with its own address. */
outlined conn6_learn(struct packet6 *p)
{
    if (!p)
        return -1;
    struct conn6_key key = { .scope = SCOPE_OUTSIDE, .saddr = p->daddr, .daddr = p->saddr, .sport = p->p.dport,
                             .dport = p->p.sport, .proto = p->p.proto, .dir = DIR_REPLY };
    struct conn6_key none;
    struct conn6 *old = conn6_find(&key);
    if (old && !is_first_syn(&p->p)) {
        conn6_note(&key, old, p, DIR_FORWARD, &none);
        if ((old->c.state & CONN_FINISHED) == CONN_FINISHED)
            map_delete(&conns6, &key);
        return 0;
    }
    struct conn6 via = { .c = { .seen = time_coarse_ns(), .action = CONN_VIA } };
    return map_update(&conns6, &key, &via, 0) ? -1 : 0;
}

/* As conn_expects. */
outlined conn6_expects(struct packet6 *p)
{
    if (!p)
        return 0;
    struct conn6_key key, none;
    conn6_key_of(&key, p, SCOPE_OUTSIDE, DIR_REPLY);
    struct conn6 *c = conn6_find(&key);
    if (!c)
        return 0;
    conn6_note(&key, c, p, DIR_REPLY, &none);
    if ((c->c.state & CONN_FINISHED) == CONN_FINISHED)
        map_delete(&conns6, &key);
    return 1;
}
