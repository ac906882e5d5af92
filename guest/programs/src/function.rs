// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PCI function itself, without a driver: its configuration space, its register file, its resets.
//!
//! Behind a kernel the driver is unbound meanwhile and sysfs is the way; directly, the socket's client is. Both need the
//! device for themselves: no context may be open.
#![expect(unsafe_code, reason = "registers behind a kernel are memory that is mapped")]

use anyhow::{bail, ensure, Context as _, Result};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::{Duration, Instant};
use verbena::Attachment;
use verbena_hw::pci;
use vfio_user::Client;

/// The index of PCI configuration space among vfio's regions.
const REGION_CONFIG: u32 = 7;
/// PCI Express capability: device control register, and its bit that starts a function-level reset (PCI Express Base 5.0,
/// 7.5.3.4).
const EXPRESS_ID: u8 = 0x10;
const DEVICE_CONTROL: u64 = 8;
const INITIATE_FLR: u16 = 1 << 15;
/// How long a node may take to come back.
const PATIENCE: Duration = Duration::from_secs(20);

/// A way to reset the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// What PCI Express calls function-level reset.
    FunctionLevel,
    /// The whole device's, from outside.
    Device,
}

/// A PCI function that nobody else uses.
pub struct Function(Way);

enum Way {
    Socket(Box<Client>),
    Sysfs(Sysfs),
}

/// Runs `f` on the function behind `attachment`, and gives it back to its driver afterwards, whatever `f` said.
///
/// # Errors
///
/// What `f` says; or that the function cannot be had, or does not come back.
pub fn with<T>(attachment: &Attachment, f: impl FnOnce(&mut Function) -> Result<T>) -> Result<T> {
    match attachment {
        Attachment::Direct(path) => {
            let client = Client::new(path).with_context(|| format!("cannot attach to {}", path.display()))?;
            f(&mut Function(Way::Socket(Box::new(client))))
        }
        Attachment::Kernel(node) => {
            let sysfs = Sysfs::unbind(node)?;
            let (folder, driver) = (sysfs.folder.clone(), sysfs.driver.clone());
            let result = f(&mut Function(Way::Sysfs(sysfs)));
            let bound = bind(&folder, &driver, node);
            let value = result?;
            bound?;
            Ok(value)
        }
    }
}

impl Function {
    /// `N` bytes of configuration space.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn config<const N: usize>(&mut self, offset: u64) -> Result<[u8; N]> {
        let mut data = [0; N];
        match &mut self.0 {
            Way::Socket(client) => client.region_read(REGION_CONFIG, offset, &mut data)?,
            Way::Sysfs(sysfs) => sysfs.config.read_exact_at(&mut data, offset)?,
        }
        Ok(data)
    }

    /// 16 bits of configuration space.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn config16(&mut self, offset: u64) -> Result<u16> {
        Ok(u16::from_le_bytes(self.config(offset)?))
    }

    /// 32 bits of configuration space.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn config32(&mut self, offset: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.config(offset)?))
    }

    /// The capabilities, as their ids and where they are, in the order of the list.
    ///
    /// # Errors
    ///
    /// If the list is broken.
    pub fn capabilities(&mut self) -> Result<Vec<(u8, u64)>> {
        let mut list = Vec::new();
        let [mut at] = self.config::<1>(0x34)?;
        while at != 0 {
            ensure!(at >= 0x40 && at % 4 == 0, "a capability at {at:#x}");
            ensure!(list.len() < 48, "the capability list does not end");
            let [id, next] = self.config::<2>(at.into())?;
            list.push((id, at.into()));
            at = next;
        }
        Ok(list)
    }

    /// Bytes of a BAR; 0: it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be learned.
    pub fn bar_size(&mut self, index: usize) -> Result<u64> {
        match &mut self.0 {
            Way::Socket(client) => Ok(client.region(index as u32).map_or(0, |region| region.size)),
            Way::Sysfs(sysfs) => {
                let text = fs::read_to_string(sysfs.folder.join("resource"))?;
                let line = text.lines().nth(index).context("sysfs shows too few resources")?;
                let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
                let words = line.split_whitespace().map(number).collect::<Result<Vec<_>, _>>()?;
                let &[start, end, _flags] = &words[..] else {
                    bail!("sysfs shows a resource as '{line}'")
                };
                Ok(if end == 0 { 0 } else { end - start + 1 })
            }
        }
    }

    /// Reads a register of 4 or 8 bytes.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub fn read(&mut self, offset: u32, width: u32) -> Result<u64> {
        match &mut self.0 {
            Way::Socket(client) => {
                let mut data = [0; 8];
                client.region_read(pci::BAR_REGS as u32, offset.into(), &mut data[..width as usize])?;
                Ok(u64::from_le_bytes(data))
            }
            Way::Sysfs(sysfs) => Ok(sysfs.registers.read(offset, width)),
        }
    }

    /// Writes a register of 4 or 8 bytes.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub fn write(&mut self, offset: u32, width: u32, value: u64) -> Result<()> {
        match &mut self.0 {
            Way::Socket(client) => {
                let data = value.to_le_bytes();
                client.region_write(pci::BAR_REGS as u32, offset.into(), &data[..width as usize])?;
            }
            Way::Sysfs(sysfs) => sysfs.registers.write(offset, width, value),
        }
        Ok(())
    }

    /// Resets the function. `false`: there is no such way here.
    ///
    /// # Errors
    ///
    /// If the reset fails.
    pub fn reset(&mut self, reset: Reset) -> Result<bool> {
        let capabilities = self.capabilities()?;
        match (&mut self.0, reset) {
            (Way::Socket(client), Reset::Device) => client.reset()?,
            (Way::Socket(client), Reset::FunctionLevel) => {
                let found = capabilities.iter().find(|(id, _)| *id == EXPRESS_ID);
                let (_, at) = found.context("no PCI Express capability")?;
                client.region_write(REGION_CONFIG, at + DEVICE_CONTROL, &INITIATE_FLR.to_le_bytes())?;
            }
            (Way::Sysfs(sysfs), reset) => {
                let method = match reset {
                    Reset::FunctionLevel => "flr",
                    Reset::Device => "bus",
                };
                let methods = fs::read_to_string(sysfs.folder.join("reset_method"))?;
                if !methods.split_whitespace().any(|one| one == method) {
                    return Ok(false);
                }
                fs::write(sysfs.folder.join("reset_method"), method)?;
                fs::write(sysfs.folder.join("reset"), "1").context("cannot reset")?;
            }
        }
        Ok(true)
    }
}

