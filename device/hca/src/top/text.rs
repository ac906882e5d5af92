// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line for each HCA and interval, in the manner of vmstat.

use super::sample::Interval;
use std::io::{self, Write};

/// Intervals between two headings.
pub const LINES_A_HEADING: u64 = 20;

/// The heading.
///
/// # Errors
///
/// Whatever the output says.
pub fn heading(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>4} {:>7} {:>6} {:>5} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8}",
        "hca", "port", "QPs", "ERR", "sent/s", "rcvd/s", "out", "in", "trapped/s", "errors/s"
    )
}

/// An interval's lines.
///
/// # Errors
///
/// Whatever the output says.
pub fn lines(out: &mut impl Write, interval: &Interval) -> io::Result<()> {
    for hca in &interval.hcas {
        let port = if hca.attached { hca.port.as_str() } else { "nobody" };
        let count = |state| hca.qp_states.get(state).copied().unwrap_or(0);
        let all: u64 = hca.qp_states.values().sum();
        write!(out, "{:>4} {port:>7} {all:>6} {:>5}", hca.hca, count("ERR"))?;
        match hca.rates {
            Some(rates) => writeln!(
                out,
                " {:>10} {:>10} {:>10} {:>10} {:>10} {:>8}",
                number(rates.sent_msgs),
                number(rates.rcvd_msgs),
                bytes(rates.sent_bytes),
                bytes(rates.rcvd_bytes),
                number(rates.doorbells_trapped),
                number(rates.errors),
            )?,
            None => writeln!(out, "  the device was reset")?,
        }
    }
    Ok(())
}

/// A number as people read it: `950`, `12.3k`, `4.56M`.
pub fn number(value: f64) -> String {
    match value {
        v if v < 9_999.5 => format!("{v:.0}"),
        v if v < 999_950.0 => format!("{:.1}k", v / 1e3),
        v if v < 999_950_000.0 => format!("{:.2}M", v / 1e6),
        v => format!("{:.2}G", v / 1e9),
    }
}

/// Bytes a second, in powers of 1000 as links are measured.
pub fn bytes(value: f64) -> String {
    match value {
        v if v < 999.5 => format!("{v:.0} B/s"),
        v if v < 999_950.0 => format!("{:.1} kB/s", v / 1e3),
        v if v < 999_950_000.0 => format!("{:.1} MB/s", v / 1e6),
        v => format!("{:.2} GB/s", v / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h15_numbers_are_short() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(9_999.0), "9999");
        assert_eq!(number(12_345.0), "12.3k");
        assert_eq!(number(4_561_000.0), "4.56M");
        assert_eq!(bytes(512.0), "512 B/s");
        assert_eq!(bytes(1_234_567.0), "1.2 MB/s");
        assert_eq!(bytes(12_340_000_000.0), "12.34 GB/s");
    }
}
