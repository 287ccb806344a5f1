/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The connection table: who a translated connection really is between. conn6.h is the same table for IPv6.
 *
 * Each connection has an entry per direction. State changes (first reply, FIN, RST) are written to both; the time is
 * written at most once a second, to both. An entry past its timeout counts as absent. When both sides' FINs are
 * acknowledged nothing more can come: the entries go at once, so that many short connections do not push long idle ones out of
 * the table.
 *
 * A VIP connection that is translated here gets a source port from a range that sockets do not choose for themselves
 * (above net.ipv4.ip_local_port_range), so that no direct connection between the same two containers can meet an entry
 * of a translated one, and only packets to such ports need to be looked up on their way back. */
#pragma once
#include "packet.h"

#define SECOND 1000000000ull
#define CONN_REFRESH SECOND
#define PORT_FIRST 61000
#define PORT_COUNT 4536
#define PORT_TRIES 8

inline u64 conn_timeout(struct conn *c, u8 proto)
{
    if (proto == IP_UDP)
        return 180 * SECOND;
    if (proto != IP_TCP)
        return 30 * SECOND;
    if ((c->state & CONN_RESET) || (c->state & (CONN_FIN_FORWARD | CONN_FIN_REPLY)) == (CONN_FIN_FORWARD | CONN_FIN_REPLY))
        return 10 * SECOND;
    if (c->state & (CONN_FIN_FORWARD | CONN_FIN_REPLY))
        return 600 * SECOND;
    if (c->state & CONN_REPLIED)
        return 6 * 3600 * SECOND;
    return c->action == CONN_VIA ? 6 * 3600 * SECOND : 60 * SECOND;
}

inline int conn_expired(struct conn *c, u8 proto, u64 now)
{
    return now > c->seen && now - c->seen > conn_timeout(c, proto);
}

/* Over: a new connection may take its place. */
inline int conn_over(struct conn *c, u8 proto, u64 now)
{
    if (proto == IP_TCP && ((c->state & CONN_RESET) ||
        (c->state & (CONN_FIN_FORWARD | CONN_FIN_REPLY)) == (CONN_FIN_FORWARD | CONN_FIN_REPLY)))
        return 1;
    return conn_expired(c, proto, now);
}

inline void conn_key_of(struct conn_key *key, struct packet *p, u32 scope, u8 dir)
{
    *key = (struct conn_key){ .scope = scope, .saddr = p->saddr, .daddr = p->daddr, .sport = p->sport,
                              .dport = p->dport, .proto = p->proto, .dir = dir };
}

inline struct conn *conn_find(struct conn_key *key)
{
    struct conn *c = map_lookup(&conns, key);
    if (!c || conn_expired(c, key->proto, time_coarse_ns()))
        return 0;
    return c;
}

/* The key of the entry for the other direction. */
inline void conn_partner(struct conn_key *other, struct conn_key *key, struct conn *c)
{
    *other = (struct conn_key){ .scope = c->scope, .saddr = c->daddr, .daddr = c->saddr, .sport = c->dport,
                                .dport = c->sport, .proto = key->proto, .dir = !key->dir };
}

/* What a packet says of its connection. */
struct conn_event {
    u64 now;
    u32 fin;
    u8 bits, dir;
    u8 news;            /* the entries are to be told */
};

#define CONN_FINISHED (CONN_ACKED_FORWARD | CONN_ACKED_REPLY)

/* A packet that goes in direction dir says so of its connection. */
inline void conn_hear(struct conn_event *e, struct conn *c, struct packet *p, u8 dir)
{
    *e = (struct conn_event){ .now = time_coarse_ns(), .bits = dir == DIR_REPLY ? CONN_REPLIED : 0, .dir = dir };
    if (p->proto == IP_TCP && !p->later_fragment) {
        u8 their_fin = dir == DIR_REPLY ? CONN_FIN_FORWARD : CONN_FIN_REPLY;
        if (p->tcp_flags & TCP_RST)
            e->bits |= CONN_RESET;
        if (p->tcp_flags & TCP_FIN) {
            e->bits |= dir == DIR_REPLY ? CONN_FIN_REPLY : CONN_FIN_FORWARD;
            e->fin = p->tcp_end;
        }
        if ((p->tcp_flags & TCP_ACK) && (c->state & their_fin) && p->tcp_ack == c->fin[!dir])
            e->bits |= dir == DIR_REPLY ? CONN_ACKED_FORWARD : CONN_ACKED_REPLY;
    }
    e->news = (e->bits & ~c->state) || e->now - c->seen >= CONN_REFRESH;
}

inline void conn_mark(struct conn *c, struct conn_event *e)
{
    c->seen = e->now;
    c->state |= e->bits;
    if (e->fin)
        c->fin[e->dir & 1] = e->fin;
}

