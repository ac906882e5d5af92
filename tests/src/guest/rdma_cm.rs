// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our connection manager and the kernel's own, over rdma_rxe (U18): `verbena-rdma-cm`, a conversation a test.
//!
//! rdma_rxe sits on one end of a veth pair. The other end has no address: what arrives there is the program's alone, and
//! what it sends comes from an address that only a permanent neighbour stands for. So nothing else listens at RoCEv2's port.

use super::World;
use anyhow::{Context, Result};
use std::time::Duration;
use verbena_launcher::guest::Program;

/// Makes the pair, if it is not there.
const SETUP: &str = "[ -e /sys/class/net/cm0 ] && exit 0; \
    modprobe veth && modprobe rdma_rxe && modprobe rdma_ucm && ip link add cm0 type veth peer name cm1 \
    && ip address add 192.168.98.1/24 dev cm0 && ip link set cm0 up && ip link set cm1 up \
    && ip neighbour replace 192.168.98.2 lladdr $(cat /sys/class/net/cm1/address) dev cm0 nud permanent \
    && rdma link add rxecm type rxe netdev cm0 && for i in $(seq 100); do \
        [ -c /dev/infiniband/rdma_cm ] && ibv_devinfo -d rxecm | grep -q PORT_ACTIVE && exit 0; sleep 0.1; done; exit 1";
/// The kernel repeats a message after 4.3 s, and gives up after minutes.
const PATIENCE: Duration = Duration::from_secs(150);

fn talk(world: &mut World, case: &str) -> Result<()> {
    let set_up = Program::shell(SETUP).timeout(Duration::from_secs(60));
    world.guest.check(&set_up).context("set up rdma_rxe on a veth pair")?;
    let program = format!(
        "verbena-rdma-cm --interface cm1 --peer-interface cm0 --address 192.168.98.2 --peer-address 192.168.98.1 \
         --device rxecm {case}"
    );
    world.guest.check(&Program::shell(&program).timeout(PATIENCE))?;
    Ok(())
}

macro_rules! conversations {
    ($($name:ident: $case:literal,)*) => { $(
        pub(super) fn $name(world: &mut World) -> Result<()> {
            talk(world, $case)
        }
    )* };
}

conversations! {
    accepts_our_request: "accepts-our-request",
    asks_our_listener: "asks-our-listener",
    either_disconnects: "either-disconnects",
    either_refuses: "either-refuses",
    nobody_listens: "nobody-listens",
    what_is_lost_is_repeated: "what-is-lost-is-repeated",
    who_takes_time_asks_for_patience: "who-takes-time-asks-for-patience",
    silence_is_unreachable: "silence-is-unreachable",
    a_process_that_ends_disconnects: "a-process-that-ends-disconnects",
}
