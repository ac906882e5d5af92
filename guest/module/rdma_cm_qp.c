// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * In verbena_rdma_cm.ko: the ib_devices, and queue pairs of open uverbs files, which are moved through their states.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <rdma/ib_cm.h>
#include <rdma/restrack.h>

#include "rdma_cm_ids.h"

/* The access that a connection can give: IB_ACCESS_ bits, which the class's are. */
#define ACCESS (IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE | IB_ACCESS_REMOTE_READ | IB_ACCESS_REMOTE_ATOMIC)

/* ---- devices ----------------------------------------------------------------------------------------------- */

struct known {
	struct list_head list;
	struct ib_device *device;
};

static LIST_HEAD(devices);
static DECLARE_RWSEM(devices_lock);
static struct ib_client client;

static int add_device(struct ib_device *device)
{
	struct known *known = kmalloc(sizeof(*known), GFP_KERNEL);

	if (!known)
		return -ENOMEM;
	known->device = device;
	down_write(&devices_lock);
	list_add_tail(&known->list, &devices);
	up_write(&devices_lock);
	ib_set_client_data(device, &client, known);
	return 0;
}

static void remove_device(struct ib_device *device, void *data)
{
	struct known *known = data;

	down_write(&devices_lock);
	list_del(&known->list);
	up_write(&devices_lock);
	kfree(known);
}

static struct ib_client client = {
	.name = "verbena_rdma_cm",
	.add = add_device,
	.remove = remove_device,
};

int verbena_devices_follow(void)
{
	return ib_register_client(&client);
}

void verbena_devices_forget(void)
{
	ib_unregister_client(&client);
}

/* ---- queue pairs ------------------------------------------------------------------------------------------- */

static LIST_HEAD(claims);
static DEFINE_MUTEX(claims_lock);

void verbena_qp_put(struct ib_qp *qp)
{
	rdma_restrack_put(&qp->res);
}

/*
 * The device's queue pair of that number, if it belongs to the open uverbs file whose private data is @file. It is not
 * destroyed until it is given back. The private data of any other file is equal to none: a ufile lives as long as its objects,
 * and a queue pair's protection domain is of the same file and outlives it.
 */
static struct ib_qp *get_qp(struct ib_device *device, u32 number, const void *file)
{
	struct rdma_restrack_entry *res = rdma_restrack_get_byid(device, RDMA_RESTRACK_QP, number);
	struct ib_qp *qp;

	if (IS_ERR(res))
		return NULL;
	qp = container_of(res, struct ib_qp, res);
	if (qp->uobject && qp->real_qp == qp && qp->pd && qp->pd->uobject && qp->pd->uobject->ufile == file)
		return qp;
	verbena_qp_put(qp);
	return NULL;
}

/* The same, on whichever device. While it is held, so is the device. */
static struct ib_qp *find_qp(u32 number, const void *file)
{
	struct known *known;
	struct ib_qp *qp = NULL;

	down_read(&devices_lock);
	list_for_each_entry(known, &devices, list) {
		qp = get_qp(known->device, number, file);
		if (qp)
			break;
	}
	up_read(&devices_lock);
	return qp;
}

/* The queue pair that a side names. */
struct ib_qp *verbena_qp_of_side(const struct verbena_cm_side *side, const void **file)
{
	struct file *named = fget(side->fd);
	struct ib_qp *qp;

	if (!named)
		return ERR_PTR(-EBADF);
	/* A device's file is one; event queues and memory are not. */
	*file = S_ISCHR(file_inode(named)->i_mode) ? named->private_data : NULL;
	if (!*file) {
		fput(named);
		return ERR_PTR(-EBADF);
	}
	qp = find_qp(side->qpn, *file);
	fput(named);
	return qp ?: ERR_PTR(-ENOENT);
}

/* The queue pair of the id, to be given back; NULL if it is not there any more. */
struct ib_qp *verbena_qp_own(struct verbena_cm *cm)
{
	struct ib_qp *qp;

	lockdep_assert_held(&cm->qp_lock);
	if (!cm->qp.device)
		return NULL;
	qp = get_qp(cm->qp.device, cm->qp.number, cm->qp.file);
	if (qp && qp->uobject != cm->qp.object) {
		verbena_qp_put(qp);
		return NULL;
	}
	return qp;
}

void verbena_qp_release(struct verbena_cm *cm)
{
	lockdep_assert_held(&cm->qp_lock);
	if (!cm->qp.device)
		return;
	mutex_lock(&claims_lock);
	list_del(&cm->qp.list);
	mutex_unlock(&claims_lock);
	cm->qp.device = NULL;
}

