// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * verbena_rdma_cm.ko: class CM_ID of the system-wide node on ib_devices, whose QP 1 is the kernel's, by the kernel's rdma_cm.
 * See foreign_cm.h, and uapi-driver/docs/cm.md.
 *
 * In C because the kernel's rdma headers have no Rust bindings. What is allowed when, and what a program is told of it, is
 * verbena_core's; here are the calls of rdma_cm. Queue pairs are moved through their states in rdma_cm_qp.c.
 *
 * Locks, in this order: a verbena_cm's @lock, its rdma_cm_id's handler_mutex, @qp_lock, @claims_lock. An event handler runs
 * under the second, so it never takes the first.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/nsproxy.h>
#include <linux/slab.h>
#include <rdma/ib_cm.h>

#include "rdma_cm_ids.h"

/* kind of an event: class::event_queue::kind::CM. */
#define KIND(event) (64 + (event))

/* Whether an answer is waited for. Who leaves ASKING decides what came of it. */
enum stage {
	NOT_ASKING,
	ASKING,
	ANSWERED,
	GAVE_UP,
};

/* ---- events ------------------------------------------------------------------------------------------------ */

static int handle(struct rdma_cm_id *id, struct rdma_cm_event *event);

static void tell(struct verbena_cm *cm, enum rdma_cm_event_type event)
{
	struct verbena_cm_told told = { .kind = KIND(event) };

	verbena_cm_told(cm->hears, &told);
}

/* Whether it is us who says what came of it. */
static bool settled(struct verbena_cm *cm)
{
	int before = atomic_cmpxchg(&cm->stage, ASKING, ANSWERED);

	if (before == ASKING)
		cancel_delayed_work(&cm->end);
	return before != GAVE_UP;
}

static void fail(struct verbena_cm *cm, enum rdma_cm_event_type event)
{
	if (!settled(cm))
		return;
	verbena_qp_end(cm);
	tell(cm, event);
}

/*
 * In the place of a handler, which may not destroy its id: the time that the program gave the peer is over, or the device
 * is going, which waits for this.
 */
static void end(struct work_struct *work)
{
	struct verbena_cm *cm = container_of(to_delayed_work(work), struct verbena_cm, end);
	bool removed = READ_ONCE(cm->removed);
	bool gave_up = !removed && atomic_cmpxchg(&cm->stage, ASKING, GAVE_UP) == ASKING;
	struct rdma_cm_id *id;

	if (!removed && !gave_up)
		return;
	mutex_lock(&cm->lock);
	id = cm->id;
	cm->id = NULL;
	mutex_unlock(&cm->lock);
	if (gave_up)
		verbena_qp_end(cm);
	if (id)
		rdma_destroy_id(id);
	if (gave_up)
		tell(cm, RDMA_CM_EVENT_UNREACHABLE);
}

static struct verbena_cm *new_cm(void *hears)
{
	struct verbena_cm *cm = kzalloc(sizeof(*cm), GFP_KERNEL_ACCOUNT);

	if (!cm)
		return NULL;
	mutex_init(&cm->lock);
	mutex_init(&cm->qp_lock);
	atomic_set(&cm->stage, NOT_ASKING);
	INIT_DELAYED_WORK(&cm->end, end);
	cm->hears = hears;
	return cm;
}

/* A peer asks. Not 0: the id is destroyed. */
static int requested(struct verbena_cm *listener, struct rdma_cm_id *id, const struct rdma_cm_event *event)
{
	const struct rdma_conn_param *param = &event->param.conn;
	struct verbena_cm_params params = {
		.responder_resources = param->responder_resources,
		.initiator_depth = param->initiator_depth,
	};
	struct verbena_cm_told told = {
		.kind = KIND(event->event),
		.peer_qpn = param->qp_num,
		.params = &params,
		.data = param->private_data,
		.data_len = param->private_data_len,
	};
	struct verbena_cm *cm = new_cm(NULL);
	struct verbena_cm_address local, peer;
	struct ib_qp_attr rtr, rts;
	int rtr_mask, rts_mask;

	if (!cm)
		goto refuse;
	if (!rdma_protocol_roce(id->device, id->port_num))
		goto free;
	if (verbena_cm_terms(id, &rtr, &rtr_mask, &rts, &rts_mask, &params))
		goto free;
	verbena_to_gid(&local, &id->route.addr.src_addr);
	verbena_to_gid(&peer, &id->route.addr.dst_addr);
	cm->id = id;
	/*
	 * The program may use it at once, but for what only touches the id: until this handler returns its handler_mutex is held, for
	 * which destroy() and accept() wait, and no event comes.
	 */
	cm->hears = verbena_cm_requested(listener->hears, cm, &local, &peer, &told);
	if (!cm->hears)
		goto free;
	id->context = cm;
	return 0;
free:
	kfree(cm);
refuse:
	rdma_reject(id, NULL, 0, IB_CM_REJ_NO_RESOURCES);
	return -ENOMEM;
}

