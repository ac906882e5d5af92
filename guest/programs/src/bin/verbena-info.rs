// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device is: limits, port, GIDs, counters, the classes of its interface, its dump.

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use verbena::{Context, DeviceList, Event, EventQueue, Gid};
use verbena_guest::program::{self, DeviceOptions};

/// Show what the device is.
#[derive(Parser)]
#[command(name = "verbena-info", version)]
struct Options {
    #[command(flatten)]
    device: DeviceOptions,
    /// List the devices of this host instead, through the system-wide node. With --watch: also as they come and go.
    #[arg(long, conflicts_with_all = ["dump", "classes"])]
    list: bool,
    /// Show every class, method and attribute of the device's interface instead.
    #[arg(long, conflicts_with_all = ["dump", "watch"])]
    classes: bool,
    /// Show the device's own dump (JSON) instead: registers, queues, objects.
    #[arg(long, conflicts_with = "watch")]
    dump: bool,
    /// Show events of the device and its port (with --list, of the list) as they happen, for this many seconds, instead.
    #[arg(long, value_name = "SECONDS")]
    watch: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        list(options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let ctx = Context::open(&options.device.attach)?;
    if options.classes {
        classes(&ctx, options.json)?;
    } else if options.dump {
        println!("{}", ctx.dump()?);
    } else if let Some(seconds) = options.watch {
        let events = ctx.create_event_queue()?;
        events.associate_device(0)?;
        events.associate_port(1, 1)?;
        watch(&events, Duration::from_secs(seconds), options.json)?;
    } else {
        device(&ctx, options.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn classes(ctx: &Context, as_json: bool) -> Result<()> {
    let interface = ctx.interface()?;
    if !as_json {
        print!("{interface}");
        return Ok(());
    }
    let classes: Vec<_> = interface
        .classes()
        .iter()
        .map(|class| {
            let methods: Vec<_> = class
                .methods
                .iter()
                .map(|method| {
                    let attrs: Vec<_> = method
                        .attrs
                        .iter()
                        .map(|attr| json!({"id": attr.id, "name": attr.name, "type": attr.ty, "flags": attr.flags, "takes": attr.takes}))
                        .collect();
                    json!({"number": method.number, "name": method.name, "attributes": attrs})
                })
                .collect();
            json!({"id": class.id, "name": class.name, "methods": methods})
        })
        .collect();
    println!("{}", json!({"version": interface.version, "classes": classes}));
    Ok(())
}

fn device(ctx: &Context, as_json: bool) -> Result<()> {
    let device = ctx.device()?;
    let port = ctx.port(1)?;
    let firmware = format!(
        "{}.{}.{}",
        device.fw_version >> 32,
        device.fw_version >> 16 & 0xffff,
        device.fw_version & 0xffff
    );
    let gids: Vec<_> = port
        .gids
        .iter()
        .map(|entry| (entry.index, Gid(entry.gid).to_string()))
        .collect();
    let limits = [
        ("queue pairs", device.max_qp),
        ("work requests on a queue", device.max_qp_wr),
        ("scatter/gather elements", device.max_sge),
        ("inline bytes", device.max_inline),
        ("completion queues", device.max_cq),
        ("entries of a completion queue", device.max_cqe),
        ("memory regions", device.max_mr),
        ("protection domains", device.max_pd),
        ("outstanding READs of a queue pair", device.max_qp_rd_atom),
        ("completion vectors", device.comp_vectors),
    ];
    if as_json {
        let limits: serde_json::Map<_, _> = limits
            .iter()
            .map(|&(name, n)| (name.replace(' ', "_"), n.into()))
            .collect();
        let counters: serde_json::Map<_, _> = port
            .counters
            .iter()
            .map(|(name, n)| (name.clone(), (*n).into()))
            .collect();
        let gids: Vec<_> = gids
            .iter()
            .map(|(index, gid)| json!({"index": index, "gid": gid}))
            .collect();
        let report = json!({
            "name": ctx.name()?,
            "driver": ctx.driver_name()?,
            "firmware": firmware,
            "node_guid": format!("{:016x}", device.node_guid),
            "vendor": device.vendor_id,
            "part": device.vendor_part_id,
            "max_mr_size": device.max_mr_size,
            "limits": limits,
            "port": {
                "active": port.is_active(),
                "mtu": port.attrs.active_mtu,
                "max_mtu": port.attrs.max_mtu,
                "max_message": port.attrs.max_message,
                "pkeys": port.pkeys,
                "gids": gids,
                "counters": counters,
            },
        });
        println!("{report}");
        return Ok(());
    }
    println!("{} (driver {}, firmware {firmware})", ctx.name()?, ctx.driver_name()?);
    println!(
        "  node GUID  {:016x}, vendor {:#06x}, part {:#06x}",
        device.node_guid, device.vendor_id, device.vendor_part_id
    );
    println!("  at most");
    for (name, n) in limits {
        println!("    {n:>10} {name}");
    }
    println!("    {:>10} bytes of a memory region", device.max_mr_size);
    let state = if port.is_active() { "active" } else { "down" };
    println!(
        "port 1: {state}, MTU {} of {}",
        port.attrs.active_mtu, port.attrs.max_mtu
    );
    for (index, gid) in gids {
        println!("  GID {index:>3}  {gid}");
    }
    println!(
        "  P_Keys   {}",
        port.pkeys
            .iter()
            .map(|key| format!("{key:#06x}"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    println!("  counters");
    for (name, value) in &port.counters {
        println!("    {value:>14} {name}");
    }
    Ok(())
}

fn list(options: &Options) -> Result<()> {
    let list = DeviceList::beside(&options.device.attach)?;
    // Before the list: nothing is missed in between.
    let events = options.watch.map(|_| list.watch()).transpose()?;
    for device in list.devices()? {
        if options.json {
            println!(
                "{}",
                json!({
                    "arrival": device.arrival,
                    "name": device.name,
                    "attachment": device.attachment.to_string(),
                    "index": device.index,
                    "node_guid": format!("{:016x}", device.node_guid),
                    "driver": device.driver,
                    "ports": device.ports,
                    "active_ports": device.active_ports,
                    "works": device.works,
                })
            );
        } else {
            println!(
                "{:>3} {} ({}), node GUID {:016x}, driver {}, {} of {} ports active{}",
                device.arrival,
                device.name,
                device.attachment,
                device.node_guid,
                device.driver,
                device.active_ports.count_ones(),
                device.ports,
                if device.works { "" } else { ", does not answer" }
            );
        }
    }
    match (events, options.watch) {
        (Some(events), Some(seconds)) => watch(&events, Duration::from_secs(seconds), options.json),
        _ => Ok(()),
    }
}

fn watch(events: &EventQueue, time: Duration, as_json: bool) -> Result<()> {
    let end = Instant::now() + time;
    let show = |event: &Event| {
        let kind = format!("{:?}", event.kind);
        if as_json {
            println!(
                "{}",
                json!({"kind": kind, "class": event.class, "object": event.object, "data": event.data})
            );
        } else {
            println!(
                "{kind} of class {}, object {}, data {:#x}",
                event.class, event.object, event.data
            );
        }
    };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match events.next_event(Some(left)).context("the event queue has ended")? {
            Some(event) => show(&event),
            None => return Ok(()),
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-info", || run(&options))
}
