// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Sequences of calls on a device with objects: arbitrary ones, and ones that are nearly right, because those get further.

#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rdma_uapi::class;
use rdma_uapi::class::event_queue::Event;
use rdma_uapi::class::interface::{self, Command};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::schema::{attr_flags, Access, AttrSchema, Shape, Target, UNBOUNDED};
use rdma_uapi::wire::{self, align, AttrHead, Header, ATTR_HEAD, HEADER};
use rdma_uapi::Errno;
use rdma_uapi_fuzz::Counting;
use support::verbs::{Process, Verbs};
use zerocopy::IntoBytes;

#[global_allocator]
static MEMORY: Counting = Counting::new();

/// What an allocation may be beyond what the message is long or names: the context's and the device's own tables grow by
/// doubling.
const SMALL: usize = 64 << 10;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A call of bytes as they are.
    Bytes { method: u8, bytes: Vec<u8> },
    /// A call that is nearly right.
    Nearly(Nearly),
    /// The same on an event queue's own descriptor.
    OnFd { fd: u8, call: Nearly },
    /// Several in one call; a later one can name what an earlier one makes.
    Chain { mode: u8, calls: Vec<Nearly> },
    /// Events are read.
    Read { fd: u8, room: u8 },
    /// A descriptor is closed.
    Close { fd: u8 },
    /// Memory that later steps can point to.
    Map(Vec<u8>),
    /// The process gets a capability.
    Allow(bool),
}

/// A method of a class, with attributes that it has.
#[derive(Arbitrary, Debug)]
struct Nearly {
    class: u8,
    method: u8,
    /// An object made before, or a number.
    object: u8,
    attrs: Vec<Value>,
    /// What it must have is added where it is missing.
    complete: bool,
}

#[derive(Arbitrary, Debug)]
struct Value {
    which: u8,
    /// Bent: another length, a pointer, an unknown id.
    bend: u8,
    value: u64,
}

/// What the steps have brought about.
struct World {
    process: Process,
    objects: Vec<u32>,
    /// Open descriptors.
    fds: Vec<u32>,
    /// Addresses and lengths.
    memory: Vec<(u64, usize)>,
}

fuzz_target!(|steps: Vec<Step>| {
    // The first run makes what stays.
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| run(&[]));
    let before = MEMORY.live();
    run(&steps[..steps.len().min(40)]);
    assert_eq!(MEMORY.live(), before, "something stays behind");
});

fn run(steps: &[Step]) {
    let process = Process::new(Default::default());
    let pd = process.pd();
    let cq = process.cq();
    let (fd, queue) = process.queue();
    let mut world = World {
        objects: vec![pd, cq, queue.0],
        fds: vec![fd],
        memory: vec![(process.bench.map(&[0; 256]), 256)],
        process,
    };
    for step in steps {
        world.step(step);
    }
    world.process.close();
    assert!(world.process.context.store().is_empty());
    assert_eq!(world.process.bench.pinned(), 0);
    for &fd in &world.fds {
        world.process.bench.close_fd(fd);
    }
}

