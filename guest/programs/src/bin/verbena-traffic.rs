// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traffic without end, every byte compared: to be watched, disturbed, or killed.

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use verbena::EventKind;
use verbena_guest::link::Spec;
use verbena_guest::program::stream::{Kind, Stream, Traffic};
use verbena_guest::program::{self, bytes_text, exit_code, is_gone, mappings, parse_size, EndsOptions};

/// Keep an RC connection busy and compare every byte, until the time is over or somebody ends it.
///
/// It says once a second how far it is. Its exit code is 0 if every byte was right until the time was over; 1 if one was
/// wrong or the device or the other end went away; with --expect-loss, 0 exactly if the device or the other end went away and
/// every byte had been right until then. If it was the device, each page that is mapped of it is then loaded from and stored to.
#[derive(Parser)]
#[command(name = "verbena-traffic", version)]
struct Options {
    #[command(flatten)]
    ends: EndsOptions,
    /// Bytes of a message.
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = parse_size)]
    size: usize,
    /// End after this long; without it, never.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// WRITE and READ instead of SENDs.
    #[arg(long)]
    rdma: bool,
    /// Connect both ends, which are in this process, by communication ids of the system-wide node. With --expect-loss the ids must
    /// hear that the device is gone.
    #[arg(long)]
    ids: bool,
    /// The device or the other end will be taken away: that it is noticed is success.
    #[arg(long)]
    expect_loss: bool,
}

/// How it ended.
enum End {
    Time,
    Lost(anyhow::Error),
}

fn run(options: &Options) -> Result<ExitCode> {
    let kind = if options.rdma { Kind::WriteRead } else { Kind::PingPong };
    let spec = Spec {
        send_depth: 16,
        recv_depth: 16,
        entries: 64,
        ..Spec::default()
    };
    let task = format!("verbena-traffic size={} rdma={}", options.size, options.rdma);
    let (meeting, ids) = match options.ids {
        true => {
            let (meeting, ids) = options.ends.meet_by_ids(&spec)?;
            (meeting, Some(ids))
        }
        false => (options.ends.meet(&spec, &task)?, None),
    };
    let traffic = Traffic {
        kind,
        size: options.size,
        asleep: options.ends.sleep,
    };
    let (mut stream, wire) = Stream::begin(meeting, &traffic)?;
    println!("verbena-traffic: {}", options.ends.describe());
    let begun = Instant::now();
    let mut said = 0;
    let mut last = Instant::now();
    let mut iterations = 0;
    let end = loop {
        match stream.step(iterations, options.size) {
            Ok(_) => iterations += 1,
            Err(error) => break End::Lost(error),
        }
        last = Instant::now();
        let seconds = begun.elapsed().as_secs();
        if seconds > said || iterations == 1 {
            said = seconds;
            let tally = stream.tally();
            println!(
                "{seconds} s: {iterations} iterations, {} compared, {} errors",
                bytes_text(tally.bytes),
                tally.errors
            );
        }
        if options
            .seconds
            .is_some_and(|limit| begun.elapsed() >= Duration::from_secs(limit))
        {
            break End::Time;
        }
    };
    drop(wire);
    let tally = stream.tally();
    if let Some(complaint) = stream.complaint() {
        eprintln!("verbena-traffic: {complaint}");
    }
    let summary = format!(
        "{iterations} iterations, {} compared, {} errors",
        bytes_text(tally.bytes),
        tally.errors
    );
    match end {
        End::Time if options.expect_loss => {
            println!("verbena-traffic: nothing was lost; {summary}");
            Ok(ExitCode::FAILURE)
        }
        End::Time => {
            println!("verbena-traffic: done; {summary}");
            Ok(exit_code(tally.errors))
        }
        End::Lost(error) => {
            let who = if is_gone(&error) { "the device" } else { "the other end" };
            let after = last.elapsed().as_secs_f64();
            println!("verbena-traffic: {who} went away, noticed after {after:.3} s ({error:#}); {summary}");
            if options.expect_loss && is_gone(&error) {
                if let Some(ids) = &ids {
                    ids.hear(EventKind::CmDeviceRemoval)?;
                }
                println!(
                    "verbena-traffic: {} pages of the device can still be touched",
                    mappings::touch()?
                );
            }
            Ok(if options.expect_loss {
                exit_code(tally.errors)
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    program::main("verbena-traffic", || run(&options))
}
