// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * The border to whoever serves class CM_ID on devices that are not ours (foreign_cm.h), and what foreign.rs calls there.
 */

#include <linux/err.h>
#include <linux/export.h>
#include <linux/module.h>
#include <linux/mutex.h>

#include "foreign_cm.h"
#include "glue.h"

static DEFINE_MUTEX(verbena_cm_lock);
/* Set under the lock. Not cleared while there are ids: each holds the module that it belongs to. */
static const struct verbena_cm_ops *verbena_cm;

int verbena_cm_register(const struct verbena_cm_ops *ops)
{
	int ret = 0;

	mutex_lock(&verbena_cm_lock);
	if (verbena_cm)
		ret = -EBUSY;
	else
		verbena_cm = ops;
	mutex_unlock(&verbena_cm_lock);
	return ret;
}
EXPORT_SYMBOL_GPL(verbena_cm_register);

void verbena_cm_unregister(const struct verbena_cm_ops *ops)
{
	mutex_lock(&verbena_cm_lock);
	WARN_ON(verbena_cm != ops);
	verbena_cm = NULL;
	mutex_unlock(&verbena_cm_lock);
}
EXPORT_SYMBOL_GPL(verbena_cm_unregister);

void verbena_cm_told(void *hears, const struct verbena_cm_told *told)
{
	verbena_rs_cm_told(hears, told);
}
EXPORT_SYMBOL_GPL(verbena_cm_told);

void *verbena_cm_requested(void *listener, struct verbena_cm *new, const struct verbena_cm_address *local,
			   const struct verbena_cm_address *peer, const struct verbena_cm_told *told)
{
	void *hears;

	/* The listener holds it already. */
	__module_get(verbena_cm->owner);
	hears = verbena_rs_cm_requested(listener, new, local, peer, told);
	if (!hears)
		module_put(verbena_cm->owner);
	return hears;
}
EXPORT_SYMBOL_GPL(verbena_cm_requested);

struct verbena_cm *verbena_cm_create(void *hears)
{
	struct verbena_cm *cm = ERR_PTR(-ENODEV);

	mutex_lock(&verbena_cm_lock);
	if (verbena_cm && try_module_get(verbena_cm->owner)) {
		cm = verbena_cm->create(hears);
		if (IS_ERR(cm))
			module_put(verbena_cm->owner);
	}
	mutex_unlock(&verbena_cm_lock);
	return cm;
}

void *verbena_cm_destroy(struct verbena_cm *cm)
{
	struct module *owner = verbena_cm->owner;
	void *hears = verbena_cm->destroy(cm);

	module_put(owner);
	return hears;
}

int verbena_cm_bind(struct verbena_cm *cm, struct verbena_cm_address *local)
{
	return verbena_cm->bind(cm, local);
}

int verbena_cm_listen(struct verbena_cm *cm)
{
	return verbena_cm->listen(cm);
}

int verbena_cm_connect(struct verbena_cm *cm, const struct verbena_cm_address *peer, struct verbena_cm_address *local,
		       const struct verbena_cm_side *side)
{
	return verbena_cm->connect(cm, peer, local, side);
}

int verbena_cm_accept(struct verbena_cm *cm, const struct verbena_cm_side *side)
{
	return verbena_cm->accept(cm, side);
}

int verbena_cm_reject(struct verbena_cm *cm, u8 reason, const void *data, u8 data_len)
{
	return verbena_cm->reject(cm, reason, data, data_len);
}

int verbena_cm_disconnect(struct verbena_cm *cm)
{
	return verbena_cm->disconnect(cm);
}