/// A function behind a kernel, without its driver.
struct Sysfs {
    folder: PathBuf,
    driver: PathBuf,
    config: File,
    registers: Registers,
}

impl Sysfs {
    fn unbind(node: &Path) -> Result<Self> {
        let name = node.file_name().context("a device node has a name")?;
        let folder = fs::canonicalize(Path::new("/sys/class/verbena").join(name).join("device"))
            .with_context(|| format!("{} is no device of Verbena's", node.display()))?;
        let driver = fs::canonicalize(folder.join("driver"))?;
        fs::write(driver.join("unbind"), address(&folder)?).context("cannot unbind the driver")?;
        let made = Self::new(&folder, &driver);
        if made.is_err() {
            bind(&folder, &driver, node)?;
        }
        made
    }

    fn new(folder: &Path, driver: &Path) -> Result<Self> {
        // The driver has switched it off.
        fs::write(folder.join("enable"), "1").context("cannot enable the function")?;
        Ok(Self {
            folder: folder.to_owned(),
            driver: driver.to_owned(),
            config: File::open(folder.join("config"))?,
            registers: Registers::map(&folder.join(format!("resource{}", pci::BAR_REGS)))?,
        })
    }
}

impl Drop for Sysfs {
    fn drop(&mut self) {
        // The driver enables it itself; a count too many would keep it on.
        let _ = fs::write(self.folder.join("enable"), "0");
    }
}

/// The function's address, as sysfs names it.
fn address(folder: &Path) -> Result<&str> {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.context("a PCI function has a name")
}

/// Gives a function back to its driver, and waits for its node.
fn bind(folder: &Path, driver: &Path, node: &Path) -> Result<()> {
    fs::write(driver.join("bind"), address(folder)?).context("the driver does not take the function back")?;
    let deadline = Instant::now() + PATIENCE;
    while !node.exists() {
        ensure!(Instant::now() < deadline, "{} does not come back", node.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The register file, mapped.
struct Registers(*mut u8);

/// Bytes of it.
const LENGTH: usize = pci::BAR_REGS_SIZE as usize;

impl Registers {
    fn map(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { mmap(ptr::null_mut(), LENGTH, rights, MapFlags::SHARED, &file, 0) };
        let base = base.with_context(|| format!("cannot map {}", path.display()))?;
        Ok(Self(base.cast()))
    }

    /// Where an access of `width` bytes goes.
    fn at(&self, offset: u32, width: u32) -> *mut u8 {
        let (offset, width) = (offset as usize, width as usize);
        assert!(
            offset % width == 0 && offset + width <= LENGTH,
            "inside the register file"
        );
        // SAFETY: inside the mapping, by the assertion.
        unsafe { self.0.add(offset) }
    }

    fn read(&self, offset: u32, width: u32) -> u64 {
        let at = self.at(offset, width);
        // SAFETY: inside the mapping and aligned; a device's registers, so accesses are volatile.
        unsafe {
            match width {
                8 => at.cast::<u64>().read_volatile(),
                4 => at.cast::<u32>().read_volatile().into(),
                2 => at.cast::<u16>().read_volatile().into(),
                _ => at.read_volatile().into(),
            }
        }
    }

    fn write(&self, offset: u32, width: u32, value: u64) {
        let at = self.at(offset, width);
        // SAFETY: as for `read`.
        unsafe {
            match width {
                8 => at.cast::<u64>().write_volatile(value),
                4 => at.cast::<u32>().write_volatile(value as u32),
                2 => at.cast::<u16>().write_volatile(value as u16),
                _ => at.write_volatile(value as u8),
            }
        }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.0.cast(), LENGTH) };
    }
}
