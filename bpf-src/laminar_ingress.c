// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * laminar_ingress: drops what is sent to LaminarDB's port and is not its
 * protocol, hands each valid datagram to the CPU that owns its partition, and
 * leaves everybody else's packets alone.
 *
 * From the bottom up this file is the verdict table: laminar_ingress() answers,
 * find_udp() looks for UDP behind VLAN tags and either IP, judge_udp() decides
 * whose datagram it is and whether it is valid, steer() chooses the CPU, and
 * count() of tables.h is the one place that counts. laminar_guarded() is the
 * same with the features of sources.h and samples.h, of which the verifier
 * takes away those that are off: a program without them pays for none.
 *
 * Defines, one per thing that a kernel can or cannot do (see targets.toml):
 *
 *   LAMINAR_GLOBAL_DATA: settings are constants that the verifier folds
 *
 *   LAMINAR_REDIRECT_VERDICT: a redirect to an empty slot has a verdict
 *
 *   LAMINAR_CPUMAP_PROGRAM: CPU map values are 8 bytes long
 *
 *   LAMINAR_FRAGS: a packet may lie in several buffers
 *
 *   LAMINAR_FEATURES: constants are folded, and there are ring buffers
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

/* More fragments follow, or this one does not start at 0. */
#define IP_FRAGMENT   bpf_htons(0x2000 | 0x1fff)
#define IPV6_FRAGMENT bpf_htons(0xfff8 | 1)

/* The kinds of IPv6 extension headers that may stand before UDP (IANA). */
#define NEXTHDR_HOP	 0
#define NEXTHDR_ROUTING	 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_AUTH	 51
#define NEXTHDR_DEST	 60

/* As many as make sense: one of each kind, and destination options twice. */
#define MOST_EXTENSIONS 6
#define MOST_VLAN_TAGS	2

/*
 * What bpf_redirect_map() answers for a CPU without a queue. Before Linux 5.3
 * any flag aborts the packet, so there it is 0, which means ABORTED: user space
 * writes an owner only once its CPU has a queue.
 */
#ifdef LAMINAR_REDIRECT_VERDICT
#define EMPTY_SLOT XDP_PASS
#else
#define EMPTY_SLOT 0
#endif

/* Where there is no choice: what costs next to nothing. */
#ifdef LAMINAR_FEATURES
#define ALWAYS_ON 0
#else
#define ALWAYS_ON LAMINAR_FEATURE_PORTS
#endif

/* Beside the reasons that are counted: nothing to do with us. */
#define NOT_OURS LAMINAR_REASON_COUNT
/* Features that ask who a packet is from. */
#define SOURCES (LAMINAR_FEATURE_LISTS | LAMINAR_FEATURE_LIMIT)
/* None yet: there is UDP. */
#define FOUND (LAMINAR_REASON_COUNT + 1)

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, LAMINAR_DEFAULT_CPUS);
	__type(key, __u32);
#ifdef LAMINAR_CPUMAP_PROGRAM
	__type(value, struct bpf_cpumap_val);
#else
	__type(value, __u32); /* queue size alone, as before Linux 5.9 */
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
 * The cursor stands at the UDP header. max_len is the most that the IP packet
 * leaves for UDP: the frame may be padded beyond it.
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
		return LAMINAR_REASON_INVALID; /* cannot be, says len */
	if (header->magic != bpf_htonl(LAMINAR_MAGIC))
		return LAMINAR_REASON_DROPPED_MAGIC;
	if (bpf_ntohl(header->payload_len) != len)
		return LAMINAR_REASON_DROPPED_LENGTH;

	if (features & LAMINAR_FEATURE_LIMIT && !may_send(from, features))
		return LAMINAR_REASON_DROPPED_RATE;
	return steer(header->partition_key);
}

/*
 * The functions that look for UDP move the cursor to its header, say how much
 * the IP packet leaves for it and, where they are asked, who it is from, and
 * answer FOUND; or why there is none to judge.
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

	/* Not the bitfields: their order is the compiling machine's. */
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
		return LAMINAR_REASON_INVALID; /* what follows is padding */
	*max_len = total_len - header_len;
	if (from)
		note_ipv4(from, ip);
	return FOUND;
}

