/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The agreement between the BPF programs and user space: names, layouts,
 * constants.
 *
 * bindgen turns this file into bpf-prebuilt/src/abi.rs. Constants are enums,
 * because bindgen drops or mangles macros with casts. Comments with two stars
 * become Rust documentation.
 *
 * bpf-prebuilt/MANIFEST.md says which changes raise LAMINAR_ABI_VERSION.
 */
#ifndef LAMINAR_ABI_H
#define LAMINAR_ABI_H

#include <linux/types.h>

/** The XDP program without features. Every XDP object has it. */
#define LAMINAR_PROGRAM "laminar_ingress"
/** The XDP program with features, in objects that have any. */
#define LAMINAR_PROGRAM_GUARDED "laminar_guarded"
/** The program that selects a socket. Every sockets object has it. */
#define LAMINAR_PROGRAM_SELECT "laminar_select"
/** The filter on each socket. Every sockets object has it. */
#define LAMINAR_PROGRAM_FILTER "laminar_filter"
/** CPU map: a queue for each CPU in use, keyed by CPU id. */
#define LAMINAR_MAP_CPU "cpu_map"
/**
 * Per-CPU array of struct laminar_count. The key is the interface slot times
 * LAMINAR_MAX_REASONS, plus the reason. Sockets use slot 0.
 */
#define LAMINAR_MAP_STATS "stats"
/** Array of struct laminar_owner, keyed by partition. */
#define LAMINAR_MAP_STEERING "steering"
/** Array of sockets: the receiver of each CPU in use, keyed by CPU id. */
#define LAMINAR_MAP_SOCKETS "sockets"
/** Array of one struct laminar_settings, in objects without global data. */
#define LAMINAR_MAP_SETTINGS "settings"
/** Holds struct laminar_settings in objects with global data. */
#define LAMINAR_MAP_RODATA ".rodata"
/** Array of one struct laminar_controls, in objects without global data. */
#define LAMINAR_MAP_CONTROLS "controls"
/** Holds struct laminar_controls in objects with global data. */
#define LAMINAR_MAP_DATA ".data"
/** LRU hash, keyed by source: __u64, the time at which its bucket is full. */
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
	LAMINAR_ABI_VERSION = 4,
	/** "LAMI", the first field of every datagram, as a host integer. */
	LAMINAR_MAGIC = 0x4c414d49,
	/** UDP port that an unconfigured object filters, host byte order. */
	LAMINAR_DEFAULT_PORT = 9999,
	/** Partitions of an unconfigured object. */
	LAMINAR_DEFAULT_PARTITIONS = 64,
	/**
	 * Slots of the CPU map in an object file. A kernel refuses more slots
	 * than its NR_CPUS, so this number suits a kernel for few CPUs. The
	 * loader replaces this number with one that suits the machine.
	 */
	LAMINAR_DEFAULT_CPUS = 64,
	/** Largest number of ports that a program compares with. */
	LAMINAR_MAX_PORTS = 16,
	/** Largest number of bytes of a packet in a sample. */
	LAMINAR_SAMPLE_BYTES = 128,
	/** Reason numbers for each interface slot of `stats`. */
	LAMINAR_MAX_REASONS = 64,
	/** Interface slots of `stats`. */
	LAMINAR_MAX_INTERFACES = 16,
	/** Entries of `stats`. */
	LAMINAR_STATS_ENTRIES = LAMINAR_MAX_INTERFACES * LAMINAR_MAX_REASONS,
	/** Reasons below this number pass the packet. */
	LAMINAR_FIRST_DROP_REASON = 16,
	/**
	 * Reasons from LAMINAR_FIRST_DROP_REASON to below this number drop the
	 * packet. Reasons from this number on redirect it.
	 */
	LAMINAR_FIRST_REDIRECT_REASON = 48,
};

/**
 * Features that cost time for each packet, as bits of
 * laminar_settings.features. A program contains a feature only if its bit is
 * set. Programs without feature maps always contain PORTS, and nothing else.
 */
enum laminar_feature {
	/** Sources in `deny` are dropped. Sources in `allow` have no limit. */
	LAMINAR_FEATURE_LISTS = 1,
	/** Each source has a token bucket. */
	LAMINAR_FEATURE_LIMIT = 2,
	/** User space receives samples of dropped packets. */
	LAMINAR_FEATURE_SAMPLES = 4,
	/** The program compares with every port of laminar_controls. */
	LAMINAR_FEATURE_PORTS = 8,
};

