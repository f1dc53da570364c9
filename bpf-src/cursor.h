/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A cursor over packet data. A parser takes one header after the other with
 * cursor_take() and may read what it gives, so each access has its bounds check
 * right before it, in the form that the verifier recognises.
 */
#ifndef CURSOR_H
#define CURSOR_H

#include <stdbool.h>
#include <stddef.h>
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
	__u64 beyond; /* bytes in further buffers, once cursor_beyond() asked */
	struct xdp_md *ctx;
};

/* Copies the packet's first bytes, most of them at most, and says how many. */
static __always_inline __u32 packet_copy(struct xdp_md *ctx, __u8 *to,
					 __u32 most)
{
	__u8 *start = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;
	__u64 len, last;

	if (MULTI_BUFFER) {
		len = bpf_xdp_get_buff_len(ctx);
		last = (len < most ? len : most) - 1;
		/*
		 * Before Linux 6.8 the verifier learns nothing from "not zero",
		 * but that one more than something is.
		 */
		barrier_var(last);
		if (last >= most)
			return 0;
		len = last + 1;
		return bpf_xdp_load_bytes(ctx, 0, to, len) ? 0 : len;
	}
	for (len = 0; len < most; len++) {
		if (start + len + 1 > end)
			break;
		to[len] = start[len];
	}
	return len;
}

static __always_inline struct cursor cursor_of(struct xdp_md *ctx)
{
	return (struct cursor){
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.ctx = ctx,
	};
}

/* Bytes of the packet that pointers reach. */
static __always_inline __u64 cursor_first(const struct cursor *cursor)
{
	void *start = (void *)(long)cursor->ctx->data;
	__u64 first = cursor->end - start;

	barrier_var(first); /* a pointer plus something minus the other one
			       the verifier refuses */
	return first;
}

/*
 * Bytes behind the cursor's end: a large packet goes on in further buffers,
 * which pointers do not reach.
 */
static __always_inline __u64 cursor_beyond(struct cursor *cursor)
{
	if (MULTI_BUFFER)
		cursor->beyond = bpf_xdp_get_buff_len(cursor->ctx) -
				 cursor_first(cursor);
	return cursor->beyond;
}

/* Bytes of the packet, without those beyond if nobody had to ask for them. */
static __always_inline __u64 cursor_seen(const struct cursor *cursor)
{
	return cursor_first(cursor) + cursor->beyond;
}

/*
 * Whether len more bytes are there, wherever the packet keeps them. A length
 * out of the packet is compared rather than added to a pointer: older verifiers
 * (Linux 6.12 is one) lose its bounds in the byte swap and refuse the sum.
 */
static __always_inline bool cursor_holds(struct cursor *cursor, __u32 len)
{
	__s64 left = cursor->end - cursor->pos; /* may have passed the end */

	return len <= left || len <= left + (__s64)cursor_beyond(cursor);
}

/* Moves past the next len bytes; false, and unmoved, if they are not there. */
static __always_inline bool cursor_skip(struct cursor *cursor, __u32 len)
{
	if (!cursor_holds(cursor, len))
		return false;
	cursor->pos += len;
	return true;
}

/*
 * Moves past the next len bytes and says in *taken where they are: in the
 * packet or, if they reach into a later buffer, in copy. Some drivers leave
 * nothing at all in the first one. False, and unmoved, if they are not there.
 * (A pointer that is NULL then would be compared once more for each header.)
 */
static __always_inline bool cursor_take(struct cursor *cursor, void **taken,
					void *copy, __u32 len)
{
	void *start = (void *)(long)cursor->ctx->data;

	*taken = cursor->pos;
	if (cursor->pos + len > cursor->end) {
		if (!MULTI_BUFFER)
			return false;
		if (bpf_xdp_load_bytes(cursor->ctx, cursor->pos - start, copy,
				       len))
			return false;
		*taken = copy;
	}
	cursor->pos += len;
	/*
	 * What is compared next is this pointer and not the one before it plus
	 * more: where this one was found to be beyond the end, a verifier that
	 * is not told (Linux 6.1) looks at what cannot be, and refuses it.
	 */
	if (MULTI_BUFFER)
		barrier_var(cursor->pos);
	return true;
}

#endif