/* The first 8 bytes of an IPv6 extension header: no kind has fewer. */
struct extension {
	__u8 next;
	__u8 len;	 /* what it has beyond these, in units of its kind */
	__be16 fragment; /* offset and flag, in a fragment header */
	__be32 other;
};

/*
 * Kinds as bits of a number: one comparison asks for several, where one for
 * each would have the verifier walk the rest of the program once for each.
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
		note_ipv6(from, ip);
	left = bpf_ntohs(ip->payload_len);
	next = ip->nexthdr;

#pragma unroll
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		if (!is_one_of(EXTENSIONS, next))
			break;
		if (!cursor_take(cursor, (void **)&extension, &extension_copy,
				 sizeof(*extension)))
			return LAMINAR_REASON_INVALID;
		/* In units of 8 bytes, of 4, or nothing. */
		more = extension->len * 8;
		more >>= KIND(NEXTHDR_AUTH) >> next & 1;
		more &= (KIND(NEXTHDR_FRAGMENT) >> next & 1) - 1;
		if (next == NEXTHDR_FRAGMENT &&
		    extension->fragment & IPV6_FRAGMENT) {
			/* What a later one begins with nobody can tell. */
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
		return LAMINAR_REASON_INVALID; /* more than anybody needs */
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
	/* struct ethhdr is packed, which would make this two loads. */
	type = *(__be16 *)(ethernet + offsetof(struct ethhdr, h_proto));
	if (type == bpf_htons(ETH_P_IP))
		return find_in_ipv4(cursor, max_len, from);
	barrier_var(type); /* most packets are: no search for the other types
			      first */

#pragma unroll
	for (int i = 0; i < MOST_VLAN_TAGS; i++) {
		if (type != bpf_htons(ETH_P_8021Q) &&
		    type != bpf_htons(ETH_P_8021AD))
			break;
		if (!cursor_take(cursor, &tag, &tag_copy, sizeof(tag_copy)))
			return LAMINAR_REASON_INVALID;
		/* Behind the tag's own two bytes stands the next type. */
		type = *(__be16 *)(tag + sizeof(__be16));
	}
	if (type == bpf_htons(ETH_P_IP))
		return find_in_ipv4(cursor, max_len, from);
	if (type == bpf_htons(ETH_P_IPV6))
		return find_in_ipv6(cursor, max_len, from);
	return NOT_OURS;
}

static __always_inline int ingress(struct xdp_md *ctx, __u32 features)
{
	struct cursor cursor = cursor_of(ctx);
	struct laminar_prefix source,
		*from = features & SOURCES ? &source : NULL;
	__u32 max_len = 0;
	__u32 reason = find_udp(&cursor, &max_len, from);
	__u64 nth;

	if (reason == FOUND)
		reason = judge_udp(&cursor, max_len, from, features);
	if (reason == NOT_OURS)
		return XDP_PASS;

	/* Of all others the datagram's end was looked for. */
	if (reason <= LAMINAR_REASON_PASSED_FRAGMENT ||
	    reason == LAMINAR_REASON_DROPPED_DENIED)
		cursor_beyond(&cursor);
	nth = count(reason, cursor_seen(&cursor));

	switch (reason) {
	case LAMINAR_REASON_DROPPED_SHORT:
	case LAMINAR_REASON_DROPPED_MAGIC:
	case LAMINAR_REASON_DROPPED_LENGTH:
	case LAMINAR_REASON_DROPPED_DENIED:
	case LAMINAR_REASON_DROPPED_RATE:
		if (features & LAMINAR_FEATURE_SAMPLES)
			sample(&cursor, reason, nth);
		return XDP_DROP;
	case LAMINAR_REASON_REDIRECTED:
		return XDP_REDIRECT;
	default:
		return XDP_PASS;
	}
}

SEC(XDP_SECTION)
int laminar_ingress(struct xdp_md *ctx)
{
	return ingress(ctx, ALWAYS_ON);
}

#ifdef LAMINAR_FEATURES
/* By the question mark nobody loads it who does not ask for it. */
SEC("?" XDP_SECTION)
int laminar_guarded(struct xdp_md *ctx)
{
	return ingress(ctx, wanted_features());
}
#endif

char LICENSE[] SEC("license") = LAMINAR_LICENSE;
