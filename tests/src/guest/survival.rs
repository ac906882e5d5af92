// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a kernel has to survive: programs that are killed at any moment, a module that comes and goes, a device that is taken
//! away under traffic; and what an administrator allows.

use super::{must_end_well, no_complaint, traffic, wait_for_node, World, PING};
use crate::dump::{self, Objects};
use anyhow::{bail, ensure, Context, Result};
use std::time::{Duration, Instant};
use verbena_launcher::guest::{Program, Running};
use verbena_launcher::Guest;

pub(super) fn killed_application(world: &mut World) -> Result<()> {
    let (guest, patience) = (&world.guest, Duration::from_secs(30));
    dump::wait_for(&world.stage, &world.hca, 0, Objects::NONE, patience)?;
    let bystander = traffic(guest, &["--seconds", "15"])?;
    let alone = dump::objects(&world.stage, &world.hca, 0)?;
    let victim = traffic(guest, &["--seconds", "600"])?;
    let both = dump::objects(&world.stage, &world.hca, 0)?;
    ensure!(
        both.qps > alone.qps,
        "the victim has no queue pairs: {alone:?}, then {both:?}"
    );
    guest.signal(victim, 9)?;
    guest
        .wait(victim, patience)?
        .context("SIGKILL does not end the application")?;
    dump::wait_for(&world.stage, &world.hca, 0, alone, patience).context("what the killed application owned stays")?;
    must_end_well(guest, bystander, "the bystander")?;
    dump::wait_for(&world.stage, &world.hca, 0, Objects::NONE, patience)
}

pub(super) fn reload(world: &mut World) -> Result<()> {
    let guest = &world.guest;
    let user = traffic(guest, &["--seconds", "600"])?;
    let busy = guest.run(&Program::new(["rmmod", "verbena"]))?;
    ensure!(!busy.is_success(), "the module unloads while an application uses it");
    ensure!(busy.stderr.contains("in use"), "rmmod says: {}", busy.stderr.trim());
    guest.signal(user, 9)?;
    guest
        .wait(user, Duration::from_secs(30))?
        .context("SIGKILL does not end the application")?;
    for _ in 0..3 {
        guest.check(&Program::shell(
            "rmmod verbena && ! [ -e /dev/verbena0 ] && insmod /opt/verbena/module/verbena.ko",
        ))?;
        wait_for_node(guest)?;
    }
    guest.check(&Program::new(PING))?;
    Ok(())
}

pub(super) fn loaded_twice(world: &mut World) -> Result<()> {
    let again = world
        .guest
        .run(&Program::new(["insmod", "/opt/verbena/module/verbena.ko"]))?;
    ensure!(!again.is_success(), "the module loads twice");
    ensure!(
        again.stderr.trim().lines().count() == 1 && again.stderr.contains("File exists"),
        "insmod says: {}",
        again.stderr.trim()
    );
    world
        .guest
        .check(&Program::new(["verbena-info", "--attach", "kernel"]))?;
    Ok(())
}

/// Waits for an application whose device was removed: it ends well, though it has then touched all that it had mapped. That is
/// a doorbell page, its register, and memory of rings, in each of two contexts.
fn may_touch_what_is_gone(guest: &Guest, user: Running) -> Result<()> {
    let said = must_end_well(guest, user, "the application whose device was removed")?;
    let pages = said.lines().find_map(|line| {
        let pages = line.strip_prefix("verbena-traffic: ")?;
        pages
            .strip_suffix(" pages of the device can still be touched")?
            .parse::<u32>()
            .ok()
    });
    ensure!(
        pages.is_some_and(|pages| pages >= 6),
        "it did not touch what it had mapped: {said}"
    );
    Ok(())
}

pub(super) fn remove_and_rescan(world: &mut World) -> Result<()> {
    let guest = &world.guest;
    let user = traffic(guest, &["--seconds", "600", "--expect-loss"])?;
    guest.check(&Program::shell(
        "echo 1 > /sys/class/verbena/verbena0/device/remove && ! [ -e /dev/verbena0 ]",
    ))?;
    may_touch_what_is_gone(guest, user)?;
    guest.check(&Program::shell("echo 1 > /sys/bus/pci/rescan"))?;
    wait_for_node(guest)?;
    guest.check(&Program::new(PING))?;
    dump::wait_for(&world.stage, &world.hca, 0, Objects::NONE, Duration::from_secs(30))
}

/// What the kernel cannot give back by itself, in KiB: unreclaimable slab, and all that is not available.
fn kernel_memory(guest: &Guest) -> Result<(i64, i64)> {
    let script = "sync; echo 3 > /proc/sys/vm/drop_caches; sleep 1; \
        awk '/^SUnreclaim:/ {s=$2} /^MemTotal:/ {t=$2} /^MemAvailable:/ {a=$2} END {print s, t-a}' /proc/meminfo";
    let said = guest.check(&Program::shell(script))?;
    let mut numbers = said.split_whitespace().map(str::parse::<i64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(slab)), Some(Ok(used))) => Ok((slab, used)),
        _ => bail!("/proc/meminfo is '{said}'"),
    }
}

