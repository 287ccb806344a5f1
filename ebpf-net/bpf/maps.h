/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The maps. All are pinned by name and shared by the packet and the socket programs. Tables that follow the view are
 * allocated as they fill, and so are those of kept connections; the others are allocated whole and forget the oldest. An empty
 * instance takes about 27 MB of kernel memory, 14 of them for connections. */
#pragma once
#include "layout.h"

#define SECOND 1000000000ull

/* Entries of kept connections: powers of two. */
#define CONNS 131072
#define CONNS6 65536

MAP(config_map, MAP_ARRAY, 1, u32, struct config);
MAP(counts, MAP_PERCPU_ARRAY, REASONS, u32, u64);       /* another name for another set of reasons */
MAP_WITH_FLAGS(ifaces, MAP_HASH, 16384, NO_PREALLOC, u32, struct iface);
MAP_WITH_FLAGS(endpoints, MAP_HASH, 131072, NO_PREALLOC, struct endpoint_key, struct endpoint);
MAP_WITH_FLAGS(backends, MAP_HASH, 131072, NO_PREALLOC, struct backend_key, struct backend);
MAP_WITH_FLAGS(published, MAP_HASH, 16384, NO_PREALLOC, struct published_key, struct published);
MAP_WITH_FLAGS(networks, MAP_HASH, 16384, NO_PREALLOC, u32, u32);       /* scope -> NETWORK_* */
MAP_WITH_FLAGS(members, MAP_HASH, 16384, NO_PREALLOC, struct member_key, u32);
MAP_WITH_FLAGS(subnets, MAP_LPM_TRIE, 16384, NO_PREALLOC, struct subnet_key, u32);
MAP_WITH_FLAGS(vteps, MAP_HASH, 16384, NO_PREALLOC, u32, u32);
MAP_WITH_FLAGS(host_addrs, MAP_HASH, 4096, NO_PREALLOC, u32, u32);
MAP_WITH_FLAGS(namespaces, MAP_HASH, 16384, NO_PREALLOC, u64, struct netns);
MAP_WITH_FLAGS(ifaces6, MAP_HASH, 16384, NO_PREALLOC, u32, struct iface6);
MAP_WITH_FLAGS(endpoints6, MAP_HASH, 65536, NO_PREALLOC, struct endpoint6_key, struct endpoint);
MAP_WITH_FLAGS(subnets6, MAP_LPM_TRIE, 16384, NO_PREALLOC, struct subnet6_key, u32);
MAP_WITH_FLAGS(published6, MAP_HASH, 16384, NO_PREALLOC, struct published6_key, struct published6);
MAP_WITH_FLAGS(host_addrs6, MAP_HASH, 4096, NO_PREALLOC, struct addr6, u32);
MAP_WITH_FLAGS(conns, MAP_HASH, CONNS, NO_PREALLOC, struct conn_key, struct conn);
MAP(kept, MAP_ARRAY, CONNS / 2, u32, struct conn_key);
MAP(shares, MAP_ARRAY, SHARES, u32, u32);
MAP(opening, MAP_LRU_HASH, 32768, struct conn_key, struct conn);
MAP(scratch, MAP_PERCPU_ARRAY, 1, u32, struct scratch);
MAP(hosts, MAP_ARRAY, HOSTS, u32, struct host);
MAP(lefts, MAP_ARRAY, LEFTS, u32, u64);
MAP(frags, MAP_LRU_HASH, 4096, struct frag_key, struct frag);
MAP(peers, MAP_LRU_HASH, 32768, struct peer_key, struct peer);
MAP_WITH_FLAGS(conns6, MAP_HASH, CONNS6, NO_PREALLOC, struct conn6_key, struct conn6);
MAP(kept6, MAP_ARRAY, CONNS6 / 2, u32, struct conn6_key);
MAP(shares6, MAP_ARRAY, SHARES, u32, u32);
MAP(opening6, MAP_LRU_HASH, 16384, struct conn6_key, struct conn6);
MAP(scratch6, MAP_PERCPU_ARRAY, 1, u32, struct scratch6);
MAP(frags6, MAP_LRU_HASH, 4096, struct frag6_key, struct frag6);
MAP(peers6, MAP_LRU_HASH, 8192, struct peer6_key, struct peer6);
MAP(picks, MAP_LRU_HASH, 8192, struct peer_key, struct pick);

inline void count(u32 reason)
{
    u64 *n = map_lookup(&counts, &reason);
    if (n)
        *n += 1;
}

inline struct config *get_config(void)
{
    u32 zero = 0;
    return map_lookup(&config_map, &zero);
}

inline int is_routed(u32 scope)
{
    u32 *network = map_lookup(&networks, &scope);
    return network && (*network & NETWORK_ROUTED);
}

inline struct endpoint *find_endpoint(u32 scope, u32 ip)
{
    struct endpoint_key key = { .scope = scope, .ip = ip };
    return map_lookup(&endpoints, &key);
}

/* Two hosts that have the same place here, which takes that many addresses between them, are heard for each other. */
inline struct host *host_at(u32 vtep)
{
    u32 at = ntohl(vtep) & (HOSTS - 1);
    return map_lookup(&hosts, &at);
}

