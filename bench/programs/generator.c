// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Makes traffic. The kernel's test run calls it with frame after frame (live
 * frames, Linux 5.18): one that is due is written as junk or as a valid
 * datagram and sent, the others are dropped and come back. So the kernel's own
 * clock keeps the rates, and no socket and no qdisc stands in between.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Of bpf-src/laminar_abi.h, which is not included: a measurement that takes its
 * idea of a valid datagram from what it measures would not notice a mistake. */
#define MAGIC 0x4c414d49

/* A stream that was kept waiting for longer does not catch up. */
#define MOST_BEHIND 1000000ULL

struct stream {
	/* Nanoseconds from one frame to the next; 0: none at all; 1: as many as
	 * go out. */
	__u64 interval;
	/* When the next one is due. */
	__u64 due;
	/* How many were sent. */
	__u64 sent;
};

struct generator {
	struct stream junk;
	struct stream valid;
	/* Where frames leave. */
	__u32 interface;
	/* Valid datagrams go to so many partitions, in turn. */
	__u32 partitions;
	/* Frames come from so many addresses, in turn, from the first one on.
	 */
	__u32 sources;
	/* The first, host byte order. */
	__u32 first_source;
	/* How many frames were written. */
	__u32 number;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct generator);
} generator SEC(".maps");

struct datagram {
	__be32 magic;
	__be32 partition_key;
	__be32 payload_len;
	/* When it was sent, by CLOCK_MONOTONIC; host byte order. */
	__u64 sent;
} __attribute__((packed));

static __always_inline int is_due(struct stream *stream, __u64 now)
{
	if (!stream->interval || now < stream->due)
		return 0;
	if (now - stream->due > MOST_BEHIND)
		stream->due = now;
	stream->due += stream->interval;
	stream->sent++;
	return 1;
}

/* The checksum of the IP header with another source (RFC 1624). */
static __always_inline void set_source(struct iphdr *ip, __be32 source)
{
	__u32 sum = (__u16)~ip->check;

	sum += (__u16) ~(ip->saddr >> 16) + (__u16) ~(ip->saddr & 0xffff);
	sum += (source >> 16) + (source & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	ip->check = ~sum;
	ip->saddr = source;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct datagram *datagram = (void *)(udp + 1);
	__u64 now = bpf_ktime_get_ns();
	struct generator *state;
	__u32 zero = 0;
	int valid;

	if ((void *)(datagram + 1) > data_end)
		return XDP_ABORTED;
	state = bpf_map_lookup_elem(&generator, &zero);
	if (!state)
		return XDP_ABORTED;
	valid = is_due(&state->valid, now);
	if (!valid && !is_due(&state->junk, now))
		return XDP_DROP;

	if (state->sources > 1)
		set_source(ip, bpf_htonl(state->first_source +
					 state->number % state->sources));
	datagram->magic = valid ? bpf_htonl(MAGIC) : 0;
	datagram->partition_key =
		bpf_htonl(state->number % (state->partitions ?: 1));
	datagram->sent = now;
	state->number++;
	return bpf_redirect(state->interface, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
