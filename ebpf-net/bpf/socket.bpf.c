/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The socket programs: connect() and sendmsg() of processes in a cgroup of ours get a backend instead of a VIP, the DNS
 * server's port instead of 127.0.0.11:53, a container instead of a published port of the host itself. No packet is
 * rewritten; recvmsg() and getpeername() tell the program the address that it asked for.
 *
 * Whose socket it is says the cookie of its network namespace. Programs run once per level of the cgroup tree they
 * are attached at; what was rewritten once is no VIP and no front any more, so a second run changes nothing. */
#include "maps.h"

#define DNS_IP htonl(0x7f00000b)
#define DNS_PORT htons(53)
#define ECONNREFUSED 111
#define ALLOW 1
#define REFUSE 0

/* An older kernel (before 5.18) has no bpf_set_retval: callers then get EPERM. Set by the loader. */
const volatile u32 has_set_retval = 1;

struct address { u32 ip; u16 port; };

inline int refused(void)
{
    count(D_NO_BACKEND);
    if (has_set_retval)
        set_retval(-ECONNREFUSED);
    return REFUSE;
}

inline void remember(struct bpf_sock_addr *ctx, struct address *now, struct address *asked, u16 flags)
{
    struct peer_key key = { .socket = socket_cookie(ctx), .ip = now->ip, .port = now->port };
    struct peer was = { .ip = asked->ip, .port = asked->port, .flags = flags };
    map_update(&peers, &key, &was, 0);
}

/* The VIP among the namespace's networks, in their order. */
inline struct endpoint *find_vip(struct netns *ns, u32 ip, u32 *scope)
{
    for (u32 i = 0; i < NETNS_SCOPES; i++) {
        if (i >= ns->scopes)
            break;
        *scope = ns->scope[i];
        struct endpoint *e = find_endpoint(*scope, ip);
        if (e)
            return e->kind == EP_VIP ? e : 0;
    }
    return 0;
}

/* Datagrams of one socket to one address go to one backend: the second and later ones follow the first, unless its host is silent.
 * `a` is the backend chosen for this one. */
inline void keep_pick(struct bpf_sock_addr *ctx, struct choice *b, struct address *asked, struct address *a)
{
    struct peer_key key = { .socket = socket_cookie(ctx), .ip = asked->ip, .port = asked->port };
    struct pick *old = map_lookup(&picks, &key);
    if (old && old->set == b->set && !is_on_silent_host(b->scope, old->ip)) {
        a->ip = old->ip;
        a->port = old->port;
        return;
    }
    struct pick new = { .set = b->set, .ip = a->ip, .port = a->port };
    map_update(&picks, &key, &new, 0);
}

inline int is_host_address(u32 ip)
{
    return (ip & htonl(0xff000000)) == htonl(0x7f000000) || map_lookup(&host_addrs, &ip);
}

/* A process of the host that asks for an address of the host by TCP speaks with that address, as if nothing had been translated: else
 * the kernel would choose what it calls itself towards the container, which is the gateway of its network. For loopback that is what it
 * is to be, as no container can answer there. One that is bound already has its own choice; sockets of UDP may be connected to
 * somebody else later, and stay free. `connecting`: a constant, for the helper is there for connect() alone. */
inline void speak_as(struct bpf_sock_addr *ctx, u32 ip, int connecting)
{
    if (!connecting || ctx->protocol != IP_TCP || (ip & htonl(0xff000000)) == htonl(0x7f000000))
        return;
    if (ctx->family == AF_INET) {
        struct sockaddr4 as = { .family = AF_INET, .ip = ip };
        bind_source(ctx, &as, sizeof as);
    } else {
        struct sockaddr6 as = { .family = AF_INET6, .ip = { { 0, 0, htonl(0xffff), ip } } };
        bind_source(ctx, &as, sizeof as);
    }
}

