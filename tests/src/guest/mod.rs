// SPDX-License-Identifier: MIT OR Apache-2.0
//! In one guest: the conformance suite, then what only a kernel has, and what it must survive (`survival`).
//!
//! One guest is booted for everything that leaves it usable. Two more are booted for what needs another beginning (memory
//! that is not shared) or has no way back (a server that is gone).

mod kernel_cm;
mod rdma_cm;
mod survival;

use crate::conformance;
use crate::dump;
use crate::scenario::{self, Scenario};
use crate::stage::Stage;
use crate::suite::{Reporter, Selection};
use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use verbena_guest::harness::report::Row;
use verbena_launcher::guest::{Exit, Program, Running};
use verbena_launcher::profile::Scenario as Profile;
use verbena_launcher::{Guest, Hca};

const NAME: &str = "guest";

/// Traffic that shows that the device works (again).
const PING: [&str; 5] = ["verbena-pingpong", "--attach", "kernel", "--iters", "50"];

/// How long the whole conformance suite may take in a guest that is emulated.
const SUITE: Duration = Duration::from_secs(1500);

struct World {
    stage: Arc<Stage>,
    // Before the server: QEMU does not take the end of a device's process well.
    guest: Guest,
    hca: Hca,
}

/// On the guest that stays usable. The order matters to none but the last, which looks back at all of them.
const SHARED: &[Scenario<World>] = &[
    Scenario {
        name: "h01_lspci_shows_a_clean_function",
        run: lspci,
    },
    Scenario {
        name: "u01_device_node_has_name_mode_and_class",
        run: device_node,
    },
    Scenario {
        name: "u25_verbena_trace_shows_the_calls_of_a_program",
        run: traced_program,
    },
    Scenario {
        name: "u25_verbena_trace_follows_children_and_orphans",
        run: traced_children,
    },
    Scenario {
        name: "u25_verbena_trace_attaches_to_a_process_that_runs",
        run: traced_from_outside,
    },
    Scenario {
        name: "u23_an_ordinary_user_is_refused_what_has_a_rule",
        run: raw_as_nobody,
    },
    Scenario {
        name: "u19_fast_path_makes_no_system_call",
        run: no_system_call,
    },
    Scenario {
        name: "h15_dump_from_host_and_guest_agree",
        run: dumps_agree,
    },
    Scenario {
        name: "u13_killed_application_leaves_nothing_and_disturbs_nobody",
        run: survival::killed_application,
    },
    Scenario {
        name: "u13_module_is_busy_while_in_use_then_unloads_and_reloads",
        run: survival::reload,
    },
    Scenario {
        name: "u13_module_already_loaded_is_one_clear_line",
        run: survival::loaded_twice,
    },
    Scenario {
        name: "u13_sysfs_remove_and_rescan",
        run: survival::remove_and_rescan,
    },
    Scenario {
        name: "u13_killed_at_random_moments_nothing_is_left",
        run: survival::mortals,
    },
    Scenario {
        name: "u13_removed_under_traffic_the_module_unloads_and_memory_returns",
        run: survival::remove_and_unload,
    },
    Scenario {
        name: "u13_limits_are_the_administrators",
        run: survival::limits,
    },
    Scenario {
        name: "u17_system_wide_node_outlives_devices_and_reports_them",
        run: system_node,
    },
    Scenario {
        name: "u18_rdma_cm_accepts_our_request",
        run: rdma_cm::accepts_our_request,
    },
    Scenario {
        name: "u18_rdma_cm_asks_our_listener",
        run: rdma_cm::asks_our_listener,
    },
    Scenario {
        name: "u18_rdma_cm_and_we_disconnect_each_other",
        run: rdma_cm::either_disconnects,
    },
    Scenario {
        name: "u18_rdma_cm_and_we_refuse_each_other",
        run: rdma_cm::either_refuses,
    },
    Scenario {
        name: "u18_rdma_cm_and_we_refuse_where_nobody_listens",
        run: rdma_cm::nobody_listens,
    },
    Scenario {
        name: "u18_rdma_cm_and_we_repeat_what_is_lost",
        run: rdma_cm::what_is_lost_is_repeated,
    },
    Scenario {
        name: "u18_rdma_cm_and_we_ask_each_other_for_patience",
        run: rdma_cm::who_takes_time_asks_for_patience,
    },
    Scenario {
        name: "u18_rdma_cm_that_is_silent_is_unreachable",
        run: rdma_cm::silence_is_unreachable,
    },
    Scenario {
        name: "u18_rdma_cm_ends_what_a_process_leaves",
        run: rdma_cm::a_process_that_ends_disconnects,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_connects_queue_pairs_of_libibverbs_in_one_call_a_side",
        run: kernel_cm::connects,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_refuses_with_reason_and_data",
        run: kernel_cm::refuses,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_takes_only_a_queue_pair_of_the_named_open_file",
        run: kernel_cm::names,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_refuses_beyond_the_backlog",
        run: kernel_cm::backlog,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_gives_up_in_the_time_that_the_program_says",
        run: kernel_cm::silence,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_is_asked_by_librdmacms_kind",
        run: kernel_cm::rdma_cm_asks,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_asks_librdmacms_kind",
        run: kernel_cm::rdma_cm_is_asked,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_and_verbenas_own_serve_one_node_at_once",
        run: kernel_cm::both_kinds,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_ends_what_a_killed_process_leaves",
        run: kernel_cm::killed,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_holds_no_queue_pair",
        run: kernel_cm::destroyed_queue_pair,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_device_that_goes_is_told",
        run: kernel_cm::removed,
    },
    Scenario {
        name: "u18_kernel_rdma_cm_module_is_busy_while_in_use_then_unloads",
        run: kernel_cm::unloads,
    },
    Scenario {
        name: "u13_kernel_log_has_no_complaint",
        run: no_complaint,
    },
];

