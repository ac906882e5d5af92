// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's end: reads requests until the line closes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::process::Process;
use crate::protocol::{Answer, Op, Reply, Request};

/// What [`Op::PowerOff`] does; an argument, so that the tests do not power off the machine they run on.
pub type Power = fn() -> Result<(), String>;

struct Agent<W> {
    writer: Mutex<W>,
    processes: Mutex<Processes>,
    power: Power,
}

#[derive(Default)]
struct Processes {
    last: u32,
    by_id: HashMap<u32, Arc<Process>>,
}

/// Serves requests from `reader`, answering on `writer`, until `reader` ends.
///
/// # Errors
///
/// If `reader` fails. A line that is no request is answered with an error (id 0) and otherwise ignored.
pub fn serve<R, W>(reader: R, writer: W, power: Power) -> std::io::Result<()>
where
    R: Read,
    W: Write + Send + 'static,
{
    let agent = Arc::new(Agent {
        writer: Mutex::new(writer),
        processes: Mutex::new(Processes::default()),
        power,
    });
    for line in BufReader::new(reader).lines() {
        let line = line?;
        match serde_json::from_str::<Request>(&line) {
            // Waiting takes as long as it takes: that one gets a thread of its own.
            Ok(Request {
                id,
                op: Op::Wait { process, timeout_ms },
            }) => {
                let agent = Arc::clone(&agent);
                thread::spawn(move || {
                    let result = agent.process(process);
                    let result = result.map(|it| Answer::State(it.wait(Duration::from_millis(timeout_ms))));
                    agent.reply(id, result);
                });
            }
            Ok(Request { id, op: Op::PowerOff }) => {
                agent.reply(id, Ok(Answer::Done));
                if let Err(error) = (agent.power)() {
                    agent.reply(0, Err(error));
                }
            }
            Ok(Request { id, op }) => agent.reply(id, agent.perform(op)),
            Err(error) => agent.reply(0, Err(format!("no request: {error}"))),
        }
    }
    Ok(())
}

impl<W: Write> Agent<W> {
    fn reply(&self, id: u64, result: Result<Answer, String>) {
        let mut line = serde_json::to_vec(&Reply { id, result }).expect("replies are plain data");
        line.push(b'\n');
        let mut writer = self.writer.lock().expect("no thread panics while it writes");
        // If the host is gone, nobody is left to be told; the reading side sees the end of the line as well.
        let _ = writer.write_all(&line).and_then(|()| writer.flush());
    }

    fn process(&self, id: u32) -> Result<Arc<Process>, String> {
        let processes = self.processes.lock().expect("no thread panics while it holds this");
        processes
            .by_id
            .get(&id)
            .cloned()
            .ok_or_else(|| format!("there is no process {id}"))
    }

    fn perform(&self, op: Op) -> Result<Answer, String> {
        match op {
            Op::Hello => hello(),
            Op::Spawn(what) => {
                let process = Arc::new(Process::spawn(&what)?);
                let pid = process.pid();
                let mut processes = self.processes.lock().expect("no thread panics while it holds this");
                processes.last += 1;
                let id = processes.last;
                processes.by_id.insert(id, process);
                Ok(Answer::Started { process: id, pid })
            }
            Op::Signal { process, signal, group } => {
                let result = self.process(process)?.signal(signal, group);
                result.map_err(|error| format!("cannot signal process {process}: {error}"))?;
                Ok(Answer::Done)
            }
            Op::ReadFile { path, limit } => read_file(&path, limit),
            Op::WriteFile { path, data, mode } => {
                let file = fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(mode)
                    .open(&path);
                let result = file.and_then(|mut file| file.write_all(&data.0));
                result.map_err(|error| format!("cannot write {path}: {error}"))?;
                Ok(Answer::Done)
            }
            Op::Wait { .. } | Op::PowerOff => unreachable!("these two are serve's own"),
        }
    }
}

fn hello() -> Result<Answer, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
    let uptime = read("/proc/uptime")?;
    let seconds = uptime.split(' ').next().and_then(|word| word.parse().ok());
    Ok(Answer::Hello {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        uptime_s: seconds.ok_or_else(|| format!("/proc/uptime says {uptime:?}"))?,
    })
}

fn read_file(path: &str, limit: u64) -> Result<Answer, String> {
    let mut data = Vec::new();
    // One byte more than allowed, to tell "just fits" from "too long"; sizes of files in /proc and /sys are fiction.
    let result = File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut data));
    result.map_err(|error| format!("cannot read {path}: {error}"))?;
    if data.len() as u64 > limit {
        return Err(format!("{path} is longer than {limit} bytes"));
    }
    Ok(Answer::File {
        data: data.as_slice().into(),
    })
}
