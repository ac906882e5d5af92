// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! XRC domains, and which file each is shared by.

use crate::driver::{end, Handling, Payload};
use crate::platform::Platform;
use crate::Verbena;
use rdma_uapi::class::xrcd::{flag, XrcdMembers, FILE, FLAGS, MEMBERS, XRCDN};
use rdma_uapi::failure::Outcome;
use rdma_uapi::{Ending, Errno, Reason};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{HandleReq, HandleRsp, QueryXrcdRsp};

/// A context's part in a domain.
pub struct Xrcd {
    pub(crate) xrcdn: u32,
    /// Others may have it too: it is in [`crate::hardware::Hardware::xrcds`].
    shared: bool,
}

/// A domain that a file stands for.
pub(crate) struct Shared<P: Platform> {
    file: P::File,
    xrcdn: u32,
    /// Objects of it, in all contexts: at least one.
    objects: u32,
}

pub(crate) fn create<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let hardware = call.device();
    let flags = call.get(FLAGS)?.unwrap_or(0);
    if flags & !flag::ALL != 0 {
        return Err(call.fail(FLAGS, Errno::EINVAL, Reason::UNKNOWN_FLAG));
    }
    let file = match call.get(FILE)? {
        Some(fd) => {
            let file = hardware.platform.file(call.context().owner(), fd);
            Some(file.map_err(|errno| call.fail(FILE, errno, Reason::NO_OBJECT))?)
        }
        None => None,
    };
    let reservation = call.reserve()?;
    let new = || -> Outcome<u32> {
        let response: HandleRsp = hardware.command(Opcode::CREATE_XRCD, &())?;
        Ok(response.handle)
    };
    let shared = file.is_some();
    let xrcdn = match file {
        None => new()?,
        Some(file) => {
            // Held over the command: of two that come at once, the second finds what the first has made.
            let mut all = hardware.xrcds.lock();
            match all.iter_mut().find(|there| there.file == file) {
                Some(_) if flags == flag::ALL => return Err(call.fail(FILE, Errno::EEXIST, Reason::IN_USE)),
                Some(there) => {
                    there.objects += 1;
                    there.xrcdn
                }
                None if flags & flag::CREATE == 0 => return Err(call.fail(FILE, Errno::ENOENT, Reason::NO_OBJECT)),
                None => {
                    all.reserve(1)?;
                    let xrcdn = new()?;
                    let objects = 1;
                    let pushed = all.push(Shared { file, xrcdn, objects });
                    debug_assert!(pushed.is_ok(), "there was room for it");
                    xrcdn
                }
            }
        }
    };
    call.publish(reservation, Some(Payload::Xrcd(Xrcd { xrcdn, shared })), &[]);
    call.put(XRCDN, &xrcdn)
}

pub(crate) fn query<P: Platform>(call: &mut Handling<'_, P>) -> Outcome {
    let Payload::Xrcd(xrcd) = call.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    let xrcdn = xrcd.xrcdn;
    if call.has(MEMBERS) {
        let request = HandleReq {
            handle: xrcdn,
            reserved: 0,
        };
        let state: QueryXrcdRsp = call.device().command(Opcode::QUERY_XRCD, &request)?;
        let members = XrcdMembers {
            srqs: state.srqs,
            targets: state.targets,
        };
        call.put(MEMBERS, &members)?;
    }
    call.put(XRCDN, &xrcdn)
}

pub(crate) fn release<P: Platform>(ending: &Ending<'_, Verbena<P>>) -> Outcome {
    let Some(Payload::Xrcd(xrcd)) = ending.object.payload() else {
        unreachable!("the dispatcher checked the class")
    };
    if !xrcd.shared {
        return Ok(end(ending, Opcode::DESTROY_XRCD, xrcd.xrcdn)?);
    }
    let mut all = ending.device().xrcds.lock();
    let Some(at) = all.iter().position(|there| there.xrcdn == xrcd.xrcdn) else {
        unreachable!("it is there as long as it has objects")
    };
    if all[at].objects > 1 {
        all[at].objects -= 1;
        return Ok(());
    }
    end(ending, Opcode::DESTROY_XRCD, xrcd.xrcdn)?;
    all.swap_remove(at);
    Ok(())
}
