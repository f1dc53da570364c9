/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the program and user space must agree on: names, layouts, constants.
 * bindgen turns this file into bpf-prebuilt/src/abi.rs, so constants are enums
 * (it drops or mangles casted macros) and comments become documentation.
 *
 * A change of a meaning in here bumps LAMINAR_ABI_VERSION; the rules are in
 * bpf-prebuilt/MANIFEST.md.
 */
#ifndef LAMINAR_ABI_H
#define LAMINAR_ABI_H

#include <linux/types.h>

/** The XDP program's name in every object. */
#define LAMINAR_PROGRAM "laminar_ingress"
/** CPU map: a queue per CPU in use, keyed by CPU id. */
#define LAMINAR_MAP_CPU "cpu_map"
/** Per-CPU array of __u64: packets seen, keyed by enum laminar_reason. */
#define LAMINAR_MAP_STATS "stats"
/** Array of __u32: partition to CPU id + 1; 0 means that it has no owner. */
#define LAMINAR_MAP_STEERING "steering"
/** Array of one struct laminar_settings, in objects without global data. */
#define LAMINAR_MAP_SETTINGS "settings"
/** Where the same struct lives in objects with global data. */
#define LAMINAR_MAP_RODATA ".rodata"
/** The licence that every object declares to the kernel. */
#define LAMINAR_LICENSE "Dual BSD/GPL"

enum laminar_constant {
	/** Version of this agreement. */
	LAMINAR_ABI_VERSION = 1,
	/** "LAMI", the first field of every datagram, as a host integer. */
	LAMINAR_MAGIC = 0x4c414d49,
	/** UDP port that an unconfigured object filters, host byte order. */
	LAMINAR_DEFAULT_PORT = 9999,
	/** Partitions of an unconfigured object. */
	LAMINAR_DEFAULT_PARTITIONS = 64,
	/**
	 * Slots of an unconfigured CPU map. The kernel refuses a map with more
	 * slots than its NR_CPUS, so this stays at what small kernels have; the
	 * loader sizes the map for the machine.
	 */
	LAMINAR_DEFAULT_CPUS = 64,
};

/** The header of a LaminarDB datagram; the payload follows. */
struct laminar_header {
	/** LAMINAR_MAGIC, network byte order. */
	__be32 magic;
	/** Chooses the partition, network byte order. */
	__be32 partition_key;
	/** Bytes that follow this header, network byte order. */
	__be32 payload_len;
};

/**
 * What the loader fixes before the program runs. In the map of objects without
 * global data, 0 means the default.
 */
struct laminar_settings {
	/** UDP destination port, network byte order. */
	__be16 port;
	/** Zero. */
	__u16 reserved;
	/** Number of partitions, host byte order. */
	__u32 partitions;
};

/**
 * Why a packet got its verdict, and the key of its counter in `stats`. The
 * reason decides the verdict: DROPPED_* drop, REDIRECTED redirects, all others
 * pass.
 */
enum laminar_reason {
	/** Passed: too malformed to tell whether it is ours. */
	LAMINAR_REASON_INVALID,
	/** Passed: an IP fragment of UDP, for the kernel to reassemble. */
	LAMINAR_REASON_PASSED_FRAGMENT,
	/** Passed: valid, but its partition's owner is none or has no queue. */
	LAMINAR_REASON_PASSED_NO_QUEUE,
	/** Dropped: fewer payload bytes than a header has. */
	LAMINAR_REASON_DROPPED_SHORT,
	/** Dropped: the magic is another. */
	LAMINAR_REASON_DROPPED_MAGIC,
	/** Dropped: the header's payload length is not what follows it. */
	LAMINAR_REASON_DROPPED_LENGTH,
	/** Redirected to the CPU that owns the partition. */
	LAMINAR_REASON_REDIRECTED,
	/** Number of counters. */
	LAMINAR_REASON_COUNT,
};

#endif
