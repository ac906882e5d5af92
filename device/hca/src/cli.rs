// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command lines of `verbena-hca` and `verbena-ctl`.

use crate::server::Config;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use verbena_engine::inspect::MOST_ENTRIES;

/// Serves virtual RDMA HCAs to virtual machines over vfio-user.
///
/// Each --socket is one HCA; all HCAs of a server are joined by one fabric, so that guests on different sockets reach
/// each other. The server is ready when it says "listening" for each socket. A client that leaves, in whatever way,
/// leaves its HCA reset and free for the next one. SIGTERM and SIGINT end the server and remove its sockets.
#[derive(Clone, Debug, Parser)]
#[command(name = "verbena-hca", version, after_help = HCA_EXAMPLES)]
pub struct HcaArgs {
    /// Path of a vfio-user socket to listen on: one HCA. May be given several times.
    #[arg(long, required = true, value_name = "PATH")]
    pub socket: Vec<PathBuf>,

    /// Path of a control socket for verbena-ctl.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// MAC address of an HCA's port, in the order of the sockets; its GIDs are derived from it. Without: 02:56:42 and
    /// the number of the socket, from 1.
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub mac: Vec<Mac>,

    /// What to say on standard error.
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub log: LogLevel,

    /// Microseconds that a worker looks for doorbells without finding any before it sleeps. More is faster for
    /// traffic with pauses and takes a core from the guests during them; 0 sleeps at once.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub poll_us: u64,

    /// Run the workers on these processors and no others, one each, so that they disturb nobody who has another one.
    #[arg(long, value_name = "CPU[,CPU]", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..1024))]
    pub worker_cpu: Vec<u32>,

    /// Worker threads. Busy queue pairs are spread over them by doorbell page; those that are connected or complete into
    /// one queue stay together. More than one is of use where several pairs of programs talk at once, and costs a
    /// processor each while they do.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub workers: u32,
}

const HCA_EXAMPLES: &str = "\
Examples:
  One HCA, and a QEMU (10.1 or later) that has it:
    verbena-hca --socket /tmp/hca0
    qemu-system-x86_64 -machine q35,memory-backend=ram \\
      -object memory-backend-memfd,id=ram,size=1G,share=on \\
      -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"/tmp/hca0\"}}' ...

  Two HCAs for two guests on one fabric, and a look inside:
    verbena-hca --socket /tmp/hca0 --socket /tmp/hca1 --control /tmp/hca.ctl
    verbena-ctl dump --socket /tmp/hca.ctl";

/// Six bytes. An own type, because clap takes an array for several arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

fn parse_mac(text: &str) -> Result<Mac, String> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or(MAC_HELP)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| MAC_HELP)?;
    }
    if parts.next().is_some() {
        return Err(MAC_HELP.into());
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err("a port's address is neither a multicast one nor zero".into());
    }
    Ok(Mac(mac))
}

const MAC_HELP: &str = "six bytes in hexadecimal, as in 02:56:42:00:00:01";

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What ends the server or a client's work.
    Error,
    /// What a client did wrong.
    Warn,
    /// Clients coming and going.
    Info,
    /// Every mapping and reset.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

impl HcaArgs {
    /// The server that these arguments ask for, with `seed` for the engine.
    ///
    /// # Errors
    ///
    /// A sentence, if they contradict each other.
    pub fn config(&self, seed: u64) -> Result<Config, String> {
        if self.mac.len() > self.socket.len() {
            return Err(format!(
                "{} --mac for {} --socket: each belongs to one",
                self.mac.len(),
                self.socket.len()
            ));
        }
        let mut paths: Vec<_> = self.socket.iter().chain(&self.control).collect();
        paths.sort();
        if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{}: given twice", pair[0].display()));
        }
        if self.worker_cpu.len() > self.workers as usize {
            return Err(format!(
                "{} --worker-cpu for {} --workers: each is of one",
                self.worker_cpu.len(),
                self.workers
            ));
        }
        Ok(Config {
            sockets: self.socket.clone(),
            macs: self.mac.iter().map(|mac| mac.0).collect(),
            control: self.control.clone(),
            spin: Duration::from_micros(self.poll_us),
            workers: self.workers as usize,
            worker_cpus: self.worker_cpu.iter().map(|&cpu| cpu as usize).collect(),
            seed,
        })
    }
}

/// Looks into a running verbena-hca, and plugs its cables.
#[derive(Clone, Debug, Parser)]
#[command(name = "verbena-ctl", version, after_help = CTL_EXAMPLES)]
pub struct CtlArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CtlCommand,
}

const CTL_EXAMPLES: &str = "\
Examples:
  verbena-ctl dump --socket /tmp/hca.ctl                 everything, as text
  verbena-ctl dump --socket /tmp/hca.ctl --hca 1 --json  one HCA, as JSON
  verbena-ctl qp 0x12 --socket /tmp/hca.ctl              one queue pair: rings decoded, last errors
  verbena-ctl top --socket /tmp/hca.ctl                  rates and queue pairs, live
  verbena-ctl top --socket /tmp/hca.ctl --batch --count 60 --plot rates.svg
                                                         a minute of it, as lines and as a picture
  verbena-ctl port down --socket /tmp/hca.ctl --hca 0    unplug the cable of the first HCA";

