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

/* The first byte says where the packet is split. */
#define SPLIT sizeof(__u8)

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
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const __u16 queues[3] = {1, 0, 9};
	const struct host_config config = {9999, 3, queues};
	struct host_answer whole, split;
	size_t first;
	void *packet, *start;

	if (size < SPLIT)
		return -1;
	size -= SPLIT;
	first = data[0] < size ? data[0] : size;
	packet = copy_of(data + SPLIT, size);
	start = copy_of(data + SPLIT, first);

	whole = host_judge(packet, size, packet, size, &config);
	split = host_judge_frags(start, first, packet, size, &config);
	check(&whole);
	if (memcmp(&whole, &split, sizeof(whole)))
		abort();

	free(start);
	free(packet);
	return 0;
}
