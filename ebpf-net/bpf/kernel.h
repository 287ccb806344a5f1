/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The kernel's stable interface to eBPF programs, as far as we use it: context structs (linux/bpf.h), helper numbers
 * (bpf-helpers(7)), wire formats. Written out here so that an object depends on nothing but the compiler. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define inline static inline __attribute__((always_inline))
/* A function that the verifier looks at once, by itself, for any arguments, instead of anew for each way that leads to it: loading is
 * ten times faster. Pointers may be null for all that it knows, so each begins with a check (before kernel 6.8 nothing
 * else can tell it). What they point to is no key or value for a map helper before kernel 6.2: it is copied to the stack. */
#define outlined __attribute__((noinline)) int
#define SEC(name) __attribute__((section(name), used))
#define packed __attribute__((packed))
#define memcpy __builtin_memcpy

/* Byte order: values from the wire stay as they are; these turn constants and arithmetic. */
#define htons(x) ((u16)__builtin_bswap16(x))
#define ntohs(x) ((u16)__builtin_bswap16(x))
#define htonl(x) ((u32)__builtin_bswap32(x))
#define ntohl(x) ((u32)__builtin_bswap32(x))
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little endian machines only"
#endif

/* ---- map definitions (BTF style) ---- */
#define MAP_UINT(name, val) int(*name)[val]
#define MAP_TYPE(name, val) typeof(val) *name
enum map_type { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_LRU_HASH = 9, MAP_LPM_TRIE = 11 };
#define NO_PREALLOC 1
#define MAP_WITH_FLAGS(name, kind, size, flags, k, v)                                                                  \
    struct {                                                                                                           \
        MAP_UINT(type, kind);                                                                                          \
        MAP_UINT(max_entries, size);                                                                                   \
        MAP_UINT(map_flags, flags);                                                                                    \
        MAP_UINT(pinning, 1);                                                                                          \
        MAP_TYPE(key, k);                                                                                              \
        MAP_TYPE(value, v);                                                                                            \
    } name SEC(".maps")
#define MAP(name, kind, size, k, v) MAP_WITH_FLAGS(name, kind, size, 0, k, v)

/* ---- contexts ---- */
struct __sk_buff {
    u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex,
        ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4,
        remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
    u64 flow_keys, tstamp;
    u32 wire_len, gso_segs;
    struct bpf_sock *sk;
    u32 gso_size;
};
struct bpf_sock;
struct bpf_tcp_sock {
    u32 snd_cwnd, srtt_us, rtt_min, snd_ssthresh, rcv_nxt, snd_nxt, snd_una, mss_cache, ecn_flags, rate_delivered,
        rate_interval_us, packets_out, retrans_out, total_retrans;
};
struct bpf_sock_addr {
    u32 user_family, user_ip4, user_ip6[4], user_port, family, type, protocol, msg_src_ip4, msg_src_ip6[4];
    u64 sk;
};

/* ---- helpers ---- */
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const map_delete)(void *map, const void *key) = (void *)3;
static u32 (*const random_u32)(void) = (void *)7;
static long (*const skb_store)(struct __sk_buff *skb, u32 offset, const void *from, u32 len, u64 flags) = (void *)9;
static long (*const l3_csum_replace)(struct __sk_buff *skb, u32 offset, u64 from, u64 to, u64 size) = (void *)10;
static long (*const l4_csum_replace)(struct __sk_buff *skb, u32 offset, u64 from, u64 to, u64 flags) = (void *)11;
static long (*const clone_redirect)(struct __sk_buff *skb, u32 ifindex, u64 flags) = (void *)13;
static long (*const skb_vlan_pop)(struct __sk_buff *skb) = (void *)19;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const skb_load)(const void *skb, u32 offset, void *to, u32 len) = (void *)26;
static long (*const csum_diff)(const void *from, u32 from_size, const void *to, u32 to_size, u32 seed) = (void *)28;
static long (*const skb_change_type)(struct __sk_buff *skb, u32 type) = (void *)32;
static u32 (*const skb_hash)(struct __sk_buff *skb) = (void *)34;
static long (*const skb_change_tail)(struct __sk_buff *skb, u32 len, u64 flags) = (void *)38;
static long (*const skb_pull)(struct __sk_buff *skb, u32 len) = (void *)39;
static u64 (*const socket_cookie)(void *ctx) = (void *)46;
static long (*const skb_adjust_room)(struct __sk_buff *skb, int len_diff, u32 mode, u64 flags) = (void *)50;
static long (*const bind_source)(struct bpf_sock_addr *ctx, void *addr, int len) = (void *)64;
static struct bpf_sock *(*const full_socket)(struct bpf_sock *sk) = (void *)95;
static struct bpf_tcp_sock *(*const tcp_socket)(struct bpf_sock *sk) = (void *)96;
static u64 (*const netns_cookie)(void *ctx) = (void *)122;
static long (*const redirect_neigh)(u32 ifindex, void *params, int plen, u64 flags) = (void *)152;
static long (*const redirect_peer)(u32 ifindex, u64 flags) = (void *)155;
static u64 (*const time_coarse_ns)(void) = (void *)160;
static long (*const set_retval)(int retval) = (void *)187;

