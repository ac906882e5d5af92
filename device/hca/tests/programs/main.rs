// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two programs as a person or a script meets them: what they print, how they end, what they leave behind.
//!
//! A test binary of its own: while a process starts another one, its own sockets are open twice for a moment, and the
//! servers that `../suite` runs in its process would not see their clients leave.

#[path = "../patience/mod.rs"]
mod patience;

use patience::eventually;
use rustix::process::{kill_process, Pid, Signal};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use verbena_hw::regs;
use vmm_sys_util::signal::block_signal;

struct Server {
    child: Child,
}

impl Server {
    /// Starts `verbena-hca` and waits until it says that it is ready.
    fn start(sockets: &[&Path], control: Option<&Path>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_verbena-hca"));
        for socket in sockets {
            command.arg("--socket").arg(socket);
        }
        if let Some(control) = control {
            command.arg("--control").arg(control);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut expected = sockets.len() + usize::from(control.is_some());
        while expected > 0 {
            let line = lines.next().expect("the server says that it listens").unwrap();
            expected -= usize::from(line.contains("listening on "));
        }
        // Whatever else it logs must find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the server ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hca(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_verbena-hca"))
        .args(args)
        .output()
        .unwrap()
}

fn ctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_verbena-ctl"))
        .args(args)
        .output()
        .unwrap()
}

/// It failed, with one line that says why.
fn refused(output: &Output, why: &str) {
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(why), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(output.stdout.is_empty());
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("hca0"), dir.join("control"))
}

#[test]
fn h13_signals_end_the_server_and_its_sockets() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let (socket, control) = paths(dir.path());
        // Blocked in whoever starts it, as a program is that waits for its own signals: a mask is inherited.
        block_signal(signal.as_raw()).unwrap();
        let mut server = Server::start(&[&socket], Some(&control));
        let _attached = vfio_user::Client::new(&socket).unwrap();
        server.signal(signal);
        assert_eq!(server.ended(), Some(0));
        assert!(!socket.exists() && !control.exists());
    }
}

#[test]
fn h13_a_socket_in_use_is_refused_and_one_of_a_killed_server_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, control) = paths(dir.path());
    let mut first = Server::start(&[&socket], Some(&control));
    let path = socket.to_str().unwrap();
    refused(
        &hca(&["--socket", path]),
        "hca0: another server is listening on this socket",
    );
    let mut client = vfio_user::Client::new(&socket).unwrap();

    first.signal(Signal::KILL);
    assert_eq!(first.ended(), None);
    assert!(socket.exists() && control.exists(), "nobody removed them");
    let mut magic = [0; 4];
    assert!(client.region_read(0, regs::MAGIC.into(), &mut magic).is_err());

    let _second = Server::start(&[&socket], Some(&control));
    let mut client = vfio_user::Client::new(&socket).unwrap();
    client.region_read(0, regs::MAGIC.into(), &mut magic).unwrap();
    assert_eq!(u32::from_le_bytes(magic), regs::MAGIC_VALUE);
}

#[test]
fn h13_mistakes_are_one_line_and_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    refused(
        &hca(&["--socket", file.to_str().unwrap()]),
        "exists and is not a socket",
    );
    refused(
        &hca(&["--socket", "/nonexistent/hca"]),
        "/nonexistent/hca: its directory",
    );
    let (socket, _) = paths(dir.path());
    let path = socket.to_str().unwrap();
    refused(&hca(&["--socket", path, "--control", path]), "given twice");
    let mac = "02:56:42:00:00:01";
    let twins = dir.path().join("hca1");
    refused(
        &hca(&[
            "--socket",
            path,
            "--socket",
            twins.to_str().unwrap(),
            "--mac",
            mac,
            "--mac",
            mac,
        ]),
        "another HCA has this MAC address",
    );
    assert!(!socket.exists() && !twins.exists(), "what was made is removed");
    // clap's own errors take more lines and name the option.
    let unknown = hca(&["--socket", path, "--gpu"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("--gpu"));

    refused(
        &ctl(&["dump", "--socket", "/nonexistent/ctl"]),
        "no server is listening there",
    );
    refused(
        &ctl(&["dump", "--socket", file.to_str().unwrap()]),
        "no server is listening there",
    );
}

#[test]
fn h15_ctl_dumps_a_running_server_as_text_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, control) = paths(dir.path());
    let second = dir.path().join("hca1");
    let _server = Server::start(&[&socket, &second], Some(&control));
    let control = control.to_str().unwrap();
    let text = ctl(&["dump", "--socket", control]);
    assert!(text.status.success());
    let text = String::from_utf8(text.stdout).unwrap();
    for part in ["HCA 0", "HCA 1", "02:56:42:00:00:02", "MAGIC", "not attached"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    let json = ctl(&["dump", "--socket", control, "--json", "--hca", "1"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["hcas"][0]["socket"], second.to_str().unwrap());
    assert_eq!(json["hcas"][0]["device"]["objects"]["qps"], 0);
    refused(&ctl(&["dump", "--socket", control, "--hca", "2"]), "there is no HCA 2");

    let port = |state| {
        assert!(ctl(&["port", state, "--socket", control, "--hca", "1"])
            .status
            .success());
        let json = ctl(&["dump", "--socket", control, "--json", "--hca", "1"]);
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        json["hcas"][0]["device"]["port"]["state"].clone()
    };
    assert_eq!(port("down"), "DOWN");
    assert_eq!(port("up"), "ACTIVE");
    assert!(ctl(&["ping", "--socket", control]).status.success());
}

/// CPU time that a process has used, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn h13_an_idle_server_uses_no_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, control) = paths(dir.path());
    let server = Server::start(&[&socket], Some(&control));
    let _client = vfio_user::Client::new(&socket).unwrap();
    let pid = server.child.id();
    // One window of quiet is enough: a thread that polls has none.
    eventually("the server comes to rest", || {
        let before = ticks(pid);
        std::thread::sleep(std::time::Duration::from_millis(200));
        ticks(pid) == before
    });
}

#[test]
fn h15_top_shows_intervals_as_lines_as_json_and_as_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, control) = paths(dir.path());
    let _server = Server::start(&[&socket], Some(&control));
    let control = control.to_str().unwrap();
    let plot = dir.path().join("rates.svg");
    let look = ["top", "--socket", control, "--interval", "0.05", "--count", "2"];

    let lines = ctl(&[&look[..], &["--plot", plot.to_str().unwrap()]].concat());
    assert!(lines.status.success(), "{}", String::from_utf8_lossy(&lines.stderr));
    let text = String::from_utf8(lines.stdout).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.lines().skip(1).all(|line| line.contains("nobody")), "{text}");
    let picture = std::fs::read_to_string(&plot).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("messages a second"));

    let json = ctl(&[&look[..], &["--json"]].concat());
    let objects: Vec<serde_json::Value> = String::from_utf8(json.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 2);
    let rates = &objects[1]["hcas"][0]["rates"];
    assert!(rates["seconds"].as_f64().unwrap() >= 0.05, "{rates}");
    assert_eq!(rates["sent_msgs"], 0.0);

    refused(&ctl(&["top", "--socket", "/nonexistent/ctl"]), "no server is listening");
}