/// Fails if the kernel holds noticeably more than `before`.
fn memory_is_back(guest: &Guest, before: (i64, i64)) -> Result<()> {
    // Caches of the kernel's own settle slowly; what one life of a process takes, times hundreds, is far more than this.
    const SLAB: i64 = 3 << 10;
    const USED: i64 = 24 << 10;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = kernel_memory(guest)?;
        if now.0 <= before.0 + SLAB && now.1 <= before.1 + USED {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "slab and used memory were {before:?} KiB and are {now:?} KiB"
        );
    }
}

/// Processes that are killed at random moments.
const KILLS: u32 = 1000;

pub(super) fn mortals(world: &mut World) -> Result<()> {
    let guest = &world.guest;
    // Once to fill what is filled once.
    let warm = Program::new([
        "verbena-mortal",
        "--attach",
        "kernel",
        "--kills",
        "40",
        "--seconds",
        "30",
    ]);
    guest.check(&warm.timeout(Duration::from_secs(90)))?;
    dump::wait_for(&world.stage, &world.hca, 0, Objects::NONE, Duration::from_secs(30))?;
    let before = kernel_memory(guest)?;
    let kills = KILLS.to_string();
    // A minute, or three where the machine is busy: each life is a process that the guest starts.
    let storm = [
        "verbena-mortal",
        "--attach",
        "kernel",
        "--kills",
        &kills,
        "--seconds",
        "240",
    ];
    let storm = Program::new(storm);
    let said = guest.check(&storm.timeout(Duration::from_secs(300)))?;
    let kills = said
        .lines()
        .find_map(|line| line.strip_suffix(" s")?.strip_prefix("verbena-mortal: "));
    let kills = kills.and_then(|line| line.split(' ').next()?.parse::<u32>().ok());
    ensure!(kills == Some(KILLS), "not all were killed: {said}");
    dump::wait_for(&world.stage, &world.hca, 0, Objects::NONE, Duration::from_secs(30))
        .with_context(|| format!("what the killed owned stays; {said}"))?;
    memory_is_back(guest, before).context(said)?;
    guest.check(&Program::new(PING))?;
    no_complaint(world)
}

pub(super) fn remove_and_unload(world: &mut World) -> Result<()> {
    let guest = &world.guest;
    let before = kernel_memory(guest)?;
    for _ in 0..2 {
        let users = [
            traffic(guest, &["--seconds", "600", "--expect-loss"])?,
            traffic(
                guest,
                &["--seconds", "600", "--expect-loss", "--rdma", "--size", "256K"],
            )?,
            traffic(guest, &["--seconds", "600", "--expect-loss", "--ids"])?,
        ];
        guest.check(&Program::shell("echo 1 > /sys/class/verbena/verbena0/device/remove"))?;
        for user in users {
            may_touch_what_is_gone(guest, user)?;
        }
        guest.check(&Program::shell("rmmod verbena && ! [ -e /dev/verbena ]"))?;
        guest.check(&Program::shell(
            "echo 1 > /sys/bus/pci/rescan; insmod /opt/verbena/module/verbena.ko 2> /dev/null || lsmod | grep -q verbena",
        ))?;
        wait_for_node(guest)?;
        guest.check(&Program::new(PING))?;
    }
    memory_is_back(guest, before)?;
    no_complaint(world)
}

pub(super) fn limits(world: &mut World) -> Result<()> {
    let guest = &world.guest;
    let set = |name: &str, value: u32| {
        let path = format!("/sys/module/verbena/parameters/{name}");
        guest.check(&Program::shell(&format!("echo {value} > {path}")))
    };
    set("max_objects", 3)?;
    let over = guest.run(&Program::new(PING))?;
    set("max_objects", u32::MAX)?;
    ensure!(
        !over.is_success() && over.stderr.contains("as many objects as it may have"),
        "over the limit of objects: {}",
        over.stderr.trim()
    );
    set("max_contexts", 2)?;
    let open = "exec 3<>/dev/verbena0 4<>/dev/verbena0; exec 5<>/dev/verbena0";
    let (user, root) = (
        guest.run(&Program::shell(open).user(65534))?,
        guest.run(&Program::shell(open))?,
    );
    set("max_contexts", u32::MAX)?;
    ensure!(
        !user.is_success() && user.stderr.contains("Too many open files"),
        "the third context of a user: {}",
        user.stderr.trim()
    );
    ensure!(
        root.is_success(),
        "who may exceed limits does not: {}",
        root.stderr.trim()
    );
    guest.check(&Program::shell(open).user(65534))?;
    guest.check(&Program::new(PING))?;
    Ok(())
}
