// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The listing, and the table it is made from: U7, U10, U11.

mod support;

use rdma_uapi::class::{self, interface};
use rdma_uapi::failure::Outcome;
use rdma_uapi::listing::{kind, shape, target, ty, Record};
use rdma_uapi::schema::{attr_flags, class_flags, Shape, Type};
use rdma_uapi::table::{Additions, ClassOps, Extension, Refusal, Removal, Table};
use rdma_uapi::wire::{driver_attr, driver_class, method, DriverId};
use rdma_uapi::{common, Call};
use support::abacus::{self, Abacus};
use support::verbs::Verbs;
use support::{Bench, Process};
use zerocopy::FromBytes;

/// The whole listing, the way a program gets it: asks for the size, brings the room.
fn listing<D: rdma_uapi::Driver<Host = Bench>>(p: &Process<D>) -> Vec<Record> {
    let ask = |addr, length| {
        let sent = p.call(method::QUERY, class::INTERFACE, 0, |m| {
            m.by_pointer(interface::LISTING, addr, length).ask(interface::VERSION);
        });
        let sent = sent.unwrap();
        assert_eq!(sent.reply().get(interface::VERSION), Some(interface::CURRENT_VERSION));
        sent.reply().answered(interface::LISTING.id()).unwrap().full.unwrap()
    };
    let size = ask(0, 0);
    let addr = p.bench.map(&vec![0; size as usize]);
    assert_eq!(ask(addr, size), size);
    let bytes = p.bench.read(addr);
    bytes
        .chunks_exact(size_of::<Record>())
        .map(|record| Record::read_from_bytes(record).unwrap())
        .collect()
}

#[test]
fn u07_lists_exactly_what_can_be_called() {
    let p = Process::<Abacus>::new(Default::default());
    let records = listing(&p);
    let mut methods = Vec::new();
    let mut class = 0;
    for record in &records {
        match record.kind {
            kind::CLASS => class = record.id,
            kind::METHOD => methods.push((class, record.id as u8)),
            _ => {}
        }
    }
    // What is listed is not refused for not being there; what is not listed is.
    for class in (0..64).chain((0..4).map(|n| driver_class(abacus::ID, n))) {
        for number in 0..method::END {
            let mut message = [0u8; 24];
            message[0] = 24;
            message[2..4].copy_from_slice(&class.to_ne_bytes());
            let result = p.raw(number.into(), &mut message);
            let there = !matches!(&result, Err(f) if [5, 7].contains(&f.reason.0));
            assert_eq!(
                there,
                methods.contains(&(class, number)),
                "class {class:#x} method {number}: {result:?}"
            );
        }
    }
    assert!(methods.contains(&(class::PD, method::DESTROY)) && !methods.contains(&(class::PD, method::QUERY)));
    assert!(!methods.iter().any(|m| m.0 == class::QP_RC));
}

#[test]
fn u07_is_complete_enough_to_generate_a_client_from() {
    // Rebuild what the schema says from the records alone, and compare with the schema.
    let p = Process::<Verbs>::new(Default::default());
    let mut records = listing(&p).into_iter().peekable();
    let mut seen = 0;
    while let Some(record) = records.next() {
        assert_eq!(record.kind, kind::CLASS);
        let schema = *class::ALL.iter().find(|schema| schema.id == record.id).unwrap();
        assert_eq!((record.name(), record.flags), (schema.name, schema.flags));
        while let Some(record) = records.next_if(|record| record.kind == kind::METHOD) {
            let method = schema.method(record.id as u8).unwrap();
            assert_eq!(record.name(), method.name);
            for attr in method.attrs {
                seen += 1;
                let record = records.next().unwrap();
                assert_eq!(
                    (record.kind, record.id, record.name()),
                    (kind::ATTR, attr.spec.id, attr.spec.name)
                );
                assert_eq!(
                    (record.flags, record.min, record.size),
                    (attr.flags, attr.min, attr.size)
                );
                let element = match attr.spec.shape {
                    Shape::One(ty) => {
                        assert_eq!(record.shape, shape::ONE);
                        Some(ty)
                    }
                    Shape::Many(ty) => {
                        assert_eq!(record.shape, shape::MANY);
                        Some(ty)
                    }
                    Shape::Text => {
                        assert_eq!(record.shape, shape::TEXT);
                        None
                    }
                    Shape::Object(classes) => {
                        assert_eq!(record.shape, shape::OBJECT);
                        for class in classes {
                            let record = records.next().unwrap();
                            assert_eq!((record.kind, record.id), (kind::TAKES, *class));
                        }
                        None
                    }
                };
                let Some(element) = element else { continue };
                assert_eq!(usize::from(record.unit), element.size());
                let Type::Struct(structure) = element else { continue };
                assert_eq!(record.ty, ty::STRUCT);
                let record = records.next().unwrap();
                assert_eq!(
                    (record.kind, record.name(), record.size),
                    (kind::STRUCT, structure.name, structure.size)
                );
                for field in structure.fields {
                    let record = records.next().unwrap();
                    assert_eq!((record.kind, record.name()), (kind::FIELD, field.name));
                    assert_eq!(
                        (record.offset, usize::from(record.size)),
                        (field.offset, field.ty.size())
                    );
                }
            }
        }
    }
    assert!(seen > 80, "{seen} attributes");
}

