// SPDX-License-Identifier: Apache-2.0
/*
 * laminar_ingress as an ordinary function: the program's own source, with the
 * few helpers that it calls written for the host. Compiled once as it is and
 * once with LAMINAR_FRAGS, with names of its own for each.
 */
#include <string.h>

#include "program.h"

#ifdef LAMINAR_FRAGS
#define HOST(name) host_frags_##name
#define HOST_JUDGE host_judge_frags
#else
#define HOST(name) host_plain_##name
#define HOST_JUDGE host_judge
#endif
#define LICENSE		     HOST(license)
#define bpf_map_lookup_elem  HOST(map_lookup_elem)
#define bpf_redirect_map     HOST(redirect_map)
#define bpf_xdp_get_buff_len HOST(xdp_get_buff_len)
#define bpf_xdp_load_bytes   HOST(xdp_load_bytes)
#define cpu_map		     HOST(cpu_map)
#define laminar_ingress	     HOST(laminar_ingress)
#define settings	     HOST(settings)
#define stats		     HOST(stats)
#define steering	     HOST(steering)

/* The kernel's has 32-bit fields that it widens as it loads the program. */
#define xdp_md kernel_xdp_md
#include <linux/bpf.h>
#undef xdp_md

struct xdp_md {
	unsigned long data;
	unsigned long data_end;
	const __u8 *packet;
	unsigned long len;
};

#define LAMINAR_REDIRECT_VERDICT
#include "../../bpf-src/laminar_ingress.c"

/* What the maps hold while one packet is judged. */
static _Thread_local struct {
	struct laminar_settings settings;
	const __u16 *queues;
	struct laminar_owner owner;
	__u64 counters[LAMINAR_REASON_COUNT];
	__u32 cpu;
} now;

void *bpf_map_lookup_elem(void *map, const void *key)
{
	__u32 index = *(const __u32 *)key;

	if (map == &settings)
		return index == 0 ? &now.settings : NULL;
	if (map == &stats)
		return index < LAMINAR_REASON_COUNT ? &now.counters[index]
						    : NULL;
	if (map != &steering || index >= now.settings.partitions)
		return NULL;
	now.owner.queue = now.queues[index];
	return &now.owner;
}

/* Every CPU that is named has a queue. */
long bpf_redirect_map(void *map, __u64 key, __u64 flags)
{
	if (map != &cpu_map)
		return flags;
	now.cpu = key;
	return XDP_REDIRECT;
}

__u64 bpf_xdp_get_buff_len(struct xdp_md *ctx)
{
	return ctx->len;
}

long bpf_xdp_load_bytes(struct xdp_md *ctx, __u32 offset, void *to, __u32 len)
{
	if (offset > ctx->len || len > ctx->len - offset)
		return -1;
	memcpy(to, ctx->packet + offset, len);
	return 0;
}

struct host_answer HOST_JUDGE(const __u8 *first, unsigned long first_len,
			      const __u8 *packet, unsigned long len,
			      const struct host_config *config) {
	struct xdp_md ctx = {
		.data = (unsigned long)first,
		.data_end = (unsigned long)(first + first_len),
		.packet = packet,
		.len = len,
	};
	struct host_answer answer = {.reason = HOST_NO_REASON};

	memset(&now, 0, sizeof(now));
	now.settings.port = bpf_htons(config->port);
	now.settings.partitions = config->partitions;
	now.queues = config->queues;
	answer.verdict = laminar_ingress(&ctx);
	answer.cpu = now.cpu;
	for (__u32 reason = 0; reason < LAMINAR_REASON_COUNT; reason++) {
		answer.counted += now.counters[reason];
		if (now.counters[reason])
			answer.reason = reason;
	}
	return answer;
}