/* The address is known to be reachable, and by what way: now the peer is asked. */
static int ask(struct verbena_cm *cm, struct rdma_cm_id *id)
{
	const struct verbena_cm_params *params = &cm->params;
	struct sa_path_rec *path = id->route.path_rec;
	struct rdma_conn_param param = {
		.private_data = cm->data,
		.private_data_len = cm->data_len,
		.responder_resources = params->responder_resources,
		.initiator_depth = params->initiator_depth,
		.flow_control = 1,
		.retry_count = params->retry_count,
		.rnr_retry_count = params->rnr_retry_count,
		.srq = cm->srq,
		.qp_num = cm->qp.number,
	};

	if (params->path_mtu)
		path->mtu = min_t(u8, path->mtu, ib_mtu_int_to_enum(params->path_mtu));
	if (params->flow_label)
		path->flow_label = cpu_to_be32(params->flow_label);
	if (params->hop_limit)
		path->hop_limit = params->hop_limit;
	return rdma_connect_locked(id, &param);
}

/* The peer agreed: the queue pair is made ready, then the peer is told. */
static void replied(struct verbena_cm *cm, struct rdma_cm_id *id, const struct rdma_cm_event *event)
{
	struct verbena_cm_told told = {
		.kind = KIND(RDMA_CM_EVENT_ESTABLISHED),
		.peer_qpn = event->param.conn.qp_num,
		.params = &cm->agreed,
		.data = event->param.conn.private_data,
		.data_len = event->param.conn.private_data_len,
	};
	struct ib_qp *qp;
	int ret;

	if (!settled(cm))
		return;
	mutex_lock(&cm->qp_lock);
	qp = verbena_qp_own(cm);
	ret = qp ? verbena_qp_make_ready(cm, id, qp, &cm->params) : -ENOENT;
	if (qp)
		verbena_qp_put(qp);
	mutex_unlock(&cm->qp_lock);
	if (ret)
		rdma_reject(id, NULL, 0, qp ? IB_CM_REJ_NO_RESOURCES : IB_CM_REJ_NO_QP);
	else
		/* Without parameters it is the RTU; if that cannot be sent, a REJ. */
		ret = rdma_accept(id, NULL);
	if (ret) {
		verbena_qp_end(cm);
		tell(cm, RDMA_CM_EVENT_CONNECT_ERROR);
	} else {
		verbena_cm_told(cm->hears, &told);
	}
}

static int handle(struct rdma_cm_id *id, struct rdma_cm_event *event)
{
	struct verbena_cm *cm = id->context;
	struct verbena_cm_told told = { .kind = KIND(event->event) };

	switch (event->event) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		return requested(cm, id, event);
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		/* The time is for a subnet administrator, which RoCE has none of. */
		if (rdma_resolve_route(id, 1000))
			fail(cm, RDMA_CM_EVENT_UNREACHABLE);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		if (ask(cm, id))
			fail(cm, RDMA_CM_EVENT_CONNECT_ERROR);
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
		fail(cm, RDMA_CM_EVENT_UNREACHABLE);
		break;
	case RDMA_CM_EVENT_CONNECT_RESPONSE:
		replied(cm, id, event);
		break;
	case RDMA_CM_EVENT_REJECTED:
		if (!settled(cm))
			break;
		verbena_qp_end(cm);
		told.reason = event->status;
		told.data = event->param.conn.private_data;
		told.data_len = event->param.conn.private_data_len;
		verbena_cm_told(cm->hears, &told);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		/* The passive side's: the RTU has come. */
		told.params = &cm->agreed;
		verbena_cm_told(cm->hears, &told);
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		verbena_qp_end(cm);
		/* If the peer began, it waits for an answer; if not, this finds nothing to do. */
		rdma_disconnect(id);
		verbena_cm_told(cm->hears, &told);
		break;
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
		verbena_cm_told(cm->hears, &told);
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		mutex_lock(&cm->qp_lock);
		verbena_qp_release(cm);
		mutex_unlock(&cm->qp_lock);
		verbena_cm_told(cm->hears, &told);
		WRITE_ONCE(cm->removed, true);
		mod_delayed_work(system_long_wq, &cm->end, 0);
		break;
	default:
		break;
	}
	return 0;
}

