// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program whose reader has left ends quietly, as `verbena-info --classes | head` should.
#![expect(
    unsafe_code,
    reason = "Rust starts programs with SIGPIPE ignored, and std has no way back"
)]

/// Whoever writes to a pipe that nobody reads ends, as programs in other languages do. Before any thread is started.
pub(super) fn end_with_the_reader() {
    // SAFETY: SIG_DFL is a valid disposition of SIGPIPE, and no handler of ours is replaced.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
