// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * verbena_rdma_cm.ko: class CM_ID of the system-wide node on ib_devices, whose QP 1 is the kernel's, by the kernel's rdma_cm.
 * See foreign_cm.h, and uapi-driver/docs/cm.md.
 *
 * In C because the kernel's rdma headers have no Rust bindings. What is allowed when, and what a program is told of it, is
 * verbena_core's; here are the calls of rdma_cm, and the queue pairs that are moved through their states.
 *
 * Locks, in this order: a verbena_cm's @lock, its rdma_cm_id's handler_mutex, @qp_lock, @claims_lock. An event handler runs
 * under the second, so it never takes the first.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/inetdevice.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nsproxy.h>
#include <linux/rtnetlink.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <net/addrconf.h>
#include <net/net_namespace.h>
#include <rdma/ib_addr.h>
#include <rdma/ib_cm.h>
#include <rdma/ib_verbs.h>
#include <rdma/rdma_cm.h>
#include <rdma/restrack.h>

#include "foreign_cm.h"

/* kind of an event: class::event_queue::kind::CM. */
#define KIND(event) (64 + (event))

/* The access that a connection can give: IB_ACCESS_ bits, which the class's are. */
#define ACCESS (IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE | IB_ACCESS_REMOTE_READ | IB_ACCESS_REMOTE_ATOMIC)

/* Whether an answer is waited for. Who leaves ASKING decides what came of it. */
enum stage {
	NOT_ASKING,
	ASKING,
	ANSWERED,
	GAVE_UP,
};

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

/* ---- queue pairs ------------------------------------------------------------------------------------------- */

static LIST_HEAD(claims);
static DEFINE_MUTEX(claims_lock);

static void put_qp(struct ib_qp *qp)
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
	put_qp(qp);
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
static struct ib_qp *side_qp(const struct verbena_cm_side *side, const void **file)
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
static struct ib_qp *own_qp(struct verbena_cm *cm)
{
	struct ib_qp *qp;

	lockdep_assert_held(&cm->qp_lock);
	if (!cm->qp.device)
		return NULL;
	qp = get_qp(cm->qp.device, cm->qp.number, cm->qp.file);
	if (qp && qp->uobject != cm->qp.object) {
		put_qp(qp);
		return NULL;
	}
	return qp;
}

static void release_qp(struct verbena_cm *cm)
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
static int take_qp(struct verbena_cm *cm, struct rdma_cm_id *id, struct ib_qp *qp, const void *file, u32 access)
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
		release_qp(cm);
	else
		cm->srq = qp->srq;
	return ret;
}

