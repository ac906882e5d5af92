// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The ABI does not change by accident: U22. `abi.golden` pins every id, size and offset.

use rdma_uapi::class::{event_queue, trace};
use rdma_uapi::listing::{self, Record};
use rdma_uapi::schema::{attr_flags, class_flags, Payload, Type};
use rdma_uapi::wire::{self, AttrHead, ByPointer, ExtendedError, Header};
use rdma_uapi::{class, describe, Reason};
use std::fmt::Write;
use std::mem::offset_of;

fn structure<T: Payload>(out: &mut String) {
    let Type::Struct(schema) = T::TYPE else {
        unreachable!("it is a structure")
    };
    writeln!(out, "struct {} size {}", schema.name, schema.size).unwrap();
    for field in schema.fields {
        writeln!(out, "  {:3} {} size {}", field.offset, field.name, field.ty.size()).unwrap();
    }
}

fn abi() -> String {
    let mut out = String::new();
    macro_rules! layout {
        ($name:ident: $($field:ident),*) => {
            writeln!(out, "struct {} size {}", stringify!($name), size_of::<$name>()).unwrap();
            $(writeln!(out, "  {:3} {}", offset_of!($name, $field), stringify!($field)).unwrap();)*
        };
    }
    macro_rules! values {
        ($($path:path),* $(,)?) => {
            $(writeln!(out, "{} = {:#x}", stringify!($path), $path).unwrap();)*
        };
    }
    layout!(Header: length, class, object, flags, reserved, error);
    layout!(ExtendedError: reason, attr, offset, detail);
    layout!(AttrHead: length, id, result);
    layout!(ByPointer: addr, length);
    structure::<event_queue::Event>(&mut out);
    structure::<event_queue::Association>(&mut out);
    structure::<Record>(&mut out);
    structure::<trace::RecordHead>(&mut out);
    writeln!(out, "ioctl of method 0: {:#x}", wire::ioctl(0)).unwrap();
    values!(
        wire::MAX_MESSAGE,
        wire::ATTR_MANDATORY,
        wire::ATTR_BY_POINTER,
        wire::ATTR_DRIVER,
        wire::RESULT_ANSWERED,
        wire::RESULT_TRUNCATED,
        wire::FIELD_LENGTH,
        wire::FIELD_CLASS,
        wire::FIELD_OBJECT,
        wire::FIELD_FLAGS,
        wire::FIELD_RESERVED,
        wire::FIELD_METHOD,
        wire::CLASS_DRIVER,
        wire::ObjectId::CHAIN,
        wire::method::CREATE,
        wire::method::QUERY,
        wire::method::MODIFY,
        wire::method::DESTROY,
        wire::method::CREATE_FD,
        wire::method::EXECUTE,
        wire::method::CLASS,
        wire::method::DRIVER,
        wire::method::EXPERIMENTAL,
        wire::method::END,
        class::COMMON_ATTRS,
        class::DEVICE_LIST,
        class::device_list::state::WORKS,
        class::device_list::state::GONE,
        class::INTERFACE,
        class::DEVICE,
        class::PORT,
        class::EVENT_QUEUE,
        class::PD,
        class::MR,
        class::MW,
        class::CQ,
        class::COUNTER,
        class::SRQ,
        class::AH,
        class::XRCD,
        class::FLOW,
        class::COUNTER_SET,
        class::MCAST,
        class::QP_RC,
        class::QP_UC,
        class::QP_UD,
        class::QP_XRC_INI,
        class::QP_XRC_TGT,
        class::QP_RAW,
        class::CM_ID,
        class::MAD,
        class::flow::kind::NORMAL,
        class::flow::kind::ALL_DEFAULT,
        class::flow::kind::MULTICAST_DEFAULT,
        class::flow::kind::SNIFFER,
        class::flow::flag::ALLOW_LOOP_BACK,
        class::flow::flag::DONT_TRAP,
        class::flow::flag::DROP,
        class::interface::mode::STOP,
        class::interface::mode::CONTINUE,
        class::interface::mode::ALL_OR_NOTHING,
        class::interface::MAX_COMMANDS,
        class::port::state::DOWN,
        class::port::state::INIT,
        class::port::state::ARMED,
        class::port::state::ACTIVE,
        class::port::link_layer::INFINIBAND,
        class::port::link_layer::ETHERNET,
        class::port::gid_type::IB,
        class::port::gid_type::ROCE_V1,
        class::port::gid_type::ROCE_V2,
        attr_flags::IN,
        attr_flags::OUT,
        attr_flags::REQUIRED,
        attr_flags::BY_POINTER,
        class_flags::GLOBAL,
        class_flags::FD,
        class_flags::EVENTS,
        listing::kind::CLASS,
        listing::kind::METHOD,
        listing::kind::ATTR,
        listing::kind::TAKES,
        listing::kind::STRUCT,
        listing::kind::FIELD,
        listing::shape::ONE,
        listing::shape::MANY,
        listing::shape::OBJECT,
        listing::shape::TEXT,
        listing::ty::U8,
        listing::ty::U16,
        listing::ty::U32,
        listing::ty::U64,
        listing::ty::BYTES,
        listing::ty::TEXT,
        listing::ty::STRUCT,
        listing::target::NEW,
        listing::target::ONLY,
        listing::target::OBJECT,
        listing::target::NUMBERED,
        listing::target::FD,
        listing::access::ANY,
        listing::access::NET_ADMIN,
        listing::access::NET_RAW,
        listing::access::SYS_ADMIN,
        event_queue::kind::ASYNC,
        event_queue::kind::LAST_ASYNC,
        class::interface::CURRENT_VERSION,
        class::interface::feature::EXPERIMENTAL,
        class::qp::flag::SIGNAL_ALL,
        class::qp::state::RESET,
        class::qp::state::INIT,
        class::qp::state::RTR,
        class::qp::state::RTS,
        class::qp::state::SQD,
        class::qp::state::SQE,
        class::qp::state::ERR,
        class::mr::access::LOCAL_WRITE,
        class::mr::access::REMOTE_WRITE,
        class::mr::access::REMOTE_READ,
        class::mr::access::REMOTE_ATOMIC,
        class::mr::access::MW_BIND,
        class::mr::access::ZERO_BASED,
        class::mr::access::ON_DEMAND,
        class::mr::access::HUGE_TLB,
        class::mr::access::FLUSH_GLOBAL,
        class::mr::access::FLUSH_PERSISTENT,
        class::mr::access::RELAXED_ORDERING,
        event_queue::kind::COMPLETION,
        event_queue::kind::LOST,
        event_queue::kind::DEVICE_GONE,
        event_queue::kind::DEVICE_ADDED,
        event_queue::kind::DEVICE_REMOVED,
        event_queue::kind::DEVICE_CHANGED,
        event_queue::kind::TRACE,
        event_queue::kind::MAD,
        event_queue::kind::CQ_ERROR,
        event_queue::kind::QP_FATAL,
        event_queue::kind::QP_REQUEST_ERROR,
        event_queue::kind::QP_ACCESS_ERROR,
        event_queue::kind::COMM_ESTABLISHED,
        event_queue::kind::SQ_DRAINED,
        event_queue::kind::DEVICE_FATAL,
        event_queue::kind::PORT_ACTIVE,
        event_queue::kind::PORT_ERROR,
        event_queue::kind::SRQ_LIMIT_REACHED,
        event_queue::kind::QP_LAST_WQE_REACHED,
        event_queue::kind::GID_CHANGE,
        event_queue::kind::CM_CONNECT_REQUEST,
        event_queue::kind::CM_CONNECT_ERROR,
        event_queue::kind::CM_UNREACHABLE,
        event_queue::kind::CM_REJECTED,
        event_queue::kind::CM_ESTABLISHED,
        event_queue::kind::CM_DISCONNECTED,
        event_queue::kind::CM_DEVICE_REMOVAL,
        event_queue::kind::CM_TIMEWAIT_EXIT,
        class::cm_id::state::IDLE,
        class::cm_id::state::BOUND,
        class::cm_id::state::LISTENING,
        class::cm_id::state::CONNECTING,
        class::cm_id::state::REQUESTED,
        class::cm_id::state::ACCEPTED,
        class::cm_id::state::ESTABLISHED,
        class::cm_id::state::DISCONNECTING,
        class::cm_id::state::TIMEWAIT,
        class::cm_id::state::CLOSED,
        class::mad::status::REQUEST,
        class::mad::status::RESPONSE,
        class::mad::status::TIMED_OUT,
        class::mad::DEFAULT_CAPACITY,
        class::mad::MAX_CAPACITY,
        class::mad::MAX_TIMEOUT,
        class::mad::MAX_RETRIES,
    );
    for (reason, name, _) in Reason::ALL {
        writeln!(out, "reason {} {name}", reason.0).unwrap();
    }
    describe::classes(class::ALL.iter().copied(), &mut out).unwrap();
    out
}