/// A subcommand of `verbena-ctl`.
#[derive(Clone, Debug, Subcommand)]
pub enum CtlCommand {
    /// Prints registers, queues, objects, counters, DMA mappings and interrupts, without stopping the device.
    Dump {
        /// The --control socket of the server.
        #[arg(long, value_name = "CTRL")]
        socket: PathBuf,
        /// Only this HCA: its number in the order of the server's --socket, from 0.
        #[arg(long, value_name = "N")]
        hca: Option<usize>,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Shows what the HCAs are doing, second by second: rates, errors, the busiest queue pairs.
    ///
    /// On a terminal it fills the screen (q quits); elsewhere, or with --batch, it is a line for each HCA and interval.
    Top {
        /// The --control socket of the server.
        #[arg(long, value_name = "CTRL")]
        socket: PathBuf,
        /// Only this HCA: its number in the order of the server's --socket, from 0.
        #[arg(long, value_name = "N")]
        hca: Option<usize>,
        /// Seconds between two looks, 0.05 to 3600.
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
        interval: Duration,
        /// End after so many intervals.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Lines, also on a terminal.
        #[arg(long)]
        batch: bool,
        /// A JSON object for each interval.
        #[arg(long)]
        json: bool,
        /// When it ends, draw the rates over time into this SVG file.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
    },
    /// Shows one queue pair: its state, its rings decoded, its completions, its last errors.
    ///
    /// The rings are decoded from the guest's memory as it is now: what the device is through with, what it works on,
    /// what is posted. Errors are remembered also when their completion has been polled or the queue pair is gone.
    Qp {
        /// Its number, as in 18 or 0x12; dump and top show those that there are.
        #[arg(value_parser = parse_number)]
        number: u32,
        /// The --control socket of the server.
        #[arg(long, value_name = "CTRL")]
        socket: PathBuf,
        /// The HCA: its number in the order of the server's --socket, from 0.
        #[arg(long, value_name = "N", default_value_t = 0)]
        hca: usize,
        /// Entries to show of each ring, before and after the one that is next.
        #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(..=i64::from(MOST_ENTRIES)))]
        entries: u32,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Plugs or unplugs the cable of a port.
    Port {
        /// Which.
        state: PortState,
        /// The --control socket of the server.
        #[arg(long, value_name = "CTRL")]
        socket: PathBuf,
        /// The HCA: its number in the order of the server's --socket, from 0.
        #[arg(long, value_name = "N", default_value_t = 0)]
        hca: usize,
    },
    /// Says whether a server is there, and which.
    Ping {
        /// The --control socket of the server.
        #[arg(long, value_name = "CTRL")]
        socket: PathBuf,
    },
}

/// A cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PortState {
    /// Plugged in.
    Up,
    /// Unplugged.
    Down,
}

fn parse_number(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "a number, as in 18 or 0x12".to_owned())
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds, as in 0.5".to_owned())?;
    if (0.05..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("0.05 to 3600 seconds".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn h13_command_lines_are_consistent() {
        HcaArgs::command().debug_assert();
        CtlArgs::command().debug_assert();
    }

    #[test]
    fn h13_macs_are_checked() {
        assert_eq!(parse_mac("02:56:42:00:00:0a"), Ok(Mac([2, 0x56, 0x42, 0, 0, 10])));
        for wrong in [
            "",
            "02:56:42:00:00",
            "02:56:42:00:00:01:02",
            "2:56:42:00:00:01",
            "02:56:42:00:00:zz",
        ] {
            assert_eq!(parse_mac(wrong), Err(MAC_HELP.into()), "{wrong}");
        }
        assert!(parse_mac("03:00:00:00:00:01").is_err(), "multicast");
        assert!(parse_mac("00:00:00:00:00:00").is_err());
    }

    #[test]
    fn h15_numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("18"), parse_number("0x12"));
        for wrong in ["", "0x", "x", "-1", "12g", "0x100000000"] {
            assert!(parse_number(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn h15_intervals_are_checked() {
        assert_eq!(parse_interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "x", "0", "-1", "nan", "inf", "3601"] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn h13_contradictions_are_one_line() {
        let parse = |args: &[&str]| HcaArgs::try_parse_from([&["verbena-hca"], args].concat());
        let twice = parse(&["--socket", "/a", "--control", "/a"]).unwrap().config(0);
        assert_eq!(twice.unwrap_err(), "/a: given twice");
        let macs = parse(&[
            "--socket",
            "/a",
            "--mac",
            "02:00:00:00:00:01",
            "--mac",
            "02:00:00:00:00:02",
        ]);
        assert_eq!(
            macs.unwrap().config(0).unwrap_err(),
            "2 --mac for 1 --socket: each belongs to one"
        );
        assert!(parse(&[]).is_err(), "a server without an HCA");
        assert!(parse(&["--socket", "/a", "--workers", "17"]).is_err());
        let two = parse(&["--socket", "/a", "--workers", "2", "--worker-cpu", "0,1"]);
        assert_eq!(two.unwrap().config(0).unwrap().worker_cpus, [0, 1]);
        assert_eq!(
            parse(&["--socket", "/a", "--worker-cpu", "0,1"])
                .unwrap()
                .config(0)
                .unwrap_err(),
            "2 --worker-cpu for 1 --workers: each is of one"
        );
        assert!(parse(&["--socket", "/a", "--worker-cpu", "1024"]).is_err());
    }
}