/** The header of a LaminarDB datagram. The payload follows it. */
struct laminar_header {
	/** LAMINAR_MAGIC, network byte order. */
	__be32 magic;
	/** Selects the partition, network byte order. */
	__be32 partition_key;
	/** Number of bytes that follow this header, network byte order. */
	__be32 payload_len;
};

/**
 * Load-time constants: the loader writes them before the program runs. In the
 * map of objects without global data, 0 means the default.
 */
struct laminar_settings {
	/** Number of partitions, host byte order. */
	__u32 partitions;
	/** Bits of enum laminar_feature, host byte order. */
	__u32 features;
	/**
	 * The program's interface slot in `stats`, below
	 * LAMINAR_MAX_INTERFACES, host byte order. Default: 0.
	 */
	__u32 interface_slot;
};

/* The settings of an unconfigured object. A field that is not named is 0. */
#define LAMINAR_DEFAULT_SETTINGS {.partitions = LAMINAR_DEFAULT_PARTITIONS}

/**
 * Values that user space may change while the program runs. In the map of
 * objects without global data, no port means the default port.
 */
struct laminar_controls {
	/** UDP destination ports, network byte order. The first 0 ends them. */
	__be16 ports[LAMINAR_MAX_PORTS];
	/** Nanoseconds in which a source's bucket gains one packet. */
	__u64 interval;
	/** Nanoseconds in which an empty bucket gains all but one packet. */
	__u64 tolerance;
	/**
	 * For each reason, each CPU makes a sample of one in this many drops. 0
	 * means that there are no samples.
	 */
	__u32 sample_every;
	/** Zero. */
	__u32 reserved;
};

/** The counter of one reason. */
struct laminar_count {
	/** Number of packets. */
	__u64 packets;
	/**
	 * Bytes of these packets. XDP counts whole frames from the Ethernet
	 * header on. Sockets count whole datagrams from the UDP header on.
	 */
	__u64 bytes;
};

/** The sender of a packet, by its IP header. */
struct laminar_source {
	/** 4 or 6, host byte order. */
	__u32 family;
	/** The address, network byte order. Zeros follow an IPv4 address. */
	__u8 address[16];
};

/** A key of `deny` and `allow`. Their values are one byte without meaning. */
struct laminar_prefix {
	/**
	 * Number of bits of `source` to compare, host byte order: 32 for the
	 * family, plus the length of the prefix.
	 */
	__u32 length;
	/** The family and the prefix. */
	struct laminar_source source;
};

/** A sample: the start of a dropped packet, for user space. */
struct laminar_sample {
	/** Time of the drop by CLOCK_MONOTONIC, in nanoseconds. */
	__u64 time;
	/** One of enum laminar_reason. */
	__u32 reason;
	/** Bytes of the whole frame. */
	__u32 length;
	/** Number of valid bytes in `packet`. */
	__u32 captured;
	/** Zero. */
	__u32 reserved;
	/** The frame's first bytes. */
	__u8 packet[LAMINAR_SAMPLE_BYTES];
};

/**
 * The owner of a partition. Each field is a CPU id plus 1, or 0 for no owner.
 * The two fields differ while a partition moves, because packets are then in
 * both the old and the new queue. They also differ if XDP only filters.
 */
struct laminar_owner {
	/** XDP redirects the partition's packets to this CPU's queue. */
	__u16 queue;
	/**
	 * This CPU's socket receives the partition's packets. Exception: a
	 * packet that the kernel processes on the CPU of `queue` goes to that
	 * CPU's socket.
	 */
	__u16 socket;
};

/**
 * Why a packet got its verdict. The range of the number decides the verdict:
 * see LAMINAR_FIRST_DROP_REASON and verdict_of() in verdict.h. A new reason is
 * appended to the range of its verdict, so no other number changes.
 */