#[test]
fn u07_lists_the_drivers_attributes_and_classes() {
    let p = Process::<Abacus>::new(Default::default());
    let records = listing(&p);
    let pd = records
        .iter()
        .position(|r| r.kind == kind::CLASS && r.id == class::PD)
        .unwrap();
    let wood = records[pd..].iter().find(|r| r.name() == "wood").unwrap();
    assert_eq!(
        (wood.kind, wood.id, wood.flags),
        (kind::ATTR, abacus::WOOD.id(), attr_flags::IN)
    );
    let tally = records
        .iter()
        .find(|r| r.kind == kind::CLASS && r.name() == "tally")
        .unwrap();
    assert_eq!((tally.id, tally.flags), (abacus::TALLY, class_flags::EVENTS));
    let forge = records
        .iter()
        .find(|r| r.kind == kind::METHOD && r.name() == "forge")
        .unwrap();
    assert_eq!(
        (forge.access, forge.target),
        (rdma_uapi::listing::access::NET_ADMIN, target::OBJECT)
    );
    let device = p.call(method::QUERY, class::DEVICE, 0, |m| {
        m.ask(class::device::DRIVER_ID).ask_text(class::device::DRIVER_NAME, 32);
    });
    let device = device.unwrap();
    assert_eq!(device.reply().get(class::device::DRIVER_ID), Some(2));
    assert_eq!(device.reply().text(class::device::DRIVER_NAME), Some("abacus"));
}

#[test]
fn u11_the_table_is_dense() {
    let p = Process::<Abacus>::new(Default::default());
    assert_eq!(
        size_of::<Option<rdma_uapi::sys::Box<rdma_uapi::table::Class<Abacus>>>>(),
        8,
        "a class that is not there"
    );
    let table = p.device.table();
    assert!(table.class(class::PD).is_some() && table.class(class::QP_RC).is_none());
    let pd = table.class(class::PD).unwrap();
    assert!(pd.method(method::CREATE).is_some() && pd.method(method::QUERY).is_none());
    assert!(pd.method(method::CREATE_FD).is_none() && pd.method(127).is_none());
    // Common ones, overridden ones, the driver's own.
    for class in table.classes() {
        let highest = class.methods().map(|method| method.schema().number).max();
        let long = highest.map_or(0, |highest| usize::from(highest) + 1);
        assert_eq!(class.slots(), long, "the table of {}", class.schema().name);
    }
}

fn nothing(_: &mut Call<'_, Abacus>) -> Outcome {
    Ok(())
}

fn compile(additions: &Additions<Abacus>) -> Result<(), Refusal> {
    Table::compile(common::Table::<Abacus>::CLASSES, additions).map(|_| ())
}

#[test]
fn u11_a_driver_that_contradicts_itself_is_refused_at_registration() {
    const NONE: Additions<Abacus> = Additions {
        classes: &[],
        extensions: &[],
        removals: &[],
    };
    compile(&NONE).unwrap();

    // A method that the class's schema does not know; one that no class has; another driver's class.
    static THEIRS: rdma_uapi::schema::ClassSchema = rdma_uapi::schema::ClassSchema {
        id: driver_class(DriverId(77), 0),
        name: "theirs",
        flags: 0,
        methods: &[],
    };
    const UNKNOWN: &[ClassOps<Abacus>] = &[ClassOps {
        schema: &class::pd::SCHEMA,
        methods: &[(9, nothing)],
        release: None,
    }];
    const BEYOND: &[ClassOps<Abacus>] = &[ClassOps {
        schema: &class::pd::SCHEMA,
        methods: &[(128, nothing)],
        release: None,
    }];
    const FOREIGN_CLASS: &[ClassOps<Abacus>] = &[ClassOps {
        schema: &THEIRS,
        methods: &[],
        release: None,
    }];
    assert_eq!(
        compile(&Additions {
            classes: UNKNOWN,
            ..NONE
        }),
        Err(Refusal::NoSuchMethod(class::PD, 9))
    );
    assert_eq!(
        compile(&Additions {
            classes: BEYOND,
            ..NONE
        }),
        Err(Refusal::BadMethod(class::PD, 128))
    );
    assert_eq!(
        compile(&Additions {
            classes: FOREIGN_CLASS,
            ..NONE
        }),
        Err(Refusal::ForeignClass(THEIRS.id))
    );

    // Attributes: another driver's, a common one's number, the same twice.
    use rdma_uapi::schema::Attr;
    const FOREIGN: Attr<u32> = Attr::new(driver_attr(DriverId(77), 0), "foreign");
    const COMMON: Attr<u32> = Attr::new(2, "common");
    const OWN: Attr<u32> = Attr::new(driver_attr(abacus::ID, 5), "own");
    for (attrs, id) in [
        (&[FOREIGN.input()][..], FOREIGN.id()),
        (&[COMMON.input()], COMMON.id()),
        (&[OWN.input(), OWN.output()], OWN.id()),
    ] {
        let attrs: &'static [_] = attrs.to_vec().leak();
        let extensions: &'static [_] = Box::leak(Box::new([Extension {
            class: class::PD,
            method: 0,
            attrs,
        }]));
        let additions = Additions { extensions, ..NONE };
        assert_eq!(compile(&additions), Err(Refusal::BadAttr(class::PD, 0, id)));
    }

    // Taking out what is not there.
    let additions = Additions {
        removals: &[Removal {
            class: class::QP_RC,
            method: None,
        }],
        ..NONE
    };
    assert_eq!(compile(&additions), Err(Refusal::NothingThere(class::QP_RC)));
    let additions = Additions {
        removals: &[Removal {
            class: class::PD,
            method: None,
        }],
        ..NONE
    };
    compile(&additions).unwrap();
}
