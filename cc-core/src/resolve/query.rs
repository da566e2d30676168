//! Assumptions made ready to be compared with many instance types, and the comparison.

use crate::catalog::{Catalog, Entry, Price};
use crate::contract::{
    Assumptions, Contract, ContractError, Market, Parameter, Printed, Problem, Quantity,
    Requirement, Role, Unit,
};
use crate::platform::{Kind, Taxonomy, TypeId};

/// What is known of an instance type with regard to a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fact {
    /// Nobody has said.
    Unknown,
    /// A number.
    Number(f64),
    /// A platform type.
    Type(TypeId),
    /// It has none of that.
    Nothing,
}

/// How an instance type compares with a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Satisfied,
    Not,
    Unknown,
}

/// One requirement, with the platform types that satisfy it.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) parameter: Parameter,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Number(Quantity),
    /// By a type's number in its taxonomy.
    Types(Vec<bool>),
    Market(Market),
    /// Offers are looked at one by one.
    Locale,
}

/// All requirements of a role.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) checks: Vec<Check>,
    /// Which regions and zones are meant; all if none.
    places: Option<Vec<Place>>,
    pub(crate) market: Market,
}

/// A region, and the zones of it that are meant.
#[derive(Debug, Clone, Copy)]
struct Place {
    region: u16,
    zones: u16,
}

/// Where an instance type is cheapest among the places that are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cheapest {
    /// The on-demand price of an hour, if it is known anywhere.
    pub price: Option<Price>,
    /// The region of that price, or the first in which the type is offered.
    pub region: Option<u16>,
    /// In how many of those regions it is offered.
    pub regions: u16,
}

impl Query {
    /// Makes a role's assumptions ready.
    pub(crate) fn new(
        catalog: &Catalog,
        contract: &Contract,
        role: Role,
        assumptions: &Assumptions,
    ) -> Result<Self, ContractError> {
        let mut query = Self {
            checks: Vec::new(),
            places: None,
            market: assumptions.market(),
        };
        for (parameter, requirement) in assumptions.iter() {
            let key = contract.key_of(role, parameter);
            let at = contract.place_of(&key);
            let test = match requirement {
                Requirement::Quantity(quantity) => Test::Number(*quantity),
                Requirement::Market(market) => Test::Market(*market),
                Requirement::Type(name) | Requirement::AtLeastType(name) => {
                    let newer = matches!(requirement, Requirement::AtLeastType(_));
                    let found = find(catalog.taxonomy(), &key, parameter, name, newer);
                    let id = found.map_err(|p| ContractError::from(p).at(at))?;
                    if parameter == Parameter::ClusterLocale {
                        query.places = Some(places(catalog, id));
                        Test::Locale
                    } else {
                        Test::Types(satisfying(catalog.taxonomy(), id, newer))
                    }
                }
            };
            query.checks.push(Check { parameter, test });
        }
        Ok(query)
    }

    /// Restricts a query that names no place to one region.
    pub(crate) fn in_region(&mut self, region: u16) {
        self.places = Some(vec![Place {
            region,
            zones: u16::MAX,
        }]);
        if !self
            .checks
            .iter()
            .any(|c| c.parameter == Parameter::ClusterLocale)
        {
            self.checks.push(Check {
                parameter: Parameter::ClusterLocale,
                test: Test::Locale,
            });
        }
    }

    /// The regions that are meant, if some are.
    pub(crate) fn regions(&self) -> Option<Vec<u16>> {
        Some(
            self.places
                .as_ref()?
                .iter()
                .map(|place| place.region)
                .collect(),
        )
    }

    /// Whether an instance type satisfies everything.
    pub(crate) fn is_satisfied(&self, entry: &Entry) -> bool {
        // The price needs a look at all offers, so it comes last, as it does in the order of
        // parameters.
        (self.checks.iter()).all(|check| self.verdict(check, entry) == Verdict::Satisfied)
    }