/* What rdma_cm says of a connection, that is or is asked for, as the class has it. */
static int terms(struct rdma_cm_id *id, struct ib_qp_attr *rtr, int *rtr_mask, struct ib_qp_attr *rts, int *rts_mask,
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
static int make_ready(struct verbena_cm *cm, struct rdma_cm_id *id, struct ib_qp *qp, const struct verbena_cm_params *want)
{
	struct ib_qp_attr rtr, rts;
	int rtr_mask, rts_mask, ret;

	lockdep_assert_held(&cm->qp_lock);
	ret = terms(id, &rtr, &rtr_mask, &rts, &rts_mask, &cm->agreed);
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
static void end_qp(struct verbena_cm *cm)
{
	struct ib_qp_attr attr = { .qp_state = IB_QPS_ERR };
	struct ib_qp *qp;

	mutex_lock(&cm->qp_lock);
	qp = own_qp(cm);
	if (qp) {
		if (ib_modify_qp(qp, &attr, IB_QP_STATE))
			pr_warn("the end of a connection leaves queue pair %u of %s as it was\n", qp->qp_num,
				dev_name(&qp->device->dev));
		put_qp(qp);
	}
	release_qp(cm);
	mutex_unlock(&cm->qp_lock);
}

/* ---- addresses --------------------------------------------------------------------------------------------- */

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

static void set_port(union address *address, u16 port)
{
	if (address->any.sa_family == AF_INET)
		address->in.sin_port = htons(port);
	else
		address->in6.sin6_port = htons(port);
}

static void from_gid(union address *address, const u8 *gid, u16 port)
{
	union ib_gid copy;

	memset(address, 0, sizeof(*address));
	memcpy(copy.raw, gid, sizeof(copy.raw));
	/* Not the address of a member, which would be too small for what is written. */
	rdma_gid2ip((struct sockaddr *)address, &copy);
	set_port(address, port);
}

static void to_gid(struct verbena_cm_address *to, const struct sockaddr_storage *from)
{
	const union address *address = (const union address *)from;
	union ib_gid gid = {};

	memset(to, 0, sizeof(*to));
	rdma_ip2gid((struct sockaddr *)from, &gid);
	memcpy(to->gid, gid.raw, sizeof(to->gid));
	to->port = ntohs(address->any.sa_family == AF_INET ? address->in.sin_port : address->in6.sin6_port);
}

static bool is_link_local(const union address *address)
{
	return address->any.sa_family == AF_INET6 && ipv6_addr_type(&address->in6.sin6_addr) & IPV6_ADDR_LINKLOCAL;
}

/* A link-local address says nothing without its interface: that which has it. */
static int own_scope(struct net *net, union address *address)
{
	struct net_device *ndev;
	int ret = -EADDRNOTAVAIL;

	rcu_read_lock();
	for_each_netdev_rcu(net, ndev) {
		if (ipv6_chk_addr(net, &address->in6.sin6_addr, ndev, 1)) {
			address->in6.sin6_scope_id = ndev->ifindex;
			ret = 0;
			break;
		}
	}
	rcu_read_unlock();
	return ret;
}

/* An address of the device to speak to @peer from, as the network stack chooses one of the interface's. */
static int source(struct ib_device *device, struct net *net, const union address *peer, union address *address)
{
	u32 port;

	memset(address, 0, sizeof(*address));
	rdma_for_each_port(device, port) {
		struct net_device *ndev = ib_device_get_netdev(device, port);
		int ret = -EADDRNOTAVAIL;

		if (!ndev)
			continue;
		if (net_eq(dev_net(ndev), net)) {
			address->any.sa_family = peer->any.sa_family;
			if (peer->any.sa_family == AF_INET) {
				address->in.sin_addr.s_addr =
					inet_select_addr(ndev, peer->in.sin_addr.s_addr, RT_SCOPE_UNIVERSE);
				ret = address->in.sin_addr.s_addr ? 0 : -EADDRNOTAVAIL;
			} else {
				ret = ipv6_dev_get_saddr(net, ndev, &peer->in6.sin6_addr, 0, &address->in6.sin6_addr);
				if (!ret && is_link_local(address))
					address->in6.sin6_scope_id = ndev->ifindex;
			}
		}
		dev_put(ndev);
		if (!ret)
			return 0;
	}
	return -EADDRNOTAVAIL;
}

static int ignore(struct rdma_cm_id *id, struct rdma_cm_event *event)
{
	return 0;
}

/*
 * rdma_bind_addr(), but -EADDRINUSE for what is in use: it calls it -EADDRNOTAVAIL if the other one has the port of all
 * addresses, or this one wants it of all. An address that there is can be bound to without a port.
 */
static int bind_address(struct rdma_cm_id *id, union address *address)
{
	struct rdma_cm_id *probe;
	union address any = *address;
	int ret = rdma_bind_addr(id, &address->any);

	if (ret != -EADDRNOTAVAIL)
		return ret;
	set_port(&any, 0);
	probe = rdma_create_id(id->route.addr.dev_addr.net, ignore, NULL, RDMA_PS_TCP, IB_QPT_RC);
	if (IS_ERR(probe))
		return PTR_ERR(probe);
	rdma_restrict_node_type(probe, RDMA_NODE_IB_CA);
	if (!rdma_bind_addr(probe, &any.any))
		ret = -EADDRINUSE;
	rdma_destroy_id(probe);
	return ret;
}

/* Binds to an address that is not all. It must be one of a RoCE device: an InfiniBand GID is no IP address. */
static int bind_one(struct rdma_cm_id *id, union address *address)
{
	int ret = bind_address(id, address);

	if (ret)
		return ret == -ENODEV ? -EADDRNOTAVAIL : ret;
	return id->device && rdma_protocol_roce(id->device, id->port_num) ? 0 : -EADDRNOTAVAIL;
}

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
	end_qp(cm);
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
		end_qp(cm);
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
	if (terms(id, &rtr, &rtr_mask, &rts, &rts_mask, &params))
		goto free;
	to_gid(&local, &id->route.addr.src_addr);
	to_gid(&peer, &id->route.addr.dst_addr);
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
	qp = own_qp(cm);
	ret = qp ? make_ready(cm, id, qp, &cm->params) : -ENOENT;
	if (qp)
		put_qp(qp);
	mutex_unlock(&cm->qp_lock);
	if (ret)
		rdma_reject(id, NULL, 0, qp ? IB_CM_REJ_NO_RESOURCES : IB_CM_REJ_NO_QP);
	else
		/* Without parameters it is the RTU; if that cannot be sent, a REJ. */
		ret = rdma_accept(id, NULL);
	if (ret) {
		end_qp(cm);
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
		end_qp(cm);
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
		end_qp(cm);
		/* If the peer began, it waits for an answer; if not, this finds nothing to do. */
		rdma_disconnect(id);
		verbena_cm_told(cm->hears, &told);
		break;
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
		verbena_cm_told(cm->hears, &told);
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		mutex_lock(&cm->qp_lock);
		release_qp(cm);
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
	union address address;
	int ret = -ENODEV;

	mutex_lock(&cm->lock);
	id = cm->id;
	if (!id)
		goto out;
	from_gid(&address, local->gid, local->port);
	if (!memcmp(local->gid, all, sizeof(all))) {
		/* An address of IPv6 that stands for those of IPv4, too. */
		rdma_set_afonly(id, 0);
		ret = bind_address(id, &address);
	} else {
		ret = is_link_local(&address) ? own_scope(id->route.addr.dev_addr.net, &address) : 0;
		if (!ret)
			ret = bind_one(id, &address);
	}
	if (!ret)
		to_gid(local, &id->route.addr.src_addr);
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
	union address address, from;
	struct rdma_cm_id *id;
	const void *file;
	struct ib_qp *qp;
	int ret = -ENODEV;

	mutex_lock(&cm->lock);
	id = cm->id;
	if (!id)
		goto unlock;
	qp = side_qp(side, &file);
	if (IS_ERR(qp)) {
		ret = PTR_ERR(qp);
		goto unlock;
	}
	from_gid(&address, peer->gid, peer->port);
	if (!id->device) {
		ret = source(qp->device, id->route.addr.dev_addr.net, &address, &from);
		if (ret)
			goto put;
		set_port(&from, local->port);
		ret = bind_one(id, &from);
		if (ret)
			goto put;
	}
	ret = -EXDEV;
	if (id->device != qp->device)
		goto put;
	if (is_link_local(&address))
		address.in6.sin6_scope_id = id->route.addr.dev_addr.bound_dev_if;
	mutex_lock(&cm->qp_lock);
	ret = take_qp(cm, id, qp, file, side->params->access);
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
	to_gid(local, &id->route.addr.src_addr);

	atomic_set(&cm->stage, ASKING);
	queue_delayed_work(system_long_wq, &cm->end, patience(&cm->params));
	ret = rdma_resolve_addr(id, NULL, &address.any, max(jiffies_to_msecs(patience(&cm->params)), 1u));
	if (ret && atomic_cmpxchg(&cm->stage, ASKING, NOT_ASKING) == ASKING) {
		cancel_delayed_work(&cm->end);
		mutex_lock(&cm->qp_lock);
		release_qp(cm);
		mutex_unlock(&cm->qp_lock);
		/* There is no way to there: which is what an address that does not answer is told by, too. */
		if (ret == -EINVAL)
			ret = -EADDRNOTAVAIL;
	} else {
		ret = 0;
	}
put:
	put_qp(qp);
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
	qp = side_qp(side, &file);
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
	ret = take_qp(cm, id, qp, file, params.access);
	if (ret) {
		mutex_unlock(&cm->qp_lock);
		rdma_unlock_handler(id);
		goto put;
	}
	ret = make_ready(cm, id, qp, &params);
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
		end_qp(cm);
put:
	put_qp(qp);
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
		end_qp(cm);
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
		end_qp(cm);
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
	int ret = ib_register_client(&client);

	if (ret)
		return ret;
	ret = verbena_cm_register(&ops);
	if (ret)
		ib_unregister_client(&client);
	return ret;
}

static void __exit verbena_rdma_cm_exit(void)
{
	verbena_cm_unregister(&ops);
	ib_unregister_client(&client);
}

module_init(verbena_rdma_cm_init);
module_exit(verbena_rdma_cm_exit);

MODULE_AUTHOR("The Verbena authors");
MODULE_DESCRIPTION("Verbena's communication ids on ib_devices");
MODULE_LICENSE("GPL");
