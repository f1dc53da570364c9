/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Samples of dropped packets, for an operator to inspect. */
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
	__uint(max_entries, 4096); /* the smallest size; the loader sets one */
} samples SEC(".maps");

/*
 * Gives user space one of every sample_every packets of a reason. This packet
 * is number nth of its reason. The packet gives no sample if the ring buffer is
 * full, which happens if user space is too slow.
 */
static __always_inline void sample(struct cursor *cursor, __u32 reason,
				   __u64 nth)
{
	const struct laminar_controls *set = controls_get();
	struct laminar_sample *sample;
	__u32 every = set ? set->sample_every : 0;

	/* Packet 1 is a sample, so that a rare reason has one too. */
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
