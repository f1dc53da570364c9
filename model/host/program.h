/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The BPF program as an ordinary function. model/src/host/ffi.rs declares the
 * same structs in Rust, and compares them with layout.c before the first call.
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

/* The buckets of sources. The caller keeps them from packet to packet. */
struct host_sources {
	__u32 count;
	struct host_bucket buckets[HOST_MAX_SOURCES];
};

/* The content of the maps. */
struct host_config {
	struct laminar_settings settings;
	struct laminar_controls controls;
	const __u16 *queues; /* CPU id + 1 for each partition, 0 for none */
	const struct laminar_prefix *deny, *allow;
	__u32 deny_count, allow_count;
	__u64 now; /* the time in nanoseconds */
	struct host_sources *sources;
};

/* A packet whose first buffer has the first_len bytes at first. */
struct host_packet {
	const __u8 *first;
	__u64 first_len;
	const __u8 *bytes; /* all bytes of the packet */
	__u64 len;
};

/* Mistakes in calls of helpers and in samples: bits of host_answer.faults. */
enum host_fault {
	/* A list was searched with a prefix shorter than a whole source. */
	HOST_FAULT_KEY_LENGTH = 1,
	/* Bytes other than 0 followed an IPv4 address. */
	HOST_FAULT_KEY_PADDING = 2,
	/* Another map than `sources` was updated, or it with flags. */
	HOST_FAULT_UPDATE = 4,
	/* A sample was reserved with another map, size or flags. */
	HOST_FAULT_RESERVE = 8,
	/* Another record than the reserved one was submitted, or with flags. */
	HOST_FAULT_SUBMIT = 16,
	/* The bytes of a sample are not the packet's. */
	HOST_FAULT_SAMPLE_BYTES = 32,
	/* The reason, length or time of a sample is wrong. */
	HOST_FAULT_SAMPLE_FIELDS = 64,
	/* The caller sent from more than HOST_MAX_SOURCES addresses. */
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

/* The program for packets in one buffer, and for packets in several. */
host_judge_function host_judge, host_judge_frags;

/* The program's verdict_of(). */
int host_verdict_of(__u32 reason);

/* A size, an offset or a constant, by the expression that gives it. */
struct host_layout {
	const char *expression;
	unsigned long value;
};

/* The last entry of the array has no expression. */
const struct host_layout *host_layout(void);

#endif
