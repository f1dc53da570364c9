/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The BPF program as an ordinary function. model/src/host/ffi.rs declares these
 * structs in Rust. Before the first call, it compares its declarations with
 * layout.c.
 */
#ifndef HOST_PROGRAM_H
#define HOST_PROGRAM_H

#include <linux/types.h>

#include "laminar_abi.h"

#define HOST_MAX_SOURCES 64

/* The value of host_answer.reason if no packet was counted. */
#define HOST_NO_REASON 0xffffffff

struct host_bucket {
	struct laminar_source source;
	__u64 full_at;
};

/* The buckets of all sources. The caller passes them on to the next call. */
struct host_sources {
	__u32 count;
	struct host_bucket buckets[HOST_MAX_SOURCES];
};

/* The content of the program's maps, and the time. */
struct host_config {
	struct laminar_settings settings;
	struct laminar_controls controls;
	const __u16 *queues; /* by partition: CPU id + 1, or 0 for no owner */
	const struct laminar_prefix *deny, *allow;
	__u32 deny_count, allow_count;
	__u64 now; /* the time in nanoseconds */
	struct host_sources *sources;
};

struct host_packet {
	const __u8 *first; /* the first buffer */
	__u64 first_len;
	const __u8 *bytes; /* the whole packet, in one piece */
	__u64 len;
};

/*
 * The bits of host_answer.faults: mistakes of the program in its calls of BPF
 * helpers and in its samples, and one mistake of the caller.
 */
enum host_fault {
	/* The program looked up a prefix shorter than a whole source. */
	HOST_FAULT_KEY_LENGTH = 1,
	/* The program looked up an IPv4 address with nonzero padding. */
	HOST_FAULT_KEY_PADDING = 2,
	/* The program updated a map other than `sources`, or set flags. */
	HOST_FAULT_UPDATE = 4,
	/* The program reserved a sample with a wrong map, size or flag. */
	HOST_FAULT_RESERVE = 8,
	/* The program submitted an unreserved record, or set flags. */
	HOST_FAULT_SUBMIT = 16,
	/* The bytes of a sample differ from those of the packet. */
	HOST_FAULT_SAMPLE_BYTES = 32,
	/* The reason, length or time of a sample is wrong. */
	HOST_FAULT_SAMPLE_FIELDS = 64,
	/* The packets came from more than HOST_MAX_SOURCES addresses. */
	HOST_FAULT_SOURCES = 128,
};

struct host_answer {
	__u32 verdict;
	__u32 cpu;     /* the target of a redirect */
	__u32 counted; /* number of packets that were counted: 0 or 1 */
	__u32 reason;  /* enum laminar_reason, or HOST_NO_REASON */
	__u64 bytes;   /* number of bytes that were counted */
	__u32 sampled; /* number of samples: 0 or 1 */
	__u32 faults;  /* bits of enum host_fault */
};

typedef void host_judge_function(const struct host_packet *packet,
				 const struct host_config *config,
				 struct host_answer *answer);

/*
 * The two forms of the program: host_judge for packets in one buffer, and
 * host_judge_frags for packets in several buffers.
 */
host_judge_function host_judge, host_judge_frags;

/* Calls verdict_of() of the program. */
int host_verdict_of(__u32 reason);

/* A C expression (a size, an offset or a constant) and its value. */
struct host_layout {
	const char *expression;
	unsigned long value;
};

/* Returns an array. The expression of its last entry is NULL. */
const struct host_layout *host_layout(void);

#endif
