// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The common table: what every device has without its driver doing anything.
//!
//! INTERFACE, EVENT_QUEUE and TRACE are complete here. PD is an object without hardware, for devices whose protection domains are
//! only a means to keep objects apart. DEVICE answers who the driver is; a driver replaces it to add the
//! limits, and calls what it replaced. MR, CQ, QP are the driver's alone: only their schemas are common.

use crate::call::Call;
use crate::chain;
use crate::class::{self, device, event_queue, interface};
use crate::driver::{Driver, Ending};
use crate::errno::Errno;
use crate::event::{EventQueue, FdObject, Subscription};
use crate::failure::{Failure, Outcome, Reason};
use crate::host::Host;
use crate::listing;
use crate::object::Body;
use crate::sys::try_arc;
use crate::table::ClassOps;
use crate::trace;
use crate::wire::method;
use core::marker::PhantomData;
use zerocopy::IntoBytes;

/// Carries the table for a driver.
pub struct Table<D: Driver>(PhantomData<D>);

impl<D: Driver> Table<D> {
    /// The common classes that are implemented here.
    pub const CLASSES: &'static [ClassOps<D>] = &[
        ClassOps {
            schema: &interface::SCHEMA,
            methods: &[
                (method::QUERY, interface_query::<D>),
                (method::MODIFY, interface_modify::<D>),
                (method::EXECUTE, chain::execute::<D>),
            ],
            release: None,
        },
        ClassOps {
            schema: &device::SCHEMA,
            methods: &[(method::QUERY, device_query::<D>)],
            release: None,
        },
        ClassOps {
            schema: &event_queue::SCHEMA,
            methods: &[
                (method::CREATE_FD, queue_create::<D>),
                (method::QUERY, queue_query::<D>),
                (method::MODIFY, queue_modify::<D>),
                (event_queue::READ_EVENTS, queue_read::<D>),
            ],
            release: None,
        },
        ClassOps {
            schema: &class::trace::SCHEMA,
            methods: &[
                (method::CREATE, trace::create::<D>),
                (method::QUERY, trace::query::<D>),
                (class::trace::READ, trace::read::<D>),
            ],
            release: Some(trace::release::<D>),
        },
        ClassOps {
            schema: &class::pd::SCHEMA,
            methods: &[(method::CREATE, pd_create::<D>), (method::QUERY, nothing::<D>)],
            release: Some(released::<D>),
        },
    ];
}

/// DESTROY, of every class that has a release function.
///
/// # Errors
///
/// As [`Call::destroy`].
pub fn destroy<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    match call.offer() {
        Some(offer) => call.begin_destroy(offer),
        None => call.destroy(),
    }
}

fn nothing<D: Driver>(_: &mut Call<'_, D>) -> Outcome {
    Ok(())
}

fn released<D: Driver>(_: &Ending<'_, D>) -> Outcome {
    Ok(())
}

fn pd_create<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    let reservation = call.reserve()?;
    call.publish(reservation, None, &[]);
    Ok(())
}

fn interface_query<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    call.put(interface::VERSION, &interface::CURRENT_VERSION)?;
    let features = call.context().features();
    call.put(interface::FEATURES, &features)?;
    let device = call.core_device();
    if let Some(mut answer) = call.stream(interface::LISTING) {
        listing::records(device.table(), |record| answer.push(record.as_bytes()))?;
        answer.finish();
    }
    let context = call.context();
    if call.has(interface::CONTEXT_BYTES) {
        call.put(interface::CONTEXT_BYTES, &(context.bytes() as u64))?;
    }
    call.put(interface::MAX_OBJECTS, &context.store().limit())?;
    if let Some(mut answer) = call.stream(interface::OBJECTS) {
        let mut result = Ok(());
        context.store().each(|object| {
            if result.is_ok() {
                result = answer.push(object.info().as_bytes());
            }
        });
        result?;
        answer.finish();
    }
    Ok(())
}

fn interface_modify<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    let features = call.require(interface::FEATURES)?;
    if features & !interface::feature::ALL != 0 {
        return Err(call.fail(interface::FEATURES, Errno::EOPNOTSUPP, Reason::UNKNOWN_FLAG));
    }
    call.context().ask_features(features)
}

