// SPDX-License-Identifier: Apache-2.0
/*
 * The entry point for libFuzzer. Fails if an answer contradicts itself, or if
 * the two forms of the program disagree: host_judge gets the packet in one
 * buffer, and host_judge_frags gets it in two. The input sets where it is
 * split. The sanitizers report any read outside the packet.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../bpf-src/laminar_abi.h"
#include "program.h"

enum { DROP = 1, PASS = 2, REDIRECT = 4 };

/*
 * Each input starts with two bytes: the length of the split packet's first
 * buffer, and the features. The rest is the packet.
 */
#define PREFIX_LEN 2

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
	case LAMINAR_FIRST_DROP_REASON ... LAMINAR_FIRST_REDIRECT_REASON - 1:
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
	if (answer->faults)
		abort();
}

/*
 * Judges the packet twice and returns the second answer. The first packet of a
 * source always finds a full bucket, so only the second can exceed the limit.
 */
static struct host_answer judge_second(host_judge_function *judge,
				       const struct host_packet *packet,
				       struct host_config config)
{
	struct host_sources sources = {0};
	struct host_answer answer;

	config.sources = &sources;
	judge(packet, &config, &answer);
	check(&answer);
	config.now += 500;
	judge(packet, &config, &answer);
	check(&answer);
	if (answer.sampled !=
	    (config.controls.sample_every && answer.verdict == DROP))
		abort();
	return answer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const __u16 queues[3] = {1, 0, 9};
	struct host_config config = {
		.settings = LAMINAR_DEFAULT_SETTINGS,
		/* Ports are big-endian; fuzzing runs on little-endian only. */
		.controls = {.ports = {__builtin_bswap16(9999)},
			     .interval = 1000},
		.queues = queues,
		.deny = &denied,
		.deny_count = 1,
		.allow = &allowed,
		.allow_count = 1,
	};
	struct host_answer whole_answer, split_answer;
	struct host_packet whole, split;
	void *packet, *first;

	if (size < PREFIX_LEN)
		return -1;
	config.settings.partitions = 3;
	config.settings.interface_slot = 15;
	config.settings.features = data[1] & 0xf;
	if (config.settings.features & LAMINAR_FEATURE_SAMPLES)
		config.controls.sample_every = 1;
	size -= PREFIX_LEN;
	packet = copy_of(data + PREFIX_LEN, size);
	whole = (struct host_packet){packet, size, packet, size};
	split = whole;
	split.first_len = data[0] < size ? data[0] : size;
	split.first = first = copy_of(packet, split.first_len);

	whole_answer = judge_second(host_judge, &whole, config);
	split_answer = judge_second(host_judge_frags, &split, config);
	/* The program need not count padding in later buffers. */
	split_answer.bytes = whole_answer.bytes;
	if (memcmp(&whole_answer, &split_answer, sizeof(whole_answer)))
		abort();

	free(first);
	free(packet);
	return 0;
}
