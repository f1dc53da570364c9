// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Generates packets. BPF_PROG_TEST_RUN in live-frames mode (Linux 5.18) calls
 * this program repeatedly, each time with a frame. If a packet is due, the
 * program writes junk or a valid datagram into the frame and sends the frame.
 * Otherwise the program drops the frame, and the test run reuses the frame. The
 * kernel's clock controls the rates, and no socket or qdisc is involved.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* The same value as in bpf-src/laminar_abi.h. That header is deliberately not
 * included: a benchmark that shares the definition of a valid datagram with the
 * code under test would not notice a mistake in the definition. */
#define MAGIC 0x4c414d49

/* Nanoseconds. A stream that is further behind its schedule skips the packets
 * that it missed instead of sending a burst. */
#define MAX_BEHIND 1000000ULL

struct stream {
	/* Nanoseconds from one packet to the next. 0 sends nothing; 1 sends as
	 * many packets as possible. */
	__u64 interval;
	/* The time at which the next packet is due. */
	__u64 due;
	/* The number of packets sent. */
	__u64 sent;
};

struct generator {
	struct stream junk;
	struct stream valid;
	/* The index of the interface that sends the packets. */
	__u32 interface;
	/* The number of partitions. Successive packets use successive keys. */
	__u32 partitions;
	/* The number of source addresses. Successive packets use successive
	 * addresses. */
	__u32 sources;
	/* The first source address in host byte order. */
	__u32 first_source;
	/* The number of packets sent by both streams. */
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
	/* When the packet was sent (CLOCK_MONOTONIC), in host byte order. */
	__u64 sent;
} __attribute__((packed));

static __always_inline int is_due(struct stream *stream, __u64 now)
{
	if (!stream->interval || now < stream->due)
		return 0;
	if (now - stream->due > MAX_BEHIND)
		stream->due = now;
	stream->due += stream->interval;
	stream->sent++;
	return 1;
}

/* Sets the source address and updates the header checksum (RFC 1624). */
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
