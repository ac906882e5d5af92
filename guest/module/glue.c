// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * What verbena.ko needs of the kernel and cannot get in Rust. See glue.h.
 */

#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/cdev.h>
#include <linux/cred.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/rcupdate.h>
#include <linux/rwsem.h>
#include <linux/scatterlist.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uidgid.h>
#include <linux/workqueue.h>

#include "glue.h"

/* ---- limits ------------------------------------------------------------------------------------------------ */

static unsigned int max_objects = UINT_MAX;
module_param(max_objects, uint, 0644);
MODULE_PARM_DESC(max_objects, "objects that a context opened from now on may have");

static unsigned int max_contexts = UINT_MAX;
module_param(max_contexts, uint, 0644);
MODULE_PARM_DESC(max_contexts, "contexts that a user without CAP_SYS_RESOURCE may have open on a device");

unsigned int verbena_max_objects(void)
{
	return READ_ONCE(max_objects);
}

unsigned int verbena_max_contexts(void)
{
	unsigned int limit = READ_ONCE(max_contexts);

	return limit == UINT_MAX || capable(CAP_SYS_RESOURCE) ? UINT_MAX : limit;
}

unsigned int verbena_user(void)
{
	return from_kuid(&init_user_ns, current_euid());
}

bool verbena_descends(unsigned int process)
{
	struct task_struct *task;
	bool found = false;

	rcu_read_lock();
	/* Up to the idle task, whose number is 0: the parent of init and of kthreadd. */
	for (task = current; task->pid && !found; task = rcu_dereference(task->real_parent))
		found = (unsigned int)task->tgid == process;
	rcu_read_unlock();
	return found;
}

/* ---- device nodes ------------------------------------------------------------------------------------------ */

#define VERBENA_MINORS 1024

static dev_t verbena_numbers;
static DEFINE_IDA(verbena_minors);

struct verbena_node {
	struct device dev;
	struct cdev cdev;
	void *hca;
	/* Its address space is that of every open file of this node, so that one call finds all mappings. */
	struct inode *mappings;
	/* Held shared while a page is put into a mapping: after registers_gone was set, no register page is. */
	struct rw_semaphore gate;
	bool registers_gone;
	struct delayed_work watch;
};

/* Who may use the device at all is the file mode's business: anybody, as for other RDMA devices. What a method needs
 * beyond that, it declares itself. */
static char *verbena_devnode(const struct device *dev, umode_t *mode)
{
	if (mode)
		*mode = 0666;
	return NULL;
}

static const struct class verbena_class = {
	.name = "verbena",
	.devnode = verbena_devnode,
};

static void verbena_node_release(struct device *dev)
{
	struct verbena_node *node = container_of(dev, struct verbena_node, dev);

	if (node->mappings)
		iput(node->mappings);
	verbena_rs_hca_put(node->hca);
	kfree(node);
}

static void verbena_node_watch(struct work_struct *work)
{
	struct verbena_node *node = container_of(to_delayed_work(work), struct verbena_node, watch);

	if (verbena_rs_watch(node->hca))
		queue_delayed_work(system_freezable_power_efficient_wq, &node->watch, round_jiffies_relative(HZ));
}

/* ---- mappings ---------------------------------------------------------------------------------------------- */

/* What a VMA shows. Split VMAs share it. */
struct verbena_area {
	refcount_t vmas;
	struct verbena_node *node;
	struct verbena_target target;
	/* The file offset, in pages, of the target's first page. */
	unsigned long pgoff;
	/* What stands in for device registers when the device is gone: memory of this mapping alone. */
	struct page *stand_in;
};

static void verbena_vma_open(struct vm_area_struct *vma)
{
	struct verbena_area *area = vma->vm_private_data;

	refcount_inc(&area->vmas);
}

static void verbena_vma_close(struct vm_area_struct *vma)
{
	struct verbena_area *area = vma->vm_private_data;

	if (!refcount_dec_and_test(&area->vmas))
		return;
	verbena_rs_unmapped(area->target.keep);
	if (area->stand_in)
		__free_page(area->stand_in);
	kfree(area);
}

/* The device is gone and a process touches its registers: it finds memory, where stores do no harm. */
static vm_fault_t verbena_fault_stand_in(struct vm_fault *vmf, struct verbena_area *area)
{
	struct page *page = READ_ONCE(area->stand_in);

	if (!page) {
		page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!page)
			return VM_FAULT_OOM;
		if (cmpxchg(&area->stand_in, NULL, page)) {
			__free_page(page);
			page = area->stand_in;
		}
	}
	return vmf_insert_pfn_prot(vmf->vma, vmf->address, page_to_pfn(page), vm_get_page_prot(vmf->vma->vm_flags));
}

