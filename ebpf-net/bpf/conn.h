/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The connection tables: who a translated connection really is between. conn6.h are the same tables for IPv6.
 *
 * Each connection has an entry per direction. State changes (first reply, FIN, RST) are written to both; the time is
 * written at most once a second, to both. An entry past its timeout counts as absent. When both sides' FINs are
 * acknowledged nothing more can come: the entries go at once.
 *
 * Who sends many packets must not push the connections of others out of the tables. A connection begins in a small one that
 * forgets the oldest (`opening`). It moves to `conns` when it is assured: who began it has heard the answer, which of TCP it shows by an
 * acknowledgement that it could not guess. From there nobody pushes it out. Its key goes into the list `kept`, one place for each
 * connection; who needs a place looks at the next few in turn, and takes one whose connection has ended or is past its timeout. A
 * container gets no more than twice what is left of the table for all (so a third of it is never one container's), and what gets no place
 * stays among the opening ones and works as long as there is room.
 *
 * A backend may be on a host that is lost, before anybody knows. A SYN that is repeated because no answer has come is given to another
 * backend, and what the first one says later is refused with a reset, which rids it of its half of a connection.
 *
 * A VIP connection that is translated here gets a source port from a range that sockets do not choose for themselves
 * (above net.ipv4.ip_local_port_range), so that no direct connection between the same two containers can meet an entry
 * of a translated one, and only packets to such ports need to be looked up on their way back. */
#pragma once
#include "packet.h"

#define CONN_REFRESH SECOND
#define PORT_FIRST 61000
#define PORT_COUNT 4536
#define PORT_TRIES 8
#define PLACES_TRIED 8
#define UPDATE_ANY 0
#define UPDATE_NEW 1            /* map_update: there must be none */

/* The share that a container's connections are counted in. */
inline u16 share_of(u32 scope, u32 ip)
{
    return ((ip ^ scope * 0x9e3779b1) * 0x85ebca6b) >> 20;
}

inline void share_add(void *shares_map, u16 owner, int n)
{
    u32 at = owner & (SHARE_OWNERS - 1), total = SHARE_TOTAL;
    u32 *share = map_lookup(shares_map, &at), *all = map_lookup(shares_map, &total);
    if (share)
        __sync_fetch_and_add(share, n);
    if (all)
        __sync_fetch_and_add(all, n);
}

/* What an entry counts in a share. A connection counts two, for its two entries or for one that has no partner: it is the places in
 * the list that are scarce. */
inline int share_weight(u8 action)
{
    return action == CONN_VIA ? 2 : 1;
}

/* Whether a container may have another connection in a table of `size` entries. */
inline int share_has_room(void *shares_map, u16 owner, u32 size)
{
    u32 at = owner & (SHARE_OWNERS - 1), total = SHARE_TOTAL;
    u32 *share = map_lookup(shares_map, &at), *all = map_lookup(shares_map, &total);
    return share && all && *all + 2 <= size && *share + 2 <= (size - *all) * 2;
}

/* The next place in a list of `places`, which whoever asks takes in turn. */
inline u32 next_place(void *shares_map, u32 places)
{
    u32 at = SHARE_CURSOR;
    u32 *cursor = map_lookup(shares_map, &at);
    return cursor ? __sync_fetch_and_add(cursor, 1) & (places - 1) : 0;
}

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
    if (c->action == CONN_LEFT)
        return 1;
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
    u64 now = time_coarse_ns();
    struct conn *c = map_lookup(&conns, key);
    if (c && !conn_expired(c, key->proto, now))
        return c;
    c = map_lookup(&opening, key);
    return c && !conn_expired(c, key->proto, now) ? c : 0;
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

/* Who began it answers an answer. Of TCP that must be what the other side sent last, as far as no FIN was sent, whose number takes
 * its place. */
inline void conn_assure(struct conn_event *e, struct conn *c, struct packet *p, u8 dir)
{
    if (p->later_fragment || (c->state & CONN_RESET))
        return;
    if (p->proto != IP_TCP) {
        if (dir == DIR_FORWARD && (c->state & CONN_REPLIED))
            e->bits |= CONN_ASSURED;
    } else if (dir == DIR_FORWARD) {
        if ((p->tcp_flags & (TCP_ACK | TCP_SYN | TCP_RST)) == TCP_ACK && (c->state & CONN_REPLIED) &&
            p->tcp_ack == c->fin[DIR_REPLY])
            e->bits |= CONN_ASSURED;
    } else if (!((c->state | e->bits) & (CONN_FIN_REPLY | CONN_RESET))) {
        e->fin = p->tcp_flags & TCP_SYN ? p->tcp_end : htonl(ntohl(p->tcp_end) - 1);
        e->news = 1;
    }
    if (e->bits & CONN_ASSURED)
        e->news = 1;
}

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
    if (!(c->state & CONN_ASSURED))
        conn_assure(e, c, p, dir);
}

