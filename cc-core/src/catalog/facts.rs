//! What a catalog says of an instance type. Absent means unknown, unless a field says otherwise.

use serde::{Deserialize, Serialize};

/// An instance type: a machine that a provider offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceType {
    /// Who offers it: `ec2`, `gcp`, `local`.
    pub provider: String,
    /// Its provider's name for it, such as `t3.xlarge`.
    pub name: String,
    /// The family that it belongs to, such as `t3`.
    pub family: String,
    /// Virtual processors.
    pub vcpus: Option<u32>,
    /// Physical cores.
    pub cores: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// EC2 compute units; published for few, old types.
    pub ecu: Option<f32>,
    /// Its processor.
    pub processor: Processor,
    /// Its accelerators; `None` means that it has none.
    pub accelerators: Option<Accelerators>,
    /// Its instance store. Types without one have 0 bytes of it.
    pub storage: Option<Storage>,
    /// Its network.
    pub network: Network,
    /// Strategies of placement groups that it can be in: `cluster`, `partition`, `spread`.
    pub placement: Vec<String>,
    /// On what terms it can be had.
    pub tenure: Tenure,
    /// Where it is offered and for how much; empty if that is not known.
    pub offers: Vec<Offer>,
}

/// A processor, with names of platform types.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// Who makes it.
    pub manufacturer: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// Its microarchitecture.
    pub microarchitecture: Option<String>,
    /// Its instruction set.
    pub isa: Option<String>,
}

/// The accelerators of a machine, all of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accelerators {
    /// The model, a platform type's name.
    pub model: String,
    /// How many; a part of one is less than 1.
    pub count: f64,
    /// The nominal memory of each in bytes.
    pub memory: Option<u64>,
}

/// An instance store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Bytes in all; 0 if there is none.
    pub bytes: u64,
    /// What it is made of, a platform type's name.
    pub kind: Option<String>,
}

/// A network interface, in bits per second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What can be had all the time.
    pub baseline: Option<u64>,
    /// What can be had for a while.
    pub burst: Option<u64>,
    /// Interfaces of the Elastic Fabric Adapter.
    pub efa: Option<u32>,
}

/// On what terms a type can be had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// By the hour.
    pub on_demand: bool,
    /// From what is left over, at a lower price.
    pub spot: bool,
    /// In blocks that are reserved beforehand, for a fixed time.
    pub capacity_block: bool,
    /// Only on a host that is reserved as a whole.
    pub dedicated_host: bool,
    /// Its processor's full speed can be had for a while only.
    pub burstable: bool,
    /// It is a whole machine without a hypervisor.
    pub bare_metal: bool,
}

/// Where an instance type can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The region's number in the catalog.
    pub region: u16,
    /// A bit for each of the region's zones.
    pub zones: u16,
    /// The on-demand price of an hour, shared tenancy, Linux.
    pub price: Option<Price>,
}

/// A price of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Price {
    /// In millionths of a US dollar.
    pub micro_dollars: u32,
    /// The number of its source in the catalog.
    pub source: u8,
}

impl Price {
    /// In US dollars.
    pub fn dollars(self) -> f64 {
        f64::from(self.micro_dollars) / 1e6
    }
}

/// A region of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The provider.
    pub provider: String,
    /// Its name, such as `us-east-1`.
    pub name: String,
    /// Its zones.
    pub zones: Vec<Zone>,
}

/// A zone of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// What it is called in every account, such as `use1-az1`.
    pub id: String,
    /// A name such as `us-east-1a`, which means another zone in another account: which of the ids
    /// it is, only the account's owner can ask.
    pub name: String,
}

/// A family of instance types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// Who offers it.
    pub provider: String,
    /// Its name, such as `t3a`.
    pub name: String,
    /// The family that it is a variant of, such as `t3`.
    pub parent: Option<String>,
}

/// Where facts or prices are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What it is.
    pub name: String,
    /// The day that it speaks of, as year-month-day.
    pub date: String,
}