/*
 * Pages come in by the first fault, not by mmap: only then is the VMA where unmap_mapping_range finds it, so that a
 * removal cannot miss it. One fault brings the whole VMA.
 */
static vm_fault_t verbena_vma_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct verbena_area *area = vma->vm_private_data;
	struct verbena_node *node = area->node;
	unsigned long pfn = area->target.pfn + (vma->vm_pgoff - area->pgoff);
	unsigned long at;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	down_read(&node->gate);
	if (area->target.registers && node->registers_gone) {
		ret = verbena_fault_stand_in(vmf, area);
	} else {
		for (at = vma->vm_start; at < vma->vm_end; at += PAGE_SIZE, pfn++) {
			ret = vmf_insert_pfn(vma, at, pfn);
			if (ret & VM_FAULT_ERROR)
				break;
		}
	}
	up_read(&node->gate);
	return ret;
}

static const struct vm_operations_struct verbena_vma_ops = {
	.open = verbena_vma_open,
	.close = verbena_vma_close,
	.fault = verbena_vma_fault,
};

/* ---- the device file --------------------------------------------------------------------------------------- */

static int verbena_open(struct inode *inode, struct file *file)
{
	struct verbena_node *node = container_of(inode->i_cdev, struct verbena_node, cdev);
	int ret;

	ret = verbena_rs_open(node->hca, &file->private_data);
	if (ret)
		return ret;
	file->f_mapping = node->mappings->i_mapping;
	return nonseekable_open(inode, file);
}

static int verbena_release(struct inode *inode, struct file *file)
{
	verbena_rs_release(file->private_data);
	return 0;
}

static long verbena_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	return verbena_rs_ioctl(file->private_data, command, arg);
}

static int verbena_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct verbena_area *area;
	int ret;

	/* A private mapping would be a copy that the device does not see. */
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC))
		return -EINVAL;
	area = kzalloc_obj(*area, GFP_KERNEL_ACCOUNT);
	if (!area)
		return -ENOMEM;
	ret = verbena_rs_mmap(file->private_data, (u64)vma->vm_pgoff << PAGE_SHIFT, vma->vm_end - vma->vm_start,
			      &area->target);
	if (ret) {
		kfree(area);
		return ret;
	}
	refcount_set(&area->vmas, 1);
	/* The file, and so its node, lives as long as the VMA does. */
	area->node = container_of(file_inode(file)->i_cdev, struct verbena_node, cdev);
	area->pgoff = vma->vm_pgoff;
	/* Not for children of fork: the object belongs to the process that has the file open and knows its state. */
	vm_flags_mod(vma, VM_PFNMAP | VM_IO | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	if (area->target.registers)
		vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	vma->vm_private_data = area;
	vma->vm_ops = &verbena_vma_ops;
	return 0;
}

static const struct file_operations verbena_fops = {
	.owner = THIS_MODULE,
	.open = verbena_open,
	.release = verbena_release,
	.unlocked_ioctl = verbena_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = verbena_mmap,
};

/*
 * An inode with an address space. They come with a file, which is closed at once; but that takes effect later, when
 * the module could be gone but for the reference that the file holds.
 */
static struct inode *verbena_mappings(void)
{
	static const struct file_operations no_fops = { .owner = THIS_MODULE };
	struct file *file = anon_inode_create_getfile("[verbena]", &no_fops, NULL, O_RDWR, NULL);
	struct inode *inode;

	if (IS_ERR(file))
		return ERR_CAST(file);
	inode = file_inode(file);
	ihold(inode);
	fput(file);
	return inode;
}

int verbena_number_take(void)
{
	return ida_alloc_max(&verbena_minors, VERBENA_MINORS - 1, GFP_KERNEL);
}

void verbena_number_give(int number)
{
	ida_free(&verbena_minors, number);
}

struct verbena_node *verbena_node_add(struct device *parent, int number, const char *name, void *hca)
{
	struct verbena_node *node = kzalloc_obj(*node);
	int ret;

