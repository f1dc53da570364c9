// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * laminar_ingress drops datagrams to LaminarDB's port that do not follow
 * LaminarDB's protocol. It redirects each valid datagram to the CPU that owns
 * the datagram's partition. It passes all other packets.
 *
 * Read this file from the end: ingress() returns the verdict, find_udp() finds
 * UDP after VLAN tags and IPv4 or IPv6, judge_udp() checks the port and the
 * datagram, and steer() selects the CPU. count() in tables.h is the only code
 * that counts, and verdict_of() in verdict.h maps a reason to its verdict.
 *
 * laminar_guarded() is the same program with the features of sources.h and
 * samples.h. The verifier removes the code of features that are off, so they
 * cost nothing.
 *
 * Each define stands for one ability of a kernel (see targets.toml):
 *
 *   LAMINAR_GLOBAL_DATA: settings are constants that the verifier folds
 *
 *   LAMINAR_REDIRECT_VERDICT: a redirect to an empty slot has a verdict
 *
 *   LAMINAR_CPUMAP_PROGRAM: CPU map values are 8 bytes long
 *
 *   LAMINAR_FRAGS: a packet may be in several buffers
 *
 *   LAMINAR_FEATURES: the verifier folds constants, and ring buffers exist
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "controls.h"
#include "cursor.h"
#include "laminar_abi.h"
#include "samples.h"
#include "sources.h"
#include "tables.h"
#include "verdict.h"

/* The flag "more fragments", and the offset. */
#define IP_FRAGMENT   bpf_htons(0x2000 | 0x1fff)
#define IPV6_FRAGMENT bpf_htons(0xfff8 | 1)

/* The IPv6 extension headers that may precede UDP (IANA). */
#define NEXTHDR_HOP	 0
#define NEXTHDR_ROUTING	 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_AUTH	 51
#define NEXTHDR_DEST	 60

/* RFC 8200: one header of each kind, and destination options twice. */
#define MAX_EXTENSIONS 6
#define MAX_VLAN_TAGS  2

/*
 * The verdict of bpf_redirect_map() for a CPU without a queue. Before Linux 5.3
 * any flag aborts the packet, so the flags are 0, and the verdict XDP_ABORTED.
 * User space must then create the queue before it names the CPU as an owner.
 */
#ifdef LAMINAR_REDIRECT_VERDICT
#define EMPTY_SLOT XDP_PASS
#else
#define EMPTY_SLOT 0
#endif

/* Objects without features compare all ports: it costs next to nothing. */
#ifdef LAMINAR_FEATURES
#define ALWAYS_ON 0
#else
#define ALWAYS_ON LAMINAR_FEATURE_PORTS
#endif

/* Features that need the source of a packet. */
#define SOURCES (LAMINAR_FEATURE_LISTS | LAMINAR_FEATURE_LIMIT)

/* Results beside the reasons. NOT_OURS is passed and not counted. */
#define NOT_OURS LAMINAR_MAX_REASONS
#define FOUND	 (LAMINAR_MAX_REASONS + 1)

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, LAMINAR_DEFAULT_CPUS);
	__type(key, __u32);
#ifdef LAMINAR_CPUMAP_PROGRAM
	__type(value, struct bpf_cpumap_val);
#else
	__type(value, __u32); /* the queue size, as before Linux 5.9 */
#endif
} cpu_map SEC(".maps");

static __always_inline __u32 steer(__be32 partition_key)
{
	struct laminar_owner *owner = owner_of(partition_key);

	if (!owner || !owner->queue)
		return LAMINAR_REASON_PASSED_NO_QUEUE;

	if (bpf_redirect_map(&cpu_map, owner->queue - 1, EMPTY_SLOT) !=
	    XDP_REDIRECT)
		return LAMINAR_REASON_PASSED_NO_QUEUE;
	return LAMINAR_REASON_REDIRECTED;
}

/*
 * The cursor is at the UDP header. max_len is the number of bytes from there to
 * the end of the IP packet. Padding may follow that end.
 */