/* ---- what verbena.ko asks for ------------------------------------------------------------------------------ */

static struct verbena_cm *create(void *hears)
{
	struct verbena_cm *cm = new_cm(hears);
	struct rdma_cm_id *id;

	if (!cm)
		return ERR_PTR(-ENOMEM);
	id = rdma_create_id(current->nsproxy->net_ns, handle, cm, RDMA_PS_TCP, IB_QPT_RC);
	if (IS_ERR(id)) {
		kfree(cm);
		return ERR_CAST(id);
	}
	/* No iWARP, whose connections are other ones. */
	rdma_restrict_node_type(id, RDMA_NODE_IB_CA);
	cm->id = id;
	return cm;
}

static int bind(struct verbena_cm *cm, struct verbena_cm_address *local)
{
	static const u8 all[16];
	struct rdma_cm_id *id;
	union verbena_address address;
	int ret = -ENODEV;

	mutex_lock(&cm->lock);
	id = cm->id;
	if (!id)
		goto out;
	verbena_from_gid(&address, local->gid, local->port);
	if (!memcmp(local->gid, all, sizeof(all))) {
		/* An address of IPv6 that stands for those of IPv4, too. */
		rdma_set_afonly(id, 0);
		ret = verbena_bind_address(id, &address);
	} else {
		ret = verbena_is_link_local(&address) ? verbena_own_scope(id->route.addr.dev_addr.net, &address) : 0;
		if (!ret)
			ret = verbena_bind_one(id, &address);
	}
	if (!ret)
		verbena_to_gid(local, &id->route.addr.src_addr);
out:
	mutex_unlock(&cm->lock);
	return ret;
}

static int listen(struct verbena_cm *cm)
{
	int ret;

	mutex_lock(&cm->lock);
	/* The backlog is verbena_core's matter. */
	ret = cm->id ? rdma_listen(cm->id, 0) : -ENODEV;
	mutex_unlock(&cm->lock);
	return ret;
}

/* How long CONNECT waits for an answer, in jiffies: every message's time, and then it is over. */
static unsigned long patience(const struct verbena_cm_params *params)
{
	u64 one = 4096ull << params->response_timeout;

	return nsecs_to_jiffies(one * (params->max_cm_retries + 1u)) + 1;
}

/* READs and atomics: no more than the device has. */
static void limit(struct verbena_cm_params *params, const struct ib_device *device)
{
	params->responder_resources = min_t(int, params->responder_resources, device->attrs.max_qp_rd_atom);
	params->initiator_depth = min_t(int, params->initiator_depth, device->attrs.max_qp_init_rd_atom);
}

static int connect(struct verbena_cm *cm, const struct verbena_cm_address *peer, struct verbena_cm_address *local,
		   const struct verbena_cm_side *side)
{
	union verbena_address address, from;
	struct rdma_cm_id *id;
	const void *file;
	struct ib_qp *qp;
	int ret = -ENODEV;

	mutex_lock(&cm->lock);
	id = cm->id;
	if (!id)
		goto unlock;
	qp = verbena_qp_of_side(side, &file);
	if (IS_ERR(qp)) {
		ret = PTR_ERR(qp);
		goto unlock;
	}
	verbena_from_gid(&address, peer->gid, peer->port);
	if (!id->device) {
		ret = verbena_source_address(qp->device, id->route.addr.dev_addr.net, &address, &from);
		if (ret)
			goto put;
		verbena_set_port(&from, local->port);
		ret = verbena_bind_one(id, &from);
		if (ret)
			goto put;
	}
	ret = -EXDEV;
	if (id->device != qp->device)
		goto put;
	if (verbena_is_link_local(&address))
		address.in6.sin6_scope_id = id->route.addr.dev_addr.bound_dev_if;
	mutex_lock(&cm->qp_lock);
	ret = verbena_qp_take(cm, id, qp, file, side->params->access);
	mutex_unlock(&cm->qp_lock);
	if (ret)
		goto put;
	cm->params = *side->params;
	limit(&cm->params, qp->device);
	cm->data_len = min_t(u32, side->data_len, sizeof(cm->data));
	memcpy(cm->data, side->data, cm->data_len);
	rdma_set_ack_timeout(id, cm->params.ack_timeout);
	if (cm->params.traffic_class)
		rdma_set_service_type(id, cm->params.traffic_class);
	verbena_to_gid(local, &id->route.addr.src_addr);

	atomic_set(&cm->stage, ASKING);
	queue_delayed_work(system_long_wq, &cm->end, patience(&cm->params));
	ret = rdma_resolve_addr(id, NULL, &address.any, max(jiffies_to_msecs(patience(&cm->params)), 1u));
	if (ret && atomic_cmpxchg(&cm->stage, ASKING, NOT_ASKING) == ASKING) {
		cancel_delayed_work(&cm->end);
		mutex_lock(&cm->qp_lock);
		verbena_qp_release(cm);
		mutex_unlock(&cm->qp_lock);
		/* There is no way to there: which is what an address that does not answer is told by, too. */
		if (ret == -EINVAL)
			ret = -EADDRNOTAVAIL;
	} else {
		ret = 0;
	}
put:
	verbena_qp_put(qp);
unlock:
	mutex_unlock(&cm->lock);
	return ret;
}

