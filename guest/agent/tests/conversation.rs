// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both ends of the line, talking over a socket pair.

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use verbena_agent::protocol::{Answer, Bytes, Exit, Op, Spawn, State, OUTPUT_LIMIT};
use verbena_agent::{serve, CallError, Client};

const SOON: Duration = Duration::from_secs(20);

fn line() -> Client {
    let (host, guest) = UnixStream::pair().unwrap();
    let writer = guest.try_clone().unwrap();
    thread::spawn(move || serve(guest, writer, || Err("this is a test".to_owned())));
    Client::new(host.try_clone().unwrap(), host)
}

fn spawn(client: &Client, script: &str, stdin: &[u8]) -> u32 {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let what = Spawn {
        argv,
        stdin: stdin.into(),
        env: [("COLOUR".into(), "violet".into())].into(),
        user: None,
    };
    match client.call(Op::Spawn(what), SOON).unwrap() {
        Answer::Started { process, .. } => process,
        other => panic!("{other:?}"),
    }
}

fn wait(client: &Client, process: u32, timeout: Duration) -> State {
    let timeout_ms = timeout.as_millis().try_into().unwrap();
    match client.call(Op::Wait { process, timeout_ms }, SOON).unwrap() {
        Answer::State(state) => state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_runs_with_its_input_environment_output_and_status() {
    let client = line();
    let process = spawn(&client, "cat; echo $COLOUR >&2; exit 3", b"\x00\xff\n");
    let state = wait(&client, process, SOON);
    assert_eq!(state.exit, Some(Exit::Code(3)));
    assert_eq!(state.stdout.0, b"\x00\xff\n");
    assert_eq!(state.stderr.text(), "violet\n");
}

#[test]
fn a_running_program_shows_its_output_and_takes_signals_while_others_wait_for_it() {
    let client = line();
    let process = spawn(
        &client,
        "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done",
        b"",
    );
    let deadline = Instant::now() + SOON;
    while wait(&client, process, Duration::ZERO).stdout.text() != "ready\n" {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(10));
    }
    thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(&client, process, SOON));
        client
            .call(
                Op::Signal {
                    process,
                    signal: libc::SIGUSR1,
                    group: false,
                },
                SOON,
            )
            .unwrap();
        let state = waiter.join().unwrap();
        assert_eq!(state.exit, Some(Exit::Code(5)));
        assert_eq!(state.stdout.text(), "ready\ncaught\n");
    });
    let again = client.call(
        Op::Signal {
            process,
            signal: libc::SIGUSR1,
            group: false,
        },
        SOON,
    );
    assert!(matches!(again, Err(CallError::Refused(_))), "{again:?}");
}

#[test]
fn killing_the_group_reaches_grandchildren_and_a_kept_pipe_does_not_hold_up_the_end() {
    let client = line();
    let process = spawn(&client, "sleep 600 & echo $!; exit 0", b"");
    let start = Instant::now();
    let state = wait(&client, process, SOON);
    assert_eq!(state.exit, Some(Exit::Code(0)));
    assert!(start.elapsed() < Duration::from_secs(10));
    let grandchild: i32 = state.stdout.text().trim().parse().unwrap();
    client
        .call(
            Op::Signal {
                process,
                signal: libc::SIGKILL,
                group: true,
            },
            SOON,
        )
        .unwrap();
    let deadline = Instant::now() + SOON;
    let gone = || match std::fs::read_to_string(format!("/proc/{grandchild}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    while !gone() {
        assert!(Instant::now() < deadline, "the grandchild lives");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_signal_is_told_apart_from_a_status() {
    let client = line();
    let process = spawn(&client, "kill -KILL $$", b"");
    assert_eq!(wait(&client, process, SOON).exit, Some(Exit::Signal(libc::SIGKILL)));
}

#[test]
fn output_beyond_the_limit_is_counted_not_kept() {
    let client = line();
    let size = OUTPUT_LIMIT + 12345;
    let process = spawn(&client, &format!("head -c {size} /dev/zero"), b"");
    let state = wait(&client, process, SOON);
    assert_eq!(state.stdout.0.len(), OUTPUT_LIMIT);
    assert_eq!(state.dropped, 12345);
}

#[test]
fn files_travel_both_ways_and_a_long_one_is_refused() {
    let client = line();
    let path = std::env::temp_dir().join(format!("verbena-agent-test-{}", std::process::id()));
    let path = path.to_str().unwrap().to_owned();
    let data = Bytes((0..=255).collect());
    client
        .call(
            Op::WriteFile {
                path: path.clone(),
                data: data.clone(),
                mode: 0o600,
            },
            SOON,
        )
        .unwrap();
    let fits = client
        .call(
            Op::ReadFile {
                path: path.clone(),
                limit: 256,
            },
            SOON,
        )
        .unwrap();
    assert_eq!(fits, Answer::File { data });
    let long = client.call(
        Op::ReadFile {
            path: path.clone(),
            limit: 255,
        },
        SOON,
    );
    assert!(matches!(long, Err(CallError::Refused(_))), "{long:?}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_cannot_be_done_is_said() {
    let client = line();
    let refused = |op| match client.call(op, SOON) {
        Err(CallError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let what = Spawn {
        argv: vec!["/nonexistent/program".into()],
        ..Spawn::default()
    };
    assert!(refused(Op::Spawn(what)).contains("/nonexistent/program"));
    assert!(refused(Op::Spawn(Spawn::default())).contains("no program"));
    assert!(refused(Op::Wait {
        process: 99,
        timeout_ms: 0
    })
    .contains("99"));
    assert!(refused(Op::ReadFile {
        path: "/nonexistent".into(),
        limit: 1
    })
    .contains("/nonexistent"));
}

#[test]
fn hello_tells_the_running_kernel() {
    let Answer::Hello { kernel, uptime_s } = line().call(Op::Hello, SOON).unwrap() else {
        panic!()
    };
    assert_eq!(
        kernel,
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim()
    );
    assert!(uptime_s > 0.0);
}

#[test]
fn a_silent_guest_times_out_and_a_dead_line_ends_every_call() {
    let (host, guest) = UnixStream::pair().unwrap();
    let client = Client::new(host.try_clone().unwrap(), host);
    let silent = client.call(Op::Hello, Duration::from_millis(50));
    assert!(matches!(silent, Err(CallError::TimedOut(_))), "{silent:?}");
    thread::scope(|scope| {
        let caller = scope.spawn(|| client.call(Op::Hello, SOON));
        thread::sleep(Duration::from_millis(50));
        drop(guest);
        assert!(matches!(caller.join().unwrap(), Err(CallError::Closed)));
    });
    assert!(matches!(client.call(Op::Hello, SOON), Err(CallError::Closed)));
}