inline void conn_mark(struct conn *c, struct conn_event *e)
{
    c->seen = e->now;
    c->state |= e->bits;
    if (e->fin)
        c->fin[e->dir & 1] = e->fin;
}

/* Takes an entry out of the table of kept ones. */
inline void conn_forget(struct conn_key *key)
{
    struct conn *c = map_lookup(&conns, key);
    if (!c)
        return;
    u16 owner = c->owner;
    int weight = share_weight(c->action);
    if (!map_delete(&conns, key))
        share_add(&shares, owner, -weight);
}

/* Takes an entry out of the table that it is in. */
inline void conn_delete(struct conn_key *key, u8 state)
{
    if (state & CONN_KEPT)
        conn_forget(key);
    else
        map_delete(&opening, key);
}

/* Takes a kept connection, or what is left of one, out of the table. */
outlined conn_drop(struct conn_key *key)
{
    u32 zero = 0;
    struct scratch *s = map_lookup(&scratch, &zero);
    if (!key || !s)
        return 0;
    s->held = *key;
    struct conn *c = map_lookup(&conns, &s->held);
    if (!c)
        return 0;
    if (c->action != CONN_VIA) {
        conn_partner(&s->held_other, &s->held, c);
        conn_forget(&s->held_other);
    }
    conn_forget(&s->held);
    return 0;
}

/* Finds a place for s->key in the list of kept connections, where an earlier one's time is over. */
inline int conn_find_place(struct scratch *s)
{
    u64 now = time_coarse_ns();
    for (int i = 0; i < PLACES_TRIED; i++) {
        u32 place = next_place(&shares, CONNS / 2);
        struct conn_key *held = map_lookup(&kept, &place);
        if (!held)
            return -1;
        struct conn *c = map_lookup(&conns, held);
        if (c && !conn_expired(c, held->proto, now))
            continue;
        conn_drop(held);
        *held = s->key;
        return 0;
    }
    return -1;
}

/* Puts s->entry among the kept ones. What is there by that name is past its timeout, or it would have been found. */
inline int conn_place(struct scratch *s, struct conn_key *key)
{
    s->entry.state |= CONN_KEPT;
    if (map_update(&conns, key, &s->entry, UPDATE_NEW)) {
        conn_forget(key);
        if (map_update(&conns, key, &s->entry, UPDATE_NEW))
            return -1;
    }
    share_add(&shares, s->entry.owner, share_weight(s->entry.action));
    map_delete(&opening, key);
    return 0;
}

/* The opening connection s->key, s->entry, whose partner is s->other, is assured: it moves to those that are kept, if there is a
 * place. */
outlined conn_keep(int alone)
{
    u32 zero = 0;
    struct scratch *s = map_lookup(&scratch, &zero);
    if (!s || !share_has_room(&shares, s->entry.owner, CONNS))
        return 0;
    if ((!alone && !map_lookup(&opening, &s->other)) || conn_find_place(s) || conn_place(s, &s->key) || alone)
        return 0;
    struct conn *partner = map_lookup(&opening, &s->other);
    if (!partner)
        return 0;
    s->entry = *partner;
    if (conn_place(s, &s->other))
        conn_forget(&s->key);
    return 0;
}

/* Writes what a packet says of its connection into its entries, and sees to where they belong. `c` may be somebody else's
 * afterwards. */
outlined conn_tell(struct conn_key *key, struct conn *c, struct conn_event *e)
{
    u32 zero = 0;
    struct scratch *s = map_lookup(&scratch, &zero);
    if (!key || !c || !e || !s)
        return 0;
    conn_mark(c, e);
    s->key = *key;
    s->entry = *c;
    u8 state = s->entry.state;
    int alone = s->entry.action == CONN_VIA;
    conn_partner(&s->other, &s->key, &s->entry);
    if ((state & CONN_FINISHED) == CONN_FINISHED) {
        conn_delete(&s->key, state);
        if (!alone)
            conn_delete(&s->other, state);
        return 0;
    }
    if (!alone) {
        struct conn *partner = state & CONN_KEPT ? map_lookup(&conns, &s->other) : map_lookup(&opening, &s->other);
        if (partner)
            conn_mark(partner, e);
    }
    if ((state & (CONN_ASSURED | CONN_KEPT)) == CONN_ASSURED)
        conn_keep(alone);
    return 0;
}

/* A packet of this connection was met, going in direction dir. Afterwards `c` may be somebody else's: read it before. */
inline void conn_note(struct conn_key *key, struct conn *c, struct packet *p, u8 dir)
{
    struct conn_event e;
    conn_hear(&e, c, p, dir);
    if (e.news)
        conn_tell(key, c, &e);
}