    /// The requirements that an instance type does not satisfy.
    pub(crate) fn failing<'a>(
        &'a self,
        entry: &'a Entry,
    ) -> impl Iterator<Item = (&'a Check, Verdict)> {
        (self.checks.iter())
            .map(|check| (check, self.verdict(check, entry)))
            .filter(|(_, verdict)| *verdict != Verdict::Satisfied)
    }

    pub(crate) fn verdict(&self, check: &Check, entry: &Entry) -> Verdict {
        let of = |satisfied| match satisfied {
            true => Verdict::Satisfied,
            false => Verdict::Not,
        };
        match &check.test {
            Test::Market(Market::OnDemand) => of(entry.facts.tenure.on_demand),
            Test::Market(Market::Spot) => of(entry.facts.tenure.spot),
            Test::Locale if entry.facts.offers.is_empty() => Verdict::Unknown,
            Test::Locale => of(self.cheapest(entry).regions > 0),
            Test::Types(satisfying) => match fact(entry, check.parameter) {
                Fact::Type(id) => of(satisfying.get(id.index()).copied().unwrap_or(false)),
                Fact::Unknown => Verdict::Unknown,
                Fact::Nothing | Fact::Number(_) => Verdict::Not,
            },
            Test::Number(quantity) => {
                match self.number(entry, check.parameter) {
                    Fact::Number(number) if quantity.contains(number) => Verdict::Satisfied,
                    // A spot instance costs less than that, and nobody knows how much.
                    Fact::Number(_)
                        if check.parameter == Parameter::MaxPrice
                            && self.market == Market::Spot =>
                    {
                        Verdict::Unknown
                    }
                    Fact::Number(_) | Fact::Nothing | Fact::Type(_) => Verdict::Not,
                    Fact::Unknown => Verdict::Unknown,
                }
            }
        }
    }

    /// What is known of a number, prices included.
    pub(crate) fn number(&self, entry: &Entry, parameter: Parameter) -> Fact {
        match parameter {
            Parameter::MaxPrice => self.price_fact(entry),
            parameter => fact(entry, parameter),
        }
    }

    fn price_fact(&self, entry: &Entry) -> Fact {
        if entry.facts.provider == "local" {
            return Fact::Number(0.0);
        }
        match self.cheapest(entry).price {
            Some(price) => Fact::Number(price.dollars()),
            None => Fact::Unknown,
        }
    }

    /// Where an instance type is cheapest.
    pub(crate) fn cheapest(&self, entry: &Entry) -> Cheapest {
        let mut best = Cheapest::default();
        for offer in &entry.facts.offers {
            let meant = self.places.as_ref().is_none_or(|places| {
                (places.iter())
                    .any(|place| place.region == offer.region && place.zones & offer.zones != 0)
            });
            if !meant {
                continue;
            }
            best.regions += 1;
            let cheaper = match (offer.price, best.price) {
                (Some(price), Some(other)) => price.micro_dollars < other.micro_dollars,
                (Some(_), None) => true,
                (None, _) => best.region.is_none(),
            };
            if cheaper {
                best.price = offer.price;
                best.region = Some(offer.region);
            }
        }
        best
    }

    /// What a requirement would be satisfied by, of an instance type, for people.
    pub(crate) fn has(&self, catalog: &Catalog, parameter: Parameter, entry: &Entry) -> String {
        match parameter {
            Parameter::Market => "not to be had that way".to_owned(),
            Parameter::ClusterLocale => match entry.facts.offers.is_empty() {
                true => "unknown".to_owned(),
                false => "not offered there".to_owned(),
            },
            Parameter::MaxPrice => match self.price_fact(entry) {
                Fact::Number(price) => format!("${price}"),
                _ => "unknown".to_owned(),
            },
            _ => match fact(entry, parameter) {
                Fact::Unknown => "unknown".to_owned(),
                Fact::Nothing => "none".to_owned(),
                Fact::Type(id) => catalog.taxonomy()[id].name.clone(),
                Fact::Number(number) => print_number(parameter, number),
            },
        }
    }
}

/// A number in a parameter's unit.
pub(crate) fn print_number(parameter: Parameter, number: f64) -> String {
    let unit = match parameter.domain() {
        crate::contract::Domain::Number(unit) => unit,
        _ => Unit::Count,
    };
    let text = Printed(crate::contract::just(number), unit).to_string();
    text.trim_start_matches("= ").to_owned()
}