/* A packet of this connection was met, going in direction dir. Afterwards `other` is the partner's key, if it has one. */
inline void conn_note(struct conn_key *key, struct conn *c, struct packet *p, u8 dir, struct conn_key *other)
{
    struct conn_event e;
    conn_hear(&e, c, p, dir);
    if (c->action != CONN_VIA)
        conn_partner(other, key, c);
    if (!e.news)
        return;
    conn_mark(c, &e);
    if (c->action == CONN_VIA)
        return;
    struct conn *partner = map_lookup(&conns, other);
    if (partner)
        conn_mark(partner, &e);
}

/* A source port for the way back: the packet's own at the first try when it is to be kept. */
inline u16 conn_port(int try, int keep_port, u16 own)
{
    return !try && keep_port ? own : htons(PORT_FIRST + random_u32() % PORT_COUNT);
}

/* Remembers a new connection: packets like p, met in scope `met`, become what `to` says (addresses, ports, scope); replies
 * go back to where p came from, through ifindex `out` when that is outside. With keep_port the source port stays
 * unless a living connection of someone else has it. Fills to->sport. -1: no port is free. */
outlined conn_open(struct packet *p, u32 met, struct conn *to, int keep_port, u32 out)
{
    if (!p || !to)
        return -1;
    u64 now = time_coarse_ns();
    struct conn_key back_key = { .scope = to->scope, .saddr = to->daddr, .daddr = to->saddr, .sport = to->dport,
                                 .dport = p->sport, .proto = p->proto, .dir = DIR_REPLY };
    int found = 0;
    for (int i = 0; i < PORT_TRIES; i++) {
        back_key.dport = conn_port(i, keep_port, p->sport);
        struct conn *old = map_lookup(&conns, &back_key);
        if (!old || conn_over(old, p->proto, now) ||
            (old->action != CONN_VIA && old->scope == met && old->saddr == p->daddr && old->daddr == p->saddr &&
             old->sport == p->dport && old->dport == p->sport)) {
            found = 1;
            break;
        }
    }
    if (!found)
        return -1;
    to->sport = back_key.dport;
    to->seen = now;
    to->action = CONN_ENDPOINT;
    struct conn back = { .seen = now, .saddr = p->daddr, .daddr = p->saddr, .sport = p->dport, .dport = p->sport,
                         .scope = met, .ifindex = out, .action = out ? CONN_OUT : CONN_ENDPOINT };
    struct conn_key key;
    conn_key_of(&key, p, met, DIR_FORWARD);
    struct conn forward = *to;
    if (map_update(&conns, &back_key, &back, 0) || map_update(&conns, &key, &forward, 0))
        return -1;
    return 0;
}

/* A client outside reached a container of ours through another node's tunnel: its replies go back that way, for that
 * node holds the translation. Or a container reaches out with its own address (scope outside, vtep 0): what comes back is
 * expected. -1: another living connection has these very addresses and ports. */
outlined conn_learn_via(struct packet *p, u32 scope, u32 vtep)
{
    if (!p)
        return -1;
    struct conn_key key = { .scope = scope, .saddr = p->daddr, .daddr = p->saddr, .sport = p->dport, .dport = p->sport,
                            .proto = p->proto, .dir = DIR_REPLY };
    struct conn *old = conn_find(&key);
    u64 now = time_coarse_ns();
    if (old && old->action == CONN_VIA && old->vtep == vtep && !is_first_syn(p)) {
        struct conn_key none;
        conn_note(&key, old, p, DIR_FORWARD, &none);
        if ((old->state & CONN_FINISHED) == CONN_FINISHED)
            map_delete(&conns, &key);
        return 0;
    }
    if (old && old->action != CONN_VIA && !conn_over(old, p->proto, now))
        return -1;
    struct conn via = { .seen = now, .saddr = p->daddr, .daddr = p->saddr, .sport = p->dport, .dport = p->sport,
                        .scope = scope, .vtep = vtep, .action = CONN_VIA };
    return map_update(&conns, &key, &via, 0) ? -1 : 0;
}

/* Whether a container of ours began what this packet from outside belongs to. */
outlined conn_expects(struct packet *p)
{
    if (!p)
        return 0;
    struct conn_key key, none;
    conn_key_of(&key, p, SCOPE_OUTSIDE, DIR_REPLY);
    struct conn *c = conn_find(&key);
    if (!c)
        return 0;
    conn_note(&key, c, p, DIR_REPLY, &none);
    if ((c->state & CONN_FINISHED) == CONN_FINISHED)
        map_delete(&conns, &key);
    return 1;
}
