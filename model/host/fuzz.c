// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer's way into the program: both forms give the same answer wherever
 * the packet is split, the answer holds together, and (by the sanitizers) no
 * byte is read that is not the packet's.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../bpf-src/laminar_abi.h"
#include "program.h"

enum { DROP = 1, PASS = 2, REDIRECT = 4 };

/* In front of the packet: where it is split, and the features that are on. */
#define IN_FRONT 2

static const struct laminar_prefix denied = {
	32 + 29,
	{4, {192, 0, 2, 64}},
};
static const struct laminar_prefix allowed = {
	32 + 64,
	{6, {0xfd}},
};

static void *copy_of(const void *data, size_t size)
{
	void *copy = malloc(size);

	if (size && !copy)
		abort();
	if (size)
		memcpy(copy, data, size);
	return copy;
}

static void check(const struct host_answer *answer)
{
	__u32 verdict = PASS;

	switch (answer->reason) {
	case LAMINAR_REASON_DROPPED_SHORT:
	case LAMINAR_REASON_DROPPED_MAGIC:
	case LAMINAR_REASON_DROPPED_LENGTH:
	case LAMINAR_REASON_DROPPED_DENIED:
	case LAMINAR_REASON_DROPPED_RATE:
		verdict = DROP;
		break;
	case LAMINAR_REASON_REDIRECTED:
		verdict = REDIRECT;
		break;
	}
	if (answer->verdict != verdict)
		abort();
	if (answer->counted != (answer->reason != HOST_NO_REASON))
		abort();
	if (answer->wrong)
		abort();
}

/* Twice, as the first packet of a source never finds an empty bucket. */
static struct host_answer second_of(host_judge_function *judge,
				    const void *first, unsigned long first_len,
				    const void *packet, unsigned long len,
				    struct host_config config)
{
	struct host_sources sources = {0};
	struct host_answer answer;

	config.sources = &sources;
	answer = judge(first, first_len, packet, len, &config);
	check(&answer);
	config.now += 500;
	answer = judge(first, first_len, packet, len, &config);
	check(&answer);
	if (answer.sampled != (config.controls.sample_every &&
			       answer.verdict == DROP))
		abort();
	return answer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const __u16 queues[3] = {1, 0, 9};
	struct host_config config = {
		.settings = {.partitions = 3},
		/* This is for little-endian machines. */
		.controls = {.ports = {__builtin_bswap16(9999)}, .interval = 1000},
		.queues = queues,
		.deny = &denied,
		.denied = 1,
		.allow = &allowed,
		.allowed = 1,
	};
	struct host_answer whole, split;
	void *packet, *start;
	size_t first;

	if (size < IN_FRONT)
		return -1;
	config.settings.features = data[1] & 0xf;
	if (config.settings.features & LAMINAR_FEATURE_SAMPLES)
		config.controls.sample_every = 1;
	size -= IN_FRONT;
	first = data[0] < size ? data[0] : size;
	packet = copy_of(data + IN_FRONT, size);
	start = copy_of(data + IN_FRONT, first);

	whole = second_of(host_judge, packet, size, packet, size, config);
	split = second_of(host_judge_frags, start, first, packet, size, config);
	/* What lies behind the datagram need not be counted. */
	split.bytes = whole.bytes;
	if (memcmp(&whole, &split, sizeof(whole)))
		abort();

	free(start);
	free(packet);
	return 0;
}
