//! Why a type was chosen, what others lack, and the smallest changes with which something would do.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::plan::{Choice, Plan};
use super::query::{Fact, Query, fact, print_number};
use super::{Resolution, Site};
use crate::catalog::{Entry, compare_names};
use crate::contract::{Parameter, Requirement, Role};

/// Cheaper types that are shown beside the chosen one.
const PASSED_OVER: usize = 5;
/// Changes that are shown when nothing satisfies.
const RELAXATIONS: usize = 4;
/// Instance types that are named for each.
const NAMES: usize = 4;

/// Why there is this plan, or none.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The providers that were considered.
    pub providers: Vec<String>,
    /// The region, if one was decided on.
    pub region: Option<String>,
    /// The plan, if there is one.
    pub plan: Option<Plan>,
    /// For each role.
    pub roles: Vec<RoleExplanation>,
    /// What could be done besides.
    pub hints: Vec<String>,
}

/// Why a role's nodes are what they are.
#[derive(Debug, Clone, Serialize)]
pub struct RoleExplanation {
    /// The role.
    pub role: Role,
    /// What is assumed of it, as it was understood.
    pub assumptions: Vec<String>,
    /// How many instance types were looked at.
    pub considered: usize,
    /// How many of them satisfy the assumptions.
    pub satisfying: usize,
    /// The one that is taken.
    pub chosen: Option<Choice>,
    /// What may be taken in its place.
    pub alternatives: Vec<Choice>,
    /// Of the cheaper ones those that lack least, and what that is.
    pub passed_over: Vec<PassedOver>,
    /// The smallest changes with which something would satisfy, if nothing does.
    pub relaxations: Vec<Relaxation>,
    /// What was perhaps meant.
    pub hints: Vec<String>,
}

/// An instance type that is cheaper than the chosen one.
#[derive(Debug, Clone, Serialize)]
pub struct PassedOver {
    /// The type.
    pub choice: Choice,
    /// What it lacks.
    pub lacks: Vec<Lack>,
}

/// What an instance type has instead of what is assumed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lack {
    /// The assumption, such as `node_memory_size >= 256G`.
    pub assumed: String,
    /// What there is: `has` and a value, `none` or `unknown`; or why it is not taken unless named.
    pub has: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.assumed, self.has)
    }
}

/// A change of assumptions with which something would satisfy.
#[derive(Debug, Clone, Serialize)]
pub struct Relaxation {
    /// Each assumption that has to give way, and to what.
    pub changes: Vec<Change>,
    /// What would satisfy then.
    pub instance_types: Vec<String>,
}

/// An assumption that has to give way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// As it is.
    pub from: String,
    /// As it would have to be.
    pub to: String,
}

