/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replaces libbpf's header. Declares the macros and BPF helpers that the
 * program uses; host/program.c implements the helpers.
 */
#ifndef HOST_BPF_HELPERS_H
#define HOST_BPF_HELPERS_H

#include <linux/types.h>

#define SEC(name)
#define barrier_var(var)                                                       \
	do {                                                                   \
	} while (0)
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

struct xdp_md;

void *bpf_map_lookup_elem(void *map, const void *key);
long bpf_map_update_elem(void *map, const void *key, const void *value,
			 __u64 flags);
__u64 bpf_ktime_get_ns(void);
void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags);
void bpf_ringbuf_submit(void *record, __u64 flags);
long bpf_redirect_map(void *map, __u64 key, __u64 flags);
__u64 bpf_xdp_get_buff_len(struct xdp_md *ctx);
long bpf_xdp_load_bytes(struct xdp_md *ctx, __u32 offset, void *to, __u32 len);

#endif