	if (!node) {
		verbena_rs_hca_put(hca);
		return ERR_PTR(-ENOMEM);
	}
	node->hca = hca;
	init_rwsem(&node->gate);
	INIT_DELAYED_WORK(&node->watch, verbena_node_watch);
	device_initialize(&node->dev);
	node->dev.class = &verbena_class;
	node->dev.parent = parent;
	node->dev.release = verbena_node_release;
	node->dev.devt = MKDEV(MAJOR(verbena_numbers), number);
	cdev_init(&node->cdev, &verbena_fops);
	node->cdev.owner = THIS_MODULE;

	node->mappings = verbena_mappings();
	if (IS_ERR(node->mappings)) {
		ret = PTR_ERR(node->mappings);
		node->mappings = NULL;
		goto fail;
	}
	ret = dev_set_name(&node->dev, "%s", name);
	if (ret)
		goto fail;
	ret = cdev_device_add(&node->cdev, &node->dev);
	if (ret)
		goto fail;
	queue_delayed_work(system_freezable_power_efficient_wq, &node->watch, HZ);
	return node;

fail:
	put_device(&node->dev);
	return ERR_PTR(ret);
}

void verbena_node_del(struct verbena_node *node)
{
	disable_delayed_work_sync(&node->watch);
	cdev_device_del(&node->cdev, &node->dev);

	down_write(&node->gate);
	node->registers_gone = true;
	up_write(&node->gate);
	unmap_mapping_range(node->mappings->i_mapping, 0, 0, 1);

	put_device(&node->dev);
}

/* ---- the system-wide node ---------------------------------------------------------------------------------- */

struct verbena_system {
	struct device dev;
	struct cdev cdev;
	void *system;
};

static void verbena_system_free(struct device *dev)
{
	struct verbena_system *node = container_of(dev, struct verbena_system, dev);

	verbena_rs_system_put(node->system);
	kfree(node);
}

static int verbena_system_open(struct inode *inode, struct file *file)
{
	struct verbena_system *node = container_of(inode->i_cdev, struct verbena_system, cdev);
	int ret = verbena_rs_system_open(node->system, &file->private_data);

	return ret ?: nonseekable_open(inode, file);
}

static int verbena_system_release(struct inode *inode, struct file *file)
{
	verbena_rs_system_release(file->private_data);
	return 0;
}

static long verbena_system_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	return verbena_rs_system_ioctl(file->private_data, command, arg);
}

static const struct file_operations verbena_system_fops = {
	.owner = THIS_MODULE,
	.open = verbena_system_open,
	.release = verbena_system_release,
	.unlocked_ioctl = verbena_system_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

struct verbena_system *verbena_system_add(void *system)
{
	struct verbena_system *node = kzalloc_obj(*node);
	int ret;

	if (!node) {
		verbena_rs_system_put(system);
		return ERR_PTR(-ENOMEM);
	}
	node->system = system;
	device_initialize(&node->dev);
	node->dev.class = &verbena_class;
	node->dev.release = verbena_system_free;
	node->dev.devt = MKDEV(MAJOR(verbena_numbers), MINOR(verbena_numbers) + VERBENA_MINORS);
	cdev_init(&node->cdev, &verbena_system_fops);
	node->cdev.owner = THIS_MODULE;
	ret = dev_set_name(&node->dev, "verbena");
	if (!ret)
		ret = cdev_device_add(&node->cdev, &node->dev);
	if (ret) {
		put_device(&node->dev);
		return ERR_PTR(ret);
	}
	return node;
}

void verbena_system_del(struct verbena_system *node)
{
	cdev_device_del(&node->cdev, &node->dev);
	put_device(&node->dev);
}

/* ---- all of it --------------------------------------------------------------------------------------------- */

int verbena_glue_init(void)
{
	int ret;

	/* One more than there are devices: the system-wide node's. */
	ret = alloc_chrdev_region(&verbena_numbers, 0, VERBENA_MINORS + 1, "verbena");
	if (ret)
		return ret;
	ret = class_register(&verbena_class);
	if (ret)
		unregister_chrdev_region(verbena_numbers, VERBENA_MINORS + 1);
	return ret;
}

void verbena_glue_exit(void)
{
	class_unregister(&verbena_class);
	unregister_chrdev_region(verbena_numbers, VERBENA_MINORS + 1);
	ida_destroy(&verbena_minors);
}

/* ---- work at a deadline ------------------------------------------------------------------------------------ */

struct verbena_work {
	struct delayed_work work;
	void *hca;
};

static void verbena_work_run(struct work_struct *work)
{
	verbena_rs_work(container_of(to_delayed_work(work), struct verbena_work, work)->hca);
}

struct verbena_work *verbena_work_new(void *hca)
{
	struct verbena_work *work = kzalloc_obj(*work);

	if (!work) {
		verbena_rs_hca_put(hca);
		return NULL;
	}
	work->hca = hca;
	INIT_DELAYED_WORK(&work->work, verbena_work_run);
	return work;
}

void verbena_work_schedule(struct verbena_work *work, u64 nanoseconds)
{
	/* One more: the current tick has begun already. */
	unsigned long delay = nanoseconds ? nsecs_to_jiffies(nanoseconds) + 1 : 0;

	/* The queue for what takes long: it waits for commands. */
	mod_delayed_work(system_long_wq, &work->work, delay);
}

void verbena_work_stop(struct verbena_work *work)
{
	disable_delayed_work_sync(&work->work);
	verbena_rs_hca_put(work->hca);
}

void verbena_work_free(struct verbena_work *work)
{
	kfree(work);
}

/* ---- event queue descriptors ------------------------------------------------------------------------------- */

static int verbena_events_release(struct inode *inode, struct file *file)
{
	verbena_rs_events_release(file->private_data);
	return 0;
}

static long verbena_events_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	return verbena_rs_events_ioctl(file->private_data, command, arg);
}

