/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HOST_PROGRAM_H
#define HOST_PROGRAM_H

#include <linux/types.h>

#include "laminar_abi.h"

#define HOST_MOST_SOURCES 64

/* The buckets of sources, which stay from packet to packet. */
struct host_sources {
	__u32 count;
	struct {
		struct laminar_source source;
		__u64 full_at;
	} entries[HOST_MOST_SOURCES];
};

struct host_config {
	struct laminar_settings settings;
	struct laminar_controls controls;
	const __u16 *queues; /* CPU id + 1 for each partition, 0 for none */
	const struct laminar_prefix *deny, *allow;
	__u32 denied, allowed; /* how many */
	__u64 now;
	struct host_sources *sources;
};

struct host_answer {
	__u32 verdict;
	__u32 cpu;     /* of a redirect */
	__u32 counted; /* packets that were counted: 0 or 1 */
	__u32 reason;  /* enum laminar_reason, or HOST_NO_REASON */
	__u64 bytes;   /* that were counted */
	__u32 sampled; /* samples that were shown: 0 or 1 */
	__u32 wrong;   /* what a sample has wrong, or a helper was asked */
};

#define HOST_NO_REASON 0xffffffff

/*
 * The answer for a packet of which the first buffer holds first_len bytes,
 * which lie at first; all of it lies at packet.
 */
struct host_answer host_judge(const __u8 *first, unsigned long first_len,
			      const __u8 *packet, unsigned long len,
			      const struct host_config *config);

/* The same for the program that takes packets in several buffers. */
struct host_answer host_judge_frags(const __u8 *first, unsigned long first_len,
				    const __u8 *packet, unsigned long len,
				    const struct host_config *config);

typedef struct host_answer host_judge_function(const __u8 *, unsigned long,
					       const __u8 *, unsigned long,
					       const struct host_config *);

#endif
