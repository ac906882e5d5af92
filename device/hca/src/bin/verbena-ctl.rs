// SPDX-License-Identifier: MIT OR Apache-2.0
//! `verbena-ctl`: see `verbena-ctl --help`.
#![forbid(unsafe_code)]

use anyhow::{bail, Result};
use clap::Parser;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use verbena_hca::cli::{CtlArgs, CtlCommand, PortState};
use verbena_hca::control::client::ask;
use verbena_hca::control::{Answer, Format, Request};
use verbena_hca::top;

fn main() -> ExitCode {
    match run(CtlArgs::parse().command) {
        Ok(text) => {
            let mut out = std::io::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                // Who reads the beginning of a dump and leaves has what it wanted.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    eprintln!("verbena-ctl: {error}");
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            eprintln!("verbena-ctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: CtlCommand) -> Result<String> {
    let (socket, request) = match command {
        CtlCommand::Dump { socket, hca, json } => {
            let format = if json { Format::Json } else { Format::Text };
            (socket, Request::Dump { hca, format })
        }
        CtlCommand::Qp {
            number,
            socket,
            hca,
            entries,
            json,
        } => {
            let format = if json { Format::Json } else { Format::Text };
            let qpn = number;
            let request = Request::Qp {
                hca,
                qpn,
                entries,
                format,
            };
            (socket, request)
        }
        CtlCommand::Top {
            socket,
            hca,
            interval,
            count,
            batch,
            json,
            plot,
        } => {
            top::run(&top::Options {
                socket,
                hca,
                interval,
                count,
                json,
                batch,
                plot,
            })?;
            return Ok(String::new());
        }
        CtlCommand::Port { state, socket, hca } => (
            socket,
            Request::Port {
                hca,
                up: state == PortState::Up,
            },
        ),
        CtlCommand::Ping { socket } => (socket, Request::Ping),
    };
    Ok(match ask(&socket, &request)? {
        Answer::Dump(serde_json::Value::String(text)) => text,
        Answer::Dump(value) => serde_json::to_string_pretty(&value)? + "\n",
        Answer::Pong {
            protocol,
            version,
            hcas,
        } => {
            format!("verbena-hca {version}, {hcas} HCA(s), control protocol {protocol}\n")
        }
        Answer::Done => String::new(),
        Answer::Error(why) => bail!(why),
    })
}
