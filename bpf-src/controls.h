/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Values that user space may change while the program runs: ports and more. */
#ifndef CONTROLS_H
#define CONTROLS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "laminar_abi.h"

#ifdef LAMINAR_GLOBAL_DATA

struct laminar_controls controls = {
	.ports = {bpf_htons(LAMINAR_DEFAULT_PORT)},
};

static __always_inline const struct laminar_controls *controls_get(void)
{
	return &controls;
}

#else

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct laminar_controls);
} controls SEC(".maps");

static __always_inline const struct laminar_controls *controls_get(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&controls, &key);
}

#endif

/* If `several` is set, compares with all ports, otherwise with the first. */
static __always_inline bool is_our_port(__be16 port, bool several)
{
	const struct laminar_controls *set = controls_get();

#ifndef LAMINAR_GLOBAL_DATA
	if (!set || !set->ports[0])
		return port == bpf_htons(LAMINAR_DEFAULT_PORT);
#endif
	if (port == set->ports[0])
		return true;
	if (!several)
		return false;
#pragma unroll
	for (int i = 1; i < LAMINAR_MAX_PORTS; i++) {
		if (!set->ports[i])
			return false;
		if (port == set->ports[i])
			return true;
	}
	return false;
}

#endif
