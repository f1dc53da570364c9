/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Lists and limits by source: two lists of prefixes, and a token bucket for
 * each address. The sizes in this file are minimal, so that the maps cost next
 * to nothing while the features are off. The loader enlarges the maps.
 *
 * Lists and limits do not apply to fragments, because only the first fragment
 * names a port.
 */
#ifndef SOURCES_H
#define SOURCES_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>

#include "controls.h"
#include "laminar_abi.h"
#include "tables.h"

/* All bits of a source: the length of the longest prefix. */
#define WHOLE_SOURCE (8 * sizeof(struct laminar_source))

FEATURE_MAP struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct laminar_source);
	__type(value, __u64);
} sources SEC(".maps");

FEATURE_MAP struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct laminar_prefix);
	__type(value, __u8);
} deny SEC(".maps");

FEATURE_MAP struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct laminar_prefix);
	__type(value, __u8);
} allow SEC(".maps");

static __always_inline void source_from_ipv4(struct laminar_prefix *from,
					     const struct iphdr *ip)
{
	*from = (struct laminar_prefix){.length = WHOLE_SOURCE};
	from->source.family = 4;
	__builtin_memcpy(from->source.address, &ip->saddr, sizeof(ip->saddr));
}

static __always_inline void source_from_ipv6(struct laminar_prefix *from,
					     const struct ipv6hdr *ip)
{
	from->length = WHOLE_SOURCE;
	from->source.family = 6;
	__builtin_memcpy(from->source.address, &ip->saddr, sizeof(ip->saddr));
}

static __always_inline bool is_denied(const struct laminar_prefix *from)
{
	return bpf_map_lookup_elem(&deny, from);
}

/*
 * Takes one packet from the source's bucket. Returns false if the bucket is
 * empty.
 *
 * The map stores one number for each bucket: the time at which the bucket is
 * full again. Each packet moves that time by one interval. The bucket is empty
 * if that time is more than `tolerance` in the future. In the time `tolerance`,
 * an empty bucket gains all of its packets but one.
 *
 * A source without an entry has a full bucket. A full map evicts the entry of a
 * source, or refuses a new entry. A sender with many addresses can cause both,
 * and so gets more packets through. Such a sender cannot cause drops of another
 * source, with one exception: the map may give the entry to another source in
 * the nanoseconds between the read and the write below.
 *
 * CPUs that see one source at the same moment may each let one packet through.
 */
static __always_inline bool take_token(const struct laminar_source *source)
{
	const struct laminar_controls *set = controls_get();
	__u64 now = bpf_ktime_get_ns();
	__u64 *full_at, next, empty;

	if (!set)
		return true;
	full_at = bpf_map_lookup_elem(&sources, source);
	if (!full_at) {
		next = now + set->interval;
		bpf_map_update_elem(&sources, source, &next, BPF_ANY);
		return true;
	}
	next = *full_at;
	if (next < now)
		next = now;
	if (next - now > set->tolerance) {
		/* Further than empty: the limit was another one before. */
		empty = now + set->tolerance + set->interval;
		if (next > empty)
			*full_at = empty;
		return false;
	}
	*full_at = next + set->interval;
	return true;
}

static __always_inline bool may_send(const struct laminar_prefix *from,
				     __u32 features)
{
	if (features & LAMINAR_FEATURE_LISTS &&
	    bpf_map_lookup_elem(&allow, from))
		return true;
	return take_token(&from->source);
}

#endif
