// SPDX-License-Identifier: Apache-2.0
/* The layout of the structs that Rust code and the C program share. */
#include <stddef.h>

#include "program.h"

#define VALUE(expression) {#expression, expression}

static const struct host_layout layout[] = {
	VALUE(HOST_MAX_SOURCES),
	VALUE(HOST_NO_REASON),

	/* Sizes only: bindgen's assertions check the offsets in these four. */
	VALUE(sizeof(struct laminar_settings)),
	VALUE(sizeof(struct laminar_controls)),
	VALUE(sizeof(struct laminar_source)),
	VALUE(sizeof(struct laminar_prefix)),

	VALUE(sizeof(struct host_bucket)),
	VALUE(offsetof(struct host_bucket, source)),
	VALUE(offsetof(struct host_bucket, full_at)),

	VALUE(sizeof(struct host_sources)),
	VALUE(offsetof(struct host_sources, count)),
	VALUE(offsetof(struct host_sources, buckets)),

	VALUE(sizeof(struct host_config)),
	VALUE(offsetof(struct host_config, settings)),
	VALUE(offsetof(struct host_config, controls)),
	VALUE(offsetof(struct host_config, queues)),
	VALUE(offsetof(struct host_config, deny)),
	VALUE(offsetof(struct host_config, allow)),
	VALUE(offsetof(struct host_config, deny_count)),
	VALUE(offsetof(struct host_config, allow_count)),
	VALUE(offsetof(struct host_config, now)),
	VALUE(offsetof(struct host_config, sources)),

	VALUE(sizeof(struct host_packet)),
	VALUE(offsetof(struct host_packet, first)),
	VALUE(offsetof(struct host_packet, first_len)),
	VALUE(offsetof(struct host_packet, bytes)),
	VALUE(offsetof(struct host_packet, len)),

	VALUE(sizeof(struct host_answer)),
	VALUE(offsetof(struct host_answer, verdict)),
	VALUE(offsetof(struct host_answer, cpu)),
	VALUE(offsetof(struct host_answer, counted)),
	VALUE(offsetof(struct host_answer, reason)),
	VALUE(offsetof(struct host_answer, bytes)),
	VALUE(offsetof(struct host_answer, sampled)),
	VALUE(offsetof(struct host_answer, faults)),

	{NULL, 0},
};

const struct host_layout *host_layout(void)
{
	return layout;
}
