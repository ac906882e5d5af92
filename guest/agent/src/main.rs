// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's agent: `verbena-agent /dev/virtio-ports/org.verbena.agent`.

use std::fs::File;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: verbena-agent PORT")?;
    let named = || format!("cannot open {}", path.to_string_lossy());
    let port = File::options().read(true).write(true).open(&path).with_context(named)?;
    let writer = port.try_clone().context("cannot duplicate the port's descriptor")?;
    verbena_agent::serve(port, writer, power_off).context("the line to the host failed")?;
    // The host closed the line without a word: there is nobody left whom this guest could serve.
    power_off().map_err(anyhow::Error::msg)
}

fn power_off() -> Result<(), String> {
    // SAFETY: neither call takes a pointer. The second does not return if it succeeds.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    Err(format!("cannot power off: {}", std::io::Error::last_os_error()))
}