/// On a guest of its own, because its device does not come back.
const DOOMED: &[Scenario<World>] = &[Scenario {
    name: "h13_killed_server_fails_calls_and_the_module_unloads",
    run: killed_server,
}];

/// On a guest whose memory is not shared.
const UNSHARED: &[Scenario<World>] = &[Scenario {
    name: "h02_memory_that_is_not_shared_is_named",
    run: unshared_memory,
}];

/// Every test of this part.
pub fn list() -> Vec<Row> {
    let mut rows = conformance::list(NAME, false);
    for scenarios in [SHARED, DOOMED, UNSHARED] {
        rows.extend(scenario::list(scenarios, NAME));
    }
    rows
}

/// Runs those that are wanted.
///
/// # Errors
///
/// If something does not build or cannot be set up.
pub fn run(stage: &Arc<Stage>, selection: &Selection, reporter: &Reporter) -> Result<()> {
    let suite = conformance::any_wanted(false, selection);
    if suite || scenario::any_wanted(SHARED, selection) {
        match world(stage, "guest", Profile::Single, true) {
            Ok(mut world) => {
                if suite {
                    run_suite(&world, selection, reporter)?;
                }
                scenario::run(SHARED, &mut world, NAME, selection, reporter);
            }
            Err(why) => {
                conformance::report("", &format!("{why:#}"), NAME, false, selection, reporter);
                scenario::fail_all(SHARED, &why, NAME, selection, reporter);
            }
        }
    }
    for (scenarios, profile, load) in [
        (DOOMED, Profile::Single, true),
        (UNSHARED, Profile::SingleUnshared, false),
    ] {
        if scenario::any_wanted(scenarios, selection) {
            match world(stage, profile_name(profile), profile, load) {
                Ok(mut world) => scenario::run(scenarios, &mut world, NAME, selection, reporter),
                Err(why) => scenario::fail_all(scenarios, &why, NAME, selection, reporter),
            }
        }
    }
    Ok(())
}

fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::SingleUnshared => "unshared",
        _ => "doomed",
    }
}

/// A server of one HCA and a guest on it. With `load` it returns when the device's node is there.
fn world(stage: &Arc<Stage>, name: &str, profile: Profile, load: bool) -> Result<World> {
    let logs = stage.checkout().logs(name)?;
    let hca = stage.hca(1, &logs)?;
    let guest = stage.boot_with(name, &hca, 0, &logs, |config| {
        config.scenario = profile;
        config.load_module = load;
    })?;
    if load {
        wait_for_node(&guest)?;
    }
    Ok(World {
        stage: stage.clone(),
        hca,
        guest,
    })
}

/// Waits until the device's node is there.
///
/// # Errors
///
/// If it does not appear; with the end of the kernel's log.
pub fn wait_for_node(guest: &Guest) -> Result<()> {
    let script = "for i in $(seq 300); do [ -c /dev/verbena0 ] && exit 0; sleep 0.1; done; dmesg | tail -5; exit 1";
    guest
        .check(&Program::shell(script))
        .context("/dev/verbena0 does not appear")?;
    Ok(())
}

