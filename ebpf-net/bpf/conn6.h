/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The connection tables of IPv6. States, timeouts and ports are those of conn.h; what is here is what the longer addresses make
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
    u64 now = time_coarse_ns();
    struct conn6 *c = map_lookup(&conns6, key);
    if (c && !conn_expired(&c->c, key->proto, now))
        return c;
    c = map_lookup(&opening6, key);
    return c && !conn_expired(&c->c, key->proto, now) ? c : 0;
}

inline void conn6_partner(struct conn6_key *other, struct conn6_key *key, struct conn6 *c)
{
    *other = (struct conn6_key){ .scope = c->c.scope, .saddr = c->daddr, .daddr = c->saddr, .sport = c->c.dport,
                                 .dport = c->c.sport, .proto = key->proto, .dir = !key->dir };
}

inline u16 share_of6(u32 scope, struct addr6 *ip)
{
    return share_of(scope, ip->w[0] ^ ip->w[1] ^ ip->w[2] ^ ip->w[3]);
}

/* These do what their namesakes without the 6 do. */
inline void conn6_forget(struct conn6_key *key)
{
    struct conn6 *c = map_lookup(&conns6, key);
    if (!c)
        return;
    u16 owner = c->c.owner;
    int weight = share_weight(c->c.action);
    if (!map_delete(&conns6, key))
        share_add(&shares6, owner, -weight);
}

inline void conn6_delete(struct conn6_key *key, u8 state)
{
    if (state & CONN_KEPT)
        conn6_forget(key);
    else
        map_delete(&opening6, key);
}

outlined conn6_drop(struct conn6_key *key)
{
    u32 zero = 0;
    struct scratch6 *s = map_lookup(&scratch6, &zero);
    if (!key || !s)
        return 0;
    s->held = *key;
    struct conn6 *c = map_lookup(&conns6, &s->held);
    if (!c)
        return 0;
    if (c->c.action != CONN_VIA) {
        conn6_partner(&s->held_other, &s->held, c);
        conn6_forget(&s->held_other);
    }
    conn6_forget(&s->held);
    return 0;
}

inline int conn6_find_place(struct scratch6 *s)
{
    u64 now = time_coarse_ns();
    for (int i = 0; i < PLACES_TRIED; i++) {
        u32 place = next_place(&shares6, CONNS6 / 2);
        struct conn6_key *held = map_lookup(&kept6, &place);
        if (!held)
            return -1;
        struct conn6 *c = map_lookup(&conns6, held);
        if (c && !conn_expired(&c->c, held->proto, now))
            continue;
        conn6_drop(held);
        *held = s->key;
        return 0;
    }
    return -1;
}

inline int conn6_place(struct scratch6 *s, struct conn6_key *key)
{
    s->entry.c.state |= CONN_KEPT;
    if (map_update(&conns6, key, &s->entry, UPDATE_NEW)) {
        conn6_forget(key);
        if (map_update(&conns6, key, &s->entry, UPDATE_NEW))
            return -1;
    }
    share_add(&shares6, s->entry.c.owner, share_weight(s->entry.c.action));
    map_delete(&opening6, key);
    return 0;
}

outlined conn6_keep(int alone)
{
    u32 zero = 0;
    struct scratch6 *s = map_lookup(&scratch6, &zero);
    if (!s || !share_has_room(&shares6, s->entry.c.owner, CONNS6))
        return 0;
    if ((!alone && !map_lookup(&opening6, &s->other)) || conn6_find_place(s) || conn6_place(s, &s->key) || alone)
        return 0;
    struct conn6 *partner = map_lookup(&opening6, &s->other);
    if (!partner)
        return 0;
    s->entry = *partner;
    if (conn6_place(s, &s->other))
        conn6_forget(&s->key);
    return 0;
}

