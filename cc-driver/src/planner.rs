//! From contracts to plans with what this user has: the catalog, the configuration, and the
//! providers of this program.
//!
//! It reads files and never the network.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cc_core::catalog::{Catalog, Snapshot};
use cc_core::contract::{Contract, Role, Settings};
use cc_core::limits;
use cc_core::resolve::{
    ALTERNATIVE_PRICE_RATIO, Explanation, Match, Plan, ProviderState, ResolveError, Surroundings,
};
use etcetera::BaseStrategy as _;

use crate::config::Config;
use crate::error::DriverError;

/// Providers that contracts can name, in the order in which equals are preferred, and whether this
/// program contains them.
const PROVIDERS: [(&str, bool); 3] = [("local", true), ("ec2", false), ("gcp", false)];

/// Resolves contracts. [`Driver::planner`](crate::Driver::planner) gives a driver's own; without a
/// driver, [`Resolve`] does the same.
///
/// ```
/// use cc_driver::{Contract, Planner, Role};
/// let planner = Planner::discover()?;
/// let contract = Contract::new().node_machinetype("t3.xlarge").cluster_locale("us-east-2");
/// let plan = planner.resolve(&contract)?;
/// assert_eq!(plan.roles()[0].choice.instance_type, "t3.xlarge");
/// # Ok::<(), cc_driver::DriverError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Planner {
    catalog: Arc<Catalog>,
    config: Config,
    isa: Option<String>,
}

impl Planner {
    /// With the user's configuration and catalog.
    ///
    /// # Errors
    /// Fails when there is a configuration that cannot be read.
    pub fn discover() -> Result<Self, DriverError> {
        Ok(Self::new(Config::discover()?, None))
    }

    /// With a configuration, and the instruction set of the worker binary if it is known.
    pub fn new(config: Config, isa: Option<String>) -> Self {
        Self {
            catalog: catalog(),
            config,
            isa,
        }
    }

    /// For workers of this instruction set, such as `x86_64`.
    #[must_use]
    pub fn isa(mut self, isa: impl Into<String>) -> Self {
        self.isa = Some(isa.into());
        self
    }

    /// The instance types of all providers, and this machine.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// What is configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Decides what is deployed for a contract.
    ///
    /// # Errors
    /// Says what is wrong with the contract, or what the nearest instance types lack.
    pub fn resolve(&self, contract: &Contract) -> Result<Plan, DriverError> {
        let plan = contract.resolve_in(&self.surroundings(contract)?)?;
        self.with_settings(plan)
    }

    /// Like [`resolve`](Self::resolve), and fails where more than one instance type satisfies.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), and lists the types.
    pub fn resolve_unique(&self, contract: &Contract) -> Result<Plan, DriverError> {
        let plan = contract.resolve_unique_in(&self.surroundings(contract)?)?;
        self.with_settings(plan)
    }

    /// Says why the chosen types are chosen, what others lack, and what would do if nothing does.
    ///
    /// # Errors
    /// Says what is wrong with the contract or the configuration.
    pub fn explain(&self, contract: &Contract) -> Result<Explanation, DriverError> {
        Ok(contract.explain_in(&self.surroundings(contract)?)?)
    }