/* Makes it the id's, if it is fit to be connected, and moves it to INIT. */
int verbena_qp_take(struct verbena_cm *cm, struct rdma_cm_id *id, struct ib_qp *qp, const void *file, u32 access)
{
	struct ib_qp_init_attr init;
	struct ib_qp_attr attr;
	struct claim *other;
	int mask, ret;

	lockdep_assert_held(&cm->qp_lock);
	if (qp->qp_type != IB_QPT_RC)
		return -EINVAL;
	mutex_lock(&claims_lock);
	list_for_each_entry(other, &claims, list) {
		if (other->object == qp->uobject && other->number == qp->qp_num && other->file == file) {
			mutex_unlock(&claims_lock);
			return -EBUSY;
		}
	}
	cm->qp.device = qp->device;
	cm->qp.number = qp->qp_num;
	cm->qp.file = file;
	cm->qp.object = qp->uobject;
	list_add(&cm->qp.list, &claims);
	mutex_unlock(&claims_lock);

	ret = ib_query_qp(qp, &attr, IB_QP_STATE, &init);
	if (!ret && attr.qp_state != IB_QPS_RESET && attr.qp_state != IB_QPS_INIT)
		ret = -EINVAL;
	if (!ret) {
		memset(&attr, 0, sizeof(attr));
		attr.qp_state = IB_QPS_INIT;
		ret = rdma_init_qp_attr(id, &attr, &mask);
	}
	if (!ret) {
		attr.qp_access_flags = access & ACCESS;
		ret = ib_modify_qp(qp, &attr, mask);
	}
	if (ret)
		verbena_qp_release(cm);
	else
		cm->srq = qp->srq;
	return ret;
}

/* What rdma_cm says of a connection, that is or is asked for, as the class has it. */
int verbena_cm_terms(struct rdma_cm_id *id, struct ib_qp_attr *rtr, int *rtr_mask, struct ib_qp_attr *rts, int *rts_mask,
		     struct verbena_cm_params *params)
{
	const struct ib_global_route *grh;
	int ret;

	memset(rtr, 0, sizeof(*rtr));
	rtr->qp_state = IB_QPS_RTR;
	ret = rdma_init_qp_attr(id, rtr, rtr_mask);
	if (ret)
		return ret;
	memset(rts, 0, sizeof(*rts));
	rts->qp_state = IB_QPS_RTS;
	ret = rdma_init_qp_attr(id, rts, rts_mask);
	if (ret)
		return ret;
	grh = rdma_ah_read_grh(&rtr->ah_attr);
	params->path_mtu = ib_mtu_enum_to_int(rtr->path_mtu);
	params->flow_label = grh->flow_label & 0xfffff;
	params->traffic_class = grh->traffic_class;
	params->hop_limit = grh->hop_limit;
	params->responder_resources = rtr->max_dest_rd_atomic;
	params->initiator_depth = rts->max_rd_atomic;
	params->retry_count = rts->retry_cnt;
	params->rnr_retry_count = rts->rnr_retry;
	params->ack_timeout = rts->timeout;
	params->min_rnr_timer = rtr->min_rnr_timer;
	return 0;
}

/* Moves it from INIT to RTS as both sides have agreed, but for no more READs and atomics than @want says. */
int verbena_qp_make_ready(struct verbena_cm *cm, struct rdma_cm_id *id, struct ib_qp *qp,
			  const struct verbena_cm_params *want)
{
	struct ib_qp_attr rtr, rts;
	int rtr_mask, rts_mask, ret;

	lockdep_assert_held(&cm->qp_lock);
	ret = verbena_cm_terms(id, &rtr, &rtr_mask, &rts, &rts_mask, &cm->agreed);
	if (ret)
		return ret;
	rtr.max_dest_rd_atomic = min(rtr.max_dest_rd_atomic, want->responder_resources);
	rtr.min_rnr_timer = want->min_rnr_timer;
	rts.max_rd_atomic = min(rts.max_rd_atomic, want->initiator_depth);
	cm->agreed.responder_resources = rtr.max_dest_rd_atomic;
	cm->agreed.initiator_depth = rts.max_rd_atomic;
	cm->agreed.min_rnr_timer = rtr.min_rnr_timer;
	ret = ib_modify_qp(qp, &rtr, rtr_mask);
	return ret ?: ib_modify_qp(qp, &rts, rts_mask);
}

/* The connection is over, or will never be: the queue pair goes to ERR, and is its owner's again. */
void verbena_qp_end(struct verbena_cm *cm)
{
	struct ib_qp_attr attr = { .qp_state = IB_QPS_ERR };
	struct ib_qp *qp;

	mutex_lock(&cm->qp_lock);
	qp = verbena_qp_own(cm);
	if (qp) {
		if (ib_modify_qp(qp, &attr, IB_QP_STATE))
			pr_warn("the end of a connection leaves queue pair %u of %s as it was\n", qp->qp_num,
				dev_name(&qp->device->dev));
		verbena_qp_put(qp);
	}
	verbena_qp_release(cm);
	mutex_unlock(&cm->qp_lock);
}
