/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A cursor over packet data. A parser takes one header after the other with
 * cursor_take(), and reads through the pointer that it gets. Each access then
 * directly follows its bounds check, in the form that the verifier recognises.
 */
#ifndef CURSOR_H
#define CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Loaders set BPF_F_XDP_HAS_FRAGS for programs in a section "xdp.frags". */
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
	__u64 beyond; /* bytes in later buffers, set by cursor_beyond() */
	struct xdp_md *ctx;
};

/* Copies the packet's first bytes, up to `max`. Returns how many it copied. */
static __always_inline __u32 packet_copy(struct xdp_md *ctx, __u8 *to,
					 __u32 max)
{
	__u8 *start = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;
	__u64 len, last;

	if (MULTI_BUFFER) {
		len = bpf_xdp_get_buff_len(ctx);
		last = (len < max ? len : max) - 1;
		/*
		 * Before Linux 6.8 a comparison with zero tells the verifier no
		 * lower bound. If the verifier knows the upper bound of `last`,
		 * it knows that `last + 1` is not zero.
		 */
		barrier_var(last);
		if (last >= max)
			return 0;
		len = last + 1;
		return bpf_xdp_load_bytes(ctx, 0, to, len) ? 0 : len;
	}
	for (len = 0; len < max; len++) {
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

/* Bytes in the first buffer, which pointers reach. */
static __always_inline __u64 cursor_first(const struct cursor *cursor)
{
	void *start = (void *)(long)cursor->ctx->data;
	__u64 first = cursor->end - start;

	barrier_var(first); /* the verifier rejects `(p + n) - q` */
	return first;
}

/* Bytes in the later buffers of a large packet, which pointers cannot reach. */
static __always_inline __u64 cursor_beyond(struct cursor *cursor)
{
	if (MULTI_BUFFER)
		cursor->beyond = bpf_xdp_get_buff_len(cursor->ctx) -
				 cursor_first(cursor);
	return cursor->beyond;
}

/* Bytes of the packet. Later buffers count only after cursor_beyond() ran. */
static __always_inline __u64 cursor_seen(const struct cursor *cursor)
{
	return cursor_first(cursor) + cursor->beyond;
}

/*
 * Whether at least len more bytes follow, in any buffer. The code compares len
 * and does not add it to a pointer: older verifiers (also that of Linux 6.12)
 * lose the bounds of a byte-swapped length, and then reject the sum.
 */
static __always_inline bool cursor_holds(struct cursor *cursor, __u32 len)
{
	__s64 left = cursor->end - cursor->pos; /* negative beyond the end */

	return len <= left || len <= left + (__s64)cursor_beyond(cursor);
}

/* Skips len bytes. Returns false and skips nothing if fewer follow. */
static __always_inline bool cursor_skip(struct cursor *cursor, __u32 len)
{
	if (!cursor_holds(cursor, len))
		return false;
	cursor->pos += len;
	return true;
}

/*
 * Takes len bytes: skips them and points *taken at them. Returns false and
 * skips nothing if fewer bytes follow.
 *
 * *taken points into the packet, or to `copy` if a byte lies in a later buffer.
 * Some drivers put no byte into the first buffer. The function does not return
 * the pointer, because each caller would then have to compare it with NULL.
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
	 * The next comparison must use this pointer, and not its old value plus
	 * a sum. For the old value, the verifier of Linux 6.1 also follows a
	 * path that cannot happen: one pointer is beyond the end, and a later
	 * pointer is not. The verifier then rejects the program.
	 */
	if (MULTI_BUFFER)
		barrier_var(cursor->pos);
	return true;
}

#endif
