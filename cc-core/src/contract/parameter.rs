//! The assumption parameters that speak of instances: their names, and what their values are.

use std::fmt;

use crate::platform::Kind;
use crate::quantity::{Least, Printed, Quantity, Unit};

/// An instance parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parameter {
    /// Who makes the nodes.
    NodeProvider,
    /// Region or zone.
    ClusterLocale,
    /// Type or family of instances.
    NodeMachinetype,
    /// Memory of a node.
    NodeMemorySize,
    /// EC2 compute units of a node.
    NodeEcuCount,
    /// Virtual processors of a node.
    NodeVcpusCount,
    /// Accelerators of a node.
    AcceleratorCount,
    /// Nominal memory of each accelerator.
    AcceleratorMemory,
    /// GPU, FPGA, …
    AcceleratorType,
    /// Who makes the accelerators.
    AcceleratorManufacturer,
    /// Generation of the accelerators.
    AcceleratorArchitecture,
    /// Model of the accelerators.
    Accelerator,
    /// Who makes the processor.
    ProcessorManufacturer,
    /// Generation of the processor.
    ProcessorMicroarchitecture,
    /// Model of the processor.
    Processor,
    /// Instruction set.
    ProcessorIsa,
    /// What the instance store is made of.
    StorageType,
    /// Bytes of the instance store.
    StorageSize,
    /// Baseline of the network.
    NetworkPerformance,
    /// What the network can do for a while.
    NetworkBurst,
    /// Elastic Fabric Adapter interfaces.
    Efa,
    /// On demand or spot.
    Market,
    /// The most that a node may cost an hour.
    MaxPrice,
}

/// What a parameter's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Platform types.
    Type(Kind),
    /// Numbers.
    Number(Unit),
    /// A [`Market`].
    Market,
}

/// How instances are paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    /// By the hour, for as long as wanted.
    #[default]
    OnDemand,
    /// What is left over: cheaper, and may be taken away at any time.
    Spot,
}

impl fmt::Display for Market {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        })
    }
}

use Domain::{Number, Type};
use Parameter as P;

/// Parameter, name, other names, values, and a line of help.
type Row = (
    P,
    &'static str,
    &'static [&'static str],
    Domain,
    &'static str,
);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (P::NodeProvider, "node_provider", &[], Type(Kind::Provider), "who makes the nodes: ec2, gcp, local"),
    (P::ClusterLocale, "cluster_locale", &[], Type(Kind::Locale), "region or zone: us-east-1, use1-az4"),
    (P::NodeMachinetype, "node_machinetype", &["node_machine_type"], Type(Kind::MachineType), "type or family: t3.xlarge, EC2Type_T3"),
    (P::NodeMemorySize, "node_memory_size", &[], Number(Unit::BinaryBytes), "memory of a node: >=256G (G is GiB)"),
    (P::NodeEcuCount, "node_ecu_count", &[], Number(Unit::Count), "EC2 compute units, known for few types"),
    (P::NodeVcpusCount, "node_vcpus_count", &["node_vcpus_unit"], Number(Unit::Count), "virtual processors of a node"),
    (P::AcceleratorCount, "accelerator_count", &[], Number(Unit::Count), "accelerators of a node"),
    (P::AcceleratorMemory, "accelerator_memory", &["accelerator_memory_size"], Number(Unit::BinaryBytes), "nominal memory of each accelerator"),
    (P::AcceleratorType, "accelerator_type", &[], Type(Kind::AcceleratorType), "GPU, FPGA, ASIC, …"),
    (P::AcceleratorManufacturer, "accelerator_manufacturer", &[], Type(Kind::Manufacturer), "NVIDIA, AMD, AWS, …"),
    (P::AcceleratorArchitecture, "accelerator_architecture", &["accelerator_arch"], Type(Kind::AcceleratorArchitecture), "Ada, >=Ampere, …"),
    (P::Accelerator, "accelerator", &[], Type(Kind::Accelerator), "model: NVIDIA_L4"),
    (P::ProcessorManufacturer, "processor_manufacturer", &[], Type(Kind::Manufacturer), "Intel, AMD, AWS, …"),
    (P::ProcessorMicroarchitecture, "processor_microarchitecture", &[], Type(Kind::ProcessorMicroarchitecture), "IceLake, >=Zen3, Graviton4, …"),
    (P::Processor, "processor", &[], Type(Kind::Processor), "model: AMDEPYC_7R13"),
    (P::ProcessorIsa, "processor_isa", &[], Type(Kind::ProcessorIsa), "x86_64 or aarch64"),
    (P::StorageType, "storage_type", &[], Type(Kind::StorageType), "what the instance store is made of: NVMeSSD"),
    (P::StorageSize, "storage_size", &[], Number(Unit::DecimalBytes), "bytes of the instance store, 0 without one"),
    (P::NetworkPerformance, "network_performance", &[], Number(Unit::BitsPerSecond), "baseline of the network in bits per second"),
    (P::NetworkBurst, "network_burst", &[], Number(Unit::BitsPerSecond), "what the network can do for a while"),
    (P::Efa, "efa", &[], Number(Unit::Count), "Elastic Fabric Adapter: true, or a number of interfaces"),
    (P::Market, "market", &[], Domain::Market, "on-demand (the default) or spot"),
    (P::MaxPrice, "max_price", &[], Number(Unit::Dollars), "the most that a node may cost, in dollars an hour"),
];