static ssize_t verbena_events_read(struct file *file, char __user *buffer, size_t len, loff_t *pos)
{
	return verbena_rs_events_read(file->private_data, (unsigned long)buffer, len, file->f_flags & O_NONBLOCK);
}

static __poll_t verbena_events_poll(struct file *file, poll_table *table)
{
	return verbena_rs_events_poll(file->private_data, file, table);
}

static const struct file_operations verbena_events_fops = {
	.owner = THIS_MODULE,
	.release = verbena_events_release,
	.unlocked_ioctl = verbena_events_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.read = verbena_events_read,
	.poll = verbena_events_poll,
};

int verbena_events_fd(void *events)
{
	return anon_inode_getfd("[verbena-events]", &verbena_events_fops, events, O_RDWR | O_CLOEXEC);
}

/* ---- memory ------------------------------------------------------------------------------------------------ */

struct verbena_memory {
	unsigned long pages;
	/* Allocated: where. Pinned: NULL, and the table has it. */
	void *kernel;
	struct sg_append_table user;
	bool writable;
	/* While it is mapped: for whom, and allocated memory's address. */
	struct device *dev;
	dma_addr_t addr;
};

static_assert(sizeof(struct verbena_memory) <= VERBENA_MEMORY_BYTES);

struct verbena_memory *verbena_memory_alloc(unsigned long pages)
{
	struct verbena_memory *memory = kzalloc_obj(*memory, GFP_KERNEL_ACCOUNT);

	if (!memory)
		return NULL;
	memory->pages = pages;
	memory->kernel = alloc_pages_exact(pages << PAGE_SHIFT, GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
	if (!memory->kernel) {
		kfree(memory);
		return NULL;
	}
	return memory;
}

struct verbena_memory *verbena_memory_pin(unsigned long addr, unsigned long pages, bool writable)
{
	struct verbena_memory *memory = kzalloc_obj(*memory, GFP_KERNEL_ACCOUNT);
	unsigned int flags = FOLL_LONGTERM | (writable ? FOLL_WRITE : 0);
	struct page **batch = (struct page **)__get_free_page(GFP_KERNEL_ACCOUNT);
	unsigned long left = pages;
	long ret = -ENOMEM;

