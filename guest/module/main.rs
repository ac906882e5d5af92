// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The Linux kernel module: binds Verbena's driver to the PCI device and gives it a node in /dev.
//!
//! Here is only what is Linux: everything that a call does is `verbena_core`'s, over `rdma_uapi`. This room may know
//! both of them, the `kernel` crate, and C through `glue.h`.
//!
//! | module | idea |
//! |---|---|
//! | [`hca`] | what the parts of one HCA share: interrupts, node, the device while it works |
//! | [`linux`] | Linux as the place where the driver runs |
//! | [`memory`] | memory that the device reaches |
//! | [`file`] | open, ioctl, mmap, release |
//! | [`system`] | the system-wide node |
//! | [`foreign`] | communication ids on devices that are not ours |
//! | [`events`] | event queues as file descriptors |
//! | [`glue`] | the functions that C implements |

mod events;
mod file;
mod foreign;
mod glue;
mod hca;
mod linux;
mod memory;
mod system;

use hca::{Hca, Node, Running, StopWork, Vector, Work};
use kernel::device::{Bound, Core};
use kernel::dma::{self, DmaMask};
use kernel::error::to_result;
use kernel::irq::{Flags, ThreadedRegistration};
use kernel::pci::{self, IrqVectorRegistration};
use kernel::prelude::*;
use kernel::sizes::SZ_2G;
use kernel::sync::Arc;
use kernel::{bindings, cpu, driver, InPlaceModule};
use linux::Linux;
use memory::Reach;
use system::{Listed, System};
use verbena_core::Hardware;
use verbena_hw::pci as hw;

/// The vendor id as the kernel's type, which has constructors for assigned vendors only.
// SAFETY: The type is transparent over a u16, and every u16 is a value of it.
const VENDOR: pci::Vendor = unsafe { core::mem::transmute::<u16, pci::Vendor>(hw::VENDOR_ID) };

kernel::pci_device_table!(
    PCI_TABLE,
    <Verbena as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_id(VENDOR, hw::DEVICE_ID as u32), ())]
);

struct Verbena;

/// What exists while the driver is bound to a device. Fields are dropped in this order, each when what is above it
/// cannot use it any more; a bring-up that fails half-way undoes what was done in the same order.
struct Attached<'bound> {
    /// The device is not in the list of devices any more.
    _listed: Listed,
    /// Nobody opens the device any more, and its registers are out of all processes.
    _node: Node,
    /// No call is in the driver, the device is reset.
    _running: Running,
    /// Nothing is done at a deadline any more.
    _work: StopWork,
    /// No interrupt handler runs.
    _handlers: KVec<Pin<KBox<ThreadedRegistration<'bound, Vector>>>>,
    _vectors: KBox<IrqVectorRegistration<'bound>>,
    /// The device reaches no memory.
    _reach: Cut,
    _master: Master<'bound>,
}

/// The device may access memory.
struct Master<'bound>(&'bound pci::Device<Bound>);

impl<'bound> Master<'bound> {
    fn new(pdev: &'bound pci::Device<Core<'_>>) -> Self {
        pdev.set_master();
        Master(pdev)
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        // SAFETY: The device is bound, so it is there.
        unsafe { bindings::pci_clear_master(core::ptr::from_ref(self.0).cast_mut().cast()) }
    }
}

struct Cut(Arc<Reach>);

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.cut();
    }
}

impl pci::Driver for Verbena {
    type IdInfo = ();
    type Data<'bound> = Attached<'bound>;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        attach(pdev)
    }
}

