// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The sockets' layer. laminar_select gives each datagram to the socket of the
 * CPU that owns its partition. laminar_filter drops what is not LaminarDB's
 * protocol. Both programs work with XDP and without XDP.
 *
 * laminar_select itself drops nothing, for two reasons. The kernel answers its
 * drops with an ICMP error. Also, the kernel may merge datagrams into one
 * packet for laminar_select, but splits that packet before laminar_filter runs.
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
#include "verdict.h"

/* The data of both programs starts with a UDP header. */
#define HEADER sizeof(struct udphdr)

#define WHOLE_DATAGRAM 0xffffffff

/* Sockets belong to no interface, and count in the first slot. */
#define SOCKETS_SLOT 0

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
		return SK_PASS; /* too short: the filter of any socket drops it
				 */
	owner = owner_of(header.partition_key);
	if (!owner || !owner->socket)
		return SK_PASS;

	/*
	 * A packet that XDP queued to this CPU stays with this CPU's socket.
	 * So during a move, packets in the old owner's queue reach the old
	 * owner's socket, and packets in the new owner's queue reach the new.
	 */
	if (owner->queue != cpu + 1)
		cpu = owner->socket - 1;
	bpf_sk_select_reuseport(ctx, &sockets, &cpu, 0);
	return SK_PASS;
}

/*
 * The kernel gives every socket a copy of a datagram to a broadcast or
 * multicast address, and does not run laminar_select for such a datagram.
 */
static __always_inline int is_for_every_socket(struct __sk_buff *skb)
{
	__u32 destination = offsetof(struct iphdr, daddr);
	__u8 multicast = 224, first;

	/*
	 * A subnet's broadcast address cannot be recognized without the
	 * netmask, so this uses pkt_type. PACKET_LOOPBACK marks this host's
	 * own copy of a broadcast that it sent.
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

	count(SOCKETS_SLOT, reason, skb->len);
	return verdict_of(reason) == XDP_PASS ? WHOLE_DATAGRAM : 0;
}

char LICENSE[] SEC("license") = LAMINAR_LICENSE;