impl Resolution<'_> {
    pub(super) fn explain(&self) -> Explanation {
        let site = self.best();
        // Where nothing satisfies, the first place will do, and all regions if none is configured.
        let anywhere = self.without_region.map(|provider| Site {
            provider,
            region: None,
        });
        let shown = site.or(self.sites.first().copied()).or(anywhere);
        let plan = site.map(|site| self.plan(site));
        let roles = (self.roles.iter())
            .map(|(role, ..)| self.explain_role(*role, shown, plan.as_ref()))
            .collect();
        let names = self
            .considered
            .iter()
            .map(|p| self.provider(*p).name.clone());
        let region = shown.and_then(|s| s.region).map(usize::from);
        Explanation {
            providers: names.collect(),
            region: region.map(|r| self.catalog().regions()[r].name.clone()),
            hints: match plan {
                Some(_) => Vec::new(),
                None => (self.no_region().map(|error| error.to_string()).into_iter())
                    .chain(self.other_providers())
                    .collect(),
            },
            plan,
            roles,
        }
    }

    fn explain_role(
        &self,
        role: Role,
        shown: Option<Site>,
        plan: Option<&Plan>,
    ) -> RoleExplanation {
        let assumptions = self.assumptions(role);
        let said = |(parameter, _)| self.assumed(role, parameter);
        let mut explanation = RoleExplanation {
            role,
            assumptions: assumptions.iter().map(said).collect(),
            considered: 0,
            satisfying: 0,
            chosen: None,
            alternatives: Vec::new(),
            passed_over: Vec::new(),
            relaxations: Vec::new(),
            hints: Vec::new(),
        };
        let Some(site) = shown else {
            return explanation;
        };
        let provider = &self.provider(site.provider).name;
        let pool = (self.catalog().entries().iter()).filter(|e| e.facts.provider == *provider);
        let pool: Vec<&Entry> = pool.collect();
        explanation.considered = pool.len();
        let satisfying = self.candidates(site, role);
        explanation.satisfying = satisfying.len();
        let planned = plan.and_then(|plan| plan.roles().iter().find(|r| r.role == role));
        if let Some(planned) = planned {
            explanation.chosen = Some(planned.choice.clone());
            explanation.alternatives = planned.alternatives.clone();
        }
        let Ok(query) = self.query(role, site.region) else {
            return explanation;
        };
        if let Some(price) = explanation.chosen.as_ref().and_then(|chosen| chosen.price) {
            explanation.passed_over = self.passed_over(role, &query, &pool, price);
        }
        if satisfying.is_empty() {
            explanation.relaxations = self.relaxations(role, &query, &pool);
            explanation.hints = self.per_accelerator(role, site);
        }
        explanation
    }

    /// Of the cheaper types those that lack least, the dearest of equals first, and what they lack.
    fn passed_over(
        &self,
        role: Role,
        query: &Query,
        pool: &[&Entry],
        price: f64,
    ) -> Vec<PassedOver> {
        let mut cheaper: Vec<_> = (pool.iter())
            .filter_map(|entry| {
                let own = query.cheapest(entry).price?.dollars();
                (own < price).then(|| (distance(query, entry), own, *entry))
            })
            .collect();
        cheaper.sort_by(|(few, a, x), (many, b, y)| {
            (few.cmp(many))
                .then_with(|| b.total_cmp(a))
                .then_with(|| compare_names(&x.facts.name, &y.facts.name))
        });
        cheaper.truncate(PASSED_OVER);
        let of = |(_, price, entry): ((usize, usize), f64, &Entry)| PassedOver {
            choice: Choice {
                instance_type: entry.facts.name.clone(),
                price: Some(price),
            },
            lacks: self.lacks(role, query, entry),
        };
        cheaper.into_iter().map(of).collect()
    }

    fn lacks(&self, role: Role, query: &Query, entry: &Entry) -> Vec<Lack> {
        let mut lacks: Vec<_> = (query.failing(entry))
            .map(|(check, _)| Lack {
                assumed: self.assumed(role, check.parameter),
                has: format!("has {}", query.has(self.catalog(), check.parameter, entry)),
            })
            .collect();
        if lacks.is_empty() {
            lacks.extend(self.excluded(entry, role).map(|why| Lack {
                assumed: format!(
                    "{} by name",
                    self.contract.key_of(role, Parameter::NodeMachinetype)
                ),
                has: why.to_owned(),
            }));
        }
        lacks
    }

    /// An assumption as the contract has it.
    fn assumed(&self, role: Role, parameter: Parameter) -> String {
        let key = self.contract.key_of(role, parameter);
        let own = self.contract.assumptions(role);
        match self.assumptions(role).get(parameter) {
            Some(requirement) if own.get(parameter).is_none() => {
                format!(
                    "{key} {} (the worker binary's)",
                    requirement.print(parameter)
                )
            }
            Some(requirement) => format!("{key} {}", requirement.print(parameter)),
            // A region that is configured and not assumed.
            None => format!("{key} as configured"),
        }
    }

    /// The smallest changes: the fewest assumptions, and of those the ones that most types would
    /// satisfy.
    fn relaxations(&self, role: Role, query: &Query, pool: &[&Entry]) -> Vec<Relaxation> {
        let mut groups: BTreeMap<Vec<Parameter>, Vec<&Entry>> = BTreeMap::new();
        for entry in pool
            .iter()
            .filter(|entry| self.excluded(entry, role).is_none())
        {
            let failing: Vec<_> = query
                .failing(entry)
                .map(|(check, _)| check.parameter)
                .collect();
            groups.entry(failing).or_default().push(entry);
        }
        let fewest = groups
            .keys()
            .map(Vec::len)
            .filter(|n| *n > 0)
            .min()
            .unwrap_or_default();
        let mut smallest: Vec<_> = groups
            .into_iter()
            .filter(|(p, _)| p.len() == fewest)
            .collect();
        smallest.sort_by_key(|(_, entries)| std::cmp::Reverse(entries.len()));
        smallest.truncate(RELAXATIONS);
        (smallest.into_iter())
            .map(|(parameters, entries)| self.relaxation(role, query, &parameters, &entries))
            .collect()
    }

    fn relaxation(
        &self,
        role: Role,
        query: &Query,
        parameters: &[Parameter],
        entries: &[&Entry],
    ) -> Relaxation {
        let mut best = self.nearest(role, query, parameters, entries);
        best.sort_by(|a, b| {
            let price = |entry: &Entry| query.cheapest(entry).price.map(|p| p.micro_dollars);
            let known = |entry: &Entry| price(entry).is_none();
            (known(a), price(a))
                .cmp(&(known(b), price(b)))
                .then_with(|| compare_names(&a.facts.name, &b.facts.name))
        });
        let change = |parameter: &Parameter| Change {
            from: self.assumed(role, *parameter),
            to: self.would_be(role, query, *parameter, &best),
        };
        Relaxation {
            changes: parameters.iter().map(change).collect(),
            instance_types: names_of(best.into_iter()),
        }
    }

    /// The entries whose numbers are nearest to what is assumed, each difference as a part of what
    /// is assumed. Of names and of what is unknown, none is nearer than another.
    fn nearest<'e>(
        &self,
        role: Role,
        query: &Query,
        parameters: &[Parameter],
        entries: &[&'e Entry],
    ) -> Vec<&'e Entry> {
        let assumptions = self.assumptions(role);
        let one = |entry: &Entry, parameter: Parameter| {
            let Some(Requirement::Quantity(quantity)) = assumptions.get(parameter) else {
                return 0.0;
            };
            // What is unknown or not there is as far away as anything can be.
            let Fact::Number(number) = query.number(entry, parameter) else {
                return f64::MAX;
            };
            let below = quantity
                .low()
                .map_or(0.0, |low| (low - number).max(0.0) / low.max(1e-9));
            let above = quantity
                .high()
                .map_or(0.0, |high| (number - high).max(0.0) / high.max(1e-9));
            below + above
        };
        let distance = |entry: &Entry| {
            parameters
                .iter()
                .map(|p| one(entry, *p))
                .fold(0.0, f64::max)
        };
        let least = entries.iter().map(|e| distance(e)).min_by(f64::total_cmp);
        let near = entries
            .iter()
            .filter(|entry| Some(distance(entry)) == least);
        near.copied().collect()
    }

    /// What an assumption would have to be for entries to satisfy it.
    fn would_be(
        &self,
        role: Role,
        query: &Query,
        parameter: Parameter,
        entries: &[&Entry],
    ) -> String {
        let key = self.contract.key_of(role, parameter);
        if parameter == Parameter::ClusterLocale {
            let regions = entries
                .iter()
                .flat_map(|e| &e.facts.offers)
                .map(|offer| offer.region);
            let mut names: Vec<&str> = regions
                .map(|r| &*self.catalog().regions()[usize::from(r)].name)
                .collect();
            names.sort_unstable();
            names.dedup();
            names.truncate(NAMES);
            return match names.is_empty() {
                true => format!("no {key}, since it is unknown where they are offered,"),
                false => format!("{key} = {}", names.join(" or ")),
            };
        }
        let first = entries.first();
        match (self.assumptions(role).get(parameter), first) {
            (Some(Requirement::Quantity(quantity)), Some(entry)) => {
                let number = match query.number(entry, parameter) {
                    Fact::Number(number) => Some(number),
                    _ => None,
                };
                match (number, quantity.low(), quantity.high()) {
                    (None, ..) => format!("no {key}, which is unknown or not there,"),
                    (Some(n), Some(low), _) if n < low => {
                        format!("{key} >= {}", print_number(parameter, n))
                    }
                    (Some(n), ..) => format!("{key} <= {}", print_number(parameter, n)),
                }
            }
            _ => {
                // Those of the types that are named beside it.
                let mut values: Vec<String> = (entries.iter().take(NAMES))
                    .map(|entry| query.has(self.catalog(), parameter, entry))
                    .filter(|value| value != "none" && value != "unknown")
                    .collect();
                values.sort();
                values.dedup();
                match values.is_empty() {
                    true => format!("no {key}"),
                    false => format!("{key} = {}", values.join(" or ")),
                }
            }
        }
    }

    /// Memory is each accelerator's: nobody makes one with as much as a node.
    fn per_accelerator(&self, role: Role, site: Site) -> Vec<String> {
        let assumptions = self.assumptions(role);
        let requirement = assumptions.get(Parameter::AcceleratorMemory);
        let Some(requirement @ Requirement::Quantity(quantity)) = requirement else {
            return Vec::new();
        };
        let memories = self
            .catalog()
            .entries()
            .iter()
            .filter_map(|e| e.facts.accelerators.as_ref());
        let most = memories.filter_map(|a| a.memory).max().unwrap_or_default() as f64;
        if quantity.low().is_none_or(|low| low <= most) {
            return Vec::new();
        }
        let key = self.contract.key_of(role, Parameter::AcceleratorMemory);
        let meant = key.replace("accelerator_memory", "node_memory_size");
        let printed = requirement.print(Parameter::NodeMemorySize);
        let mut hint = format!(
            "{key} is the memory of each accelerator, and the largest has {}: was {meant} {printed} \
             meant?",
            print_number(Parameter::AcceleratorMemory, most)
        );
        let mut changed = assumptions.clone();
        changed.remove(Parameter::AcceleratorMemory);
        changed.set(Parameter::NodeMemorySize, requirement.clone());
        let provider = &self.provider(site.provider).name;
        let found = self
            .catalog()
            .select_of(self.contract, role, &changed)
            .unwrap_or_default();
        let found = found
            .into_iter()
            .map(|m| m.entry)
            .filter(|e| e.facts.provider == *provider);
        let names = names_of(found);
        if !names.is_empty() {
            hint.push_str(&format!(" That is satisfied by {}", names.join(", ")));
        }
        vec![hint]
    }

    /// Providers that are not considered and would have something for every role.
    fn other_providers(&self) -> Vec<String> {
        let mut hints = Vec::new();
        for (index, state) in self.surroundings.providers.iter().enumerate() {
            let anywhere = Site {
                provider: index,
                region: None,
            };
            if self.considered.contains(&index) || self.cost(anywhere).is_none() {
                continue;
            }
            let found = self
                .roles
                .iter()
                .map(|(role, ..)| self.candidates(anywhere, *role).len());
            let found = found.min().unwrap_or_default();
            let how = match (state.compiled, state.configured) {
                (true, true) => "it is there when it is named",
                (true, false) => "it is not configured",
                (false, _) => "this program is built without it",
            };
            hints.push(format!(
                "{} has {found} instance types that satisfy: node_provider={} considers them ({how})",
                state.name, state.name
            ));
        }
        hints
    }
}

