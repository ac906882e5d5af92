// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs share: options, how they end, numbers as people write and read them.

pub mod ends;
pub mod mappings;
pub mod measure;
mod pipe;
pub mod spin;
pub mod stream;

use anyhow::{bail, Context as _, Result};
use std::process::ExitCode;
use verbena::Attachment;

pub use ends::{EndsOptions, Meeting};

/// Where the device is.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceOptions {
    /// How to reach the device: `kernel` (through the kernel module), `kernel:/dev/verbena1`, or `direct:/path/of/socket`
    /// (the device's own vfio-user socket, without a guest).
    #[arg(long, value_name = "ATTACH", default_value = "kernel")]
    pub attach: Attachment,
}

/// Runs a program: what it returns becomes its exit code, an error one line on stderr and exit code 1.
pub fn main(name: &str, run: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    pipe::end_with_the_reader();
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{name}: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each that has not been said already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Exit code of a program that counts errors.
pub fn exit_code(errors: u64) -> ExitCode {
    if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether the error says that the device is gone, at whatever depth.
pub fn is_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<verbena::Error>() {
        Some(error) => error.is_gone(),
        None => cause.downcast_ref::<verbena::PostError>() == Some(&verbena::PostError::DeviceGone),
    })
}

/// A size as people write it: `4096`, `64K`, `1M`.
///
/// # Errors
///
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<usize> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number: usize = digits
        .parse()
        .with_context(|| format!("`{text}` is no size: write 4096, 64K or 1M"))?;
    match number.checked_mul(factor) {
        // The longest message is 2^31 bytes; the memory for a few of them should be there.
        Some(size) if size <= 256 << 20 => Ok(size),
        _ => bail!("{text} is more than 256M"),
    }
}

/// A number of bytes for people.
pub fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..=9999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        10_000_000..=9_999_999_999 => format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64),
        _ => format!("{:.1} GiB", bytes as f64 / (1 << 30) as f64),
    }
}

/// Writes one line to stderr with one write(2): what a tracer of system calls finds.
pub fn mark(line: &str) {
    use std::io::Write as _;
    // Stderr has no buffer, and nobody could be told that it is closed.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, size) in [
            ("0", 0),
            ("63", 63),
            ("4K", 4096),
            ("64k", 65_536),
            ("1M", 1 << 20),
            ("256m", 256 << 20),
        ] {
            assert_eq!(parse_size(text).unwrap(), size, "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "1.5K",
            "257M",
            "99999999999999999999",
            "18014398509481984K",
            "4096B",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_says_nothing_twice() {
        let error = anyhow::anyhow!("no such file")
            .context("a.sock cannot be opened: no such file")
            .context("opening");
        assert_eq!(one_line(&error), "opening: a.sock cannot be opened: no such file");
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(9999), "9999 B");
        assert_eq!(bytes_text(20_480), "20.0 KiB");
        assert_eq!(bytes_text(64 << 20), "64.0 MiB");
        assert_eq!(bytes_text(20 << 30), "20.0 GiB");
    }
}
