//! Every instance type that satisfies the assumptions of a role.

use std::cmp::Ordering;

use super::query::{Cheapest, Query};
use crate::catalog::{Catalog, Entry, compare_names};
use crate::contract::{Assumptions, CLUSTER_PARAMETERS, Contract, ContractError, Role};

/// An instance type that satisfies the assumptions.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// The instance type.
    pub entry: &'a Entry,
    /// Where it is cheapest among the places that the assumptions name.
    pub cheapest: Cheapest,
}

impl Match<'_> {
    /// The price of an hour in US dollars, if it is known. This machine costs nothing.
    pub fn price(&self) -> Option<f64> {
        match &*self.entry.facts.provider {
            "local" => Some(0.0),
            _ => self.cheapest.price.map(|price| price.dollars()),
        }
    }
}

/// The cheapest first, unknown prices last, and by name where that is the same.
pub(crate) fn order(a: &Match<'_>, b: &Match<'_>) -> Ordering {
    let by_price = match (a.price(), b.price()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    by_price.then_with(|| compare_names(&a.entry.facts.name, &b.entry.facts.name))
}

impl Catalog {
    /// Every instance type, of every provider, that satisfies what a contract assumes of a role:
    /// the cheapest first, unknown prices last. Nothing is assumed that the contract does not say.
    ///
    /// ```
    /// use cc_core::catalog::Catalog;
    /// use cc_core::contract::{Contract, Role, Units as _, at_least};
    /// let contract = Contract::new()
    ///     .accelerator_count(at_least(4))
    ///     .accelerator_architecture("Ada")
    ///     .node_memory_size(at_least(256.gib()));
    /// let catalog = Catalog::embedded();
    /// let found = catalog.select(&contract, Role::Peer)?;
    /// assert!(found.iter().any(|m| m.entry.facts.name == "g6.48xlarge"));
    /// # Ok::<(), cc_core::contract::ContractError>(())
    /// ```
    ///
    /// # Errors
    /// Names the key of an assumption that makes no sense and what to write instead.
    pub fn select(&self, contract: &Contract, role: Role) -> Result<Vec<Match<'_>>, ContractError> {
        let assumptions = contract.assumptions(role);
        contract.check_assumptions(role, &assumptions)?;
        self.select_of(contract, role, &assumptions)
    }

    pub(crate) fn select_of(
        &self,
        contract: &Contract,
        role: Role,
        assumptions: &Assumptions,
    ) -> Result<Vec<Match<'_>>, ContractError> {
        let query = Query::new(self, contract, role, assumptions)?;
        let mut matches: Vec<_> = (self.entries().iter())
            .filter(|entry| query.is_satisfied(entry))
            .map(|entry| Match {
                entry,
                cheapest: query.cheapest(entry),
            })
            .collect();
        matches.sort_by(order);
        Ok(matches)
    }
}

impl Contract {
    /// What [`Catalog::select`] does not heed, by name: it speaks of the cluster or is a setting.
    pub fn ignored_by_select(&self) -> Vec<&'static str> {
        let said = self.to_assumptions();
        let of_cluster = (CLUSTER_PARAMETERS.into_iter())
            .filter(|key| said.iter().any(|text| text.starts_with(&format!("{key}="))));
        let settings = self.settings().entries().into_iter().map(|(key, _)| key);
        of_cluster.chain(settings).collect()
    }

    /// The roles that a contract says something about: those of its topology, and those that it
    /// names although its topology has none.
    pub fn spoken_roles(&self) -> Vec<Role> {
        let roles: Vec<_> = self.roles().into_iter().map(|(role, _)| role).collect();
        match self.has_role_assumptions() {
            true if roles == [Role::Peer] => vec![Role::Manager, Role::Worker],
            // What is the same for both is asked once.
            false => vec![Role::Peer],
            true => roles,
        }
    }
}
