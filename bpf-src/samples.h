/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Some of what is dropped, for people to look at. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "controls.h"
#include "cursor.h"
#include "laminar_abi.h"
#include "tables.h"

FEATURE_MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* the least there is; user space knows how
				      much it wants */
} samples SEC(".maps");

/*
 * Shows one in so many packets of a reason, of which this is number nth, to
 * user space. Where that does not keep up, it gets none.
 */
static __always_inline void sample(struct cursor *cursor, __u32 reason,
				   __u64 nth)
{
	const struct laminar_controls *set = controls_get();
	struct laminar_sample *sample;
	__u32 every = set ? set->sample_every : 0;

	/* The first one too: what is rare is not left out. */
	if (!every || (nth - 1) % every)
		return;
	sample = bpf_ringbuf_reserve(&samples, sizeof(*sample), 0);
	if (!sample)
		return;
	sample->time = bpf_ktime_get_ns();
	sample->reason = reason;
	sample->length = cursor_first(cursor) + cursor_beyond(cursor);
	sample->reserved = 0;
	sample->captured = packet_copy(cursor->ctx, sample->packet,
				       sizeof(sample->packet));
	bpf_ringbuf_submit(sample, 0);
}

#endif