fn attach<'bound>(pdev: &'bound pci::Device<Core<'_>>) -> Result<Attached<'bound>> {
    pdev.enable_device_mem().inspect_err(|_| {
        dev_err!(
            pdev,
            "the device cannot be enabled: its configuration space does not answer\n"
        );
    })?;
    // SAFETY: Nothing is mapped for the device yet.
    unsafe {
        dma::Device::dma_set_mask_and_coherent(pdev, DmaMask::new::<64>())?;
        dma::Device::dma_set_max_seg_size(pdev, SZ_2G as u32);
    }
    let registers = pdev
        .iomap_region_sized(hw::BAR_REGS as u32, c"verbena")?
        .into_devres()?;
    if pdev.resource_len(hw::BAR_DOORBELL as u32)? < hw::BAR_DOORBELL_SIZE {
        dev_err!(pdev, "BAR {} is too small for the doorbells\n", hw::BAR_DOORBELL);
        return Err(ENODEV);
    }
    let doorbells = (
        pdev.iomap_region_sized(hw::BAR_DOORBELL as u32, c"verbena")?
            .into_devres()?,
        pdev.resource_start(hw::BAR_DOORBELL as u32)?,
    );

    let master = Master::new(pdev);
    let reach = Cut(Reach::new(pdev.as_ref())?);
    let vectors = allocate_vectors(pdev)?;
    let count = vectors.len() as u16;

    let hca = Hca::new()?;
    let handlers = register_handlers(&vectors, &hca)?;
    let work = StopWork(Work::new(hca.clone())?);
    let linux = Linux::new(
        pdev.as_ref(),
        registers,
        doorbells,
        count,
        reach.0.clone(),
        work.0.clone(),
    )?;
    let hardware = Hardware::start(linux.clone()).map_err(|error| {
        dev_err!(pdev, "{}\n", core::format_args!("{error}"));
        Error::from_errno(error.errno().to_result())
    })?;
    let device = verbena_core::Device::try_new(hardware, linux.clone()).map_err(|refusal| {
        dev_err!(
            pdev,
            "the driver's classes do not fit: {}\n",
            core::format_args!("{refusal}")
        );
        EINVAL
    })?;
    let running = Running::new(&hca, device.clone(), count);
    let node = Node::publish(pdev.as_ref(), &linux, hca)?;
    dev_info!(pdev, "Verbena HCA, {} interrupt vectors\n", count);
    let listed = Listed::new(device)?;
    Ok(Attached {
        _listed: listed,
        _node: node,
        _running: running,
        _work: work,
        _handlers: handlers,
        _vectors: vectors,
        _reach: reach,
        _master: master,
    })
}

/// Vector 0 is the admin queue's, 1 the asynchronous events'; one more for every processor, to spread completions.
fn allocate_vectors<'bound>(pdev: &'bound pci::Device<Core<'_>>) -> Result<KBox<IrqVectorRegistration<'bound>>> {
    let wanted = cpu::nr_cpu_ids().saturating_add(2).min(u32::from(hw::MSIX_VECTORS));
    let types = pci::IrqTypes::default().with(pci::IrqType::MsiX);
    let pdev: &'bound pci::Device<Bound> = pdev;
    Ok(KBox::new(pdev.alloc_irq_vectors(1, wanted, types)?, GFP_KERNEL)?)
}

fn register_handlers<'bound>(
    vectors: &KBox<IrqVectorRegistration<'bound>>,
    hca: &Arc<Hca>,
) -> Result<KVec<Pin<KBox<ThreadedRegistration<'bound, Vector>>>>> {
    // SAFETY: The allocation is on the heap and stays there. Whoever has it drops the handlers first: in `attach`
    // because they are made later, in `Attached` because of the order of its fields.
    let vectors: &'bound IrqVectorRegistration<'bound> = unsafe { &*core::ptr::from_ref(&**vectors) };
    let mut handlers = KVec::with_capacity(vectors.len(), GFP_KERNEL)?;
    for index in 0..vectors.len() {
        let request = vectors.index(index)?;
        let vector = Vector {
            hca: hca.clone(),
            index: index as u16,
        };
        // SAFETY: It is not forgotten.
        let handler = unsafe { ThreadedRegistration::new(request.into(), Flags::ONESHOT, c"verbena", Ok(vector)) };
        handlers.push(KBox::pin_init(handler, GFP_KERNEL)?, GFP_KERNEL)?;
    }
    Ok(handlers)
}

/// The class and its device numbers.
struct Class;

impl Class {
    fn register() -> Result<Self> {
        // SAFETY: There is nothing to be met.
        to_result(unsafe { glue::verbena_glue_init() })?;
        Ok(Class)
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        // SAFETY: It was registered, and there is no node any more: the driver is unregistered before, and open files
        // hold a reference to the module.
        unsafe { glue::verbena_glue_exit() }
    }
}

#[pin_data]
struct Module {
    // Dropped in this order.
    #[pin]
    driver: driver::Registration<pci::Adapter<Verbena>>,
    system: System,
    class: Class,
}

impl InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            class: Class::register()?,
            system: System::new()?,
            driver <- driver::Registration::new(<Self as kernel::ModuleMetadata>::NAME, module),
        })
    }
}

module! {
    type: Module,
    name: "verbena",
    authors: ["The Verbena authors"],
    description: "Verbena RDMA HCA",
    license: "GPL",
}