/* Turns `a` into where the socket shall really go. 0: nothing to do, 1: changed, -1: refused. */
inline int translate(struct bpf_sock_addr *ctx, struct address *a, u8 proto, u16 flags, int connecting)
{
    u64 cookie = netns_cookie(ctx);
    struct netns *ns = map_lookup(&namespaces, &cookie);
    if (!ns)
        return 0;
    struct address asked = *a;
    if (a->ip == DNS_IP && a->port == DNS_PORT) {
        u16 port = proto == IP_TCP ? ns->dns_tcp : ns->dns_udp;
        if (!port)
            return 0;
        a->port = port;
        count(C_SOCKET_DNS);
        remember(ctx, a, &asked, flags);
        return 1;
    }
    struct choice b = {};
    u32 counted;
    if ((ns->flags & NETNS_HOST) && is_host_address(a->ip)) {
        struct published *pub = find_published(a->ip, a->port, proto);
        if (!pub)
            return 0;
        b.scope = pub->scope;
        if (choose_of_published(&b, a->ip, a->port, proto, pub))
            return -1;
        counted = C_SOCKET_PUBLISHED;
        speak_as(ctx, a->ip, connecting);
    } else {
        struct endpoint *vip = find_vip(ns, a->ip, &b.scope);
        if (!vip)
            return 0;
        if (choose_of_vip(&b, a->ip, vip))
            return -1;
        counted = C_SOCKET_VIP;
    }
    a->ip = b.ip;
    if (b.port)
        a->port = b.port;
    if (proto == IP_UDP)
        keep_pick(ctx, &b, &asked, a);
    count(counted);
    remember(ctx, a, &asked, flags);
    return 1;
}

/* What the program thinks it talks to. */
inline struct peer *asked_for(struct bpf_sock_addr *ctx, u32 ip, u16 port)
{
    struct peer_key key = { .socket = socket_cookie(ctx), .ip = ip, .port = port };
    return map_lookup(&peers, &key);
}

inline int forward4(struct bpf_sock_addr *ctx, u8 proto, int connecting)
{
    struct address a = { .ip = ctx->user_ip4, .port = ctx->user_port };
    int done = translate(ctx, &a, proto, 0, connecting);
    if (done < 0)
        return refused();
    if (done) {
        ctx->user_ip4 = a.ip;
        ctx->user_port = a.port;
    }
    return ALLOW;
}

inline int reverse4(struct bpf_sock_addr *ctx)
{
    struct peer *was = asked_for(ctx, ctx->user_ip4, ctx->user_port);
    if (was) {
        ctx->user_ip4 = was->ip;
        ctx->user_port = was->port;
    }
    return ALLOW;
}

/* Where an IPv6 socket wants to go, or believes to be connected to. */
struct address6 { struct addr6 ip; u16 port; };

inline void read6(struct bpf_sock_addr *ctx, struct address6 *a)
{
    u32 w0 = ctx->user_ip6[0], w1 = ctx->user_ip6[1], w2 = ctx->user_ip6[2], w3 = ctx->user_ip6[3];
    *a = (struct address6){ .ip = { { w0, w1, w2, w3 } }, .port = ctx->user_port };
}

inline void write6(struct bpf_sock_addr *ctx, struct addr6 *ip, u16 port)
{
    u32 w0 = ip->w[0], w1 = ip->w[1], w2 = ip->w[2], w3 = ip->w[3];
    ctx->user_ip6[0] = w0;
    ctx->user_ip6[1] = w1;
    ctx->user_ip6[2] = w2;
    ctx->user_ip6[3] = w3;
    ctx->user_port = port;
}

inline int is_loopback6(struct addr6 *ip)
{
    return !(ip->w[0] | ip->w[1] | ip->w[2]) && ip->w[3] == htonl(1);
}

inline int is_mapped(struct addr6 *ip)
{
    return !(ip->w[0] | ip->w[1]) && ip->w[2] == htonl(0xffff);
}