/* A source port for the way back: the packet's own at the first try when it is to be kept. */
inline u16 conn_port(int try, int keep_port, u16 own)
{
    return !try && keep_port ? own : htons(PORT_FIRST + random_u32() % PORT_COUNT);
}

/* Remembers a new connection: packets like p, met in scope `met`, become what `to` says (addresses, ports, scope); replies
 * go back to where p came from, through ifindex `out` when that is outside. With keep_port the source port stays
 * unless a living connection of someone else has it. One that nobody answered to gives way in the end: many of them, which cost a
 * sender nothing, do not take all ports from others. Fills to->sport. -1: no port is free. */
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
        struct conn *old = conn_find(&back_key);
        if (!old || conn_over(old, p->proto, now) || (i == PORT_TRIES - 1 && !(old->state & CONN_ASSURED)) ||
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
    to->owner = met == SCOPE_OUTSIDE ? share_of(to->scope, to->daddr) : share_of(met, p->saddr);
    struct conn_key key;
    conn_key_of(&key, p, met, DIR_FORWARD);
    conn_drop(&back_key);
    conn_drop(&key);
    struct conn entry = { .seen = now, .saddr = p->daddr, .daddr = p->saddr, .sport = p->dport, .dport = p->sport,
                          .scope = met, .ifindex = out, .action = out ? CONN_OUT : CONN_ENDPOINT, .owner = to->owner };
    if (map_update(&opening, &back_key, &entry, UPDATE_ANY))
        return -1;
    entry = *to;
    return map_update(&opening, &key, &entry, UPDATE_ANY) ? -1 : 0;
}

/* This SYN to a front is repeated because nobody has answered, or another connection begins where nobody has answered an earlier one.
 * What comes sooner than anybody repeats is a duplicate, or the backend is a moment late. */
inline int conn_is_unanswered(struct conn *c, struct packet *p)
{
    u64 now = time_coarse_ns();
    return is_first_syn(p) && !(c->state & CONN_REPLIED) && now > c->seen && now - c->seen >= SILENCE;
}

/* What a backend's answers to packets like p are met as, where nothing is translated. */
inline void conn_direct_back(struct conn_key *back, struct packet *p, u32 scope)
{
    *back = (struct conn_key){ .scope = scope, .saddr = p->daddr, .daddr = p->saddr, .sport = p->dport, .dport = p->sport,
                               .proto = p->proto, .dir = DIR_REPLY };
}

/* A connection goes to another backend. From the one that it was with an answer may come yet, met under `back`: no client must hear
 * it. */
inline void conn_leave_at(struct conn_key *back)
{
    struct conn left = { .seen = time_coarse_ns(), .action = CONN_LEFT };
    map_update(&opening, back, &left, UPDATE_ANY);
    host_missed(back->scope, back->saddr);
    count(C_MOVED);
}

inline void conn_leave(struct conn_key *key, struct conn *c)
{
    struct conn_key back;
    conn_partner(&back, key, c);
    conn_leave_at(&back);
}

#define LEFT_FOR (6 * 3600 * SECOND)    /* as long as a connection lives on which nothing is sent */

inline u64 *left_at(u32 scope, u32 ip)
{
    u32 at = share_of(scope, ip) & (LEFTS - 1);
    return map_lookup(&lefts, &at);
}

/* Whether connections left this backend for another. */
inline int was_left(u32 scope, u32 ip)
{
    u64 *until = left_at(scope, ip);
    return until && *until && *until > time_coarse_ns();
}

inline void keep_left(u32 scope, u32 ip)
{
    u64 *until = left_at(scope, ip);
    u64 now = time_coarse_ns();
    if (until && (*until < now || *until - now < LEFT_FOR - 60 * SECOND))
        *until = now + LEFT_FOR;
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
        conn_note(&key, old, p, DIR_FORWARD);
        return 0;
    }
    if (old && old->action != CONN_VIA && !conn_over(old, p->proto, now))
        return -1;
    conn_drop(&key);
    struct conn via = { .seen = now, .saddr = p->daddr, .daddr = p->saddr, .sport = p->dport, .dport = p->sport,
                        .scope = scope, .vtep = vtep, .action = CONN_VIA,
                        .owner = share_of(scope, scope == SCOPE_OUTSIDE ? p->saddr : p->daddr) };
    return map_update(&opening, &key, &via, UPDATE_ANY) ? -1 : 0;
}

/* Whether a container of ours began what this packet from outside belongs to. */
outlined conn_expects(struct packet *p)
{
    if (!p)
        return 0;
    struct conn_key key;
    conn_key_of(&key, p, SCOPE_OUTSIDE, DIR_REPLY);
    struct conn *c = conn_find(&key);
    if (!c)
        return 0;
    conn_note(&key, c, p, DIR_REPLY);
    return 1;
}
