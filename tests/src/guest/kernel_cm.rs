// SPDX-License-Identifier: MIT OR Apache-2.0
//! Class CM_ID where the kernel owns QP 1 (U18): `verbena-kernel-cm`, a story a test, over rdma_rxe on one end of a veth pair.

use super::World;
use anyhow::{ensure, Context, Result};
use std::time::Duration;
use verbena_launcher::guest::Program;

/// Makes the pair and the device, if they are not there, and loads what serves it.
const SETUP: &str = "modprobe verbena_rdma_cm || exit 1; \
    [ -e /sys/class/net/kc0 ] || { modprobe veth && modprobe rdma_rxe && modprobe rdma_ucm \
        && ip link add kc0 type veth peer name kc1 && ip address add 192.168.97.1/24 dev kc0 \
        && ip link set kc0 up && ip link set kc1 up \
        && ip neighbour replace 192.168.97.9 lladdr 02:00:00:00:00:09 dev kc0 nud permanent; } || exit 1; \
    [ -e /sys/class/infiniband/rxekc ] || rdma link add rxekc type rxe netdev kc0 || exit 1; \
    for i in $(seq 100); do \
        [ -c /dev/infiniband/rdma_cm ] && ibv_devinfo -d rxekc | grep -q PORT_ACTIVE && exit 0; sleep 0.1; done; exit 1";
const PROGRAM: &str =
    "verbena-kernel-cm --device rxekc --address 192.168.97.1 --silent 192.168.97.9 --nowhere 192.168.97.77";
const PATIENCE: Duration = Duration::from_secs(150);

fn set_up(world: &World) -> Result<()> {
    let set_up = Program::shell(SETUP).timeout(Duration::from_secs(60));
    world.guest.check(&set_up).context("set up rdma_rxe on a veth pair")?;
    Ok(())
}

fn happen(world: &mut World, case: &str) -> Result<()> {
    set_up(world)?;
    let program = format!("{PROGRAM} {case}");
    world.guest.check(&Program::shell(&program).timeout(PATIENCE))?;
    // Nobody's id is left.
    let left = world
        .guest
        .check(&Program::shell("rdma resource show cm_id | grep verbena || true"))?;
    ensure!(left.trim().is_empty(), "ids are left: {left}");
    Ok(())
}

macro_rules! stories {
    ($($name:ident: $case:literal,)*) => { $(
        pub(super) fn $name(world: &mut World) -> Result<()> {
            happen(world, $case)
        }
    )* };
}

stories! {
    connects: "connects",
    refuses: "refuses",
    names: "names",
    backlog: "backlog",
    silence: "silence",
    rdma_cm_asks: "rdma-cm-asks",
    rdma_cm_is_asked: "rdma-cm-is-asked",
    both_kinds: "both-kinds",
    killed: "killed",
    destroyed_queue_pair: "destroyed-queue-pair",
    removed: "removed",
}

/// The module that serves is in use while there are ids of it, then it goes, and what it served is nobody's; Verbena's own
/// devices are as before.
pub(super) fn unloads(world: &mut World) -> Result<()> {
    set_up(world)?;
    let guest = &world.guest;
    let script = format!(
        "rping -s -a 192.168.97.1 -p 7199 > /dev/null 2>&1 & server=$!; sleep 1; \
         {PROGRAM} --hold 7199 > /tmp/hold 2>&1 & holder=$!; \
         for i in $(seq 100); do grep -q connected /tmp/hold && break; sleep 0.1; done; \
         grep connected /tmp/hold || {{ cat /tmp/hold; exit 1; }}; \
         rdma resource show cm_id | grep verbena || exit 1; \
         rmmod verbena_rdma_cm 2> /tmp/busy && exit 1; grep -q 'in use' /tmp/busy || {{ cat /tmp/busy; exit 1; }}; \
         kill -9 $holder; wait $holder; kill $server; wait; \
         rmmod verbena_rdma_cm && ! lsmod | grep verbena_rdma_cm"
    );
    guest.check(&Program::shell(&script).timeout(PATIENCE))?;
    let after = guest.run(&Program::shell(&format!("{PROGRAM} connects")).timeout(PATIENCE))?;
    ensure!(!after.is_success(), "ids are served without the module");
    ensure!(
        after.stderr.contains("EADDRNOTAVAIL") || after.stderr.contains("address"),
        "without the module: {}",
        after.stderr
    );
    guest.check(&Program::new(super::PING))?;
    Ok(())
}