fn device_query<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    call.put(device::DRIVER_ID, &u32::from(D::ID.0))?;
    call.put_text(device::DRIVER_NAME, D::NAME)
}

fn queue_create<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    let capacity = call
        .get(event_queue::CAPACITY)?
        .unwrap_or(event_queue::DEFAULT_CAPACITY);
    if capacity == 0 || capacity > event_queue::MAX_CAPACITY {
        return Err(call.out_of_range(event_queue::CAPACITY));
    }
    let reservation = call.reserve()?;
    let id = reservation.id();
    let queue = try_arc(EventQueue::try_new(capacity)?)?;
    call.put(event_queue::CAPACITY, &capacity)?;
    call.put(event_queue::ID, &id)?;
    call.publish_body(reservation, Body::Queue(queue.clone()), &[]);
    // Last, because a descriptor cannot be taken back. From here on the descriptor's end is the queue's end, also if
    // there never is a descriptor; this call must not keep the queue in use.
    call.keep();
    let context = call.context();
    let fd = FdObject {
        context: context.clone(),
        queue,
        id,
    };
    let fd = call
        .host()
        .install_fd(context.owner(), fd)
        .map_err(|errno| Failure::new(errno, Reason::NONE))?;
    call.answer_object(fd);
    Ok(())
}

fn queue_query<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    let queue = call.queue();
    call.put(event_queue::CAPACITY, &queue.capacity())?;
    call.put(event_queue::PENDING, &queue.pending())?;
    let id = call.queue_id();
    call.put(event_queue::ID, &id)
}

/// Associates and dissociates. Elements are done in order; the first that is wrong fails the call, those before it stay
/// done, and the failure's detail is its number.
fn queue_modify<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    for (attr, on) in [(event_queue::DISSOCIATE, false), (event_queue::ASSOCIATE, true)] {
        for n in 0..call.count(attr)? {
            let element = call.element(attr, n)?;
            associate(call, &element, on).map_err(|failure| {
                let named = call.fail(attr, failure.errno, failure.reason);
                named.detail(n.min(usize::from(u16::MAX)) as u16)
            })?;
        }
    }
    Ok(())
}

fn associate<D: Driver>(call: &Call<'_, D>, what: &event_queue::Association, on: bool) -> Outcome {
    if what.reserved != 0 || what.reserved2 != 0 {
        return Err(Failure::new(Errno::EINVAL, Reason::NOT_ZERO));
    }
    let (context, queue) = (call.context(), call.queue());
    let subscription = match on {
        true => Some(Subscription::try_new(queue.clone(), what.class, what.cookie)?),
        false => None,
    };
    if let class::DEVICE | class::PORT | class::DEVICE_LIST = what.class {
        let number = what.object.0;
        // The system-wide node has no device, and a device no list of them.
        let there = call.core_device().table().class(what.class).is_some();
        let exists = match what.class {
            class::PORT => number >= 1 && number <= D::ports(call.device()),
            _ => number == 0,
        };
        if !there || !exists {
            return Err(Failure::new(Errno::ENOENT, Reason::NO_OBJECT));
        }
        if on || context.source_reports_to(what.class, number, queue) {
            context.subscribe_source(what.class, number, subscription)?;
        }
        return Ok(());
    }
    let object = call.object_by_id(what.object)?;
    if object.class() != what.class {
        return Err(Failure::new(Errno::EINVAL, Reason::WRONG_CLASS));
    }
    if object.reporting.is_none() {
        return Err(Failure::new(Errno::EOPNOTSUPP, Reason::UNSUPPORTED));
    }
    if on || object.reports_to(queue) {
        object.subscribe(subscription);
    }
    Ok(())
}

fn queue_read<D: Driver>(call: &mut Call<'_, D>) -> Outcome {
    let queue = call.queue();
    if let Some(mut answer) = call.stream(event_queue::EVENTS) {
        let mut room = answer.room() / size_of::<event_queue::Event>() as u64;
        let mut some = [event_queue::Event::default(); 16];
        while room > 0 {
            let want = room.min(some.len() as u64) as usize;
            let taken = queue.take(&mut some[..want]);
            answer.push(some[..taken].as_bytes())?;
            room -= taken as u64;
            if taken < want {
                break;
            }
        }
        answer.finish();
    }
    let pending = queue.pending();
    call.put(event_queue::PENDING, &pending)
}
