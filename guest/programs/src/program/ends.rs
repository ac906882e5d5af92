// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two ends of a connection: both in this process, or one here and one where somebody else runs the same program.

use super::DeviceOptions;
use crate::harness::Wire;
use crate::link::{Link, Spec, SOON};
use anyhow::{ensure, Context as _, Result};
use verbena::{Attachment, CmAddr, CmId, CmOptions, Context, DeviceList, EventKind, EventQueue};

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

/// The communication ids of the system-wide node that connected two ends.
pub struct Ids {
    events: EventQueue,
    _active: CmId,
    _passive: CmId,
}

impl Ids {
    /// Connects two links that are in this process, on whichever devices.
    fn connect(list: &DeviceList, a: &mut Link, b: &mut Link) -> Result<Self> {
        let events = list.context().create_event_queue()?;
        let listener = CmId::new(list.context(), &events, 0)?;
        let port = listener.bind(CmAddr::any(0))?.port;
        listener.listen(1)?;
        let active = CmId::new(list.context(), &events, 0)?;
        active.connect(&mut a.qp, CmAddr::new(b.ctx.gid(1, 0)?, port), &CmOptions::new())?;
        let request = events.next_event(Some(SOON))?.context("no request comes")?;
        let passive = CmId::requested(&listener, &request).context("what comes is no request")?;
        passive.accept(&mut b.qp, &CmOptions::new())?;
        let ids = Self {
            events,
            _active: active,
            _passive: passive,
        };
        ids.hear(EventKind::CmEstablished)?;
        a.qp.update_state()?;
        Ok(ids)
    }

    /// Waits until both ids have heard of `kind`, and of nothing else.
    ///
    /// # Errors
    ///
    /// They hear of something else, or of nothing for [`SOON`].
    pub fn hear(&self, kind: EventKind) -> Result<()> {
        for _ in 0..2 {
            let event = self.events.next_event(Some(SOON))?;
            let event = event.with_context(|| format!("no id hears {kind:?}"))?;
            ensure!(event.kind == kind, "an id hears {:?} instead of {kind:?}", event.kind);
        }
        Ok(())
    }
}

impl EndsOptions {
    /// Opens what is to be here, both ends, and connects them by communication ids of the system-wide node.
    ///
    /// # Errors
    ///
    /// What the device or the node refuses; one end is to be elsewhere.
    pub fn meet_by_ids(&self, spec: &Spec) -> Result<(Meeting, Ids)> {
        ensure!(
            self.listen.is_none() && self.connect.is_none(),
            "ids of the node connect two ends of one process: leave out --listen and --connect"
        );
        let here = Context::open(&self.device.attach)?;
        let there = Context::open(self.right.as_ref().unwrap_or(&self.device.attach))?;
        let list = DeviceList::beside(&self.device.attach)?;
        let (mut a, mut b) = (Link::new(&here, spec)?, Link::new(&there, spec)?);
        let ids = Ids::connect(&list, &mut a, &mut b)?;
        Ok((Meeting::Both(a, Box::new(b)), ids))
    }

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
