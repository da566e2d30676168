//! From a contract to a plan: which instance types satisfy it, which of them is taken, and why.
//!
//! All of it is functions of a contract, a catalog and what is known of the surroundings. There is
//! no I/O and no clock here.

mod explain;
mod plan;
mod query;
mod select;

use std::cmp::Ordering;

use crate::catalog::{Catalog, Entry};
use crate::contract::{
    Assumptions, Contract, ContractError, Parameter, Requirement, Role, Topology,
};
use crate::limits;
use crate::nearest::nearest;
use crate::platform::Kind;
use query::Query;
use select::order;

pub use explain::{Explanation, Lack, PassedOver, Relaxation, RoleExplanation};
pub use plan::{Choice, Plan, RolePlan};
pub use query::Cheapest;
pub use select::Match;

/// How much dearer than the first choice a fall-back may be, unless a setting says otherwise.
pub const ALTERNATIVE_PRICE_RATIO: f64 = 1.5;

/// A provider as a program sees it.
#[derive(Debug, Clone)]
pub struct ProviderState {
    /// Its name.
    pub name: String,
    /// Whether this program contains it.
    pub compiled: bool,
    /// Whether the user has set it up.
    pub configured: bool,
    /// The region that is configured.
    pub region: Option<String>,
    /// How much dearer than the first choice a fall-back may be.
    pub alternative_price_ratio: f64,
}

impl ProviderState {
    /// This machine, which is always there.
    pub fn local() -> Self {
        Self {
            name: "local".to_owned(),
            compiled: true,
            configured: true,
            region: None,
            alternative_price_ratio: ALTERNATIVE_PRICE_RATIO,
        }
    }
}

/// What resolution depends on besides the contract.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// The instance types.
    pub catalog: &'a Catalog,
    /// The providers.
    pub providers: Vec<ProviderState>,
    /// The instruction set of the worker binary, if it is known.
    pub isa: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The contract makes no sense.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// No instance type satisfies it.
    #[error("{0}")]
    Nothing(Box<Explanation>),
    /// More than one does, and only one may.
    #[error(
        "{} instance types satisfy the assumptions about the {role}: {}; assume more, or name one \
         by node_machinetype", .names.len(), some(.names)
    )]
    Ambiguous {
        /// The role.
        role: Role,
        /// All of them, the cheapest first.
        names: Vec<String>,
    },
    /// It is not said where the cluster is to be.
    #[error(
        "no region of {provider} is configured: write cluster_locale, such as \
         cluster_locale={example}, or region in [{provider}] of CCconfig.toml"
    )]
    NoRegion {
        /// The provider.
        provider: String,
        /// One of its regions.
        example: String,
    },
    /// The region that is set is none of the catalog's.
    #[error("the region {region} is none of {provider}'s in the catalog{}", hint(.nearest))]
    UnknownRegion {
        /// The provider.
        provider: String,
        /// The region.
        region: String,
        /// Regions that are alike.
        nearest: Vec<String>,
    },
}

fn some(names: &[String]) -> String {
    let shown = names[..names.len().min(10)].join(", ");
    match names.len() {
        0..=10 => shown,
        more => format!("{shown} and {} more", more - 10),
    }
}

fn hint(nearest: &[String]) -> String {
    match nearest.first() {
        Some(name) => format!(": did you mean {name}?"),
        None => String::new(),
    }
}

impl Contract {
    /// Decides what is deployed for the contract: the cheapest satisfying type for each role, in
    /// one region of one provider, with ranked alternatives.
    ///
    /// Programs use the method `resolve` of `cc_driver`, which knows the surroundings.
    ///
    /// # Errors
    /// Says what is wrong with the contract, or what the nearest instance types lack.
    pub fn resolve_in(&self, surroundings: &Surroundings<'_>) -> Result<Plan, ResolveError> {
        let resolution = Resolution::new(self, surroundings)?;
        match resolution.best() {
            Some(site) => Ok(resolution.plan(site)),
            None => Err(resolution.why_not()),
        }
    }

    /// Like [`resolve_in`](Self::resolve_in), and fails where more than one type satisfies a role.
    ///
    /// # Errors
    /// As [`resolve_in`](Self::resolve_in), and lists the types.
    pub fn resolve_unique_in(&self, surroundings: &Surroundings<'_>) -> Result<Plan, ResolveError> {
        let resolution = Resolution::new(self, surroundings)?;
        let site = resolution.best().ok_or_else(|| resolution.why_not())?;
        for (role, _) in self.roles() {
            let found = resolution.candidates(site, role);
            if found.len() > 1 {
                let names = found.iter().map(|m| m.entry.facts.name.clone()).collect();
                return Err(ResolveError::Ambiguous { role, names });
            }
        }
        Ok(resolution.plan(site))
    }

