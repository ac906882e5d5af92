// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: dumps of a device that runs, cables, and clients that misbehave.

use crate::common::{memfd, Running};
use crate::patience::eventually;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use verbena_hca::control::client::{ask, AskError};
use verbena_hca::control::{Answer, Format, Request, MAX_CONNECTIONS, MAX_REQUEST};
use verbena_hw::regs;

fn dump(server: &Running, hca: Option<usize>) -> serde_json::Value {
    match ask(
        &server.control(),
        &Request::Dump {
            hca,
            format: Format::Json,
        },
    )
    .unwrap()
    {
        Answer::Dump(value) => value,
        other => panic!("{other:?}"),
    }
}

fn qp(hca: usize, qpn: u32) -> Request {
    Request::Qp {
        hca,
        qpn,
        entries: 8,
        format: Format::Text,
    }
}

fn port_state(client: &mut vfio_user::Client) -> u32 {
    let mut state = [0; 4];
    client.region_read(0, regs::PORT_STATE.into(), &mut state).unwrap();
    u32::from_le_bytes(state) & 0xff
}

#[test]
fn h15_ping_says_who_is_there() {
    let server = Running::new(3);
    let Answer::Pong { hcas, protocol, .. } = ask(&server.control(), &Request::Ping).unwrap() else {
        panic!("not a pong")
    };
    assert_eq!((hcas, protocol), (3, 1));
}

#[test]
fn h15_dump_shows_clients_mappings_and_vectors_while_the_device_runs() {
    let server = Running::new(2);
    let mut client = server.client(1);
    let memory = memfd(0x4000);
    client.dma_map(0x1000, 0x10_0000, 0x3000, memory.as_raw_fd()).unwrap();
    client.set_irqs(2, 1 | 32, 5, 1, &[]).unwrap();
    client.region_write(7, 4, &[6, 0]).unwrap();

    let all = dump(&server, None);
    assert_eq!(all["hcas"].as_array().unwrap().len(), 2);
    assert_eq!(all["hcas"][0]["attached"], false);
    let hca = &all["hcas"][1];
    assert_eq!(hca["attached"], true);
    assert_eq!(hca["mac"], "02:56:42:00:00:02");
    assert_eq!(hca["pci"]["command"], 6);
    assert_eq!(hca["memory"][0]["address"], 0x10_0000);
    assert_eq!(hca["memory"][0]["last"], 0x10_2fff);
    assert_eq!(hca["memory"][0]["offset"], 0x1000);
    assert_eq!(hca["memory"][0]["writable"], true);
    assert_eq!(hca["msix"][0]["vector"], 5);
    assert_eq!(hca["msix"][0]["pending"], true);
    assert_eq!(hca["device"]["objects"]["qps"], 0);
    assert_eq!(hca["device"]["mac"], hca["mac"]);

    let one = dump(&server, Some(1));
    assert_eq!(one["hcas"].as_array().unwrap().len(), 1);
    assert_eq!(one["hcas"][0]["hca"], 1);

    let text = ask(
        &server.control(),
        &Request::Dump {
            hca: None,
            format: Format::Text,
        },
    )
    .unwrap();
    let Answer::Dump(serde_json::Value::String(text)) = text else {
        panic!("{text:?}")
    };
    assert!(text.contains("HCA 1"), "{text}");
    assert!(text.contains("0x100000"), "{text}");
    assert!(text.contains("PORT_STATE"), "the engine's part: {text}");

    let mut magic = [0; 4];
    client.region_read(0, regs::MAGIC.into(), &mut magic).unwrap();
    assert_eq!(
        u32::from_le_bytes(magic),
        regs::MAGIC_VALUE,
        "the device was not stopped"
    );
    drop(client);
    eventually("a client that left is not shown", || {
        let hca = &dump(&server, Some(1))["hcas"][0];
        hca["attached"] == false && hca["memory"].as_array().unwrap().is_empty()
    });
}

#[test]
fn h11_the_cable_is_plugged_and_unplugged() {
    let server = Running::new(2);
    let mut client = server.client(0);
    assert_eq!(port_state(&mut client), regs::PORT_ACTIVE);
    ask(&server.control(), &Request::Port { hca: 0, up: false }).unwrap();
    assert_eq!(port_state(&mut client), regs::PORT_DOWN);
    ask(&server.control(), &Request::Port { hca: 0, up: true }).unwrap();
    assert_eq!(port_state(&mut client), regs::PORT_ACTIVE);
}

#[test]
fn h15_mistakes_are_answered_with_a_sentence() {
    let server = Running::new(1);
    for (request, part) in [
        (
            Request::Dump {
                hca: Some(1),
                format: Format::Json,
            },
            "there is no HCA 1",
        ),
        (Request::Port { hca: 7, up: true }, "there is no HCA 7"),
        (qp(1, 2), "there is no HCA 1"),
        (qp(0, 0x12), "HCA 0 has no QP 0x12, and no other"),
    ] {
        match ask(&server.control(), &request) {
            Err(AskError::Refused(why)) => assert!(why.contains(part), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let missing = server.dir().join("nothing");
    assert!(matches!(ask(&missing, &Request::Ping), Err(AskError::NoServer(_))));
    assert!(matches!(
        ask(&server.socket(0), &Request::Ping),
        Err(AskError::NotOurs(..) | AskError::Io(..))
    ));

    let mut stream = UnixStream::connect(server.control()).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    for bad in [
        "",
        "{}",
        "null",
        "{\"command\":\"halt\"}",
        "{\"command\":\"ping\"",
        "\u{0}\u{1}",
    ] {
        stream.write_all(bad.as_bytes()).unwrap();
        stream.write_all(b"\n").unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let answer: Answer = serde_json::from_str(&line).unwrap();
        assert!(
            matches!(&answer, Answer::Error(why) if why.contains("not a request")),
            "{bad}"
        );
    }
    stream
        .write_all(b"{\"command\":\"ping\"}\n{\"command\":\"ping\"}\n")
        .unwrap();
    for _ in 0..2 {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains("pong"), "several requests in one piece: {line}");
    }
}

#[test]
fn h15_control_clients_are_bounded() {
    let server = Running::new(1);
    let mut flood = UnixStream::connect(server.control()).unwrap();
    let _ = flood.write_all(&vec![b'x'; 4 * MAX_REQUEST]);
    let mut rest = Vec::new();
    let _ = flood.read_to_end(&mut rest);
    assert!(rest.is_empty(), "a line that does not end ends the connection");

    let idle: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| UnixStream::connect(server.control()).unwrap())
        .collect();
    eventually("one too many is turned away", || {
        let mut stream = UnixStream::connect(server.control()).unwrap();
        let _ = stream.write_all(b"{\"command\":\"ping\"}\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.is_empty()
    });
    drop(idle);
    eventually("when others leave there is room", || {
        ask(&server.control(), &Request::Ping).is_ok()
    });
    // None of this concerns the device.
    let mut client = server.client(0);
    assert_eq!(port_state(&mut client), regs::PORT_ACTIVE);
}