static __always_inline __u32 judge_udp(struct cursor *cursor, __u32 max_len,
				       const struct laminar_prefix *from,
				       __u32 features)
{
	struct laminar_header *header, header_copy;
	struct udphdr *udp, udp_copy;
	__u32 len;

	if (!cursor_take(cursor, (void **)&udp, &udp_copy, sizeof(*udp)))
		return LAMINAR_REASON_INVALID;
	if (!is_our_port(udp->dest, features & LAMINAR_FEATURE_PORTS))
		return NOT_OURS;
	if (features & LAMINAR_FEATURE_LISTS && is_denied(from))
		return LAMINAR_REASON_DROPPED_DENIED;

	len = bpf_ntohs(udp->len);
	if (len < sizeof(*udp) || len > max_len)
		return LAMINAR_REASON_INVALID;
	len -= sizeof(*udp);
	if (!cursor_holds(cursor, len))
		return LAMINAR_REASON_INVALID;
	if (len < sizeof(*header))
		return LAMINAR_REASON_DROPPED_SHORT;
	len -= sizeof(*header);

	if (!cursor_take(cursor, (void **)&header, &header_copy,
			 sizeof(*header)))
		return LAMINAR_REASON_INVALID; /* impossible: len says so */
	if (header->magic != bpf_htonl(LAMINAR_MAGIC))
		return LAMINAR_REASON_DROPPED_MAGIC;
	if (bpf_ntohl(header->payload_len) != len)
		return LAMINAR_REASON_DROPPED_LENGTH;

	if (features & LAMINAR_FEATURE_LIMIT && !may_send(from, features))
		return LAMINAR_REASON_DROPPED_RATE;
	return steer(header->partition_key);
}

/*
 * The find functions move the cursor to the UDP header, set *max_len to the
 * number of bytes from there to the end of the IP packet, fill *from if it is
 * not NULL, and return FOUND. If there is no UDP header to judge, they return
 * the reason or NOT_OURS.
 */
static __always_inline __u32 find_in_ipv4(struct cursor *cursor, __u32 *max_len,
					  struct laminar_prefix *from)
{
	struct iphdr *ip, ip_copy;
	__u8 version_and_ihl;
	__u32 header_len;
	__u32 total_len;

	if (!cursor_take(cursor, (void **)&ip, &ip_copy, sizeof(*ip)))
		return LAMINAR_REASON_INVALID;
	if (ip->protocol != IPPROTO_UDP)
		return NOT_OURS;

	/* Not the bitfields: the compiler's host decides their order. */
	version_and_ihl = *(__u8 *)ip;
	header_len = (version_and_ihl & 0xf) * 4;
	if (version_and_ihl >> 4 != 4 || header_len < sizeof(*ip))
		return LAMINAR_REASON_INVALID;
	if (!cursor_skip(cursor, header_len - sizeof(*ip)))
		return LAMINAR_REASON_INVALID; /* options cut short */
	if (ip->frag_off & IP_FRAGMENT)
		return LAMINAR_REASON_PASSED_FRAGMENT;

	total_len = bpf_ntohs(ip->tot_len);
	if (total_len < header_len + sizeof(struct udphdr))
		return LAMINAR_REASON_INVALID; /* only padding follows */
	*max_len = total_len - header_len;
	if (from)
		source_from_ipv4(from, ip);
	return FOUND;
}

/* The first 8 bytes of an IPv6 extension header. No kind is shorter. */
struct extension {
	__u8 next;
	__u8 len;	 /* of the rest; the unit depends on the kind */
	__be16 fragment; /* in a fragment header: offset and flag */
	__be32 other;
};

/*
 * Header kinds as bits of one number, so that one comparison tests for several
 * kinds. With a comparison for each kind, the verifier would walk the rest of
 * the program once for each kind.
 */
#define KIND(kind) (1ULL << (kind))
#define EXTENSIONS                                                             \
	(KIND(NEXTHDR_HOP) | KIND(NEXTHDR_ROUTING) | KIND(NEXTHDR_FRAGMENT) |  \
	 KIND(NEXTHDR_AUTH) | KIND(NEXTHDR_DEST))

static __always_inline bool is_one_of(__u64 kinds, __u64 kind)
{
	return kind < 64 && kinds >> kind & 1;
}

static __always_inline __u32 find_in_ipv6(struct cursor *cursor, __u32 *max_len,
					  struct laminar_prefix *from)
{
	struct extension *extension, extension_copy;
	struct ipv6hdr *ip, ip_copy;
	__u32 left, more;
	__u64 next;

