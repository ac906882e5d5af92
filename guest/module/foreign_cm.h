/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * The border between verbena.ko and whoever serves class CM_ID on devices that are not Verbena's: verbena_rdma_cm.ko.
 * verbena.ko knows no rdma_cm, and loads where there is none. foreign.rs is this file in Rust; what the functions do is
 * said there and in verbena_core's foreign.rs.
 */
#ifndef VERBENA_FOREIGN_CM_H
#define VERBENA_FOREIGN_CM_H

#include <linux/build_bug.h>
#include <linux/types.h>

struct module;

/* One communication id: the server's. */
struct verbena_cm;

/* CmAddress of class CM_ID. */
struct verbena_cm_address {
	u8 gid[16];
	u16 port;
	u8 reserved[6];
};
static_assert(sizeof(struct verbena_cm_address) == 24);

/* CmParams of class CM_ID. */
struct verbena_cm_params {
	u32 path_mtu;
	u32 access;
	u32 flow_label;
	u8 responder_resources;
	u8 initiator_depth;
	u8 retry_count;
	u8 rnr_retry_count;
	u8 ack_timeout;
	u8 min_rnr_timer;
	u8 response_timeout;
	u8 max_cm_retries;
	u8 traffic_class;
	u8 hop_limit;
	u8 reserved[10];
};
static_assert(sizeof(struct verbena_cm_params) == 32);

/* Bytes of private data that a side brings along, at most. */
#define VERBENA_CM_DATA 196

/* What a side of a connection brings along. */
struct verbena_cm_side {
	u32 fd;		/* in the calling process: the open file that the queue pair belongs to */
	u32 qpn;
	const struct verbena_cm_params *params;
	const void *data;
	u32 data_len;
};

/* What happened to an id. */
struct verbena_cm_told {
	u16 kind;	/* 64 and the number of enum rdma_cm_event_type */
	u32 reason;	/* of a REJ */
	u32 peer_qpn;	/* 0: not told */
	const struct verbena_cm_params *params;	/* as agreed, if that is told */
	const void *data;	/* the peer's, if that is told */
	u32 data_len;
};

/*
 * What the server does. Calls on one id are made one at a time, in process context. @hears is what verbena_cm_told and
 * verbena_cm_requested are to be given; destroy() gives it back, and after that nothing is told. All but create() and destroy()
 * return 0 or a negative error number.
 */
struct verbena_cm_ops {
	struct module *owner;
	struct verbena_cm *(*create)(void *hears);
	int (*bind)(struct verbena_cm *cm, struct verbena_cm_address *local);
	int (*listen)(struct verbena_cm *cm);
	int (*connect)(struct verbena_cm *cm, const struct verbena_cm_address *peer, struct verbena_cm_address *local,
		       const struct verbena_cm_side *side);
	int (*accept)(struct verbena_cm *cm, const struct verbena_cm_side *side);
	int (*reject)(struct verbena_cm *cm, u8 reason, const void *data, u8 data_len);
	int (*disconnect)(struct verbena_cm *cm);
	void *(*destroy)(struct verbena_cm *cm);
};

/* From now on @ops serves; it may be unregistered when its owner is in use by none of its ids, as when that unloads. */
int verbena_cm_register(const struct verbena_cm_ops *ops);
void verbena_cm_unregister(const struct verbena_cm_ops *ops);

/* Something happened to an id. */
void verbena_cm_told(void *hears, const struct verbena_cm_told *told);

/*
 * A peer asks the id that @listener hears of. @new is what came of it: it is in use from this call on, by calls like all
 * others. Returns what hears of it; NULL: the peer is to be refused, and @new is the caller's again.
 */
void *verbena_cm_requested(void *listener, struct verbena_cm *new, const struct verbena_cm_address *local,
			   const struct verbena_cm_address *peer, const struct verbena_cm_told *told);

#endif