/* So long a host may take to answer, before its silence tells something. */
#define SILENCE (SECOND / 2)
/* So long after it was asked a host that is silent is given nothing that another could get. Then it is tried again. */
#define SHUNNED (10 * SECOND)

inline void host_asked(u32 vtep)
{
    struct host *h = host_at(vtep);
    u64 now = time_coarse_ns();
    if (h && (h->asked <= h->heard || now - h->asked > SHUNNED))
        h->asked = now;
}

inline void host_heard(u32 vtep)
{
    struct host *h = host_at(vtep);
    u64 now = time_coarse_ns();
    if (h && h->heard != now)
        h->heard = now;
}

/* A backend did not answer in time. Nor has anything else come from its host for as long: then the host is silent, and what was heard of
 * it after it was asked had been under way already. */
inline void host_missed(u32 scope, u32 ip)
{
    struct endpoint *e = find_endpoint(scope, ip);
    struct host *h = e && e->kind == EP_REMOTE ? host_at(e->vtep) : 0;
    u64 since = time_coarse_ns() - SILENCE - 1;
    if (h && h->asked <= h->heard && h->heard < since)
        h->asked = since;
}

/* Whether an endpoint is on a host that is silent. */
inline int is_on_silent_host(u32 scope, u32 ip)
{
    struct endpoint *e = find_endpoint(scope, ip);
    struct host *h = e && e->kind == EP_REMOTE ? host_at(e->vtep) : 0;
    if (!h || h->asked <= h->heard)
        return 0;
    u64 now = time_coarse_ns();
    return now > h->asked + SILENCE && now < h->asked + SHUNNED;
}

/* Which backend of a set. */
struct choice {
    u64 set;
    u32 count, scope;
    u32 unanswered;     /* the backend that was asked before and did not answer; 0: none */
    u32 ip;             /* the chosen one */
    u16 port, pad;      /* its own port, or 0 */
    u32 pad2;
};

/* As many backends are looked at, spread over the set. */
#define CHOICES 8

/* Chooses a backend at random. One on a silent host is taken only when there is no other among those looked at, and the one that did
 * not answer before only when there is none at all. -1: there is none. If count is not 0, the set was replaced this moment; who
 * looks again finds the new one. */
outlined choose(struct choice *c)
{
    if (!c || !c->count)
        return -1;
    struct backend_key key = { .set = c->set, .index = random_u32() % c->count };
    u32 stride = (c->count - 1) / CHOICES + 1;
    int best = -1;
    for (u32 i = 0; i < CHOICES && i < c->count; i++) {
        struct backend *b = map_lookup(&backends, &key);
        if (!b)
            return -1;
        u32 ip = b->ip;
        u16 port = b->port;
        int grade = ip == c->unanswered ? 0 : is_on_silent_host(c->scope, ip) ? 1 : 2;
        if (grade > best) {
            c->ip = ip;
            c->port = port;
            best = grade;
        }
        if (grade == 2)
            break;
        key.index = (key.index + stride) % c->count;
    }
    return 0;
}

inline int choose_of_vip(struct choice *c, u32 ip, struct endpoint *vip)
{
    c->set = vip->set;
    c->count = vip->count;
    if (!choose(c) || !c->count)
        return c->count ? 0 : -1;
    vip = find_endpoint(c->scope, ip);
    if (!vip || vip->kind != EP_VIP)
        return -1;
    c->set = vip->set;
    c->count = vip->count;
    return choose(c);
}

/* The published port, on this very address first, then on any. */
inline struct published *find_published(u32 host_ip, u16 port, u8 proto)
{
    struct published_key key = { .host_ip = host_ip, .port = port, .proto = proto };
    struct published *p = map_lookup(&published, &key);
    if (p)
        return p;
    key.host_ip = 0;
    return map_lookup(&published, &key);
}

inline int choose_of_published(struct choice *c, u32 host_ip, u16 port, u8 proto, struct published *p)
{
    c->set = p->set;
    c->count = p->count;
    if (!choose(c) || !c->count)
        return c->count ? 0 : -1;
    p = find_published(host_ip, port, proto);
    if (!p)
        return -1;
    c->set = p->set;
    c->count = p->count;
    return choose(c);
}

inline int same_addr6(struct addr6 *a, struct addr6 *b)
{
    return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

inline int is_link_local6(struct addr6 *ip)
{
    return (ip->w[0] & htonl(0xffc00000)) == htonl(0xfe800000);
}

inline struct endpoint *find_endpoint6(u32 scope, struct addr6 *ip)
{
    struct endpoint6_key key = { .scope = scope, .ip = *ip };
    return map_lookup(&endpoints6, &key);
}

/* As find_published. */
inline struct published6 *find_published6(struct addr6 *host_ip, u16 port, u8 proto)
{
    struct published6_key key = { .host_ip = *host_ip, .port = port, .proto = proto };
    struct published6 *p = map_lookup(&published6, &key);
    if (p)
        return p;
    key.host_ip = (struct addr6){};
    return map_lookup(&published6, &key);
}