impl World {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Bytes { method, bytes } => self.call(None, *method, &mut bytes.clone()),
            Step::Nearly(nearly) => {
                if let Some((method, mut message)) = self.message(nearly) {
                    self.call(None, method, &mut message);
                }
            }
            Step::OnFd { fd, call } => {
                if let (Some(fd), Some((method, mut message))) = (self.fd(*fd), self.message(call)) {
                    self.call(Some(fd), method, &mut message);
                }
            }
            Step::Chain { mode, calls } => self.chain(*mode, calls),
            Step::Read { fd, room } => {
                if let Some(fd) = self.fd(*fd) {
                    let mut room = vec![0; usize::from(*room) * 8];
                    let read = self.process.bench.fd::<Verbs>(fd).queue().read(&mut room);
                    assert!(read.is_err() || read.is_ok_and(|n| n <= room.len() && n % size_of::<Event>() == 0));
                }
            }
            Step::Close { fd } => {
                if let Some(fd) = self.fd(*fd) {
                    self.fds.retain(|open| *open != fd);
                    self.process.bench.close_fd(fd);
                }
            }
            Step::Map(bytes) => self.memory.push((self.process.bench.map(bytes), bytes.len())),
            Step::Allow(admin) => {
                let access = if *admin { Access::SysAdmin } else { Access::NetAdmin };
                self.process.bench.allow(access);
            }
        }
    }

    fn fd(&self, pick: u8) -> Option<u32> {
        let n = usize::from(pick).checked_rem(self.fds.len())?;
        self.fds.get(n).copied()
    }

    fn chain(&mut self, mode: u8, calls: &[Nearly]) {
        let calls = calls.iter().take(16).filter_map(|nearly| self.message(nearly));
        let calls: Vec<_> = calls
            .map(|(method, message)| (method, self.process.bench.map(&message), message.len()))
            .collect();
        self.memory
            .extend(calls.iter().map(|(_, addr, length)| (*addr, *length)));
        let commands: Vec<Command> = calls
            .iter()
            .map(|&(method, message, _)| Command {
                message,
                method: method.into(),
                ..Command::default()
            })
            .collect();
        let mut buffer = [0; 256];
        let mut builder = Builder::new(&mut buffer, class::INTERFACE, 0);
        let addr = self.process.bench.map(commands.as_bytes());
        builder
            .by_pointer(interface::COMMANDS, addr, size_of_val(&commands[..]) as u64)
            .put(interface::MODE, &u32::from(mode % 4))
            .ask_array(interface::RESULTS, commands.len())
            .ask(interface::EXECUTED);
        let mut message = builder.finish().expect("it fits").to_vec();
        self.call(None, wire::method::EXECUTE, &mut message);
        for command in &commands {
            let answered = self.process.bench.read(command.message);
            let object = Reply::new(&answered).object();
            match command.method == u16::from(wire::method::CREATE_FD) {
                // A descriptor that a chain has made is open whatever came after it.
                true => self.fds.extend(self.process.bench.is_open(object).then_some(object)),
                false => self.objects.push(object),
            }
        }
        self.fds.sort_unstable();
        self.fds.dedup();
    }

    /// An id of an object made before, or of a chain's command, or nearly.
    fn object(&self, pick: u8) -> u32 {
        if pick >= 0xf0 {
            return 0x8000_0000 | u32::from(pick & 15);
        }
        let n = usize::from(pick) % (self.objects.len() + 2);
        self.objects.get(n).copied().unwrap_or(pick.into())
    }

    fn message(&self, nearly: &Nearly) -> Option<(u8, Vec<u8>)> {
        let class = class::ALL[usize::from(nearly.class) % class::ALL.len()];
        let n = usize::from(nearly.method).checked_rem(class.methods.len())?;
        let method = class.methods.get(n)?;
        let object = match method.target {
            Target::New | Target::Only | Target::Fd => 0,
            Target::Numbered => u32::from(nearly.object % 4),
            Target::Object => self.object(nearly.object),
        };
        let mut message = vec![0; HEADER];
        let mut there = Vec::new();
        for value in nearly.attrs.iter().take(20) {
            let Some(n) = usize::from(value.which).checked_rem(method.attrs.len()) else {
                continue;
            };
            there.push(method.attrs[n].spec.id);
            self.attribute(&mut message, &method.attrs[n], value);
        }
        if nearly.complete {
            let value = Value {
                which: 0,
                bend: u8::MAX,
                value: 1,
            };
            for attr in method.attrs {
                if attr.flags & attr_flags::REQUIRED != 0 && !there.contains(&attr.spec.id) {
                    self.attribute(&mut message, attr, &value);
                }
            }
        }
        let header = Header {
            length: message.len() as u16,
            class: class.id,
            object,
            ..Header::default()
        };
        message[..HEADER].copy_from_slice(header.as_bytes());
        Some((method.number, message))
    }

    fn attribute(&self, message: &mut Vec<u8>, attr: &AttrSchema, value: &Value) {
        let mut id = attr.spec.id | wire::ATTR_MANDATORY;
        let mut payload = match attr.spec.shape {
            Shape::Object(_) => self.object(value.value as u8).as_bytes().to_vec(),
            _ => {
                let size = if attr.size == UNBOUNDED {
                    8 * (value.value as usize % 16)
                } else {
                    attr.size.into()
                };
                value.value.as_bytes().iter().copied().cycle().take(size).collect()
            }
        };
        match value.bend {
            0 => payload.push(1),
            1 => payload.truncate(payload.len() / 2),
            2 => id ^= 0x20,
            3..=60 if attr.flags & attr_flags::BY_POINTER != 0 => {
                id |= wire::ATTR_BY_POINTER;
                let (addr, length) = self.memory[value.value as usize % self.memory.len()];
                // Sometimes longer than what is there.
                let length = length as u64 + u64::from(value.bend == 3);
                payload = [addr, length].as_bytes().to_vec();
            }
            _ => {}
        }
        let head = AttrHead {
            length: (ATTR_HEAD + payload.len()) as u16,
            id,
            result: 0,
        };
        message.extend_from_slice(head.as_bytes());
        message.extend_from_slice(&payload);
        message.resize(align(message.len()), 0);
    }

    /// The largest allocation that a message can account for: copies of itself and of what it points to, and capacities.
    fn justified(&self, method: u8, message: &[u8]) -> usize {
        let pointed = self.memory.iter().map(|(_, length)| length).max().copied().unwrap_or(0);
        let mut asked = capacity(message, 0);
        if method == wire::method::EXECUTE {
            // Any stretch of memory may be a command's message.
            for (addr, length) in &self.memory {
                let bytes = self.process.bench.read(*addr);
                asked = (0..*length)
                    .map(|at| capacity(&bytes, at))
                    .max()
                    .unwrap_or(0)
                    .max(asked);
            }
        }
        SMALL + 4 * (message.len() + pointed) + asked
    }

    fn call(&mut self, fd: Option<u32>, method: u8, message: &mut [u8]) {
        let before = message.to_vec();
        let number = u32::from(method);
        let (largest, result) = MEMORY.largest_in(|| match fd {
            Some(fd) => {
                let fd = self.process.bench.fd::<Verbs>(fd);
                fd.dispatch(number, message)
                    .map_err(|errno| Reply::new(message).failure(errno))
            }
            None => self.process.raw(number, message),
        });
        if largest > SMALL {
            let justified = self.justified(method, &before);
            assert!(
                largest <= justified,
                "{largest} bytes at once, {justified} are justified"
            );
        }
        match result {
            Ok(()) => {
                let reply = Reply::new(message);
                assert_eq!(reply.header().error, Default::default());
                // One more descriptor is one more number; one more object another id.
                match number == u32::from(wire::method::CREATE_FD) {
                    true => self.fds.push(reply.object()),
                    false => self.objects.push(reply.object()),
                }
            }
            Err(failure) => {
                assert_ne!(failure.errno, Errno(0));
                if message.len() >= HEADER {
                    assert_ne!(failure.reason.0, 0);
                    assert!(usize::from(failure.offset) < message.len());
                    assert_eq!(
                        &message[..16],
                        &before[..16],
                        "a failed call leaves the header's input alone"
                    );
                }
            }
        }
    }
}

/// What a message that begins `at` bytes into `message` may ask for by a capacity, within the bounds of its class.
fn capacity(message: &[u8], at: usize) -> usize {
    let class = message.get(at + 2..at + 4).map_or([0; 2], |bytes| [bytes[0], bytes[1]]);
    match u16::from_le_bytes(class) {
        class::EVENT_QUEUE => 64 * class::event_queue::MAX_CAPACITY as usize,
        class::TRACE => class::trace::MAX_CAPACITY as usize,
        _ => 0,
    }
}
