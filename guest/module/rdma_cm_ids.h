/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * Inside verbena_rdma_cm.ko: an id, and what its three files are to each other. What a function does is said where it is.
 */
#ifndef VERBENA_RDMA_CM_IDS_H
#define VERBENA_RDMA_CM_IDS_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/workqueue.h>
#include <net/net_namespace.h>
#include <rdma/ib_verbs.h>
#include <rdma/rdma_cm.h>

#include "foreign_cm.h"

/*
 * A queue pair of an open uverbs file. Nothing is held: it can be destroyed whenever its owner likes. Pointers are compared,
 * never followed.
 */
struct claim {
	struct ib_device *device;	/* NULL: none; there as long as the rdma_cm_id is */
	u32 number;
	const void *file;
	const void *object;
	struct list_head list;
};

struct verbena_cm {
	struct mutex lock;
	struct rdma_cm_id *id;	/* under @lock; NULL: given up, or the device is gone */
	void *hears;
	atomic_t stage;
	bool removed;
	/* Ends @id where no handler may. */
	struct delayed_work end;

	struct mutex qp_lock;
	struct claim qp;	/* under @qp_lock */
	bool srq;
	struct verbena_cm_params agreed;

	/* What CONNECT brought along, until the route is known. */
	struct verbena_cm_params params;
	u32 data_len;
	u8 data[VERBENA_CM_DATA];
};

/* rdma_cm_qp.c: the devices that there are, and their queue pairs. */
int verbena_devices_follow(void);
void verbena_devices_forget(void);
void verbena_qp_put(struct ib_qp *qp);
struct ib_qp *verbena_qp_of_side(const struct verbena_cm_side *side, const void **file);
struct ib_qp *verbena_qp_own(struct verbena_cm *cm);
void verbena_qp_release(struct verbena_cm *cm);
int verbena_qp_take(struct verbena_cm *cm, struct rdma_cm_id *id, struct ib_qp *qp, const void *file, u32 access);
int verbena_cm_terms(struct rdma_cm_id *id, struct ib_qp_attr *rtr, int *rtr_mask, struct ib_qp_attr *rts, int *rts_mask,
		     struct verbena_cm_params *params);
int verbena_qp_make_ready(struct verbena_cm *cm, struct rdma_cm_id *id, struct ib_qp *qp,
			  const struct verbena_cm_params *want);
void verbena_qp_end(struct verbena_cm *cm);

/* rdma_cm_address.c: GIDs as the addresses of rdma_cm. */
union verbena_address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

void verbena_set_port(union verbena_address *address, u16 port);
void verbena_from_gid(union verbena_address *address, const u8 *gid, u16 port);
void verbena_to_gid(struct verbena_cm_address *to, const struct sockaddr_storage *from);
bool verbena_is_link_local(const union verbena_address *address);
int verbena_own_scope(struct net *net, union verbena_address *address);
int verbena_source_address(struct ib_device *device, struct net *net, const union verbena_address *peer,
			   union verbena_address *address);
int verbena_bind_address(struct rdma_cm_id *id, union verbena_address *address);
int verbena_bind_one(struct rdma_cm_id *id, union verbena_address *address);

#endif