static int accept(struct verbena_cm *cm, const struct verbena_cm_side *side)
{
	struct verbena_cm_params params = *side->params;
	struct rdma_conn_param param = {
		.private_data = side->data,
		.private_data_len = side->data_len,
		.flow_control = 1,
		.rnr_retry_count = params.rnr_retry_count,
		.qp_num = side->qpn,
	};
	struct rdma_cm_id *id;
	const void *file;
	struct ib_qp *qp;
	int ret = -ENODEV;

	mutex_lock(&cm->lock);
	id = cm->id;
	if (!id)
		goto unlock;
	qp = verbena_qp_of_side(side, &file);
	if (IS_ERR(qp)) {
		ret = PTR_ERR(qp);
		goto unlock;
	}
	ret = -EXDEV;
	if (id->device != qp->device)
		goto put;
	limit(&params, qp->device);

	rdma_lock_handler(id);
	mutex_lock(&cm->qp_lock);
	ret = verbena_qp_take(cm, id, qp, file, params.access);
	if (ret) {
		mutex_unlock(&cm->qp_lock);
		rdma_unlock_handler(id);
		goto put;
	}
	ret = verbena_qp_make_ready(cm, id, qp, &params);
	mutex_unlock(&cm->qp_lock);
	if (!ret) {
		param.responder_resources = cm->agreed.responder_resources;
		param.initiator_depth = cm->agreed.initiator_depth;
		param.srq = cm->srq;
		/* If it fails, it refuses. */
		ret = rdma_accept(id, &param);
	}
	rdma_unlock_handler(id);
	if (ret)
		verbena_qp_end(cm);
put:
	verbena_qp_put(qp);
unlock:
	mutex_unlock(&cm->lock);
	return ret;
}

static int reject(struct verbena_cm *cm, u8 reason, const void *data, u8 data_len)
{
	int ret;

	mutex_lock(&cm->lock);
	ret = cm->id ? rdma_reject(cm->id, data, data_len, reason) : -ENODEV;
	mutex_unlock(&cm->lock);
	return ret;
}

static int disconnect(struct verbena_cm *cm)
{
	int ret = -ENODEV;

	mutex_lock(&cm->lock);
	if (cm->id) {
		verbena_qp_end(cm);
		ret = rdma_disconnect(cm->id);
	}
	mutex_unlock(&cm->lock);
	return ret;
}

static void *destroy(struct verbena_cm *cm)
{
	struct rdma_cm_id *id;
	void *hears;

	mutex_lock(&cm->lock);
	id = cm->id;
	cm->id = NULL;
	mutex_unlock(&cm->lock);
	if (id) {
		verbena_qp_end(cm);
		/* Tells the peer, and waits for a handler that runs. */
		rdma_destroy_id(id);
	}
	/* Last: a handler may have asked for it. */
	cancel_delayed_work_sync(&cm->end);
	hears = cm->hears;
	kfree(cm);
	return hears;
}

static const struct verbena_cm_ops ops = {
	.owner = THIS_MODULE,
	.create = create,
	.bind = bind,
	.listen = listen,
	.connect = connect,
	.accept = accept,
	.reject = reject,
	.disconnect = disconnect,
	.destroy = destroy,
};

static int __init verbena_rdma_cm_init(void)
{
	int ret = verbena_devices_follow();

	if (ret)
		return ret;
	ret = verbena_cm_register(&ops);
	if (ret)
		verbena_devices_forget();
	return ret;
}

static void __exit verbena_rdma_cm_exit(void)
{
	verbena_cm_unregister(&ops);
	verbena_devices_forget();
}

module_init(verbena_rdma_cm_init);
module_exit(verbena_rdma_cm_exit);

MODULE_AUTHOR("The Verbena authors");
MODULE_DESCRIPTION("Verbena's communication ids on ib_devices");
MODULE_LICENSE("GPL");