    /// Every instance type that satisfies what a contract assumes of a role, the cheapest first.
    ///
    /// # Errors
    /// Says what is wrong with the contract.
    pub fn select(&self, contract: &Contract, role: Role) -> Result<Vec<Match<'_>>, DriverError> {
        let found = self.catalog.select(contract, role);
        Ok(found.map_err(ResolveError::from)?)
    }

    fn surroundings(&self, contract: &Contract) -> Result<Surroundings<'_>, DriverError> {
        let mut providers = Vec::new();
        for (name, compiled) in PROVIDERS {
            let effective =
                self.config
                    .effective(name, contract.settings(), &Settings::default())?;
            let settings = effective.settings;
            providers.push(ProviderState {
                name: name.to_owned(),
                compiled,
                configured: name == "local"
                    || self.config.has_section(name)
                    || (name == "ec2" && settings.region.is_some()),
                region: settings.region.filter(|_| name != "local"),
                alternative_price_ratio: settings
                    .alternative_price_ratio
                    .unwrap_or(ALTERNATIVE_PRICE_RATIO),
            });
        }
        // Where the worker's binary is on the nodes already, nobody here knows what it is.
        let isa = self
            .isa
            .clone()
            .filter(|_| contract.settings().exename.is_none());
        Ok(Surroundings {
            catalog: &self.catalog,
            providers,
            isa,
        })
    }

    /// A plan with everything that is configured for its provider.
    fn with_settings(&self, plan: Plan) -> Result<Plan, DriverError> {
        let contract = plan.contract().settings().clone();
        let effective = self
            .config
            .effective(plan.provider(), &contract, &Settings::default())?;
        Ok(plan.with_settings(effective.settings))
    }
}

/// Resolution as a method of contracts, with the user's configuration and catalog.
///
/// ```
/// use cc_driver::prelude::*;
/// let plan = Contract::new().node_count(4).node_provider("local").resolve()?;
/// assert_eq!(plan.nodes(), 4);
/// # Ok::<(), cc_driver::DriverError>(())
/// ```
pub trait Resolve {
    /// Decides what is deployed: see [`Planner::resolve`]. The worker binary is taken to be this
    /// executable, if it can be one.
    ///
    /// # Errors
    /// As [`Planner::resolve`].
    fn resolve(&self) -> Result<Plan, DriverError>;

    /// Like `resolve`, and fails where more than one instance type satisfies.
    ///
    /// # Errors
    /// As [`Planner::resolve_unique`].
    fn resolve_unique(&self) -> Result<Plan, DriverError>;

    /// Says why: see [`Planner::explain`].
    ///
    /// # Errors
    /// As [`Planner::explain`].
    fn explain(&self) -> Result<Explanation, DriverError>;
}

impl Resolve for Contract {
    fn resolve(&self) -> Result<Plan, DriverError> {
        planner()?.resolve(self)
    }

    fn resolve_unique(&self) -> Result<Plan, DriverError> {
        planner()?.resolve_unique(self)
    }

    fn explain(&self) -> Result<Explanation, DriverError> {
        planner()?.explain(self)
    }
}

fn planner() -> Result<Planner, DriverError> {
    let planner = Planner::discover()?;
    Ok(match crate::driver::can_be_worker() {
        true => planner.isa(std::env::consts::ARCH),
        false => planner,
    })
}

/// Where a newer catalog is looked for.
pub fn catalog_path() -> Option<PathBuf> {
    let directories = etcetera::choose_base_strategy().ok()?;
    Some(
        directories
            .cache_dir()
            .join("cloudclusters")
            .join("catalog.bin"),
    )
}

/// The newest catalog there is, with this machine in it; read once.
fn catalog() -> Arc<Catalog> {
    static CATALOG: OnceLock<Arc<Catalog>> = OnceLock::new();
    let read = || {
        let mut catalog = match refreshed() {
            Some(refreshed) => refreshed,
            None => (*Catalog::embedded()).clone(),
        };
        catalog.add(cc_provider_local::machine::detect());
        Arc::new(catalog)
    };
    Arc::clone(CATALOG.get_or_init(read))
}

/// The user's own catalog, if it is newer than the embedded one.
fn refreshed() -> Option<Catalog> {
    use std::io::Read as _;
    let path = catalog_path()?;
    let file = std::fs::File::open(&path).ok()?;
    let mut bytes = Vec::new();
    let read = file.take(limits::CATALOG as u64).read_to_end(&mut bytes);
    let decoded = read.map_err(|e| e.to_string());
    let decoded = decoded.and_then(|_| Snapshot::decode(&bytes).map_err(|e| e.to_string()));
    match decoded {
        Ok(snapshot) if snapshot.made.as_str() > Catalog::embedded().made() => {
            Some(Catalog::new(snapshot))
        }
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), error, "the built-in catalog is used instead");
            None
        }
    }
}
