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

/* By the section's name a loader tells the kernel of several buffers. */
#ifdef LAMINAR_FRAGS
#define MULTI_BUFFER true
#define XDP_SECTION  "xdp.frags"
#else
#define MULTI_BUFFER false
#define XDP_SECTION  "xdp"
#endif

struct cursor {
	void *pos;
	void *end;
	struct xdp_md *ctx;
};

static __always_inline struct cursor cursor_of(struct xdp_md *ctx)
{
	return (struct cursor){
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.ctx = ctx,
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
 * Bytes behind the cursor's end: a large packet goes on in further buffers,
 * which pointers do not reach.
 */
static __always_inline __u64 cursor_beyond(const struct cursor *cursor)
{
	void *start = (void *)(long)cursor->ctx->data;

	if (!MULTI_BUFFER)
		return 0;
	return bpf_xdp_get_buff_len(cursor->ctx) - (cursor->end - start);
}

/*
 * Whether len more bytes are there, wherever the packet keeps them. A length
 * out of the packet is compared rather than added to a pointer: older verifiers
 * (Linux 6.12 is one) lose its bounds in the byte swap and refuse the sum.
 */
static __always_inline bool cursor_holds(const struct cursor *cursor, __u64 len)
{
	__u64 left = cursor->end - cursor->pos;

	return len <= left || len <= left + cursor_beyond(cursor);
}

/* Copies the next len bytes, wherever they are; false if they are not there. */
static __always_inline bool cursor_copy(const struct cursor *cursor, void *to,
					__u32 len)
{
	void *start = (void *)(long)cursor->ctx->data;

	if (!MULTI_BUFFER)
		return false;
	return !bpf_xdp_load_bytes(cursor->ctx, cursor->pos - start, to, len);
}

#endif