#[test]
fn u22_the_abi_is_the_golden_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/abi.golden");
    let abi = abi();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &abi).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    let differs = abi
        .lines()
        .zip(golden.lines())
        .enumerate()
        .find(|(_, (now, then))| now != then);
    if let Some((n, (now, then))) = differs {
        panic!(
            "the ABI has changed, first at line {}:\n  was {then}\n  is  {now}\n{HOW}",
            n + 1
        );
    }
    assert_eq!(
        abi.lines().count(),
        golden.lines().count(),
        "the ABI has grown or shrunk\n{HOW}"
    );
}

const HOW: &str = "An addition is fine, a change breaks programs that exist. If it is meant:\n  \
    UPDATE_GOLDEN=1 cargo test -p rdma-uapi --test golden";

#[test]
fn u22_numbers_are_unique() {
    let mut classes: Vec<u16> = class::ALL.iter().map(|class| class.id).collect();
    classes.sort_unstable();
    classes.dedup();
    assert_eq!(classes.len(), class::ALL.len());
    for class in class::ALL {
        for method in class.methods {
            assert!(method.number < wire::method::END, "{} {}", class.name, method.name);
            assert_eq!(
                class
                    .methods
                    .iter()
                    .filter(|other| other.number == method.number)
                    .count(),
                1
            );
            for attr in method.attrs {
                assert!(attr.spec.id >= 1 && attr.spec.id < wire::ATTR_NUMBERS);
                let same = method
                    .attrs
                    .iter()
                    .filter(|other| other.spec.id == attr.spec.id)
                    .count();
                assert_eq!(same, 1, "{} {} {}", class.name, method.name, attr.spec.name);
                // An id means the same in every method of its class.
                for other in class.methods.iter().flat_map(|method| method.attrs) {
                    assert_eq!(
                        other.spec.id == attr.spec.id,
                        other.spec.name == attr.spec.name,
                        "{}",
                        attr.spec.name
                    );
                }
            }
        }
    }
}

#[test]
fn u22_structures_have_no_holes_and_a_whole_number_of_words() {
    for attr in class::ALL
        .iter()
        .flat_map(|class| class.methods)
        .flat_map(|method| method.attrs)
    {
        use rdma_uapi::schema::Shape;
        let (Shape::One(Type::Struct(s)) | Shape::Many(Type::Struct(s))) = attr.spec.shape else {
            continue;
        };
        let mut at = 0;
        for field in s.fields {
            assert_eq!(usize::from(field.offset), at, "{} {}", s.name, field.name);
            at += field.ty.size();
        }
        assert_eq!((at, at % 8), (usize::from(s.size), 0), "{}", s.name);
    }
}
