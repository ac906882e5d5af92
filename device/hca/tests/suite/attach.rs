// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client attaches, looks at the device, uses it, leaves, and another one comes.

use crate::common::{memfd, Running};
use crate::patience::{eventually, PATIENCE};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;
use verbena_hw::{pci, regs};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
};
use vfio_user::Client;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

const REGS: u32 = pci::BAR_REGS as u32;
const CONFIG: u32 = 7;
const MSIX: u32 = 2;

fn reg32(client: &mut Client, offset: u32) -> u32 {
    let mut bytes = [0; 4];
    client.region_read(REGS, offset.into(), &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn reg64(client: &mut Client, offset: u32) -> u64 {
    let mut bytes = [0; 8];
    client.region_read(REGS, offset.into(), &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn probe(client: &mut Client, address: u64) -> u32 {
    client
        .region_write(REGS, regs::PROBE_ADDR.into(), &address.to_le_bytes())
        .unwrap();
    reg32(client, regs::PROBE_STATUS)
}

fn config(client: &mut Client, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    client.region_read(CONFIG, offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn h01_identity_regions_and_interrupts_are_the_declared_ones() {
    let server = Running::new(1);
    let mut client = server.client(0);
    let id = u32::from(pci::DEVICE_ID) << 16 | u32::from(pci::VENDOR_ID);
    assert_eq!(config(&mut client, 0), id);
    assert_eq!(config(&mut client, 8) >> 8, 0x02_0700);
    for (region, size) in [
        (0, pci::BAR_REGS_SIZE),
        (1, 0),
        (2, pci::BAR_DOORBELL_SIZE),
        (3, 0),
        (4, pci::BAR_MSIX_SIZE),
        (5, 0),
        (6, 0),
        (7, 4096),
        (8, 0),
    ] {
        let region = client.region(region).unwrap();
        assert_eq!(region.size, size, "region {}", region.index);
        assert!(region.sparse_areas.is_empty() && region.file_offset.is_none());
    }
    assert!(client.region(9).is_none());
    for (index, count) in [(0, 0), (1, 0), (MSIX, u32::from(pci::MSIX_VECTORS)), (3, 1), (4, 0)] {
        let irq = client.get_irq_info(index).unwrap();
        assert_eq!(irq.count, count, "interrupt type {index}");
        assert_eq!(irq.flags, if count > 0 { VFIO_IRQ_INFO_EVENTFD } else { 0 });
    }
    server.stop();
}

#[test]
fn h02_registers_say_who_the_device_is() {
    let server = Running::new(1);
    let mut client = server.client(0);
    assert_eq!(reg32(&mut client, regs::MAGIC), regs::MAGIC_VALUE);
    assert_eq!(reg32(&mut client, regs::VERSION), regs::VERSION_VALUE);
    assert_eq!(
        reg32(&mut client, regs::STATUS) & regs::STATUS_READY,
        regs::STATUS_READY
    );
    let mut odd = [0; 3];
    client.region_read(REGS, 1, &mut odd).unwrap();
    assert_eq!(odd, [0xff; 3], "an access that no register has");
    let mut all = vec![0; pci::BAR_REGS_SIZE as usize];
    client.region_read(REGS, 0, &mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 0xff));
}

#[test]
fn h02_probe_finds_shared_memory_and_only_that() {
    let server = Running::new(1);
    let mut client = server.client(0);
    let memory = memfd(0x10000);
    assert_eq!(
        probe(&mut client, 0x8000_0000),
        regs::PROBE_UNREACHABLE,
        "nothing is mapped"
    );

    client.dma_map(0x4000, 0x8000_0000, 0x8000, memory.as_raw_fd()).unwrap();
    let nonce = 0x0123_4567_89ab_cdefu64;
    memory.write_all_at(&nonce.to_le_bytes(), 0x4000 + 0x100).unwrap();
    assert_eq!(probe(&mut client, 0x8000_0100), regs::PROBE_DONE);
    assert_eq!(reg64(&mut client, regs::PROBE_VALUE), nonce);
    let mut answer = [0; 8];
    memory.read_exact_at(&mut answer, 0x4000 + 0x108).unwrap();
    assert_eq!(u64::from_le_bytes(answer), !nonce);

    assert_eq!(
        probe(&mut client, 0x8000_7ff8),
        regs::PROBE_UNREACHABLE,
        "half beyond the end"
    );
    client.dma_unmap(0x8000_0000, 0x8000).unwrap();
    assert_eq!(probe(&mut client, 0x8000_0100), regs::PROBE_UNREACHABLE, "unmapped");
}

#[test]
fn h12_vectors_fire_their_descriptors() {
    let server = Running::new(1);
    let mut client = server.client(0);
    let events: Vec<_> = (0..16).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
    let fds: Vec<_> = events.iter().map(AsRawFd::as_raw_fd).collect();
    let bind = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    let trigger = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
    client.set_irqs(MSIX, bind, 8, 16, &fds).unwrap();
    client.set_irqs(MSIX, trigger, 9, 2, &[]).unwrap();
    let fired: Vec<_> = events.iter().map(|event| event.read().unwrap_or(0)).collect();
    assert_eq!(fired, [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

    // As QEMU does it when a vector is masked: it takes the descriptor away and brings it back.
    client.set_irqs(MSIX, bind, 8, 1, &[]).unwrap();
    client.set_irqs(MSIX, trigger, 8, 1, &[]).unwrap();
    assert!(events[0].read().is_err());
    client.set_irqs(MSIX, bind, 8, 1, &fds[..1]).unwrap();
    assert_eq!(events[0].read().unwrap(), 1, "latched, not lost");

    client.set_irqs(MSIX, trigger, 0, 0, &[]).unwrap();
    client.set_irqs(MSIX, trigger, 9, 1, &[]).unwrap();
    assert!(events[1].read().is_err(), "all descriptors were taken away");
}

#[test]
fn h01_reset_and_function_level_reset_return_registers_to_their_reset_values() {
    let server = Running::new(1);
    let mut client = server.client(0);
    let memory = memfd(0x1000);
    client.dma_map(0, 0, 0x1000, memory.as_raw_fd()).unwrap();
    assert_eq!(probe(&mut client, 0), regs::PROBE_DONE);
    client.region_write(CONFIG, 4, &[6, 0]).unwrap();
    assert_eq!(config(&mut client, 4) & 0xffff, 6);

    client.reset().unwrap();
    assert_eq!(reg32(&mut client, regs::PROBE_STATUS), regs::PROBE_IDLE);
    assert_eq!(config(&mut client, 4) & 0xffff, 0);

    assert_eq!(
        probe(&mut client, 0),
        regs::PROBE_DONE,
        "mappings are the client's, they stay"
    );
    let control = config(&mut client, 0x58) as u16;
    client
        .region_write(CONFIG, 0x58, &(control | 1 << 15).to_le_bytes())
        .unwrap();
    assert_eq!(reg32(&mut client, regs::PROBE_STATUS), regs::PROBE_IDLE);
    assert_eq!(config(&mut client, 0x58) as u16, control, "the bit reads as zero");
}

#[test]
fn h01_clients_come_one_after_another_and_find_a_reset_device() {
    let server = Running::new(1);
    let memory = memfd(0x1000);
    for _ in 0..10 {
        let mut client = server.client(0);
        assert_eq!(reg32(&mut client, regs::PROBE_STATUS), regs::PROBE_IDLE);
        assert_eq!(
            probe(&mut client, 0),
            regs::PROBE_UNREACHABLE,
            "nothing of the one before"
        );
        client.dma_map(0, 0, 0x1000, memory.as_raw_fd()).unwrap();
        assert_eq!(probe(&mut client, 0), regs::PROBE_DONE);
    }
}

#[test]
fn h01_a_second_client_is_turned_away_and_the_first_stays() {
    let server = Running::new(1);
    let mut first = server.client(0);
    assert!(Client::new(&server.socket(0)).is_err());
    assert_eq!(reg32(&mut first, regs::MAGIC), regs::MAGIC_VALUE);
}

#[test]
fn h13_hcas_of_a_server_are_apart() {
    let server = Running::new(3);
    let mut clients: Vec<_> = (0..3).map(|index| server.client(index)).collect();
    let memory = memfd(0x1000);
    clients[1].dma_map(0, 0, 0x1000, memory.as_raw_fd()).unwrap();
    let found: Vec<_> = clients.iter_mut().map(|client| probe(client, 0)).collect();
    let missing = regs::PROBE_UNREACHABLE;
    assert_eq!(
        found,
        [missing, regs::PROBE_DONE, missing],
        "one HCA's memory is not another's"
    );
    let guids: Vec<_> = clients
        .iter_mut()
        .map(|client| reg64(client, regs::NODE_GUID))
        .collect();
    assert!(guids[0] != guids[1] && guids[1] != guids[2] && guids[0] != guids[2]);

    drop(clients.remove(1));
    assert_eq!(reg32(&mut clients[0], regs::MAGIC), regs::MAGIC_VALUE);
    let mut again = server.client(1);
    assert_eq!(probe(&mut again, 0), missing);
}

#[test]
fn h14_truncated_memory_costs_its_owner_the_device_and_nobody_else() {
    let server = Running::new(2);
    let mut bad = server.client(0);
    let mut good = server.client(1);
    let (bad_memory, good_memory) = (memfd(0x2000), memfd(0x2000));
    bad.dma_map(0, 0, 0x2000, bad_memory.as_raw_fd()).unwrap();
    good.dma_map(0, 0, 0x2000, good_memory.as_raw_fd()).unwrap();
    bad_memory.set_len(0).unwrap();
    let _ = bad.region_write(REGS, regs::PROBE_ADDR.into(), &0u64.to_le_bytes());
    eventually("the client is sent away", || {
        bad.region_read(REGS, regs::MAGIC.into(), &mut [0; 4]).is_err()
    });
    assert_eq!(probe(&mut good, 0), regs::PROBE_DONE);
    let mut next = server.client(0);
    assert_eq!(reg32(&mut next, regs::MAGIC), regs::MAGIC_VALUE);
}

#[test]
fn h02_register_accesses_do_not_wait_for_a_worker_that_never_sleeps() {
    let server = Running::spinning(1, PATIENCE * 10);
    let mut client = server.client(0);
    let memory = memfd(0x1000);
    let start = Instant::now();
    for _ in 0..200 {
        client.dma_map(0, 0, 0x1000, memory.as_raw_fd()).unwrap();
        assert_eq!(probe(&mut client, 0), regs::PROBE_DONE);
        client.dma_unmap(0, 0x1000).unwrap();
    }
    // 800 messages. An unfair lock would take a scheduler's tick for each, or for ever.
    assert!(start.elapsed() < PATIENCE / 4, "{:?}", start.elapsed());
}

#[test]
fn h13_whoever_left_makes_room_at_once() {
    let server = Running::new(1);
    for _ in 0..200 {
        // The server may well see both at the same time.
        drop(std::os::unix::net::UnixStream::connect(server.socket(0)).unwrap());
        let mut client = Client::new(&server.socket(0)).expect("nobody else is there");
        assert_eq!(reg32(&mut client, regs::MAGIC), regs::MAGIC_VALUE);
    }
}
