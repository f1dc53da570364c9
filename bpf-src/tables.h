/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tables that programs share with user space, and what every program does
 * with them: count() a packet, ask for the settings, find a partition's owner.
 */
#ifndef TABLES_H
#define TABLES_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "laminar_abi.h"

/*
 * In front of a feature's map. In objects without features it is but declared,
 * and as no code is left that names it, so is nothing else of it.
 */
#ifdef LAMINAR_FEATURES
#define FEATURE_MAP
#else
#define FEATURE_MAP extern
#endif

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LAMINAR_REASON_COUNT);
	__type(key, __u32);
	__type(value, struct laminar_count);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LAMINAR_DEFAULT_PARTITIONS);
	__type(key, __u32);
	__type(value, struct laminar_owner);
} steering SEC(".maps");

#ifdef LAMINAR_GLOBAL_DATA

const volatile struct laminar_settings settings = {
	.partitions = LAMINAR_DEFAULT_PARTITIONS,
};

static __always_inline __u32 partition_count(void)
{
	return settings.partitions;
}

static __always_inline __u32 wanted_features(void)
{
	return settings.features;
}

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

static __always_inline __u32 partition_count(void)
{
	const struct laminar_settings *set = settings_get();

	if (!set || !set->partitions)
		return LAMINAR_DEFAULT_PARTITIONS;
	return set->partitions;
}

static __always_inline __u32 wanted_features(void)
{
	const struct laminar_settings *set = settings_get();

	return set ? set->features : 0;
}

#endif

/* Gives how many were counted for this reason on this CPU. */
static __always_inline __u64 count(__u32 reason, __u64 bytes)
{
	struct laminar_count *counted = bpf_map_lookup_elem(&stats, &reason);

	if (!counted)
		return 0;
	counted->bytes += bytes; /* per CPU: nobody else writes it */
	return ++counted->packets;
}

static __always_inline struct laminar_owner *owner_of(__be32 partition_key)
{
	__u32 partition = bpf_ntohl(partition_key) % partition_count();

	return bpf_map_lookup_elem(&steering, &partition);
}

#endif
