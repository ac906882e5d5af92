// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! From the builder through dispatcher and handler to the reader: what is put in comes out, and back.

#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::failure::Outcome;
use rdma_uapi::schema::{Access, Attr, ClassSchema, MethodSchema, Target};
use rdma_uapi::table::{Additions, ClassOps};
use rdma_uapi::wire::{align, driver_class, method, DriverId, ATTR_HEAD, HEADER, MAX_MESSAGE};
use rdma_uapi::{Call, Context, Device, Driver, Errno, Reason};
use std::cell::RefCell;
use std::sync::Arc;
use support::Bench;

const ID: DriverId = DriverId(9);
const CLASS: u16 = driver_class(ID, 0);
const ECHO: u8 = method::CLASS;

const NUMBER: Attr<u32> = Attr::new(1, "number");
const STRUCTURE: Attr<[u8; 24]> = Attr::new(2, "structure");
const ARRAY: Attr<[u16]> = Attr::array(3, "array");
const TEXT: Attr<str> = Attr::text(4, "text");
const POINTED: Attr<[u8]> = Attr::array(5, "pointed");
const NUMBER_OUT: Attr<u32> = Attr::new(6, "number_out");
const STRUCTURE_OUT: Attr<[u8; 24]> = Attr::new(7, "structure_out");
const ARRAY_OUT: Attr<[u16]> = Attr::array(8, "array_out");
const TEXT_OUT: Attr<str> = Attr::text(9, "text_out");
const POINTED_OUT: Attr<[u8]> = Attr::array(10, "pointed_out");
/// The receiver does not know these.
const STRANGER: Attr<[u8]> = Attr::array(20, "stranger");

static SCHEMA: ClassSchema = ClassSchema {
    id: CLASS,
    name: "echo",
    flags: 0,
    methods: &[MethodSchema {
        number: ECHO,
        name: "echo",
        target: Target::Only,
        access: Access::Any,
        attrs: &[
            NUMBER.input(),
            STRUCTURE.input(),
            ARRAY.input(),
            TEXT.input(),
            POINTED.input().by_pointer(),
            NUMBER_OUT.output(),
            STRUCTURE_OUT.output(),
            ARRAY_OUT.output(),
            TEXT_OUT.output(),
            POINTED_OUT.output().by_pointer(),
        ],
    }],
};

/// A driver that answers what it is told.
struct Echo;

fn echo(call: &mut Call<'_, Echo>) -> Outcome {
    if let Some(number) = call.get(NUMBER)? {
        call.put(NUMBER_OUT, &number)?;
    }
    if let Some(structure) = call.get(STRUCTURE)? {
        call.put(STRUCTURE_OUT, &structure)?;
    }
    let array = (0..call.count(ARRAY)?)
        .map(|n| call.element(ARRAY, n))
        .collect::<Outcome<Vec<u16>>>()?;
    call.put_array(ARRAY_OUT, &array)?;
    let text = call
        .bytes(TEXT)
        .and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    call.put_text(TEXT_OUT, &text.unwrap_or_default())?;
    let pointed = (0..call.count(POINTED)?)
        .map(|n| call.element(POINTED, n))
        .collect::<Outcome<Vec<u8>>>()?;
    call.put_array(POINTED_OUT, &pointed)
}

impl Driver for Echo {
    const ID: DriverId = ID;
    const NAME: &'static str = "echo";
    const ADDITIONS: Additions<Self> = Additions {
        classes: &[ClassOps {
            schema: &SCHEMA,
            methods: &[(ECHO, echo)],
            release: None,
        }],
        extensions: &[],
        removals: &[],
    };
    type Host = Bench;
    type Device = ();
    type Context = ();
    type Object = ();
    type Pending = core::convert::Infallible;
    type Chain = ();

    fn ports(_: &()) -> u32 {
        0
    }
    fn open(_: &Device<Self>, _: &()) -> Outcome {
        Ok(())
    }
    fn close(_: &Device<Self>, _: &()) {}
}

#[derive(Arbitrary, Debug)]
struct Input {
    /// Words of the buffer.
    room: u16,
    number: Option<u32>,
    structure: Option<[u8; 24]>,
    array: Option<Vec<u16>>,
    text: Option<String>,
    pointed: Option<Vec<u8>>,
    ask_number: bool,
    ask_structure: bool,
    array_room: Option<u16>,
    text_room: Option<u8>,
    pointed_room: Option<u8>,
    stranger: Option<Vec<u8>>,
    /// The stranger is mandatory.
    strict: bool,
    /// The number comes twice.
    twice: bool,
}

thread_local! {
    static DEVICE: RefCell<Option<(Bench, Arc<Context<Echo>>)>> = const { RefCell::new(None) };
}

fn with_device<T>(work: impl FnOnce(&Bench, &Arc<Context<Echo>>) -> T) -> T {
    DEVICE.with_borrow_mut(|device| {
        let (bench, context) = device.get_or_insert_with(|| {
            let bench = Bench::default();
            let device = Device::<Echo>::try_new((), bench.clone()).expect("its table is sound");
            (bench, Device::open(&device, ()).expect("it opens"))
        });
        work(bench, context)
    })
}

