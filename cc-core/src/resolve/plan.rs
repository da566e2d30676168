//! A resolved contract: what will be deployed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::select::Match;
use crate::contract::{Contract, Market, Role, Settings, Topology};
use crate::limits;

/// A resolved contract: instance types, provider, region, price and alternatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    contract: Contract,
    settings: Settings,
    provider: String,
    region: Option<String>,
    zone: Option<String>,
    roles: Vec<RolePlan>,
    notes: Vec<String>,
}

/// What the nodes of a role are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolePlan {
    /// The role.
    pub role: Role,
    /// How many nodes have it.
    pub nodes: u32,
    /// What they are.
    pub choice: Choice,
    /// What they may be instead when there is no capacity, best first.
    pub alternatives: Vec<Choice>,
}

/// An instance type and its price.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The provider's name for it.
    pub instance_type: String,
    /// The on-demand price of a node for an hour in US dollars, if it is known.
    pub price: Option<f64>,
}

impl Choice {
    pub(super) fn of(found: &Match<'_>) -> Self {
        Self {
            instance_type: found.entry.facts.name.clone(),
            price: found.price(),
        }
    }
}

impl Plan {
    pub(super) fn new(
        contract: Contract,
        provider: String,
        region: Option<String>,
        zone: Option<String>,
        roles: Vec<RolePlan>,
        notes: Vec<String>,
    ) -> Self {
        Self {
            settings: contract.settings().clone(),
            contract,
            provider,
            region,
            zone,
            roles,
            notes,
        }
    }

    /// Nodes on this machine, of which nothing is known.
    pub(super) fn local(contract: Contract) -> Self {
        let role = |(role, nodes)| RolePlan {
            role,
            nodes,
            choice: Choice {
                instance_type: "local".to_owned(),
                price: Some(0.0),
            },
            alternatives: Vec::new(),
        };
        let roles = contract.roles().into_iter().map(role).collect();
        let provider = "local".to_owned();
        Self::new(contract, provider, None, None, roles, Vec::new())
    }

    /// The contract that the plan satisfies.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The effective settings: the contract's, and those of the configuration about which it says
    /// nothing.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The same plan with other effective settings.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The same plan with arguments of one deployment, which go before what the contract, the
    /// configuration and the built-in settings say.
    ///
    /// ```
    /// use cc_core::contract::{Contract, Settings};
    /// let plan = Contract::new().directory("/data").resolve_locally()?;
    /// let arguments = Settings {
    ///     directory: Some("/scratch".to_owned()),
    ///     ..Settings::default()
    /// };
    /// let plan = plan.with_arguments(arguments);
    /// assert_eq!(plan.settings().directory.as_deref(), Some("/scratch"));
    /// # Ok::<(), cc_core::contract::ContractError>(())
    /// ```
    #[must_use]
    pub fn with_arguments(self, arguments: Settings) -> Self {
        let settings = arguments.over(self.settings.clone());
        self.with_settings(settings)
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The region, if the provider has regions.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The zone, if the contract names one.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// What the nodes of each role are.
    pub fn roles(&self) -> &[RolePlan] {
        &self.roles
    }

    /// What the user should know about it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What all nodes cost for an hour, in US dollars on demand, if all prices are known.
    pub fn hourly_cost(&self) -> Option<f64> {
        let costs = self.roles.iter();
        costs
            .map(|role| Some(role.choice.price? * f64::from(role.nodes)))
            .sum()
    }

    /// How the nodes of a role are paid for.
    pub fn market(&self, role: Role) -> Market {
        self.contract.assumptions(role).market()
    }

    /// The number of machines, the manager included.
    pub fn nodes(&self) -> u32 {
        self.contract.nodes()
    }

    /// The number of workers on each node.
    pub fn workers_per_node(&self) -> u32 {
        self.contract.workers_per_node()
    }

    /// The number of workers in the cluster.
    pub fn workers(&self) -> u32 {
        self.nodes().saturating_mul(self.workers_per_node())
    }

    /// The topology.
    pub fn topology(&self) -> Topology {
        self.contract.topology()
    }

    /// Whether all nodes use the same content store, so that what one has, all have.
    pub fn has_one_store(&self) -> bool {
        self.provider == "local" && self.settings.shared_store.unwrap_or(true)
    }

    /// The time-out after which agents without a driver end.
    pub fn effective_driver_timeout(&self) -> Duration {
        self.settings
            .driver_timeout
            .unwrap_or(limits::DRIVER_TIMEOUT)
    }
}