	if (!cursor_take(cursor, (void **)&ip, &ip_copy, sizeof(*ip)))
		return LAMINAR_REASON_INVALID;
	if (*(__u8 *)ip >> 4 != 6)
		return LAMINAR_REASON_INVALID;
	if (from)
		source_from_ipv6(from, ip);
	left = bpf_ntohs(ip->payload_len);
	next = ip->nexthdr;

#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_one_of(EXTENSIONS, next))
			break;
		if (!cursor_take(cursor, (void **)&extension, &extension_copy,
				 sizeof(*extension)))
			return LAMINAR_REASON_INVALID;
		/* The unit is 8 bytes, or 4; a fragment header has no rest. */
		more = extension->len * 8;
		more >>= KIND(NEXTHDR_AUTH) >> next & 1;
		more &= (KIND(NEXTHDR_FRAGMENT) >> next & 1) - 1;
		if (next == NEXTHDR_FRAGMENT &&
		    extension->fragment & IPV6_FRAGMENT) {
			/* The payload of a later fragment has no header. */
			if (extension->next != IPPROTO_UDP)
				return NOT_OURS;
			return LAMINAR_REASON_PASSED_FRAGMENT;
		}
		next = extension->next;
		if (left < sizeof(*extension) + more)
			return LAMINAR_REASON_INVALID;
		left -= sizeof(*extension) + more;
		if (!cursor_skip(cursor, more))
			return LAMINAR_REASON_INVALID;
	}
	if (is_one_of(EXTENSIONS, next))
		return LAMINAR_REASON_INVALID; /* too many */
	if (next != IPPROTO_UDP)
		return NOT_OURS;
	if (left < sizeof(struct udphdr))
		return LAMINAR_REASON_INVALID;
	*max_len = left;
	return FOUND;
}

static __always_inline __u32 find_udp(struct cursor *cursor, __u32 *max_len,
				      struct laminar_prefix *from)
{
	struct ethhdr ethernet_copy;
	void *ethernet, *tag;
	__be32 tag_copy;
	__be16 type;

	if (!cursor_take(cursor, &ethernet, &ethernet_copy,
			 sizeof(ethernet_copy)))
		return LAMINAR_REASON_INVALID;
	/* Not through struct ethhdr: it is packed, so clang emits two loads. */
	type = *(__be16 *)(ethernet + offsetof(struct ethhdr, h_proto));
	if (type == bpf_htons(ETH_P_IP))
		return find_in_ipv4(cursor, max_len, from);
	/* Keeps clang from testing for the rarer types before IPv4. */
	barrier_var(type);

#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (type != bpf_htons(ETH_P_8021Q) &&
		    type != bpf_htons(ETH_P_8021AD))
			break;
		if (!cursor_take(cursor, &tag, &tag_copy, sizeof(tag_copy)))
			return LAMINAR_REASON_INVALID;
		/* The next type follows the tag's own two bytes. */
		type = *(__be16 *)(tag + sizeof(__be16));
	}
	if (type == bpf_htons(ETH_P_IP))
		return find_in_ipv4(cursor, max_len, from);
	if (type == bpf_htons(ETH_P_IPV6))
		return find_in_ipv6(cursor, max_len, from);
	return NOT_OURS;
}

/* Whether a packet gets this reason before its datagram's end is known. */
static __always_inline bool has_unknown_end(__u32 reason)
{
	return reason == LAMINAR_REASON_INVALID ||
	       reason == LAMINAR_REASON_PASSED_FRAGMENT ||
	       reason == LAMINAR_REASON_DROPPED_DENIED;
}

static __always_inline int ingress(struct xdp_md *ctx, __u32 features)
{
	struct cursor cursor = cursor_of(ctx);
	struct laminar_prefix source,
		*from = features & SOURCES ? &source : NULL;
	__u32 max_len = 0;
	__u32 reason = find_udp(&cursor, &max_len, from);
	int verdict;
	__u64 nth;

	if (reason == FOUND)
		reason = judge_udp(&cursor, max_len, from, features);
	if (reason == NOT_OURS)
		return XDP_PASS;

	/* Otherwise cursor_holds() added the later buffers where necessary. */
	if (has_unknown_end(reason))
		cursor_beyond(&cursor);
	nth = count(setting(interface_slot), reason, cursor_seen(&cursor));

	verdict = verdict_of(reason);
	if (features & LAMINAR_FEATURE_SAMPLES && verdict == XDP_DROP)
		sample(&cursor, reason, nth);
	return verdict;
}

SEC(XDP_SECTION)
int laminar_ingress(struct xdp_md *ctx)
{
	return ingress(ctx, ALWAYS_ON);
}

#ifdef LAMINAR_FEATURES
/* The leading `?` disables autoload; loaders must opt in. */
SEC("?" XDP_SECTION)
int laminar_guarded(struct xdp_md *ctx)
{
	return ingress(ctx, setting(features));
}
#endif

char LICENSE[] SEC("license") = LAMINAR_LICENSE;
