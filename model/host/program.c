// SPDX-License-Identifier: Apache-2.0
/*
 * The XDP program as an ordinary function. This file includes the program's
 * source and implements the BPF helpers that the program calls.
 *
 * The file is compiled twice, with and without LAMINAR_FRAGS. One binary
 * contains both forms, so HOST() gives the symbols of each form a different
 * prefix.
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

/*
 * In the kernel's struct xdp_md, data and data_end are 32-bit fields, and the
 * kernel rewrites accesses to them into pointers when it loads a program. The
 * host cannot do that, so the host's struct has fields as wide as pointers.
 */
#define xdp_md kernel_xdp_md
#include <linux/bpf.h>
#undef xdp_md

struct xdp_md {
	unsigned long data;
	unsigned long data_end;
	const struct host_packet *packet;
};

#define LAMINAR_FEATURES
#define LAMINAR_REDIRECT_VERDICT
#include "program.h"
#include "../../bpf-src/laminar_ingress.c"

/* The state of the maps and helpers while the program judges one packet. */
static _Thread_local struct {
	const struct host_config *config;
	struct laminar_owner owner;
	struct laminar_count counters[LAMINAR_MAX_REASONS];
	struct laminar_sample sample;
	__u32 cpu, sampled, faults;
} now;

static void *find_source(const struct laminar_source *source)
{
	struct host_sources *sources_map = now.config->sources;

	for (__u32 i = 0; i < sources_map->count; i++)
		if (!memcmp(&sources_map->buckets[i].source, source,
			    sizeof(*source)))
			return &sources_map->buckets[i].full_at;
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
	static const __u8 zeros[12];

	if (key->length != 8 * sizeof(key->source))
		now.faults |= HOST_FAULT_KEY_LENGTH;
	if (key->source.family == 4 &&
	    memcmp(key->source.address + 4, zeros, sizeof(zeros)))
		now.faults |= HOST_FAULT_KEY_PADDING;
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
		return find_prefix(config->deny, config->deny_count, key);
	if (map == &allow)
		return find_prefix(config->allow, config->allow_count, key);

	index = *(const __u32 *)key;
	if (map == &settings)
		return index == 0 ? (void *)&config->settings : NULL;
	if (map == &controls)
		return index == 0 ? (void *)&config->controls : NULL;
	if (map == &stats) {
		/*
		 * Only the configured slot has counters. For a lower slot the
		 * subtraction wraps around to an index that is out of range.
		 */
		index -= config->settings.interface_slot * LAMINAR_MAX_REASONS;
		return index < LAMINAR_MAX_REASONS ? &now.counters[index]
						   : NULL;
	}
	if (map != &steering || index >= config->settings.partitions)
		return NULL;
	now.owner.queue = config->queues[index];
	return &now.owner;
}

long bpf_map_update_elem(void *map, const void *key, const void *value,
			 __u64 flags)
{
	struct host_sources *sources_map = now.config->sources;
	struct host_bucket *bucket;

	if (map != &sources || flags != BPF_ANY)
		now.faults |= HOST_FAULT_UPDATE;
	if (sources_map->count == HOST_MAX_SOURCES) {
		now.faults |= HOST_FAULT_SOURCES;
		return -1;
	}
	bucket = &sources_map->buckets[sources_map->count++];
	memcpy(&bucket->source, key, sizeof(bucket->source));
	memcpy(&bucket->full_at, value, sizeof(bucket->full_at));
	return 0;
}

__u64 bpf_ktime_get_ns(void)
{
	return now.config->now;
}

void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags)
{
	if (map != &samples || size != sizeof(now.sample) || flags)
		now.faults |= HOST_FAULT_RESERVE;
	return &now.sample;
}

void bpf_ringbuf_submit(void *record, __u64 flags)
{
	if (record != &now.sample || flags)
		now.faults |= HOST_FAULT_SUBMIT;
	now.sampled++;
}

/* Always finds a queue, because every CPU in the configuration has one. */
long bpf_redirect_map(void *map, __u64 key, __u64 flags)
{
	if (map != &cpu_map)
		return flags;
	now.cpu = key;
	return XDP_REDIRECT;
}

__u64 bpf_xdp_get_buff_len(struct xdp_md *ctx)
{
	return ctx->packet->len;
}

long bpf_xdp_load_bytes(struct xdp_md *ctx, __u32 offset, void *to, __u32 len)
{
	const struct host_packet *packet = ctx->packet;

	if (!len || offset > packet->len || len > packet->len - offset)
		return -1;
	memcpy(to, packet->bytes + offset, len);
	return 0;
}

static void check_sample(const struct host_answer *answer,
			 const struct host_packet *packet)
{
	__u64 max = LAMINAR_SAMPLE_BYTES;

	if (now.sample.captured != (packet->len < max ? packet->len : max) ||
	    memcmp(now.sample.packet, packet->bytes, now.sample.captured))
		now.faults |= HOST_FAULT_SAMPLE_BYTES;
	if (now.sample.reason != answer->reason ||
	    now.sample.length != packet->len ||
	    now.sample.time != now.config->now)
		now.faults |= HOST_FAULT_SAMPLE_FIELDS;
}

#ifndef LAMINAR_FRAGS
int host_verdict_of(__u32 reason)
{
	return verdict_of(reason);
}
#endif

void HOST_JUDGE(const struct host_packet *packet,
		const struct host_config *config, struct host_answer *answer)
{
	struct xdp_md ctx = {
		.data = (unsigned long)packet->first,
		.data_end = (unsigned long)(packet->first + packet->first_len),
		.packet = packet,
	};

	memset(answer, 0, sizeof(*answer));
	answer->reason = HOST_NO_REASON;
	memset(&now, 0, sizeof(now));
	now.config = config;
	answer->verdict = config->settings.features ? laminar_guarded(&ctx)
						    : laminar_ingress(&ctx);
	answer->cpu = now.cpu;
	for (__u32 reason = 0; reason < LAMINAR_MAX_REASONS; reason++) {
		answer->counted += now.counters[reason].packets;
		answer->bytes += now.counters[reason].bytes;
		if (now.counters[reason].packets)
			answer->reason = reason;
	}
	answer->sampled = now.sampled;
	if (now.sampled)
		check_sample(answer, packet);
	answer->faults = now.faults;
}