/// How far an instance type is from satisfying: how many requirements it does not satisfy, and how
/// many of them not even in part.
fn distance(query: &Query, entry: &Entry) -> (usize, usize) {
    let failing: Vec<_> = query
        .failing(entry)
        .map(|(check, _)| check.parameter)
        .collect();
    let in_part = |p: &&Parameter| matches!(fact(entry, **p), Fact::Number(number) if number > 0.0);
    (
        failing.len(),
        failing.len() - failing.iter().filter(in_part).count(),
    )
}

/// The first names, and how many more there are.
fn names_of<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<String> {
    let mut names: Vec<String> = entries.map(|entry| entry.facts.name.clone()).collect();
    let more = names.len().saturating_sub(NAMES);
    names.truncate(NAMES);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names
}

impl fmt::Display for Explanation {
    /// Why there is no plan, on one line for each role and hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.region {
            Some(region) => format!("{} ({region})", self.providers.join(", ")),
            None => self.providers.join(", "),
        };
        let unsatisfied: Vec<_> = self.roles.iter().filter(|r| r.satisfying == 0).collect();
        let roles = unsatisfied.iter().map(|role| role.role.to_string());
        let roles = roles.collect::<Vec<_>>().join(" and the ");
        write!(
            f,
            "no instance type of {place} satisfies the assumptions about the {roles}"
        )?;
        for role in unsatisfied {
            for hint in &role.hints {
                write!(f, "; {hint}")?;
            }
            for relaxation in &role.relaxations {
                let changes = relaxation.changes.iter();
                let changes: Vec<_> = changes
                    .map(|c| format!("{} instead of {}", c.to, c.from))
                    .collect();
                let names = relaxation.instance_types.join(", ");
                write!(f, "; {names} would with {}", changes.join(" and "))?;
            }
        }
        for hint in &self.hints {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}