outlined conn6_tell(struct conn6_key *key, struct conn6 *c, struct conn_event *e)
{
    u32 zero = 0;
    struct scratch6 *s = map_lookup(&scratch6, &zero);
    if (!key || !c || !e || !s)
        return 0;
    conn_mark(&c->c, e);
    s->key = *key;
    s->entry = *c;
    u8 state = s->entry.c.state;
    int alone = s->entry.c.action == CONN_VIA;
    conn6_partner(&s->other, &s->key, &s->entry);
    if ((state & CONN_FINISHED) == CONN_FINISHED) {
        conn6_delete(&s->key, state);
        if (!alone)
            conn6_delete(&s->other, state);
        return 0;
    }
    if (!alone) {
        struct conn6 *partner = state & CONN_KEPT ? map_lookup(&conns6, &s->other) : map_lookup(&opening6, &s->other);
        if (partner)
            conn_mark(&partner->c, e);
    }
    if ((state & (CONN_ASSURED | CONN_KEPT)) == CONN_ASSURED)
        conn6_keep(alone);
    return 0;
}

inline void conn6_note(struct conn6_key *key, struct conn6 *c, struct packet6 *p, u8 dir)
{
    struct conn_event e;
    conn_hear(&e, &c->c, &p->p, dir);
    if (e.news)
        conn6_tell(key, c, &e);
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
        struct conn6 *old = conn6_find(&key);
        if (!old || conn_over(&old->c, p->p.proto, now) || (i == PORT_TRIES - 1 && !(old->c.state & CONN_ASSURED)) ||
            (old->c.scope == met && same_addr6(&old->saddr, &p->daddr) && same_addr6(&old->daddr, &p->saddr) &&
             old->c.sport == p->p.dport && old->c.dport == p->p.sport)) {
            found = 1;
            break;
        }
    }
    if (!found)
        return -1;
    conn6_drop(&key);
    struct conn6 c = {      /* first the way back */
        .c = { .seen = now, .sport = p->p.dport, .dport = p->p.sport, .scope = met, .ifindex = out,
               .action = out ? CONN_OUT : CONN_ENDPOINT,
               .owner = met == SCOPE_OUTSIDE ? share_of6(pub->scope, &pub->ip) : share_of6(met, &p->saddr) },
        .saddr = p->daddr,
        .daddr = p->saddr,
    };
    if (map_update(&opening6, &key, &c, UPDATE_ANY))
        return -1;
    c.saddr = key.daddr;
    c.daddr = key.saddr;
    c.c.sport = key.dport;
    c.c.dport = key.sport;
    c.c.scope = key.scope;
    c.c.ifindex = 0;
    c.c.action = CONN_ENDPOINT;
    conn6_key_of(&key, p, met, DIR_FORWARD);
    conn6_drop(&key);
    return map_update(&opening6, &key, &c, UPDATE_ANY) ? -1 : 0;
}

/* As conn_learn_via: a container reaches out with its own address. */
outlined conn6_learn(struct packet6 *p)
{
    if (!p)
        return -1;
    struct conn6_key key = { .scope = SCOPE_OUTSIDE, .saddr = p->daddr, .daddr = p->saddr, .sport = p->p.dport,
                             .dport = p->p.sport, .proto = p->p.proto, .dir = DIR_REPLY };
    struct conn6 *old = conn6_find(&key);
    if (old && !is_first_syn(&p->p)) {
        conn6_note(&key, old, p, DIR_FORWARD);
        return 0;
    }
    conn6_drop(&key);
    struct conn6 via = { .c = { .seen = time_coarse_ns(), .action = CONN_VIA,
                                .owner = share_of6(SCOPE_OUTSIDE, &p->saddr) } };
    return map_update(&opening6, &key, &via, UPDATE_ANY) ? -1 : 0;
}

/* As conn_expects. */
outlined conn6_expects(struct packet6 *p)
{
    if (!p)
        return 0;
    struct conn6_key key;
    conn6_key_of(&key, p, SCOPE_OUTSIDE, DIR_REPLY);
    struct conn6 *c = conn6_find(&key);
    if (!c)
        return 0;
    conn6_note(&key, c, p, DIR_REPLY);
    return 1;
}
