// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * In verbena_rdma_cm.ko: GIDs as the IP addresses that rdma_cm takes, and which of them an id has.
 */

#include <linux/inetdevice.h>
#include <linux/rtnetlink.h>
#include <net/addrconf.h>
#include <rdma/ib_addr.h>

#include "rdma_cm_ids.h"

void verbena_set_port(union verbena_address *address, u16 port)
{
	if (address->any.sa_family == AF_INET)
		address->in.sin_port = htons(port);
	else
		address->in6.sin6_port = htons(port);
}

void verbena_from_gid(union verbena_address *address, const u8 *gid, u16 port)
{
	union ib_gid copy;

	memset(address, 0, sizeof(*address));
	memcpy(copy.raw, gid, sizeof(copy.raw));
	/* Not the address of a member, which would be too small for what is written. */
	rdma_gid2ip((struct sockaddr *)address, &copy);
	verbena_set_port(address, port);
}

void verbena_to_gid(struct verbena_cm_address *to, const struct sockaddr_storage *from)
{
	const union verbena_address *address = (const union verbena_address *)from;
	union ib_gid gid = {};

	memset(to, 0, sizeof(*to));
	rdma_ip2gid((struct sockaddr *)from, &gid);
	memcpy(to->gid, gid.raw, sizeof(to->gid));
	to->port = ntohs(address->any.sa_family == AF_INET ? address->in.sin_port : address->in6.sin6_port);
}

bool verbena_is_link_local(const union verbena_address *address)
{
	return address->any.sa_family == AF_INET6 && ipv6_addr_type(&address->in6.sin6_addr) & IPV6_ADDR_LINKLOCAL;
}

/* A link-local address says nothing without its interface: that which has it. */
int verbena_own_scope(struct net *net, union verbena_address *address)
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
int verbena_source_address(struct ib_device *device, struct net *net, const union verbena_address *peer,
			   union verbena_address *address)
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
				if (!ret && verbena_is_link_local(address))
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
int verbena_bind_address(struct rdma_cm_id *id, union verbena_address *address)
{
	struct rdma_cm_id *probe;
	union verbena_address any = *address;
	int ret = rdma_bind_addr(id, &address->any);

	if (ret != -EADDRNOTAVAIL)
		return ret;
	verbena_set_port(&any, 0);
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
int verbena_bind_one(struct rdma_cm_id *id, union verbena_address *address)
{
	int ret = verbena_bind_address(id, address);

	if (ret)
		return ret == -ENODEV ? -EADDRNOTAVAIL : ret;
	return id->device && rdma_protocol_roce(id->device, id->port_num) ? 0 : -EADDRNOTAVAIL;
}