enum laminar_reason {
	/** Passed by XDP: too malformed to judge. */
	LAMINAR_REASON_INVALID,
	/** Passed by XDP: an IP fragment of UDP, for the kernel to reassemble.
	 */
	LAMINAR_REASON_PASSED_FRAGMENT,
	/** Passed by XDP: valid, but the partition has no owner, or no queue.
	 */
	LAMINAR_REASON_PASSED_NO_QUEUE,
	/** Accepted by the filter of a socket. */
	LAMINAR_REASON_ACCEPTED,

	/** Dropped by XDP or a socket: payload shorter than a header. */
	LAMINAR_REASON_DROPPED_SHORT = LAMINAR_FIRST_DROP_REASON,
	/** Dropped by XDP or a socket: wrong magic. */
	LAMINAR_REASON_DROPPED_MAGIC,
	/** Dropped by XDP or a socket: wrong payload length. */
	LAMINAR_REASON_DROPPED_LENGTH,
	/**
	 * Dropped by a socket: sent to a broadcast or multicast address. The
	 * kernel gives every socket a copy, and each copy is counted.
	 */
	LAMINAR_REASON_DROPPED_MULTICAST,
	/** Dropped by XDP: the source is in `deny`. */
	LAMINAR_REASON_DROPPED_DENIED,
	/** Dropped by XDP: valid, but the source's bucket is empty. */
	LAMINAR_REASON_DROPPED_RATE,

	/** Redirected by XDP to the CPU that owns the partition. */
	LAMINAR_REASON_REDIRECTED = LAMINAR_FIRST_REDIRECT_REASON,
};

/*
 * The layouts of this version. A loader of the same version writes and reads
 * these bytes, so another layout needs another version.
 */
_Static_assert(LAMINAR_ABI_VERSION == 4,
	       "state the layouts of the new LAMINAR_ABI_VERSION below");
#define LAMINAR_LAYOUT(condition)                                              \
	_Static_assert(condition, "the layout of a struct has changed: raise " \
				  "LAMINAR_ABI_VERSION, then state the new "   \
				  "layout here")
#define LAMINAR_SIZE(type, size) LAMINAR_LAYOUT(sizeof(struct type) == (size))
#define LAMINAR_OFFSET(type, field, offset)                                    \
	LAMINAR_LAYOUT(__builtin_offsetof(struct type, field) == (offset))

LAMINAR_SIZE(laminar_header, 12);
LAMINAR_OFFSET(laminar_header, magic, 0);
LAMINAR_OFFSET(laminar_header, partition_key, 4);
LAMINAR_OFFSET(laminar_header, payload_len, 8);
LAMINAR_SIZE(laminar_settings, 12);
LAMINAR_OFFSET(laminar_settings, partitions, 0);
LAMINAR_OFFSET(laminar_settings, features, 4);
LAMINAR_OFFSET(laminar_settings, interface_slot, 8);
LAMINAR_SIZE(laminar_controls, 56);
LAMINAR_OFFSET(laminar_controls, ports, 0);
LAMINAR_OFFSET(laminar_controls, interval, 32);
LAMINAR_OFFSET(laminar_controls, tolerance, 40);
LAMINAR_OFFSET(laminar_controls, sample_every, 48);
LAMINAR_OFFSET(laminar_controls, reserved, 52);
LAMINAR_SIZE(laminar_count, 16);
LAMINAR_OFFSET(laminar_count, packets, 0);
LAMINAR_OFFSET(laminar_count, bytes, 8);
LAMINAR_SIZE(laminar_source, 20);
LAMINAR_OFFSET(laminar_source, family, 0);
LAMINAR_OFFSET(laminar_source, address, 4);
LAMINAR_SIZE(laminar_prefix, 24);
LAMINAR_OFFSET(laminar_prefix, length, 0);
LAMINAR_OFFSET(laminar_prefix, source, 4);
LAMINAR_SIZE(laminar_sample, 152);
LAMINAR_OFFSET(laminar_sample, time, 0);
LAMINAR_OFFSET(laminar_sample, reason, 8);
LAMINAR_OFFSET(laminar_sample, length, 12);
LAMINAR_OFFSET(laminar_sample, captured, 16);
LAMINAR_OFFSET(laminar_sample, reserved, 20);
LAMINAR_OFFSET(laminar_sample, packet, 24);
LAMINAR_SIZE(laminar_owner, 4);
LAMINAR_OFFSET(laminar_owner, queue, 0);
LAMINAR_OFFSET(laminar_owner, socket, 2);

#endif