    /// Says why the chosen types are chosen and what others lack; when nothing satisfies, the
    /// smallest changes with which something would.
    ///
    /// # Errors
    /// Only what is wrong with the contract itself, or with the configured region.
    pub fn explain_in(&self, surroundings: &Surroundings<'_>) -> Result<Explanation, ResolveError> {
        let resolution = Resolution::new(self, surroundings)?;
        Ok(resolution.explain())
    }

    /// The plan of nodes that are agents on this machine, about which nothing is known: for
    /// providers' own tests and tools that need no catalog.
    ///
    /// # Errors
    /// Says what is wrong with the contract.
    pub fn resolve_locally(&self) -> Result<Plan, ContractError> {
        self.check()?;
        Ok(Plan::local(self.clone()))
    }
}

/// A place where a cluster could be: a provider, and one of its regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Site {
    provider: usize,
    region: Option<u16>,
}

/// A contract and its surroundings, with the assumptions of each role made ready.
struct Resolution<'a> {
    contract: &'a Contract,
    surroundings: &'a Surroundings<'a>,
    roles: Vec<(Role, u32, Assumptions)>,
    /// Providers that are considered, by number.
    considered: Vec<usize>,
    sites: Vec<Site>,
    /// Set when the only provider left has no region: whether it would do is still worth knowing.
    without_region: Option<usize>,
}

impl<'a> Resolution<'a> {
    fn new(
        contract: &'a Contract,
        surroundings: &'a Surroundings<'a>,
    ) -> Result<Self, ResolveError> {
        contract.check()?;
        let shared: Vec<_> = (contract.roles().into_iter())
            .flat_map(|(role, _)| {
                let own = contract.assumptions(role);
                let said = |p| Some((p, own.get(p)?.clone()));
                Parameter::OF_ALL_ROLES
                    .into_iter()
                    .filter_map(said)
                    .collect::<Vec<_>>()
            })
            .collect();
        let roles = (contract.roles().into_iter())
            .map(|(role, count)| {
                let mut assumptions = contract.assumptions(role);
                for (parameter, requirement) in &shared {
                    assumptions.set(*parameter, requirement.clone());
                }
                if let (Some(isa), None) =
                    (&surroundings.isa, assumptions.get(Parameter::ProcessorIsa))
                {
                    assumptions.set(Parameter::ProcessorIsa, Requirement::Type(isa.clone()));
                }
                (role, count, assumptions)
            })
            .collect();
        let mut resolution = Self {
            contract,
            surroundings,
            roles,
            considered: Vec::new(),
            sites: Vec::new(),
            without_region: None,
        };
        // Names are looked up before anything is decided by them.
        for (role, ..) in &resolution.roles {
            resolution.query(*role, None)?;
        }
        resolution.considered = resolution.consider();
        resolution.find_sites()?;
        Ok(resolution)
    }

