// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * laminar_ingress: drops what is sent to LaminarDB's port and is not its
 * protocol, hands each valid datagram to the CPU that owns its partition, and
 * leaves everybody else's packets alone.
 *
 * From the bottom up this file is the verdict table: laminar_ingress() answers,
 * judge() and judge_ipv4() find UDP, judge_udp() decides whose datagram it is
 * and whether it is valid, steer() chooses the CPU, and count() of tables.h is
 * the one place that counts.
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
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "cursor.h"
#include "laminar_abi.h"
#include "tables.h"

/* More fragments follow, or this one does not start at 0. */
#define IP_FRAGMENT bpf_htons(0x2000 | 0x1fff)

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

/* Beside the reasons that are counted: nothing to do with us. */
#define NOT_OURS LAMINAR_REASON_COUNT

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
static __always_inline __u32 judge_udp(struct cursor *cursor, __u32 max_len)
{
	struct laminar_header *header, header_copy;
	struct udphdr *udp, udp_copy;
	__u32 len;

	udp = cursor_take(cursor, &udp_copy, sizeof(*udp));
	if (!udp)
		return LAMINAR_REASON_INVALID;
	if (udp->dest != our_port())
		return NOT_OURS;

	len = bpf_ntohs(udp->len);
	if (len < sizeof(*udp) || len > max_len)
		return LAMINAR_REASON_INVALID;
	len -= sizeof(*udp);
	if (!cursor_holds(cursor, len))
		return LAMINAR_REASON_INVALID;
	if (len < sizeof(*header))
		return LAMINAR_REASON_DROPPED_SHORT;
	len -= sizeof(*header);

	header = cursor_take(cursor, &header_copy, sizeof(*header));
	if (!header)
		return LAMINAR_REASON_INVALID; /* cannot be, says len */
	if (header->magic != bpf_htonl(LAMINAR_MAGIC))
		return LAMINAR_REASON_DROPPED_MAGIC;
	if (bpf_ntohl(header->payload_len) != len)
		return LAMINAR_REASON_DROPPED_LENGTH;

	return steer(header->partition_key);
}

static __always_inline __u32 judge_ipv4(struct cursor *cursor)
{
	struct iphdr *ip, ip_copy;
	__u8 version_and_ihl;
	__u32 header_len;
	__u32 total_len;

	ip = cursor_take(cursor, &ip_copy, sizeof(*ip));
	if (!ip)
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
	return judge_udp(cursor, total_len - header_len);
}

static __always_inline __u32 judge(struct cursor *cursor)
{
	struct ethhdr ethernet_copy;
	void *ethernet;
	__be16 *type;

	ethernet = cursor_take(cursor, &ethernet_copy, sizeof(ethernet_copy));
	if (!ethernet)
		return LAMINAR_REASON_INVALID;
	/* struct ethhdr is packed, which would make this two loads. */
	type = ethernet + offsetof(struct ethhdr, h_proto);
	if (*type == bpf_htons(ETH_P_IP))
		return judge_ipv4(cursor);
	return NOT_OURS;
}

SEC(XDP_SECTION)
int laminar_ingress(struct xdp_md *ctx)
{
	struct cursor cursor = cursor_of(ctx);
	__u32 reason = judge(&cursor);

	if (reason == NOT_OURS)
		return XDP_PASS;

	count(reason);

	switch (reason) {
	case LAMINAR_REASON_DROPPED_SHORT:
	case LAMINAR_REASON_DROPPED_MAGIC:
	case LAMINAR_REASON_DROPPED_LENGTH:
		return XDP_DROP;
	case LAMINAR_REASON_REDIRECTED:
		return XDP_REDIRECT;
	default:
		return XDP_PASS;
	}
}

char LICENSE[] SEC("license") = LAMINAR_LICENSE;