inline void write_mapped(struct bpf_sock_addr *ctx, u32 ip, u16 port)
{
    struct addr6 mapped = { { 0, 0, htonl(0xffff), ip } };
    write6(ctx, &mapped, port);
}

/* A published port at an IPv6 address of the host, asked for by a process of the host. 1: the socket goes to the container. A link-local
 * address is not meant: such a socket is bound to its link, where no container is. */
inline int to_published6(struct bpf_sock_addr *ctx, struct address6 *a, u8 proto, int connecting)
{
    u64 cookie = netns_cookie(ctx);
    struct netns *ns = map_lookup(&namespaces, &cookie);
    if (!ns || (ns->flags & (NETNS_HOST | NETNS_HOST_V6)) != (NETNS_HOST | NETNS_HOST_V6) || is_link_local6(&a->ip))
        return 0;
    if (!is_loopback6(&a->ip) && !map_lookup(&host_addrs6, &a->ip))
        return 0;
    struct published6 *pub = find_published6(&a->ip, a->port, proto);
    if (!pub)
        return 0;
    struct peer6_key key = { .socket = socket_cookie(ctx), .ip = pub->ip, .port = pub->port };
    struct peer6 was = { .ip = a->ip, .port = a->port };
    map_update(&peers6, &key, &was, 0);
    if (connecting && ctx->protocol == IP_TCP && !is_loopback6(&a->ip)) {
        struct sockaddr6 as = { .family = AF_INET6, .ip = a->ip };      /* as speak_as */
        bind_source(ctx, &as, sizeof as);
    }
    struct addr6 ip = pub->ip;
    write6(ctx, &ip, pub->port);
    count(C_SOCKET_PUBLISHED);
    return 1;
}

/* IPv6 sockets: published ports of the host; and those that talk IPv4, as ::ffff:a.b.c.d, or as ::1 to a port that is published for
 * IPv4 only. */
inline int forward6(struct bpf_sock_addr *ctx, u8 proto, int connecting)
{
    struct address6 asked;
    read6(ctx, &asked);
    int loopback = is_loopback6(&asked.ip), mapped = is_mapped(&asked.ip);
    if (!mapped && to_published6(ctx, &asked, proto, connecting))
        return ALLOW;
    if (!mapped && !loopback)
        return ALLOW;
    struct address a = { .ip = loopback ? htonl(0x7f000001) : asked.ip.w[3], .port = asked.port };
    int done = translate(ctx, &a, proto, loopback ? PEER_WAS_V6_LOOPBACK : 0, connecting);
    if (done < 0)
        return refused();
    if (done)
        write_mapped(ctx, a.ip, a.port);
    return ALLOW;
}

inline int reverse6(struct bpf_sock_addr *ctx)
{
    struct address6 a;
    read6(ctx, &a);
    if (!is_mapped(&a.ip)) {
        struct peer6_key key = { .socket = socket_cookie(ctx), .ip = a.ip, .port = a.port };
        struct peer6 *was = map_lookup(&peers6, &key);
        if (was) {
            struct addr6 ip = was->ip;
            write6(ctx, &ip, was->port);
        }
        return ALLOW;
    }
    struct peer *was = asked_for(ctx, a.ip.w[3], a.port);
    if (!was)
        return ALLOW;
    if (was->flags & PEER_WAS_V6_LOOPBACK) {
        struct addr6 loopback = { { 0, 0, 0, htonl(1) } };
        write6(ctx, &loopback, was->port);
    } else {
        write_mapped(ctx, was->ip, was->port);
    }
    return ALLOW;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return forward4(ctx, ctx->protocol, 1); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx) { return forward6(ctx, ctx->protocol, 1); }
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx) { return forward4(ctx, IP_UDP, 0); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx) { return forward6(ctx, IP_UDP, 0); }
SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx) { return reverse4(ctx); }
SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx) { return reverse6(ctx); }
SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx) { return reverse4(ctx); }
SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx) { return reverse6(ctx); }

char _license[] SEC("license") = "GPL";