#define AF_INET 2
#define AF_INET6 10
#define F_INGRESS 1             /* redirect */
#define F_RECOMPUTE_CSUM 1      /* skb_store */
#define F_INVALIDATE_HASH 2     /* skb_store */
#define F_PSEUDO_HDR (1 << 4)   /* l4_csum_replace */
#define F_MARK_MANGLED_0 (1 << 5)
#define ROOM_MAC 1              /* skb_adjust_room mode */
#define ROOM_FIXED_GSO (1 << 0)
#define ROOM_ENCAP_L3_IPV4 (1 << 1)
#define ROOM_ENCAP_L4_UDP (1 << 4)
#define ROOM_ENCAP_L2(len) ((u64)(len) << 56)
#define ROOM_ENCAP_L2_ETH (1 << 6)

#define TC_ACT_UNSPEC (-1)      /* our verdict is: no opinion; tcx reads it as "next program" */
#define TC_ACT_SHOT 2
#define PACKET_HOST 0

/* ---- wire formats ---- */
#define ETH_LEN 14
#define ETH_IPV4 htons(0x0800)
#define ETH_ARP htons(0x0806)
#define ETH_IPV6 htons(0x86dd)
enum ip_proto { IP_ICMP = 1, IP_IGMP = 2, IP_TCP = 6, IP_UDP = 17, IP_ICMPV6 = 58 };
enum ip_extension { IP_HOP_OPTIONS = 0, IP_ROUTING = 43, IP_FRAGMENT = 44, IP_DST_OPTIONS = 60 };
#define VLAN_ID 0xfff           /* of vlan_tci */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct eth { u8 dst[6], src[6]; u16 proto; } packed;
struct ipv4 {
    u8 version_ihl, tos;
    u16 len, id, frag;
    u8 ttl, proto;
    u16 check;
    u32 saddr, daddr;
};
struct addr6 { u32 w[4]; };
struct ipv6 { u32 version; u16 len; u8 next, hops; struct addr6 saddr, daddr; };
/* How an extension header begins (RFC 8200, section 4); offset and id are those of a fragment header. In a routing header the
 * upper half of offset says how many segments are left. */
struct extension { u8 next, len; u16 offset; u32 id; };
/* Neighbour solicitation and advertisement (RFC 4861, section 4), with the one option that is of use. */
struct neighbour_message { u8 type, code; u16 check; u32 flags; struct addr6 target; u8 option, option_len, mac[6]; };
struct tcp { u16 sport, dport; u32 seq, ack; u8 offset, flags; u16 window, check, urgent; };
struct udp { u16 sport, dport, len, check; };
struct icmp { u8 type, code; u16 check, id, seq; };
struct arp { u16 hrd, pro; u8 hln, pln; u16 op; u8 sha[6]; u32 spa; u8 tha[6]; u32 tpa; } packed;
/* What bind(2) takes, of either family. */
struct sockaddr4 { u16 family, port; u32 ip, zero[2]; };
struct sockaddr6 { u16 family, port; u32 flow; struct addr6 ip; u32 scope; };
struct vxlan { u32 flags, vni; };