impl Parameter {
    /// Those that say the same of every node of a cluster, whichever role they are said of.
    pub(crate) const OF_ALL_ROLES: [Self; 2] = [Self::NodeProvider, Self::ClusterLocale];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        // The table is in the order of the variants, which a test checks.
        &TABLE[self as usize]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Other names that it is known by.
    pub fn aliases(self) -> &'static [&'static str] {
        self.row().2
    }

    /// What its values are.
    pub fn domain(self) -> Domain {
        self.row().3
    }

    /// A line of help.
    pub fn about(self) -> &'static str {
        self.row().4
    }

    /// A parameter by one of its names.
    pub fn find(name: &str) -> Option<Self> {
        Self::all().find(|p| p.name() == name || p.aliases().contains(&name))
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is asked of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Requirement {
    /// A number in a range.
    Quantity(Quantity),
    /// A platform type, or what is below it.
    Type(String),
    /// A generation, or a newer one of the same line.
    AtLeastType(String),
    /// How instances are paid for.
    Market(Market),
}

impl From<Quantity> for Requirement {
    fn from(quantity: Quantity) -> Self {
        Self::Quantity(quantity)
    }
}

/// What may be given for a parameter whose values are platform types: a name, or
/// [`at_least`](super::at_least) a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeAssumption(pub(super) Requirement);

impl<T: Into<String>> From<T> for TypeAssumption {
    fn from(name: T) -> Self {
        Self(Requirement::Type(name.into()))
    }
}

impl Least for &str {
    type Assumption = TypeAssumption;

    fn at_least(self) -> TypeAssumption {
        TypeAssumption(Requirement::AtLeastType(self.to_owned()))
    }
}

impl Requirement {
    /// As contracts write it behind the parameter's name: `>= 256G`, `= Ada`.
    pub fn print(&self, parameter: Parameter) -> String {
        match self {
            Self::Quantity(quantity) => {
                let unit = match parameter.domain() {
                    Number(unit) => unit,
                    _ => Unit::Count,
                };
                Printed(*quantity, unit).to_string()
            }
            Self::Type(name) => format!("= {name}"),
            Self::AtLeastType(name) => format!(">= {name}"),
            Self::Market(market) => format!("= {market}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_names_are_unique() {
        let mut names = std::collections::HashSet::new();
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{}", row.1);
            for name in std::iter::once(&row.1).chain(row.2) {
                assert!(names.insert(*name), "{name}");
                assert_eq!(Parameter::find(name), Some(row.0));
            }
        }
    }
}
