// SPDX-License-Identifier: Apache-2.0
/*
 * laminar_ingress as an ordinary function: the program's own source, with the
 * few helpers that it calls written for the host. Compiled once as it is and
 * once with LAMINAR_FRAGS, with names of its own for each.
 */
#include <string.h>

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
#define bpf_map_update_elem  HOST(map_update_elem)
#define bpf_ktime_get_ns     HOST(ktime_get_ns)
#define bpf_ringbuf_reserve  HOST(ringbuf_reserve)
#define bpf_ringbuf_submit   HOST(ringbuf_submit)
#define allow		     HOST(allow)
#define controls	     HOST(controls)
#define cpu_map		     HOST(cpu_map)
#define deny		     HOST(deny)
#define laminar_guarded	     HOST(laminar_guarded)
#define laminar_ingress	     HOST(laminar_ingress)
#define samples		     HOST(samples)
#define settings	     HOST(settings)
#define sources		     HOST(sources)
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

#define LAMINAR_FEATURES
#define LAMINAR_REDIRECT_VERDICT
#include "program.h"
#include "../../bpf-src/laminar_ingress.c"

/* What the maps hold while one packet is judged. */
static _Thread_local struct {
	const struct host_config *config;
	struct laminar_owner owner;
	struct laminar_count counters[LAMINAR_REASON_COUNT];
	struct laminar_sample sample;
	__u32 cpu, shown, wrong;
} now;

static void *find_source(const struct laminar_source *source)
{
	struct host_sources *known = now.config->sources;

	for (__u32 i = 0; i < known->count; i++)
		if (!memcmp(&known->entries[i].source, source, sizeof(*source)))
			return &known->entries[i].full_at;
	return NULL;
}

static int covers(const struct laminar_prefix *prefix, const void *key)
{
	const __u8 *a = (const void *)&prefix->source;
	const __u8 *b = key;

	for (__u32 bit = 0; bit < prefix->length; bit++)
		if ((a[bit / 8] ^ b[bit / 8]) & (0x80 >> bit % 8))
			return 0;
	return 1;
}

static void *find_prefix(const struct laminar_prefix *list, __u32 count,
			 const struct laminar_prefix *key)
{
	static const __u8 nothing[12];

	if (key->length != 8 * sizeof(key->source))
		now.wrong |= 1;
	if (key->source.family == 4 &&
	    memcmp(key->source.address + 4, nothing, sizeof(nothing)))
		now.wrong |= 2;
	for (__u32 i = 0; i < count; i++)
		if (covers(&list[i], &key->source))
			return (void *)&list[i];
	return NULL;
}

void *bpf_map_lookup_elem(void *map, const void *key)
{
	const struct host_config *config = now.config;
	__u32 index;

	if (map == &sources)
		return find_source(key);
	if (map == &deny)
		return find_prefix(config->deny, config->denied, key);
	if (map == &allow)
		return find_prefix(config->allow, config->allowed, key);

	index = *(const __u32 *)key;
	if (map == &settings)
		return index == 0 ? (void *)&config->settings : NULL;
	if (map == &controls)
		return index == 0 ? (void *)&config->controls : NULL;
	if (map == &stats)
		return index < LAMINAR_REASON_COUNT ? &now.counters[index]
						    : NULL;
	if (map != &steering || index >= config->settings.partitions)
		return NULL;
	now.owner.queue = config->queues[index];
	return &now.owner;
}

long bpf_map_update_elem(void *map, const void *key, const void *value,
			 __u64 flags)
{
	struct host_sources *known = now.config->sources;

	if (map != &sources || flags != BPF_ANY)
		now.wrong |= 4;
	if (known->count == HOST_MOST_SOURCES) {
		now.wrong |= 128; /* the caller brought too many */
		return -1;
	}
	memcpy(&known->entries[known->count].source, key,
	       sizeof(struct laminar_source));
	memcpy(&known->entries[known->count++].full_at, value, sizeof(__u64));
	return 0;
}

__u64 bpf_ktime_get_ns(void)
{
	return now.config->now;
}

void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags)
{
	if (map != &samples || size != sizeof(now.sample) || flags)
		now.wrong |= 8;
	return &now.sample;
}

void bpf_ringbuf_submit(void *record, __u64 flags)
{
	if (record != &now.sample || flags)
		now.wrong |= 16;
	now.shown++;
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
	if (!len || offset > ctx->len || len > ctx->len - offset)
		return -1;
	memcpy(to, ctx->packet + offset, len);
	return 0;
}

static void check_sample(const struct host_answer *answer, const __u8 *packet,
			 unsigned long len)
{
	unsigned long most = LAMINAR_SAMPLE_BYTES;

	if (now.sample.captured != (len < most ? len : most) ||
	    memcmp(now.sample.packet, packet, now.sample.captured))
		now.wrong |= 32;
	if (now.sample.reason != answer->reason ||
	    now.sample.length != len ||
	    now.sample.time != now.config->now)
		now.wrong |= 64;
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
	now.config = config;
	answer.verdict = config->settings.features ? laminar_guarded(&ctx)
						   : laminar_ingress(&ctx);
	answer.cpu = now.cpu;
	for (__u32 reason = 0; reason < LAMINAR_REASON_COUNT; reason++) {
		answer.counted += now.counters[reason].packets;
		answer.bytes += now.counters[reason].bytes;
		if (now.counters[reason].packets)
			answer.reason = reason;
	}
	answer.sampled = now.shown;
	if (now.shown)
		check_sample(&answer, packet, len);
	answer.wrong = now.wrong;
	return answer;
}
