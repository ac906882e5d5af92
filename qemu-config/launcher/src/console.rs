// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a guest's console: its end, for error messages, and what the kernel complained about.

use std::fs;
use std::path::Path;

use crate::process::last_lines;

/// What a kernel says when something is wrong that no test should get away with.
const COMPLAINTS: [&str; 18] = [
    "BUG:",
    "WARNING: ",
    "Oops",
    "general protection fault",
    "Kernel panic",
    "kernel BUG at",
    "Unable to handle kernel",
    "unable to handle page fault",
    "refcount_t:",
    "rust_kernel: panicked",
    "UBSAN:",
    "KASAN:",
    "DEBUG_LOCKS_WARN_ON",
    "possible recursive locking",
    "possible circular locking",
    "blocked for more than",
    "detected stalls",
    "list_add corruption",
];

/// The last lines of a console, without the escape sequences that firmware likes.
pub fn tail(path: &Path, lines: usize) -> String {
    last_lines(&text(path), lines)
}

/// The last lines of what a program said, its errors after its output.
pub fn last_lines_of(stdout: &str, stderr: &str) -> String {
    let both = [last_lines(stdout, 6), last_lines(stderr, 6)];
    let both: Vec<_> = both
        .iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .collect();
    if both.is_empty() {
        "nothing".to_owned()
    } else {
        both.join("\n")
    }
}

/// The console as text.
pub fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.chars()
        .filter(|c| *c == '\n' || *c == '\t' || !c.is_control())
        .collect()
}

/// The kernel's complaints in a text, each with what follows it: up to the end of the trace, or `CONTEXT` lines.
pub fn complaints(text: &str) -> Vec<String> {
    const CONTEXT: usize = 30;
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if !COMPLAINTS.iter().any(|complaint| lines[at].contains(complaint)) {
            at += 1;
            continue;
        }
        let rest = &lines[at..lines.len().min(at + CONTEXT)];
        let end = rest
            .iter()
            .position(|line| line.contains("---[ end"))
            .map_or(rest.len(), |end| end + 1);
        found.push(rest[..end].join("\n"));
        at += end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found_with_their_trace() {
        let text =
            "[ 1.0] all is well\n[ 2.0] WARNING: CPU: 0 PID: 1 at x.c:3\n[ 2.0] RIP: y\n[ 2.0] ---[ end trace ]---\n\
            [ 3.0] verbena: up\n[ 4.0] BUG: kernel NULL pointer dereference\n[ 4.1] more\n";
        let found = complaints(text);
        assert_eq!(found.len(), 2);
        assert!(found[0].ends_with("end trace ]---") && found[0].contains("RIP"));
        assert!(found[1].starts_with("[ 4.0] BUG") && found[1].ends_with("more"));
    }

    #[test]
    fn an_ordinary_boot_has_none() {
        let text = "[ 7.1] clocksource: Watchdog remote CPU 1 read timed out\n[ 0.1] Spectre V2 : Mitigation\n";
        assert!(complaints(text).is_empty());
    }

    #[test]
    fn a_console_that_is_not_there_is_empty() {
        assert_eq!(tail(Path::new("/nonexistent"), 5), "");
    }
}
