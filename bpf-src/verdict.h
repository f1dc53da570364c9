/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The verdict of each reason. */
#ifndef VERDICT_H
#define VERDICT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "laminar_abi.h"

/*
 * The range of a reason's number gives its verdict, so a new reason cannot be
 * missing here. Sockets pass what XDP_PASS passes, and drop everything else.
 */
static __always_inline int verdict_of(__u32 reason)
{
	if (reason < LAMINAR_FIRST_DROP_REASON)
		return XDP_PASS;
	if (reason < LAMINAR_FIRST_REDIRECT_REASON)
		return XDP_DROP;
	return XDP_REDIRECT;
}

#endif