fn run_suite(world: &World, selection: &Selection, reporter: &Reporter) -> Result<()> {
    let mut argv = vec!["verbena-conformance", "--attach", "kernel", "--attachment-name", NAME];
    let arguments = conformance::arguments(selection);
    argv.extend(arguments.iter().map(String::as_str));
    let program = Program::new(argv).timeout(SUITE);
    let (stdout, ending) = reporter.step("conformance, in a guest", || {
        let running = world.guest.spawn(&program)?;
        Ok(match world.guest.wait(running, SUITE)? {
            Some(done) => {
                let ending = format!("{:?}: {}", done.exit, conformance::last_words(&done.stderr));
                (done.stdout, ending)
            }
            None => {
                let said = world.guest.state(running)?.stdout.text();
                (said, format!("the suite is not done after {} s", SUITE.as_secs()))
            }
        })
    })?;
    conformance::report(&stdout, &ending, NAME, false, selection, reporter);
    Ok(())
}

/// Starts endless traffic and returns when it flows.
///
/// # Errors
///
/// If it does not begin.
pub fn traffic(guest: &Guest, more: &[&str]) -> Result<Running> {
    let mut argv = vec!["verbena-traffic", "--attach", "kernel"];
    argv.extend(more);
    let running = guest.spawn(&Program::new(argv))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let state = guest.state(running)?;
        if state.stdout.text().contains("iterations") {
            return Ok(running);
        }
        if state.exit.is_some() || Instant::now() > deadline {
            bail!("traffic does not begin: {}{}", state.stdout.text(), state.stderr.text());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits for the end of a program that must succeed. What it printed.
fn must_end_well(guest: &Guest, running: Running, what: &str) -> Result<String> {
    let done = guest
        .wait(running, Duration::from_secs(90))?
        .with_context(|| format!("{what} does not end"))?;
    ensure!(
        done.is_success(),
        "{what}: {:?}: {}{}",
        done.exit,
        done.stdout,
        done.stderr
    );
    Ok(done.stdout)
}

fn lspci(world: &mut World) -> Result<()> {
    let shown = world
        .guest
        .check(&Program::shell("lspci -nn -d 1234: && lspci -vvv -d 1234:"))?;
    for (what, word) in [
        ("its class", "[0207]"),
        ("a 64-bit prefetchable BAR", "64-bit, prefetchable"),
        ("MSI-X, enabled", "MSI-X: Enable+"),
        ("an endpoint's express capability", "Express"),
        ("function level reset", "FLReset+"),
        ("its driver", "Kernel driver in use: verbena"),
    ] {
        ensure!(shown.contains(word), "lspci does not show {what}:\n{shown}");
    }
    for word in ["<chain broken>", "!!!", "Unknown", "Interrupt: pin"] {
        ensure!(!shown.contains(word), "lspci complains ('{word}'):\n{shown}");
    }
    Ok(())
}

fn device_node(world: &mut World) -> Result<()> {
    let mode = world.guest.check(&Program::shell("stat -c '%A %F' /dev/verbena0"))?;
    ensure!(
        mode.trim() == "crw-rw-rw- character special file",
        "/dev/verbena0 is '{}'",
        mode.trim()
    );
    let class = world
        .guest
        .check(&Program::shell("readlink -f /sys/class/verbena/verbena0"))?;
    ensure!(
        class.contains("/pci0000:00/"),
        "the class device is not below its PCI function: {}",
        class.trim()
    );
    // Anybody may use it: RDMA objects are protected from each other, not the node.
    world
        .guest
        .check(&Program::new(["verbena-info", "--attach", "kernel"]).user(65534))?;
    Ok(())
}

/// Counts the system calls between the marks that the ping-pong writes around its steady state.
///
/// # Errors
///
/// If it fails, or leaves no marks.
pub fn system_calls_in_steady_state(guest: &Guest) -> Result<u64> {
    let run = "strace -f -s 128 -o /tmp/fast-path.strace verbena-pingpong --marks --iters 2000 --sizes 64";
    guest.check(&Program::shell(run).timeout(Duration::from_secs(300)))?;
    let trace = String::from_utf8_lossy(&guest.read_file("/tmp/fast-path.strace")?).into_owned();
    count_between(&trace, "steady state begins", "steady state ends")
}

/// The lines of a trace by strace between two lines that the program wrote to stderr, with one call each.
///
/// # Errors
///
/// If they are not there.
pub fn count_between(trace: &str, begin: &str, end: &str) -> Result<u64> {
    let mark = |word: &str| {
        let written = |line: &&str| line.contains("write(2,") && line.contains(word);
        trace
            .lines()
            .position(|line| written(&line))
            .with_context(|| format!("the trace has no mark '{word}'"))
    };
    let (begin, end) = (mark(begin)?, mark(end)?);
    ensure!(begin < end, "the marks are in the wrong order");
    Ok((end - begin - 1) as u64)
}

/// In the manner of strace: a program from its first call on, as text, as JSON, as a table; and without the privilege.
fn traced_program(world: &mut World) -> Result<()> {
    let trace = |options: &[&str]| {
        let argv = ["verbena-trace"].iter().chain(options).chain(&["--"]).chain(&PING);
        world.guest.run(&Program::new(argv.copied()))
    };
    let text = trace(&["-o", "/tmp/trace"])?;
    ensure!(text.is_success(), "{}", text.stderr);
    let lines = String::from_utf8(world.guest.read_file("/tmp/trace")?)?;
    for expected in [
        "verbena_doorbell create(",
        "qp_rc create(",
        "qp_rc modify(",
        "pd destroy(#",
        " us>",
    ] {
        ensure!(lines.contains(expected), "no {expected} in:\n{lines}");
    }
    ensure!(!lines.contains("calls lost"), "{lines}");
    let json = trace(&["--json", "-o", "/tmp/trace"])?;
    ensure!(json.is_success(), "{}", json.stderr);
    let lines = String::from_utf8(world.guest.read_file("/tmp/trace")?)?;
    let calls = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    let made = calls
        .iter()
        .filter(|call| call["class"] == "qp_rc" && call["method"] == "create");
    ensure!(made.count() > 0, "no queue pair in:\n{lines}");
    let table = trace(&["-c", "-o", "/tmp/trace"])?;
    ensure!(table.is_success(), "{}", table.stderr);
    let table = String::from_utf8(world.guest.read_file("/tmp/trace")?)?;
    ensure!(table.contains("qp_rc modify"), "{table}");
    let nobody = world
        .guest
        .run(&Program::new(["verbena-trace", "--seconds", "1"]).user(65534))?;
    ensure!(
        !nobody.is_success() && nobody.stderr.contains("EPERM"),
        "an ordinary user traces: {}",
        nobody.stderr
    );
    Ok(())
}

/// The calls in a file that `verbena-trace --json` has written.
fn traced_calls(guest: &Guest, path: &str) -> Result<Vec<Value>> {
    let lines = String::from_utf8(guest.read_file(path)?)?;
    Ok(lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// The processes that made such calls.
fn callers(calls: &[Value], class: &str, method: &str) -> BTreeSet<u64> {
    let of = |call: &&Value| call["class"] == class && call["method"] == method;
    calls
        .iter()
        .filter(of)
        .filter_map(|call| call["process"].as_u64())
        .collect()
}

/// A shell runs one program and leaves another one to itself, in a session of its own.
fn traced_children(world: &mut World) -> Result<()> {
    const FAMILY: &str = "verbena-pingpong --iters 50 >/dev/null; \
        (setsid verbena-pingpong --iters 50 >/dev/null 2>&1 &); exit 7";
    let trace = |options: &[&str]| {
        let argv = ["verbena-trace", "--json", "-o", "/tmp/trace"].iter().chain(options);
        let argv = argv.chain(&["--", "sh", "-c", FAMILY]);
        let ended = world.guest.run(&Program::new(argv.copied()))?;
        ensure!(
            ended.exit == Exit::Code(7),
            "the shell's exit code is not shown: {ended:?}"
        );
        traced_calls(&world.guest, "/tmp/trace")
    };
    let alone = trace(&[])?;
    ensure!(alone.is_empty(), "the shell itself made calls: {alone:?}");
    let family = trace(&["-f"])?;
    for (class, method) in [("qp_rc", "create"), ("pd", "destroy")] {
        let callers = callers(&family, class, method);
        ensure!(callers.len() == 2, "{class} {method} was called by {callers:?}");
    }
    Ok(())
}

/// What has begun before is not seen, nor is anybody else.
fn traced_from_outside(world: &mut World) -> Result<()> {
    const RUN: &str = "verbena-traffic --seconds 8 >/dev/null & pid=$!; \
        sleep 3; verbena-trace --json -p $pid -o /tmp/trace & tracer=$!; \
        sleep 2; verbena-pingpong --iters 50 >/dev/null; wait $pid || exit 1; wait $tracer || exit 2; echo $pid";
    let ended = world.guest.check(&Program::shell(RUN))?;
    let pid: u64 = ended.trim().parse().context("no number of a process")?;
    let calls = traced_calls(&world.guest, "/tmp/trace")?;
    let all: BTreeSet<_> = calls.iter().filter_map(|call| call["process"].as_u64()).collect();
    ensure!(all == BTreeSet::from([pid]), "calls of {all:?}, not of {pid} alone");
    ensure!(
        !callers(&calls, "qp_rc", "destroy").is_empty(),
        "its end is not seen: {calls:?}"
    );
    ensure!(
        callers(&calls, "qp_rc", "create").is_empty(),
        "its beginning is: {calls:?}"
    );
    Ok(())
}

/// An ordinary user gets datagrams, and no frames.
fn raw_as_nobody(world: &mut World) -> Result<()> {
    let conformance = |case: &str| {
        let argv = ["verbena-conformance", "--attach", "kernel", "--filter", case];
        world.guest.run(&Program::new(argv).user(65534))
    };
    let datagrams = conformance("h09_immediate_data_and_nothing_else")?;
    ensure!(datagrams.is_success(), "{}{}", datagrams.stdout, datagrams.stderr);
    let frames = conformance("h04_raw_a_queue_pair_has_no_attributes_of_a_connection")?;
    ensure!(
        !frames.is_success() && frames.stdout.contains("EPERM"),
        "an ordinary user makes a raw queue pair: {}{}",
        frames.stdout,
        frames.stderr
    );
    let rules = conformance("u23_")?;
    ensure!(
        rules.is_success() && rules.stdout.contains("an ordinary user: 8 refusals"),
        "what an ordinary user may: {}{}",
        rules.stdout,
        rules.stderr
    );
    Ok(())
}

fn no_system_call(world: &mut World) -> Result<()> {
    let calls = system_calls_in_steady_state(&world.guest)?;
    ensure!(calls == 0, "{calls} system calls in 2000 iterations");
    Ok(())
}

fn dumps_agree(world: &mut World) -> Result<()> {
    let inside = world
        .guest
        .check(&Program::new(["verbena-info", "--attach", "kernel", "--dump"]))?;
    let inside: Value = serde_json::from_str(&inside).context("the guest's dump is not JSON")?;
    let outside: Value = serde_json::from_str(&dump::text(&world.stage, &world.hca)?)?;
    let outside = outside
        .pointer("/hcas/0/device")
        .context("the host's dump has no HCA")?;
    let (here, there) = (inside.get("mac"), outside.get("mac"));
    ensure!(
        here.is_some() && here == there,
        "the guest's dump is of {here:?}, the host's of {there:?}"
    );
    let (here, there) = (registers(&inside), registers(outside));
    ensure!(
        !here.is_empty() && here == there,
        "the dumps show different registers: {here:?} and {there:?}"
    );
    Ok(())
}

/// The names of the registers in a dump.
fn registers(dump: &Value) -> Vec<&str> {
    let list = dump.get("registers").and_then(Value::as_array);
    let names = list.into_iter().flatten().filter_map(|register| register.get("name"));
    names.filter_map(Value::as_str).collect()
}

/// Waits until a program has said something.
fn wait_for_words(guest: &Guest, running: Running, words: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let state = guest.state(running)?;
        if state.stdout.text().contains(words) {
            return Ok(());
        }
        if state.exit.is_some() || Instant::now() > deadline {
            bail!(
                "it does not say '{words}': {}{}",
                state.stdout.text(),
                state.stderr.text()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn system_node(world: &mut World) -> Result<()> {
    let guest = &world.guest;
    let list = || guest.check(&Program::new(["verbena-info", "--list"]).user(65534));
    let node = guest.check(&Program::shell(
        "stat -c '%A %F' /dev/verbena && readlink -f /sys/class/verbena/verbena",
    ))?;
    ensure!(
        node.contains("crw-rw-rw- character special file") && node.contains("/devices/virtual/"),
        "/dev/verbena is '{}'",
        node.trim()
    );
    let before = list()?;
    ensure!(
        before.lines().count() == 1
            && before.contains("kernel:/dev/verbena0")
            && before.contains("1 of 1 ports active"),
        "the list is '{before}'"
    );
    let watcher = guest.spawn(&Program::new(["verbena-info", "--list", "--watch", "600"]))?;
    wait_for_words(guest, watcher, "verbena0")?;
    guest.check(&Program::shell("echo 1 > /sys/class/verbena/verbena0/device/remove"))?;
    wait_for_words(guest, watcher, "DeviceRemoved")?;
    ensure!(list()?.is_empty(), "a removed device is listed: {}", list()?);
    guest.check(&Program::new(["test", "-c", "/dev/verbena"]))?;
    guest.check(&Program::shell("echo 1 > /sys/bus/pci/rescan"))?;
    wait_for_words(guest, watcher, "DeviceAdded")?;
    wait_for_node(guest)?;
    ensure!(
        list()?.contains("kernel:/dev/verbena0"),
        "the device that came is not listed: {}",
        list()?
    );
    // Who has the node open keeps the module, without any device being in use.
    let busy = guest.run(&Program::new(["rmmod", "verbena"]))?;
    ensure!(busy.stderr.contains("in use"), "rmmod says: {}", busy.stderr.trim());
    guest.signal(watcher, 9)?;
    guest
        .wait(watcher, Duration::from_secs(30))?
        .context("SIGKILL does not end the watcher")?;
    guest.check(&Program::shell(
        "rmmod verbena && ! [ -e /dev/verbena ] && insmod /opt/verbena/module/verbena.ko",
    ))?;
    wait_for_node(guest)?;
    ensure!(
        list()?.contains("verbena0"),
        "after the module was loaded again: {}",
        list()?
    );
    guest.check(&Program::new(PING))?;
    Ok(())
}

fn no_complaint(world: &mut World) -> Result<()> {
    let complaints = world.guest.complaints();
    ensure!(
        complaints.is_empty(),
        "{} complaints, the first: {}",
        complaints.len(),
        complaints[0]
    );
    Ok(())
}

/// What QEMU 11.1.3 says when it aborts because a doorbell met the dead socket before QEMU had noticed its end. It is
/// QEMU's fault and depends on the moment.
const QEMU_ABORT: &str = "error_setv: Assertion";

fn killed_server(world: &mut World) -> Result<()> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let Err(why) = kill_server_once(world) else {
            return Ok(());
        };
        if attempts == 3 || !format!("{why:#}").contains(QEMU_ABORT) {
            return Err(why);
        }
        // The same again, from the beginning: what is to be shown is the guest's behaviour, and the guest was lost.
        *world = self::world(&world.stage.clone(), "doomed", Profile::Single, true)?;
    }
}

fn kill_server_once(world: &mut World) -> Result<()> {
    let guest = &world.guest;
    let user = traffic(guest, &["--seconds", "600", "--expect-loss"])?;
    // The application holds still while QEMU notices, see QEMU_ABORT; its work requests stay outstanding.
    guest.signal(user, 19)?;
    world.hca.kill9()?;
    std::thread::sleep(Duration::from_millis(500));
    guest.signal(user, 18)?;
    must_end_well(guest, user, "the application whose device died")?;
    let late = guest.run(&Program::new(["verbena-info", "--attach", "kernel"]))?;
    ensure!(!late.is_success(), "a dead device still answers: {}", late.stdout);
    ensure!(
        late.stderr.trim().lines().count() == 1,
        "not one clear line: {}",
        late.stderr
    );
    guest
        .check(&Program::new(["rmmod", "verbena"]))
        .context("the module does not unload")?;
    let complaints = guest.complaints();
    ensure!(complaints.is_empty(), "the kernel complains: {}", complaints[0]);
    Ok(())
}

fn unshared_memory(world: &mut World) -> Result<()> {
    let guest = &world.guest;
    // The module loads, because it is not at fault; its probe of the device fails, and says why.
    guest.check(&Program::new(["insmod", "/opt/verbena/module/verbena.ko"]))?;
    let log = guest.dmesg()?;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("share=on")).collect();
    ensure!(
        lines.len() == 1,
        "{} lines of the kernel's log name share=on",
        lines.len()
    );
    let node = guest.run(&Program::new(["test", "-e", "/dev/verbena0"]))?;
    ensure!(
        !node.is_success(),
        "there is a device node for a device that cannot work"
    );
    guest.check(&Program::new(["rmmod", "verbena"]))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_between_the_marks_are_counted() {
        let trace = "1 openat(AT_FDCWD, \"x\") = 3\n1 write(2, \"steady state begins\\n\", 20) = 20\n\
            2 futex(0x1) = 0\n1 getpid() = 1\n1 write(2, \"steady state ends\\n\", 18) = 18\n1 exit_group(0) = ?\n";
        assert_eq!(
            count_between(trace, "steady state begins", "steady state ends").unwrap(),
            2
        );
        assert!(count_between("nothing", "a", "b").is_err());
    }
}
