// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The same promise for sockets: laminar_select gives each datagram to the
 * socket of the CPU that owns its partition, laminar_filter keeps from a socket
 * what is not LaminarDB's protocol. They hold with XDP and without it.
 *
 * Two programs, because what the first one drops is answered with an ICMP
 * error; and because the kernel may hand it several datagrams as one, which it
 * takes apart before it runs the second.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/stddef.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "laminar_abi.h"
#include "tables.h"

/* Both programs find a UDP header at the start of their data. */
#define HEADER sizeof(struct udphdr)

#define WHOLE_DATAGRAM 0xffffffff

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, LAMINAR_DEFAULT_CPUS);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

SEC("sk_reuseport")
int laminar_select(struct sk_reuseport_md *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct laminar_header header;
	struct laminar_owner *owner;

	if (bpf_skb_load_bytes(ctx, HEADER, &header, sizeof(header)))
		return SK_PASS; /* too short: any socket's filter drops it */
	owner = owner_of(header.partition_key);
	if (!owner || !owner->socket)
		return SK_PASS;

	/*
	 * XDP's queue decides, so that packets which it handed over before and
	 * after a move reach the old and the new owner, in their order.
	 */
	if (owner->queue != cpu + 1)
		cpu = owner->socket - 1;
	bpf_sk_select_reuseport(ctx, &sockets, &cpu, 0);
	return SK_PASS;
}

/*
 * Of a datagram to a broadcast or multicast address the kernel gives every
 * socket a copy, and asks nobody which.
 */
static __always_inline int is_for_every_socket(struct __sk_buff *skb)
{
	__u32 destination = offsetof(struct iphdr, daddr);
	__u8 multicast = 224, first;

	/*
	 * A network's own broadcast address is like any other, but the frame's
	 * is not; LOOPBACK is a copy of what this host broadcasts.
	 */
	if (skb->pkt_type == PACKET_BROADCAST ||
	    skb->pkt_type == PACKET_LOOPBACK)
		return 1;
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		destination = offsetof(struct ipv6hdr, daddr);
		multicast = 0xff;
	}
	if (bpf_skb_load_bytes_relative(skb, destination, &first, sizeof(first),
					BPF_HDR_START_NET))
		return 0;
	return first >= multicast;
}

static __always_inline __u32 judge(struct __sk_buff *skb)
{
	struct laminar_header header;

	if (bpf_skb_load_bytes(skb, HEADER, &header, sizeof(header)))
		return LAMINAR_REASON_DROPPED_SHORT;
	if (header.magic != bpf_htonl(LAMINAR_MAGIC))
		return LAMINAR_REASON_DROPPED_MAGIC;
	if (bpf_ntohl(header.payload_len) != skb->len - HEADER - sizeof(header))
		return LAMINAR_REASON_DROPPED_LENGTH;
	if (is_for_every_socket(skb))
		return LAMINAR_REASON_DROPPED_MULTICAST;
	return LAMINAR_REASON_ACCEPTED;
}

SEC("socket")
int laminar_filter(struct __sk_buff *skb)
{
	__u32 reason = judge(skb);

	count(reason, skb->len);
	return reason == LAMINAR_REASON_ACCEPTED ? WHOLE_DATAGRAM : 0;
}

char LICENSE[] SEC("license") = LAMINAR_LICENSE;
