// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What dispatch costs: a message of four attributes to a handler that does nothing, as often as the argument says.
//!
//! Instructions a call are the difference between two runs, so that start and set-up cancel out:
//!
//! ```sh
//! cargo build --release -p rdma-uapi --example dispatch
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/dispatch 1000 only
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/dispatch 11000 only
//! ```
//!
//! `only` calls a method that is about no object, `object` one that looks an object up in the context's store as well,
//! `nothing` calls nothing: what the loop itself costs.

use core::convert::Infallible;
use rdma_uapi::client::Builder;
use rdma_uapi::event::FdObject;
use rdma_uapi::failure::Outcome;
use rdma_uapi::host::{Host, Moment, Wait};
use rdma_uapi::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use rdma_uapi::sys::NoMemory;
use rdma_uapi::table::{Additions, ClassOps};
use rdma_uapi::wire::{driver_class, method, DriverId};
use rdma_uapi::{Call, Context, Device, Driver, Errno};
use std::hint::black_box;

const ID: DriverId = DriverId(9);
const CLASS: u16 = driver_class(ID, 0);
const A: Attr<u32> = Attr::new(1, "a");
const B: Attr<u64> = Attr::new(2, "b");
const C: Attr<u64> = Attr::new(3, "c");
const D: Attr<[u8; 32]> = Attr::new(4, "d");
const ONLY: u8 = method::CLASS;
const OBJECT: u8 = method::CLASS + 1;

static SCHEMA: ClassSchema = ClassSchema {
    id: CLASS,
    name: "empty",
    flags: 0,
    methods: &[
        MethodSchema {
            number: method::CREATE,
            name: "create",
            target: Target::New,
            access: Access::Any,
            attrs: &[],
        },
        MethodSchema {
            number: ONLY,
            name: "only",
            target: Target::Only,
            access: Access::Any,
            attrs: &[A.required(), B.required(), C.input(), D.input()],
        },
        MethodSchema {
            number: OBJECT,
            name: "object",
            target: Target::Object,
            access: Access::Any,
            attrs: &[A.required(), B.required(), C.input(), D.input()],
        },
    ],
};

struct Empty;
struct Nowhere;
struct NoWait;

fn create(call: &mut Call<'_, Empty>) -> Outcome {
    let reservation = call.reserve()?;
    call.publish(reservation, None, &[]);
    Ok(())
}

#[inline(never)]
fn empty(call: &mut Call<'_, Empty>) -> Outcome {
    black_box(call);
    Ok(())
}

impl Driver for Empty {
    const ID: DriverId = ID;
    const NAME: &'static str = "empty";
    const ADDITIONS: Additions<Self> = Additions {
        classes: &[ClassOps {
            schema: &SCHEMA,
            methods: &[(method::CREATE, create), (ONLY, empty), (OBJECT, empty)],
            release: None,
        }],
        extensions: &[],
        removals: &[],
    };
    type Host = Nowhere;
    type Device = ();
    type Context = ();
    type Object = ();
    type Pending = Infallible;
    type Chain = ();

    fn ports(_: &()) -> u32 {
        0
    }
    fn open(_: &Device<Self>, _: &()) -> Outcome {
        Ok(())
    }
    fn close(_: &Device<Self>, _: &()) {}
}

impl Host for Nowhere {
    type Owner = ();
    type Wait = NoWait;
    type Charge = ();

    fn copy_in(&self, _: &(), _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
    fn copy_out(&self, _: &(), _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
    fn may(&self, _: &(), _: Access) -> bool {
        false
    }
    fn charge(&self, _: &(), _: u64) -> Outcome {
        Ok(())
    }
    fn install_fd<D: Driver<Host = Self>>(&self, _: &(), _: FdObject<D>) -> Result<u32, Errno> {
        Err(Errno::EMFILE)
    }
    fn moment(&self) -> Moment {
        Moment::default()
    }
    fn pause(&self) {}
    fn log(&self, line: std::fmt::Arguments<'_>) {
        eprintln!("{line}");
    }
}

impl Wait for NoWait {
    fn try_new() -> Result<Self, NoMemory> {
        Ok(NoWait)
    }
    fn wake(&self) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let count: u64 = args.next().ok_or("how many calls?")?.parse()?;
    let what = args.next().unwrap_or_default();
    let (on_object, nothing) = (what == "object", what == "nothing");

    let device = Device::<Empty>::try_new((), Nowhere)?;
    let context = Device::open(&device, ())?;
    let mut buffer = [0u64; 64];
    let message = Builder::new(&mut buffer, CLASS, 0).finish()?;
    Context::dispatch(&context, method::CREATE.into(), message)?;
    let object = rdma_uapi::client::Reply::new(message).object();

    let (number, object) = if on_object { (OBJECT, object) } else { (ONLY, 0) };
    let mut builder = Builder::new(&mut buffer, CLASS, object);
    builder.put(A, &1).put(B, &2).put(C, &3).put(D, &[4; 32]);
    let message = builder.finish()?;
    let begin = std::time::Instant::now();
    for _ in 0..count {
        let (number, message) = (black_box(number.into()), black_box(&mut *message));
        if !nothing {
            Context::dispatch(&context, number, message)?;
        }
    }
    println!(
        "{count} calls, {:?} each",
        begin.elapsed() / u32::try_from(count.max(1))?
    );
    Context::close(&context);
    Ok(())
}