    fn catalog(&self) -> &'a Catalog {
        self.surroundings.catalog
    }

    fn provider(&self, index: usize) -> &'a ProviderState {
        &self.surroundings.providers[index]
    }

    fn assumptions(&self, role: Role) -> &Assumptions {
        let found = self.roles.iter().find(|(r, ..)| *r == role);
        found.map_or(&self.roles[0].2, |(_, _, assumptions)| assumptions)
    }

    fn query(&self, role: Role, region: Option<u16>) -> Result<Query, ContractError> {
        let assumptions = self.assumptions(role);
        let mut query = Query::new(self.catalog(), self.contract, role, assumptions)?;
        if let Some(region) = region
            && query.regions().is_none_or(|regions| regions != [region])
        {
            query.in_region(region);
        }
        Ok(query)
    }

    /// The providers that come into question: those that the contract names, else those that
    /// this program has and the user has set up, and this machine only if there are no others.
    fn consider(&self) -> Vec<usize> {
        let all = 0..self.surroundings.providers.len();
        let named = self.named_providers();
        if let Some(named) = named {
            return all
                .filter(|i| named.contains(&self.provider(*i).name))
                .collect();
        }
        let usable = |i: &usize| self.provider(*i).compiled && self.provider(*i).configured;
        let (local, others): (Vec<_>, Vec<_>) = all
            .filter(usable)
            .partition(|i| self.provider(*i).name == "local");
        if others.is_empty() { local } else { others }
    }

    /// The providers that the contract names, by themselves, by a machine type or by a region.
    fn named_providers(&self) -> Option<Vec<String>> {
        let (catalog, taxonomy) = (self.catalog(), self.catalog().taxonomy());
        let mut named: Option<Vec<String>> = None;
        for (.., assumptions) in &self.roles {
            let of = |parameter, kind| match assumptions.get(parameter) {
                Some(Requirement::Type(name)) => taxonomy.get(kind, name),
                _ => None,
            };
            let found: Vec<String> = if let Some(id) = of(Parameter::NodeProvider, Kind::Provider) {
                let is = |name: &str| taxonomy.get(Kind::Provider, name);
                (self.surroundings.providers.iter())
                    .filter(|p| is(&p.name).is_some_and(|own| taxonomy.is_below(own, id)))
                    .map(|p| p.name.clone())
                    .collect()
            } else if let Some(id) = of(Parameter::NodeMachinetype, Kind::MachineType) {
                let belongs = |entry: &&Entry| {
                    let machine = entry.types.machine;
                    machine.is_some_and(|machine| taxonomy.is_below(machine, id))
                };
                let entries = catalog.entries().iter().filter(belongs);
                entries.map(|entry| entry.facts.provider.clone()).collect()
            } else if let Some(id) = of(Parameter::ClusterLocale, Kind::Locale) {
                let regions = catalog.regions().iter().enumerate();
                let meant = regions.filter(|(index, _)| {
                    let region = catalog.region_type(*index);
                    region.is_some_and(|r| taxonomy.is_below(r, id) || taxonomy.is_below(id, r))
                });
                meant.map(|(_, region)| region.provider.clone()).collect()
            } else {
                continue;
            };
            named = Some(match named {
                None => found,
                Some(before) => before.into_iter().filter(|p| found.contains(p)).collect(),
            });
        }
        named
    }

    fn find_sites(&mut self) -> Result<(), ResolveError> {
        let catalog = self.catalog();
        let mut wanted: Option<Vec<u16>> = None;
        for (role, ..) in &self.roles {
            if let Some(regions) = self.query(*role, None)?.regions() {
                wanted = Some(match wanted {
                    None => regions,
                    Some(before) => before.into_iter().filter(|r| regions.contains(r)).collect(),
                });
            }
        }
        for provider in self.considered.clone() {
            let state = self.provider(provider);
            let has_regions = catalog.regions().iter().any(|r| r.provider == state.name);
            let mut regions: Vec<Option<u16>> = Vec::new();
            if !has_regions {
                regions.push(None);
            } else if let Some(wanted) = &wanted {
                let own = |r: &&u16| catalog.regions()[usize::from(**r)].provider == state.name;
                regions.extend(wanted.iter().filter(own).map(|r| Some(*r)));
            } else if let Some(name) = &state.region {
                let Some(region) = catalog.region(&state.name, name) else {
                    let names = catalog
                        .regions()
                        .iter()
                        .filter(|r| r.provider == state.name);
                    return Err(ResolveError::UnknownRegion {
                        provider: state.name.clone(),
                        region: name.clone(),
                        nearest: nearest(name, names.map(|r| &*r.name), 1)
                            .into_iter()
                            .map(str::to_owned)
                            .collect(),
                    });
                };
                regions.push(Some(region as u16));
            } else {
                self.without_region = Some(provider);
            }
            self.sites
                .extend(regions.into_iter().map(|region| Site { provider, region }));
        }
        Ok(())
    }

    /// Why an instance type is not taken although it satisfies everything, unless it is named.
    fn excluded(&self, entry: &Entry, role: Role) -> Option<&'static str> {
        let (assumptions, tenure) = (self.assumptions(role), &entry.facts.tenure);
        if self.is_named(assumptions) {
            return None;
        }
        if tenure.dedicated_host {
            return Some("needs a dedicated host");
        }
        let on_demand = assumptions.market() == crate::contract::Market::OnDemand;
        if on_demand && !tenure.on_demand {
            return Some(match tenure.capacity_block {
                true => "only in capacity blocks",
                false => "not to be had on demand",
            });
        }
        if tenure.burstable && self.contract.topology() != Topology::PeerWorkers {
            return Some("burstable, which ranks of MPI wait for");
        }
        None
    }

    /// Whether a type or family is named, and not all that a provider has.
    fn is_named(&self, assumptions: &Assumptions) -> bool {
        let taxonomy = self.catalog().taxonomy();
        let Some(Requirement::Type(name)) = assumptions.get(Parameter::NodeMachinetype) else {
            return false;
        };
        // The root, and a provider's types in it, are two steps down at most.
        taxonomy
            .get(Kind::MachineType, name)
            .is_some_and(|id| taxonomy.line_up(id).count() > 2)
    }

    /// What satisfies a role at a site, best first.
    fn candidates(&self, site: Site, role: Role) -> Vec<Match<'a>> {
        // It was made before, so it can be made again.
        let Ok(query) = self.query(role, site.region) else {
            return Vec::new();
        };
        let provider = &self.provider(site.provider).name;
        let mut matches: Vec<_> = (self.catalog().entries().iter())
            .filter(|entry| {
                entry.facts.provider == *provider
                    && query.is_satisfied(entry)
                    && self.excluded(entry, role).is_none()
            })
            .map(|entry| Match {
                entry,
                cheapest: query.cheapest(entry),
            })
            .collect();
        matches.sort_by(order);
        matches
    }

    /// What the cluster costs an hour at a site: nothing if a role has no type there, an unknown
    /// price if one of them has none.
    fn cost(&self, site: Site) -> Option<Option<f64>> {
        let mut sum = Some(0.0);
        for (role, count, _) in &self.roles {
            let first = self.candidates(site, *role).first()?.price();
            sum = sum
                .zip(first)
                .map(|(sum, price)| sum + price * f64::from(*count));
        }
        Some(sum)
    }

    /// The cheapest site, if there is one at all.
    fn best(&self) -> Option<Site> {
        let costs = self
            .sites
            .iter()
            .filter_map(|site| Some((*site, self.cost(*site)?)));
        let cheaper = |a: &Option<f64>, b: &Option<f64>| match (a, b) {
            (Some(a), Some(b)) => a.total_cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        // The first of equals.
        costs
            .min_by(|(_, a), (_, b)| cheaper(a, b))
            .map(|(site, _)| site)
    }

    /// That only the region is missing, if that is so.
    fn no_region(&self) -> Option<ResolveError> {
        let provider = self.without_region?;
        let anywhere = Site {
            provider,
            region: None,
        };
        self.cost(anywhere)?;
        let name = &self.provider(provider).name;
        let regions = self.catalog().regions().iter();
        let mut names = regions
            .filter(|r| r.provider == *name)
            .map(|r| r.name.clone());
        let example = names.clone().find(|name| name == "us-east-1");
        Some(ResolveError::NoRegion {
            provider: name.clone(),
            example: example.or_else(|| names.next()).unwrap_or_default(),
        })
    }

    fn why_not(&self) -> ResolveError {
        if let Some(error) = self.no_region() {
            return error;
        }
        ResolveError::Nothing(Box::new(self.explain()))
    }

    fn plan(&self, site: Site) -> Plan {
        let state = self.provider(site.provider);
        let region = site
            .region
            .and_then(|r| self.catalog().regions().get(usize::from(r)));
        let mut notes: Vec<String> = self.contract.notes().to_vec();
        if !state.compiled {
            notes.push(format!(
                "this program is built without the provider {}: it can plan the cluster and not \
                 deploy it",
                state.name
            ));
        }
        let roles = (self.roles.iter())
            .map(|(role, nodes, assumptions)| {
                let mut found = self.candidates(site, *role).into_iter();
                let first = found.next();
                let limit = match assumptions.get(Parameter::MaxPrice) {
                    // Every candidate keeps to it.
                    Some(_) => Some(f64::INFINITY),
                    None => first
                        .and_then(|first| first.price())
                        .map(|price| price * state.alternative_price_ratio),
                };
                let within = |m: &Match<'_>| m.price().zip(limit).is_some_and(|(p, l)| p <= l);
                RolePlan {
                    role: *role,
                    nodes: *nodes,
                    choice: first.map(|m| Choice::of(&m)).unwrap_or_default(),
                    alternatives: (found.filter(within).take(limits::ALTERNATIVES))
                        .map(|m| Choice::of(&m))
                        .collect(),
                }
            })
            .collect();
        Plan::new(
            self.contract.clone(),
            state.name.clone(),
            region.map(|region| region.name.clone()),
            self.zone(),
            roles,
            notes,
        )
    }

    /// The zone that the contract names, if it names one.
    fn zone(&self) -> Option<String> {
        let taxonomy = self.catalog().taxonomy();
        self.roles.iter().find_map(|(.., assumptions)| {
            let Some(Requirement::Type(name)) = assumptions.get(Parameter::ClusterLocale) else {
                return None;
            };
            let id = taxonomy.get(Kind::Locale, name)?;
            let region = taxonomy[id].parent?;
            let is_region = |id| {
                (0..self.catalog().regions().len())
                    .any(|index| self.catalog().region_type(index) == Some(id))
            };
            is_region(region).then(|| taxonomy[id].name.clone())
        })
    }
}