/// What is known of an instance type with regard to a parameter, but for prices and places.
pub(crate) fn fact(entry: &Entry, parameter: Parameter) -> Fact {
    let number = |number: Option<f64>| number.map_or(Fact::Unknown, Fact::Number);
    let named = |id: Option<TypeId>| id.map_or(Fact::Unknown, Fact::Type);
    let (facts, types) = (&entry.facts, &entry.types);
    let accelerators = facts.accelerators.as_ref();
    let of_accelerators = |fact: Fact| match accelerators {
        Some(_) => fact,
        None => Fact::Nothing,
    };
    match parameter {
        Parameter::NodeProvider => named(types.provider),
        Parameter::NodeMachinetype => named(types.machine),
        Parameter::NodeMemorySize => number(facts.memory.map(|bytes| bytes as f64)),
        Parameter::NodeEcuCount => number(facts.ecu.map(f64::from)),
        Parameter::NodeVcpusCount => number(facts.vcpus.map(f64::from)),
        Parameter::AcceleratorCount => Fact::Number(accelerators.map_or(0.0, |a| a.count)),
        Parameter::AcceleratorMemory => {
            let memory = accelerators.and_then(|a| a.memory);
            of_accelerators(number(memory.map(|bytes| bytes as f64)))
        }
        Parameter::AcceleratorType => of_accelerators(named(types.accelerator_type)),
        Parameter::AcceleratorManufacturer => {
            of_accelerators(named(types.accelerator_manufacturer))
        }
        Parameter::AcceleratorArchitecture => {
            of_accelerators(named(types.accelerator_architecture))
        }
        Parameter::Accelerator => of_accelerators(named(types.accelerator)),
        Parameter::ProcessorManufacturer => named(types.processor_manufacturer),
        Parameter::ProcessorMicroarchitecture => named(types.microarchitecture),
        Parameter::Processor => named(types.processor),
        Parameter::ProcessorIsa => named(types.isa),
        Parameter::StorageType => match &facts.storage {
            Some(storage) if storage.bytes == 0 => Fact::Nothing,
            _ => named(types.storage),
        },
        Parameter::StorageSize => number(facts.storage.as_ref().map(|s| s.bytes as f64)),
        Parameter::NetworkPerformance => number(facts.network.baseline.map(|n| n as f64)),
        Parameter::NetworkBurst => number(facts.network.burst.map(|n| n as f64)),
        Parameter::Efa => number(facts.network.efa.map(f64::from)),
        Parameter::ClusterLocale | Parameter::Market | Parameter::MaxPrice => Fact::Unknown,
    }
}

/// The platform type that a requirement names.
fn find(
    taxonomy: &Taxonomy,
    key: &str,
    parameter: Parameter,
    name: &str,
    newer: bool,
) -> Result<TypeId, Problem> {
    let crate::contract::Domain::Type(kind) = parameter.domain() else {
        return Err(Problem::Value {
            key: key.to_owned(),
            given: name.to_owned(),
            expected: "a number".to_owned(),
        });
    };
    let id = taxonomy
        .find(kind, name)
        .map_err(|unknown| Problem::UnknownType {
            key: key.to_owned(),
            unknown,
        })?;
    if newer && taxonomy.generation_of(id).is_none() {
        return Err(Problem::NoGeneration {
            key: key.to_owned(),
            name: name.to_owned(),
        });
    }
    Ok(id)
}

fn satisfying(taxonomy: &Taxonomy, wanted: TypeId, newer: bool) -> Vec<bool> {
    let kind = taxonomy[wanted].kind;
    let satisfies = |id: TypeId| match newer {
        true => taxonomy.is_same_or_newer(id, wanted),
        false => taxonomy.is_below(id, wanted),
    };
    (taxonomy.ids())
        .map(|id| taxonomy[id].kind == kind && satisfies(id))
        .collect()
}

/// The regions and zones that a locale stands for.
fn places(catalog: &Catalog, locale: TypeId) -> Vec<Place> {
    let taxonomy = catalog.taxonomy();
    let mut places = Vec::new();
    for (index, region) in catalog.regions().iter().enumerate() {
        let Some(id) = catalog.region_type(index) else {
            continue;
        };
        let zones = if taxonomy.is_below(id, locale) {
            u16::MAX
        } else if taxonomy[locale].parent == Some(id) {
            // The name of a zone is another zone in another account, so it says only the region.
            let zone = (region.zones.iter())
                .position(|zone| taxonomy.get(Kind::Locale, &zone.id) == Some(locale));
            zone.map_or(u16::MAX, |zone| 1 << zone)
        } else {
            continue;
        };
        places.push(Place {
            region: index as u16,
            zones,
        });
    }
    places
}
