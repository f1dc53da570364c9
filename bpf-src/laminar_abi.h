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
/** The same with features, in XDP objects that have any. */
#define LAMINAR_PROGRAM_GUARDED "laminar_guarded"
/** The program that chooses a socket, in every object of the sockets' layer. */
#define LAMINAR_PROGRAM_SELECT "laminar_select"
/** The filter on each socket, in the same objects. */
#define LAMINAR_PROGRAM_FILTER "laminar_filter"
/** CPU map: a queue per CPU in use, keyed by CPU id. */
#define LAMINAR_MAP_CPU "cpu_map"
/** Per-CPU array of struct laminar_count, keyed by enum laminar_reason. */
#define LAMINAR_MAP_STATS "stats"
/** Array of struct laminar_owner, keyed by partition. */
#define LAMINAR_MAP_STEERING "steering"
/** Array of sockets: the receiver of each CPU in use, keyed by CPU id. */
#define LAMINAR_MAP_SOCKETS "sockets"
/** Array of one struct laminar_settings, in objects without global data. */
#define LAMINAR_MAP_SETTINGS "settings"
/** Where the same struct lives in objects with global data. */
#define LAMINAR_MAP_RODATA ".rodata"
/** Array of one struct laminar_controls, in objects without global data. */
#define LAMINAR_MAP_CONTROLS "controls"
/** Where the same struct lives in objects with global data. */
#define LAMINAR_MAP_DATA ".data"
/** LRU hash of __u64, the time at which a bucket is full, keyed by source. */
#define LAMINAR_MAP_SOURCES "sources"
/** LPM trie: prefixes of sources whose packets are dropped. */
#define LAMINAR_MAP_DENY "deny"
/** LPM trie: prefixes of sources that have no limit. */
#define LAMINAR_MAP_ALLOW "allow"
/** Ring buffer of struct laminar_sample. */
#define LAMINAR_MAP_SAMPLES "samples"
/** The licence that every object declares to the kernel. */
#define LAMINAR_LICENSE "Dual BSD/GPL"

enum laminar_constant {
	/** Version of this agreement. */
	LAMINAR_ABI_VERSION = 3,
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
	/** Ports that a program can look for. */
	LAMINAR_MOST_PORTS = 16,
	/** Bytes of a packet that a sample holds at most. */
	LAMINAR_SAMPLE_BYTES = 128,
};

/**
 * What costs something, and is in the program only if user space wants it: bits
 * of laminar_settings.features. Objects without these maps have none but PORTS,
 * and that always.
 */
enum laminar_feature {
	/** Sources in `deny` are dropped, those in `allow` have no limit. */
	LAMINAR_FEATURE_LISTS = 1,
	/** Each source has a token bucket. */
	LAMINAR_FEATURE_LIMIT = 2,
	/** Some of what is dropped is shown to user space. */
	LAMINAR_FEATURE_SAMPLES = 4,
	/** More ports than the first of laminar_controls. */
	LAMINAR_FEATURE_PORTS = 8,
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
	/** Number of partitions, host byte order. */
	__u32 partitions;
	/** Bits of enum laminar_feature, host byte order. */
	__u32 features;
};

/**
 * What user space may change while the program runs. In the map of objects
 * without global data, no port means the default.
 */
struct laminar_controls {
	/** UDP destination ports, network byte order; the first 0 ends them. */
	__be16 ports[LAMINAR_MOST_PORTS];
	/** Nanoseconds in which a source's bucket gains one packet. */
	__u64 interval;
	/** Nanoseconds in which an empty bucket gains all but one packet. */
	__u64 tolerance;
	/** Of each reason's drops on a CPU one in so many is shown; 0: none. */
	__u32 sample_every;
	/** Zero. */
	__u32 reserved;
};

/** What was counted for one reason. */
struct laminar_count {
	/** Packets. */
	__u64 packets;
	/**
	 * Their bytes: of XDP whole frames, from the Ethernet header on; of
	 * sockets whole datagrams, from the UDP header on.
	 */
	__u64 bytes;
};

/** Who sent a packet, as its IP header says. */
struct laminar_source {
	/** 4 or 6, host byte order. */
	__u32 family;
	/** The address, network byte order; behind an IPv4 address zeros. */
	__u8 address[16];
};

/** A key of `deny` and `allow`, whose values are one byte without meaning. */
struct laminar_prefix {
	/** Bits of `source` that count, host byte order: 32 and the prefix's
	 * own. */
	__u32 length;
	/** The family and the prefix. */
	struct laminar_source source;
};

/** A dropped packet that is shown to user space. */
struct laminar_sample {
	/** When it was dropped, by CLOCK_MONOTONIC, in nanoseconds. */
	__u64 time;
	/** Why: enum laminar_reason. */
	__u32 reason;
	/** Bytes of the whole frame. */
	__u32 length;
	/** Bytes that are in `packet`. */
	__u32 captured;
	/** Zero. */
	__u32 reserved;
	/** The frame's first bytes. */
	__u8 packet[LAMINAR_SAMPLE_BYTES];
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
 * pass. Sockets know only ACCEPTED and DROPPED_*, as far as those do not say
 * otherwise.
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
	/** Dropped: the source is in `deny`. In XDP only. */
	LAMINAR_REASON_DROPPED_DENIED,
	/** Dropped: valid, but the source's bucket is empty. In XDP only. */
	LAMINAR_REASON_DROPPED_RATE,
	/** Number of counters. */
	LAMINAR_REASON_COUNT,
};

#endif
