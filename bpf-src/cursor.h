/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A cursor over packet data. A parser points a header at cursor->pos and moves
 * on with cursor_advance(); the header may be read only if that said yes, so
 * each access has its bounds check right before it, in the form that the
 * verifier recognises.
 */
#ifndef CURSOR_H
#define CURSOR_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct cursor {
	void *pos;
	void *end;
};

static __always_inline struct cursor cursor_of(struct xdp_md *ctx)
{
	return (struct cursor){
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
}

/* Moves past the next len bytes; false, and unmoved, if they are not there. */
static __always_inline bool cursor_advance(struct cursor *cursor, __u32 len)
{
	if (cursor->pos + len > cursor->end)
		return false;
	cursor->pos += len;
	return true;
}

/*
 * Bytes from the cursor to the end. A length out of the packet is compared with
 * this rather than added to a pointer: older verifiers (Linux 6.12 is one) lose
 * its bounds in the byte swap and refuse the sum.
 */
static __always_inline __u64 cursor_left(const struct cursor *cursor)
{
	return cursor->end - cursor->pos;
}

#endif
