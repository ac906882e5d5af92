/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * The border between C and Rust in verbena.ko. glue.rs is this file in Rust.
 *
 * C is here for what the kernel's Rust abstractions do not offer: a class with character devices, files with poll
 * and mmap, anonymous inodes, pages of user memory. It decides nothing: every decision is a verbena_rs_ call.
 */
#ifndef VERBENA_GLUE_H
#define VERBENA_GLUE_H

#include <linux/poll.h>
#include <linux/types.h>

struct device;
struct inode;
struct mm_struct;
struct verbena_cm;
struct verbena_cm_address;
struct verbena_cm_side;
struct verbena_cm_told;
struct verbena_memory;
struct verbena_node;
struct verbena_system;
struct verbena_work;

/* What a mapping shows: filled by verbena_rs_mmap. */
struct verbena_target {
	unsigned long pfn;	/* the first page */
	bool registers;		/* device registers: not cached, and gone when the device is */
	void *keep;		/* given to verbena_rs_unmapped when the last page is unmapped */
};

/* The class and its range of device numbers. */
int verbena_glue_init(void);
void verbena_glue_exit(void);

/* A number for a device node, unused by any other. */
int verbena_number_take(void);
void verbena_number_give(int number);

/*
 * A device node, /dev/@name, with a number that stays taken as long as @hca lives. It owns a reference to @hca (also if adding fails), and gives it to
 * verbena_rs_hca_put when node and open files are gone. While it exists, verbena_rs_watch is called every second until
 * it returns false. After verbena_node_del there are no new opens, but one that was under way may still call
 * verbena_rs_open. It also takes device registers out of all processes.
 */
struct verbena_node *verbena_node_add(struct device *parent, int number, const char *name, void *hca);
void verbena_node_del(struct verbena_node *node);

/*
 * The system-wide node, /dev/verbena, of the same class. It owns a reference to @system (also if adding fails), and gives
 * it to verbena_rs_system_put when node and open files are gone.
 */
struct verbena_system *verbena_system_add(void *system);
void verbena_system_del(struct verbena_system *node);

/*
 * Calls verbena_rs_work when its time has come, in process context, one call at a time; a later time replaces an earlier
 * one that has not come. It owns a reference to @hca (also if it cannot be made), which verbena_work_stop gives back: after
 * that there are no more calls. Then it can be freed; to schedule it does nothing until then.
 */
struct verbena_work *verbena_work_new(void *hca);
void verbena_work_schedule(struct verbena_work *work, u64 nanoseconds);
void verbena_work_stop(struct verbena_work *work);
void verbena_work_free(struct verbena_work *work);

/* A descriptor, installed in the calling process, whose operations are the verbena_rs_events_ functions on @events. */
int verbena_events_fd(void *events);

/*
 * Memory for a device: @pages zeroed pages in one stretch, or @pages pages of the calling process from the page
 * aligned @addr on. It is then mapped for one device, and unmapped before it is freed.
 */
struct verbena_memory *verbena_memory_alloc(unsigned long pages);
struct verbena_memory *verbena_memory_pin(unsigned long addr, unsigned long pages, bool writable);
int verbena_memory_map(struct verbena_memory *memory, struct device *dev);
void verbena_memory_unmap(struct verbena_memory *memory);
void verbena_memory_free(struct verbena_memory *memory);
/* Of allocated memory: where the kernel sees it, and its first page. */
void *verbena_memory_kernel(const struct verbena_memory *memory);
unsigned long verbena_memory_pfn(const struct verbena_memory *memory);
/* Of mapped memory: calls @each with every stretch, in order, until it returns other than 0; returns that. */
int verbena_memory_each(const struct verbena_memory *memory, int (*each)(void *context, u64 addr, u64 len),
			void *context);

/* Counts @pages as pinned by the calling process, within its RLIMIT_MEMLOCK; @mm is for giving them back. */
int verbena_charge(unsigned long pages, struct mm_struct **mm);
void verbena_uncharge(unsigned long pages, struct mm_struct *mm);

/* The inode of the file that @fd names in the calling process, held until it is given back; NULL: it names none. */
struct inode *verbena_inode_get(unsigned int fd);
void verbena_inode_put(struct inode *inode);

/*
 * What verbena_rs_open made of the device's file that @fd names in the calling process, and the file, to be given back;
 * NULL: it names none.
 */
void *verbena_context_get(unsigned int fd, struct file **held);
void verbena_context_put(struct file *held);

/* The administrator's limits, for the calling process, and the user that it runs for. */
unsigned int verbena_max_objects(void);
unsigned int verbena_max_contexts(void);
unsigned int verbena_user(void);

/* Whether the calling process is the one of that number in the initial namespace, or descends from it. */
bool verbena_descends(unsigned int process);

/*
 * Communication ids on devices of others, by whoever serves them (foreign_cm.h); -ENODEV: nobody. An id owns @hears, which
 * verbena_cm_destroy gives back, and holds the module of its server.
 */
struct verbena_cm *verbena_cm_create(void *hears);
void *verbena_cm_destroy(struct verbena_cm *cm);
int verbena_cm_bind(struct verbena_cm *cm, struct verbena_cm_address *local);
int verbena_cm_listen(struct verbena_cm *cm);
int verbena_cm_connect(struct verbena_cm *cm, const struct verbena_cm_address *peer, struct verbena_cm_address *local,
		       const struct verbena_cm_side *side);
int verbena_cm_accept(struct verbena_cm *cm, const struct verbena_cm_side *side);
int verbena_cm_reject(struct verbena_cm *cm, u8 reason, const void *data, u8 data_len);
int verbena_cm_disconnect(struct verbena_cm *cm);

/* What struct verbena_memory takes at most: MEMORY_BYTES in glue.rs. */
#define VERBENA_MEMORY_BYTES 96

/* Implemented in Rust. */
void verbena_rs_hca_put(void *hca);
bool verbena_rs_watch(void *hca);
void verbena_rs_work(void *hca);
int verbena_rs_open(void *hca, void **file);
void verbena_rs_release(void *file);
long verbena_rs_ioctl(void *file, unsigned int command, unsigned long arg);
int verbena_rs_mmap(void *file, u64 offset, u64 len, struct verbena_target *target);
void verbena_rs_unmapped(void *keep);

void verbena_rs_system_put(void *system);
int verbena_rs_system_open(void *system, void **file);
void verbena_rs_system_release(void *file);
long verbena_rs_system_ioctl(void *file, unsigned int command, unsigned long arg);

void verbena_rs_cm_told(void *hears, const struct verbena_cm_told *told);
void *verbena_rs_cm_requested(void *listener, struct verbena_cm *new, const struct verbena_cm_address *local,
			      const struct verbena_cm_address *peer, const struct verbena_cm_told *told);

void verbena_rs_events_release(void *events);
long verbena_rs_events_ioctl(void *events, unsigned int command, unsigned long arg);
ssize_t verbena_rs_events_read(void *events, unsigned long buffer, size_t len, bool nonblocking);
__poll_t verbena_rs_events_poll(void *events, struct file *file, poll_table *table);

#endif