fuzz_target!(|input: Input| {
    with_device(|bench, context| run(&input, bench, context));
});

fn run(input: &Input, bench: &Bench, context: &Arc<Context<Echo>>) {
    bench.clear();
    let room = usize::from(input.room) % (MAX_MESSAGE / 8 + 2);
    // Something in it, so that what the builder leaves out is seen.
    let mut buffer = vec![0xa5a5_a5a5_a5a5_a5a5u64; room];
    let mut builder = Builder::new(&mut buffer, CLASS, 0);
    let mut length = HEADER;
    let mut long = |payload: usize| length += align(ATTR_HEAD + payload);

    for _ in 0..1 + u8::from(input.twice) {
        if let Some(number) = input.number {
            builder.put(NUMBER, &number);
            long(4);
        }
    }
    if let Some(structure) = input.structure {
        builder.put(STRUCTURE, &structure);
        long(24);
    }
    if let Some(array) = &input.array {
        builder.put_array(ARRAY, array);
        long(2 * array.len());
    }
    if let Some(text) = &input.text {
        builder.put_text(TEXT, text);
        long(text.len());
    }
    if let Some(pointed) = &input.pointed {
        let addr = bench.map(pointed);
        builder.by_pointer(POINTED, addr, pointed.len() as u64);
        long(16);
    }
    if input.ask_number {
        builder.ask(NUMBER_OUT);
        long(4);
    }
    if input.ask_structure {
        builder.ask(STRUCTURE_OUT);
        long(24);
    }
    if let Some(count) = input.array_room {
        builder.ask_array(ARRAY_OUT, count.into());
        long(2 * usize::from(count));
    }
    if let Some(bytes) = input.text_room {
        builder.ask_text(TEXT_OUT, bytes.into());
        long(bytes.into());
    }
    let answer = input.pointed_room.map(|bytes| bench.map(&vec![0; bytes.into()]));
    if let (Some(bytes), Some(addr)) = (input.pointed_room, answer) {
        builder.by_pointer(POINTED_OUT, addr, bytes.into());
        long(16);
    }
    if let Some(stranger) = &input.stranger {
        if !input.strict {
            builder.optional();
        }
        builder.put_array(STRANGER, stranger);
        long(stranger.len());
    }

    let fits = length <= (room * 8).min(MAX_MESSAGE);
    let Ok(message) = builder.finish() else {
        assert!(!fits, "{length} bytes do not fit into {room} words");
        return;
    };
    assert!(fits && message.len() == length);

    let result = Context::dispatch(context, ECHO.into(), message);
    let reply = Reply::new(message);
    if input.twice && input.number.is_some() {
        let failure = reply.failure(result.unwrap_err());
        assert_eq!(
            (failure.errno, failure.reason, failure.attr),
            (Errno::EINVAL, Reason::DUPLICATE, NUMBER.id())
        );
        return;
    }
    if input.strict && input.stranger.is_some() {
        let failure = reply.failure(result.unwrap_err());
        assert_eq!((failure.errno, failure.attr), (Errno::EOPNOTSUPP, STRANGER.id()));
        return;
    }
    let texts = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains('\0'));
    if texts(&input.text) {
        // Texts have no NUL; whose business that is, is the handler's.
        return;
    }
    result.expect("it is a sound message");
    assert_eq!(reply.get(NUMBER_OUT), input.number.filter(|_| input.ask_number));
    assert_eq!(
        reply.get(STRUCTURE_OUT),
        input.structure.filter(|_| input.ask_structure)
    );
    if let Some(room) = input.array_room {
        let array = input.array.as_deref().unwrap_or_default();
        let fit = array.len().min(room.into());
        assert!(reply.array(ARRAY_OUT).eq(array[..fit].iter().copied()));
        let answered = reply.answered(ARRAY_OUT.id()).expect("it is answered");
        assert_eq!(answered.truncated, fit < array.len());
        assert_eq!(answered.written as usize, 2 * fit);
    }
    if let Some(room) = input.text_room {
        let text = input.text.as_deref().unwrap_or_default().as_bytes();
        let answered = reply.answered(TEXT_OUT.id()).expect("it is answered");
        assert_eq!(answered.bytes, &text[..text.len().min(room.into())]);
    }
    if let (Some(room), Some(addr)) = (input.pointed_room, answer) {
        let pointed = input.pointed.as_deref().unwrap_or_default();
        let fit = pointed.len().min(room.into());
        let answered = reply.answered(POINTED_OUT.id()).expect("it is answered");
        assert_eq!(
            (answered.full, answered.written as usize),
            (Some(pointed.len() as u64), fit)
        );
        let memory = bench.read(addr);
        assert_eq!(&memory[..fit], &pointed[..fit]);
        assert!(memory[fit..].iter().all(|&b| b == 0), "nothing is written beyond");
    }
}
