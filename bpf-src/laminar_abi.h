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

/** The XDP program's name in every object of that layer. */
#define LAMINAR_PROGRAM "laminar_ingress"
/** The program that chooses a socket, in every object of the sockets' layer. */
#define LAMINAR_PROGRAM_SELECT "laminar_select"
/** The filter on each socket, in the same objects. */
#define LAMINAR_PROGRAM_FILTER "laminar_filter"
/** CPU map: a queue per CPU in use, keyed by CPU id. */
#define LAMINAR_MAP_CPU "cpu_map"
/** Per-CPU array of __u64: packets seen, keyed by enum laminar_reason. */
#define LAMINAR_MAP_STATS "stats"
/** Array of struct laminar_owner, keyed by partition. */
#define LAMINAR_MAP_STEERING "steering"
/** Array of sockets: the receiver of each CPU in use, keyed by CPU id. */
#define LAMINAR_MAP_SOCKETS "sockets"
/** Array of one struct laminar_settings, in objects without global data. */
#define LAMINAR_MAP_SETTINGS "settings"
/** Where the same struct lives in objects with global data. */
#define LAMINAR_MAP_RODATA ".rodata"
/** The licence that every object declares to the kernel. */
#define LAMINAR_LICENSE "Dual BSD/GPL"

enum laminar_constant {
	/** Version of this agreement. */
	LAMINAR_ABI_VERSION = 2,
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
 * Who owns a partition, as CPU id + 1; 0 means nobody. The two differ while a
 * partition moves, when packets of both the old and the new queue are under
 * way, and where XDP only filters.
 */
struct laminar_owner {
	/** The CPU whose queue XDP hands the partition's packets to. */
	__u16 queue;
	/**
	 * The CPU whose socket receives them, unless the kernel processes a
	 * packet on the CPU of `queue`: then that CPU's socket does.
	 */
	__u16 socket;
};

/**
 * Why a packet got its verdict, and the key of its counter in `stats`. The
 * reason decides the verdict: DROPPED_* drop, REDIRECTED redirects, all others
 * pass. Sockets know DROPPED_* and ACCEPTED only.
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
	/** Accepted by the filter of a socket, in the sockets' layer only. */
	LAMINAR_REASON_ACCEPTED,
	/**
	 * Dropped: sent to a broadcast or multicast address, which the kernel
	 * delivers to every socket; in the sockets' layer only, once a socket.
	 */
	LAMINAR_REASON_DROPPED_MULTICAST,
	/** Number of counters. */
	LAMINAR_REASON_COUNT,
};

#endif
