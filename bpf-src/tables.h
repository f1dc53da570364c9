/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps that XDP and sockets have in common, and the functions that every
 * program needs: count a packet, read a setting, find the owner of a partition.
 */
#ifndef TABLES_H
#define TABLES_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "laminar_abi.h"

/*
 * Stands before the map of a feature. In an object without features, this only
 * declares the map. The code of that object does not use the map, so the
 * compiler leaves the map out.
 */
#ifdef LAMINAR_FEATURES
#define FEATURE_MAP
#else
#define FEATURE_MAP extern
#endif

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LAMINAR_STATS_ENTRIES);
	__type(key, __u32);
	__type(value, struct laminar_count);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LAMINAR_DEFAULT_PARTITIONS);
	__type(key, __u32);
	__type(value, struct laminar_owner);
} steering SEC(".maps");

/*
 * setting(field) is the value of a field of struct laminar_settings: the value
 * that the loader wrote, or the default.
 */
#ifdef LAMINAR_GLOBAL_DATA

const volatile struct laminar_settings settings = LAMINAR_DEFAULT_SETTINGS;

#define setting(field) (settings.field)

#else

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct laminar_settings);
} settings SEC(".maps");

static __always_inline const struct laminar_settings *settings_get(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&settings, &key);
}

/* Without a loader the map is full of zeros, so 0 means the default. */
#define setting(field)                                                         \
	({                                                                     \
		const struct laminar_settings *set = settings_get();           \
		struct laminar_settings defaults = LAMINAR_DEFAULT_SETTINGS;   \
                                                                               \
		set && set->field ? set->field : defaults.field;               \
	})

#endif

/* Counts a packet. Returns this CPU's new packet count for the reason. */
static __always_inline __u64 count(__u32 interface_slot, __u32 reason,
				   __u64 bytes)
{
	struct laminar_count *counted;
	__u32 key = reason;

	/*
	 * If the slot is a constant 0, the verifier removes this branch.
	 * Without the barrier, clang would add for each packet instead.
	 */
	if (interface_slot) {
		barrier_var(interface_slot);
		key += interface_slot * LAMINAR_MAX_REASONS;
	}
	counted = bpf_map_lookup_elem(&stats, &key);
	if (!counted)
		return 0;
	counted->bytes += bytes; /* not atomic: each CPU has its own counter */
	return ++counted->packets;
}

static __always_inline struct laminar_owner *owner_of(__be32 partition_key)
{
	__u32 partition = bpf_ntohl(partition_key) % setting(partitions);

	return bpf_map_lookup_elem(&steering, &partition);
}

#endif
