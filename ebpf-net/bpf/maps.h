/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The maps. All are pinned by name and shared by the packet and the socket programs. Tables that follow the view are
 * allocated as they fill, and so are those of kept connections; the others are allocated whole and forget the oldest. An empty
 * instance takes about 27 MB of kernel memory, 14 of them for connections. */
#pragma once
#include "layout.h"

/* Entries of kept connections: powers of two. */
#define CONNS 131072
#define CONNS6 65536

MAP(config_map, MAP_ARRAY, 1, u32, struct config);
MAP(counters, MAP_PERCPU_ARRAY, REASONS, u32, u64);
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
    u64 *n = map_lookup(&counters, &reason);
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

/* A random backend of a set. Null although n is not 0: the set was replaced this moment; who looks again finds the new one. */
inline struct backend *pick_backend(u64 set, u32 n)
{
    if (!n)
        return 0;
    struct backend_key key = { .set = set, .index = random_u32() % n };
    return map_lookup(&backends, &key);
}

inline struct backend *pick_of_vip(u32 scope, u32 ip, struct endpoint *vip)
{
    struct backend *b = pick_backend(vip->set, vip->count);
    if (b || !vip->count)
        return b;
    vip = find_endpoint(scope, ip);
    return vip && vip->kind == EP_VIP ? pick_backend(vip->set, vip->count) : 0;
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

inline struct backend *pick_of_published(u32 host_ip, u16 port, u8 proto, struct published *p)
{
    struct backend *b = pick_backend(p->set, p->count);
    if (b || !p->count)
        return b;
    p = find_published(host_ip, port, proto);
    return p ? pick_backend(p->set, p->count) : 0;
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
