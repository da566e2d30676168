//! Assumptions about one kind of node, by parameter.

use std::collections::BTreeMap;

use super::parameter::{Market, Parameter, Requirement, TypeAssumption};
use crate::quantity::{Quantity, at_most};

/// What is assumed of a node: at most one requirement for each parameter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assumptions {
    all: BTreeMap<Parameter, Requirement>,
}

impl Assumptions {
    /// Sets or replaces the requirement of a parameter.
    pub fn set(&mut self, parameter: Parameter, requirement: Requirement) {
        self.all.insert(parameter, requirement);
    }

    /// The requirement of a parameter, if there is one.
    pub fn get(&self, parameter: Parameter) -> Option<&Requirement> {
        self.all.get(&parameter)
    }

    /// Takes the requirement of a parameter away.
    pub fn remove(&mut self, parameter: Parameter) -> Option<Requirement> {
        self.all.remove(&parameter)
    }

    /// All requirements, in the parameters' order.
    pub fn iter(&self) -> impl Iterator<Item = (Parameter, &Requirement)> {
        self.all.iter().map(|(p, r)| (*p, r))
    }

    /// Whether nothing is assumed.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// These assumptions, and those of `common` that they say nothing about.
    #[must_use]
    pub fn over(&self, common: &Self) -> Self {
        let mut all = common.all.clone();
        all.extend(self.all.iter().map(|(p, r)| (*p, r.clone())));
        Self { all }
    }

    /// How instances are to be paid for; on demand if nothing is said.
    pub fn market(&self) -> Market {
        match self.get(Parameter::Market) {
            Some(Requirement::Market(market)) => *market,
            _ => Market::OnDemand,
        }
    }
}

/// The typed builder methods, the same for a whole contract and for one role.
macro_rules! builder {
    ($target:ty, |$this:ident| $assumptions:expr) => {
        impl $target {
            builder!(@types $this, $assumptions;
                /// Who makes the nodes: `ec2`, `gcp`, or `local`, this machine.
                node_provider NodeProvider,
                /// Region or zone, such as `us-east-1` or `use1-az4`.
                cluster_locale ClusterLocale,
                /// Type or family of instances: `t3.xlarge`, `EC2Type_T3_xLarge`, `t3`.
                node_machinetype NodeMachinetype,
                /// GPU, FPGA, ASIC and the like.
                accelerator_type AcceleratorType,
                /// Who makes the accelerators.
                accelerator_manufacturer AcceleratorManufacturer,
                /// Generation of the accelerators: `"Ada"`, or `at_least("Ampere")`.
                accelerator_architecture AcceleratorArchitecture,
                /// Model of the accelerators, such as `NVIDIA_L4`.
                accelerator Accelerator,
                /// Who makes the processor.
                processor_manufacturer ProcessorManufacturer,
                /// Generation of the processor: `"IceLake"`, or `at_least("Zen3")`.
                processor_microarchitecture ProcessorMicroarchitecture,
                /// Model of the processor, such as `AMDEPYC_7R13`.
                processor Processor,
                /// Instruction set: `x86_64` or `aarch64`.
                processor_isa ProcessorIsa,
                /// What the instance store is made of.
                storage_type StorageType,
            );
            builder!(@quantities $this, $assumptions;
                /// Memory of a node in bytes: `at_least(64.gib())`.
                node_memory_size NodeMemorySize,
                /// EC2 compute units of a node; known for few types.
                node_ecu_count NodeEcuCount,
                /// Virtual processors of a node.
                node_vcpus_count NodeVcpusCount,
                /// Accelerators of a node; `0` asks for none.
                accelerator_count AcceleratorCount,
                /// Nominal memory of each accelerator in bytes.
                accelerator_memory AcceleratorMemory,
                /// Bytes of the instance store; 0 for types without one.
                storage_size StorageSize,
                /// Baseline of the network in bits per second: `at_least(100.gbit())`.
                network_performance NetworkPerformance,
                /// What the network can do for a while, in bits per second.
                network_burst NetworkBurst,
                /// Interfaces of the Elastic Fabric Adapter.
                efa Efa,
            );

            /// How nodes are paid for; [`Market::OnDemand`] if not given.
            pub fn market(mut self, market: Market) -> Self {
                let $this = &mut self;
                $assumptions.set(Parameter::Market, Requirement::Market(market));
                self
            }

            /// The most that a node may cost, in US dollars an hour.
            pub fn max_price(mut self, dollars: f64) -> Self {
                let $this = &mut self;
                $assumptions.set(Parameter::MaxPrice, at_most(dollars).into());
                self
            }
        }
    };
    (@types $this:ident, $assumptions:expr; $($(#[$doc:meta])* $name:ident $parameter:ident,)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, assumed: impl Into<TypeAssumption>) -> Self {
            let $this = &mut self;
            $assumptions.set(Parameter::$parameter, assumed.into().0);
            self
        }
    )*};
    (@quantities $this:ident, $assumptions:expr; $($(#[$doc:meta])* $name:ident $parameter:ident,)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, quantity: impl Into<Quantity>) -> Self {
            let $this = &mut self;
            $assumptions.set(Parameter::$parameter, quantity.into().into());
            self
        }
    )*};
}

builder!(super::Contract, |contract| contract.common);

/// What a contract assumes of one role only.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoleAssumptions(pub(super) Assumptions);

builder!(RoleAssumptions, |role| role.0);
