/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HOST_PROGRAM_H
#define HOST_PROGRAM_H

#include <linux/types.h>

struct host_config {
	__u16 port; /* host byte order */
	__u32 partitions;
	const __u16 *queues; /* CPU id + 1 for each partition, 0 for none */
};

struct host_answer {
	__u32 verdict;
	__u32 cpu;     /* of a redirect */
	__u32 counted; /* packets that were counted: 0 or 1 */
	__u32 reason;  /* enum laminar_reason, or HOST_NO_REASON */
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

#endif