	if (!memory || !batch)
		goto fail;
	memory->pages = pages;
	memory->writable = writable;
	while (left) {
		int pinned;

		/* A killed process does not keep anybody waiting for gigabytes. */
		ret = -EINTR;
		if (fatal_signal_pending(current))
			goto fail;
		cond_resched();
		ret = pin_user_pages_fast(addr, min(left, PAGE_SIZE / sizeof(*batch)), flags, batch);
		if (ret <= 0)
			goto fail;
		pinned = ret;
		addr += (unsigned long)pinned << PAGE_SHIFT;
		left -= pinned;
		ret = sg_alloc_append_table_from_pages(&memory->user, batch, pinned, 0,
						       (unsigned long)pinned << PAGE_SHIFT, SZ_2G, left,
						       GFP_KERNEL_ACCOUNT);
		if (ret) {
			unpin_user_pages(batch, pinned);
			goto fail;
		}
	}
	free_page((unsigned long)batch);
	return memory;

fail:
	free_page((unsigned long)batch);
	if (memory)
		verbena_memory_free(memory);
	return ERR_PTR(ret ?: -EFAULT);
}

static enum dma_data_direction verbena_memory_direction(const struct verbena_memory *memory)
{
	return memory->kernel || memory->writable ? DMA_BIDIRECTIONAL : DMA_TO_DEVICE;
}

int verbena_memory_map(struct verbena_memory *memory, struct device *dev)
{
	enum dma_data_direction direction = verbena_memory_direction(memory);
	struct scatterlist *sg;
	bool copied = false;
	int i, ret;

	if (memory->kernel) {
		memory->addr = dma_map_single(dev, memory->kernel, memory->pages << PAGE_SHIFT, direction);
		if (dma_mapping_error(dev, memory->addr))
			return -ENOMEM;
		copied = dma_need_sync(dev, memory->addr);
	} else {
		ret = dma_map_sgtable(dev, &memory->user.sgt, direction, 0);
		if (ret)
			return ret;
		for_each_sgtable_dma_sg(&memory->user.sgt, sg, i)
			copied |= dma_need_sync(dev, sg_dma_address(sg));
	}
	memory->dev = dev;
	/* Device and driver meet in this memory without a call to the kernel between them: no bounce buffers. */
	if (copied) {
		verbena_memory_unmap(memory);
		return -EIO;
	}
	return 0;
}

void verbena_memory_unmap(struct verbena_memory *memory)
{
	enum dma_data_direction direction = verbena_memory_direction(memory);

	if (memory->kernel)
		dma_unmap_single(memory->dev, memory->addr, memory->pages << PAGE_SHIFT, direction);
	else
		dma_unmap_sgtable(memory->dev, &memory->user.sgt, direction, 0);
	memory->dev = NULL;
}

void verbena_memory_free(struct verbena_memory *memory)
{
	struct scatterlist *sg;
	int i;

	WARN_ON(memory->dev);
	if (memory->kernel) {
		free_pages_exact(memory->kernel, memory->pages << PAGE_SHIFT);
	} else {
		for_each_sgtable_sg(&memory->user.sgt, sg, i)
			unpin_user_page_range_dirty_lock(sg_page(sg), DIV_ROUND_UP(sg->length, PAGE_SIZE),
							 memory->writable);
		sg_free_append_table(&memory->user);
	}
	kfree(memory);
}

void *verbena_memory_kernel(const struct verbena_memory *memory)
{
	return memory->kernel;
}

unsigned long verbena_memory_pfn(const struct verbena_memory *memory)
{
	return virt_to_phys(memory->kernel) >> PAGE_SHIFT;
}

int verbena_memory_each(const struct verbena_memory *memory, int (*each)(void *context, u64 addr, u64 len),
			void *context)
{
	struct scatterlist *sg;
	int i, ret;

	if (memory->kernel)
		return each(context, memory->addr, (u64)memory->pages << PAGE_SHIFT);
	for_each_sgtable_dma_sg(&memory->user.sgt, sg, i) {
		ret = each(context, sg_dma_address(sg), sg_dma_len(sg));
		if (ret)
			return ret;
	}
	return 0;
}

int verbena_charge(unsigned long pages, struct mm_struct **mm)
{
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;

	/* More than there is would disturb the sum that other threads see meanwhile. */
	if (!current->mm || pages > totalram_pages())
		return -ENOMEM;
	if (atomic64_add_return(pages, &current->mm->pinned_vm) > limit && !capable(CAP_IPC_LOCK)) {
		atomic64_sub(pages, &current->mm->pinned_vm);
		return -ENOMEM;
	}
	mmgrab(current->mm);
	*mm = current->mm;
	return 0;
}

void verbena_uncharge(unsigned long pages, struct mm_struct *mm)
{
	atomic64_sub(pages, &mm->pinned_vm);
	mmdrop(mm);
}

/* ---- files ------------------------------------------------------------------------------------------------- */

struct inode *verbena_inode_get(unsigned int fd)
{
	struct file *file = fget(fd);
	struct inode *inode;

	if (!file)
		return NULL;
	inode = file_inode(file);
	ihold(inode);
	fput(file);
	return inode;
}

void verbena_inode_put(struct inode *inode)
{
	iput(inode);
}

void *verbena_context_get(unsigned int fd, struct file **held)
{
	struct file *file = fget(fd);

	if (!file)
		return NULL;
	if (file->f_op != &verbena_fops) {
		fput(file);
		return NULL;
	}
	*held = file;
	return file->private_data;
}

void verbena_context_put(struct file *held)
{
	fput(held);
}
