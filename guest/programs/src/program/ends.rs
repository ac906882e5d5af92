// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two ends of a connection: both in this process, or one here and one where somebody else runs the same program.

use super::DeviceOptions;
use crate::harness::Wire;
use crate::link::{Link, Spec};
use anyhow::{ensure, Result};
use verbena::{Attachment, Context};

/// Where the two ends are.
#[derive(Clone, Debug, clap::Args)]
pub struct EndsOptions {
    #[command(flatten)]
    device: DeviceOptions,
    /// The device of the second end, when both ends are here and on two devices.
    #[arg(long, value_name = "ATTACH", conflicts_with_all = ["listen", "connect"])]
    right: Option<Attachment>,
    /// Be one end, and wait for the other at HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "connect")]
    listen: Option<String>,
    /// Be one end, and connect to the other, which listens at HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Sleep until completions come instead of polling for them.
    #[arg(long)]
    pub sleep: bool,
}

/// The ends that are in this process, connected.
pub enum Meeting {
    /// Both.
    Both(Link, Box<Link>),
    /// The one that begins, and the line to the other.
    First(Link, Wire),
    /// The one that answers, and the line to the other.
    Second(Link, Wire),
}

impl EndsOptions {
    /// Opens and connects what is to be here. The program on the other side must have been started for the same `task`:
    /// whatever both must agree on, as a text.
    ///
    /// # Errors
    ///
    /// What the device refuses; the other side's absence, or another task of it.
    pub fn meet(&self, spec: &Spec, task: &str) -> Result<Meeting> {
        let ctx = Context::open(&self.device.attach)?;
        let mut wire = match (&self.listen, &self.connect) {
            (Some(address), _) => Wire::listen(address)?,
            (None, Some(address)) => Wire::connect(address)?,
            (None, None) => {
                let second = Context::open(self.right.as_ref().unwrap_or(&self.device.attach))?;
                let (a, b) = Link::pair(&ctx, &second, spec)?;
                return Ok(Meeting::Both(a, Box::new(b)));
            }
        };
        let theirs: String = wire.exchange(&task.to_owned())?;
        ensure!(
            theirs == task,
            "the other side wants `{theirs}`, this side `{task}`: give both the same options"
        );
        let link = Link::meet(&ctx, &mut wire, spec)?;
        Ok(if self.listen.is_some() {
            Meeting::First(link, wire)
        } else {
            Meeting::Second(link, wire)
        })
    }

    /// What is used, for reports.
    pub fn describe(&self) -> String {
        let here = self.device.attach.to_string();
        match (&self.listen, &self.connect, &self.right) {
            (Some(address), ..) => format!("{here}, with whoever comes to {address}"),
            (_, Some(address), _) => format!("{here}, with {address}"),
            (.., Some(right)) => format!("{here} and {right}"),
            _ => format!("{here}, both ends here"),
        }
    }
}
