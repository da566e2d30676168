//! Selection against a filter that is written without any of its code, for random contracts.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::collections::BTreeSet;

use cc_core::catalog::{Catalog, Entry};
use cc_core::contract::{
    Contract, Market, Parameter, Quantity, Requirement, Role, at_least, at_most, between, just,
};
use cc_core::platform::{Kind, TypeId};
use proptest::prelude::*;

/// What the naive filter knows of an entry: numbers, or types by their names from the entry up.
fn numbers(entry: &Entry, parameter: Parameter) -> Option<f64> {
    let facts = &entry.facts;
    let accelerators = facts.accelerators.as_ref();
    match parameter {
        Parameter::NodeMemorySize => facts.memory.map(|n| n as f64),
        Parameter::NodeEcuCount => facts.ecu.map(f64::from),
        Parameter::NodeVcpusCount => facts.vcpus.map(f64::from),
        Parameter::AcceleratorCount => Some(accelerators.map_or(0.0, |a| a.count)),
        Parameter::AcceleratorMemory => Some(accelerators?.memory? as f64),
        Parameter::StorageSize => Some(facts.storage.as_ref()?.bytes as f64),
        Parameter::NetworkPerformance => facts.network.baseline.map(|n| n as f64),
        Parameter::NetworkBurst => facts.network.burst.map(|n| n as f64),
        Parameter::Efa => facts.network.efa.map(f64::from),
        _ => None,
    }
}

fn type_of(catalog: &Catalog, entry: &Entry, parameter: Parameter) -> Option<TypeId> {
    let (facts, types) = (&entry.facts, catalog.taxonomy());
    let find = |kind, name: &Option<String>| types.get(kind, name.as_ref()?);
    let model = (facts.accelerators.as_ref()).and_then(|a| types.get(Kind::Accelerator, &a.model));
    let known = model.and_then(|id| types.model(id));
    match parameter {
        Parameter::NodeProvider => types.get(Kind::Provider, &facts.provider),
        Parameter::NodeMachinetype => types.get(Kind::MachineType, &facts.name),
        Parameter::AcceleratorType => Some(known?.kind),
        Parameter::AcceleratorManufacturer => Some(known?.manufacturer),
        Parameter::AcceleratorArchitecture => known?.architecture,
        Parameter::Accelerator => model,
        Parameter::ProcessorManufacturer => find(Kind::Manufacturer, &facts.processor.manufacturer),
        Parameter::ProcessorMicroarchitecture => find(
            Kind::ProcessorMicroarchitecture,
            &facts.processor.microarchitecture,
        ),
        Parameter::Processor => find(Kind::Processor, &facts.processor.model),
        Parameter::ProcessorIsa => find(Kind::ProcessorIsa, &facts.processor.isa),
        Parameter::StorageType => {
            let storage = facts.storage.as_ref()?;
            (storage.bytes > 0).then(|| find(Kind::StorageType, &storage.kind))?
        }
        _ => None,
    }
}

/// The regions of offers that a locale means, zones aside.
fn offered(catalog: &Catalog, entry: &Entry, locale: Option<&str>) -> Vec<Option<f64>> {
    let prices = entry.facts.offers.iter().filter_map(|offer| {
        let region = &catalog.regions()[usize::from(offer.region)];
        let meant = match locale {
            None => true,
            Some(name) => {
                let zone = region.zones.iter().position(|zone| zone.id == name);
                let named = region.zones.iter().any(|zone| zone.name == name);
                region.name == name
                    || named
                    || zone.is_some_and(|bit| offer.zones & (1 << bit) != 0)
            }
        };
        meant.then(|| offer.price.map(|price| price.dollars()))
    });
    prices.collect()
}

fn naive(catalog: &Catalog, contract: &Contract) -> BTreeSet<String> {
    let assumptions = contract.assumptions(Role::Peer);
    let locale = match assumptions.get(Parameter::ClusterLocale) {
        Some(Requirement::Type(name)) => Some(name.as_str()),
        _ => None,
    };
    let holds = |entry: &Entry, parameter: Parameter, requirement: &Requirement| {
        let types = catalog.taxonomy();
        match (parameter, requirement) {
            (Parameter::ClusterLocale, _) => !offered(catalog, entry, locale).is_empty(),
            (Parameter::MaxPrice, Requirement::Quantity(most)) => {
                let prices = offered(catalog, entry, locale);
                let cheapest = prices.into_iter().flatten().min_by(f64::total_cmp);
                cheapest.is_some_and(|price| most.contains(price))
            }
            (_, Requirement::Market(Market::Spot)) => entry.facts.tenure.spot,
            (_, Requirement::Market(Market::OnDemand)) => entry.facts.tenure.on_demand,
            (_, Requirement::Quantity(quantity)) => {
                numbers(entry, parameter).is_some_and(|n| quantity.contains(n))
            }
            (_, Requirement::Type(name)) => {
                let kind = types.find_all(name);
                let own = type_of(catalog, entry, parameter);
                own.is_some_and(|own| types.line_up(own).any(|id| kind.contains(&id)))
            }
            (_, Requirement::AtLeastType(name)) => {
                let own = type_of(catalog, entry, parameter);
                let wanted = types.find_all(name);
                let wanted = wanted.iter().filter_map(|id| types.generation_of(*id));
                let own = own.and_then(|own| types.generation_of(own));
                wanted.into_iter().any(|(line, oldest)| {
                    own.is_some_and(|(other, generation)| line == other && generation >= oldest)
                })
            }
        }
    };
    (catalog.entries().iter())
        .filter(|entry| assumptions.iter().all(|(p, r)| holds(entry, p, r)))
        .map(|entry| entry.facts.name.clone())
        .collect()
}

fn select(contract: &Contract) -> BTreeSet<String> {
    let catalog = Catalog::embedded();
    let found = catalog.select(contract, Role::Peer).unwrap();
    found
        .into_iter()
        .map(|m| m.entry.facts.name.clone())
        .collect()
}

const NUMBERS: [Parameter; 10] = [
    Parameter::NodeMemorySize,
    Parameter::NodeEcuCount,
    Parameter::NodeVcpusCount,
    Parameter::AcceleratorCount,
    Parameter::AcceleratorMemory,
    Parameter::StorageSize,
    Parameter::NetworkPerformance,
    Parameter::NetworkBurst,
    Parameter::Efa,
    Parameter::MaxPrice,
];
const TYPES: [Parameter; 12] = [
    Parameter::NodeProvider,
    Parameter::ClusterLocale,
    Parameter::NodeMachinetype,
    Parameter::AcceleratorType,
    Parameter::AcceleratorManufacturer,
    Parameter::AcceleratorArchitecture,
    Parameter::Accelerator,
    Parameter::ProcessorManufacturer,
    Parameter::ProcessorMicroarchitecture,
    Parameter::Processor,
    Parameter::ProcessorIsa,
    Parameter::StorageType,
];

/// An assumption that some entry of the catalog satisfies, or nearly does.
fn assumption() -> impl Strategy<Value = Option<(Parameter, Requirement)>> {
    (
        any::<prop::sample::Index>(),
        0..NUMBERS.len() + TYPES.len() + 1,
        0..5_u32,
        0..4_usize,
    )
        .prop_map(|(entry, parameter, form, up)| {
            let catalog = Catalog::embedded();
            let entry = entry.get(catalog.entries());
            if let Some(parameter) = NUMBERS.get(parameter) {
                let number = match parameter {
                    Parameter::MaxPrice => {
                        let price = offered(&catalog, entry, None).into_iter().flatten().next();
                        return Some((*parameter, at_most(price?).into()));
                    }
                    _ => numbers(entry, *parameter)?,
                };
                let quantity: Quantity = match form {
                    0 => just(number),
                    1 | 2 => at_least(number),
                    3 => at_most(number),
                    _ => between(number / 2.0, number),
                };
                return Some((*parameter, quantity.into()));
            }
            let Some(parameter) = TYPES.get(parameter - NUMBERS.len()) else {
                let market = [Market::OnDemand, Market::Spot][form as usize % 2];
                return Some((Parameter::Market, Requirement::Market(market)));
            };
            let types = catalog.taxonomy();
            if *parameter == Parameter::ClusterLocale {
                let offer = entry.facts.offers.first()?;
                let region = &catalog.regions()[usize::from(offer.region)];
                let zone = &region.zones[up % region.zones.len()];
                let name = match form {
                    0 | 1 => &region.name,
                    2 | 3 => &zone.id,
                    _ => &zone.name,
                };
                return Some((*parameter, Requirement::Type(name.clone())));
            }
            let own = type_of(&catalog, entry, *parameter)?;
            let line: Vec<_> = types.line_up(own).collect();
            let id = line[up % line.len()];
            let name = types[id].name.clone();
            let requirement = match types.generation_of(id) {
                Some(_) if form > 2 => Requirement::AtLeastType(name),
                _ => Requirement::Type(name),
            };
            Some((*parameter, requirement))
        })
}

fn contract(assumptions: &[Option<(Parameter, Requirement)>]) -> Contract {
    let texts = (assumptions.iter().flatten())
        .map(|(parameter, requirement)| format!("{parameter}{}", requirement.print(*parameter)));
    let mut contract = Contract::new();
    for text in texts {
        contract = contract.with(Contract::parse([text.replacen(' ', "", 1)]).unwrap());
    }
    contract
}

/// Accelerators that are not there and something about them is a contradiction, found by a check.
fn makes_sense(contract: &Contract) -> bool {
    Catalog::embedded().select(contract, Role::Peer).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn it_agrees_with_a_naive_filter(assumptions in prop::collection::vec(assumption(), 0..5)) {
        let contract = contract(&assumptions);
        prop_assume!(makes_sense(&contract));
        prop_assert_eq!(select(&contract), naive(&Catalog::embedded(), &contract));
    }

    #[test]
    fn one_assumption_more_never_adds_a_result(
        assumptions in prop::collection::vec(assumption(), 0..4),
        more in assumption(),
    ) {
        let before = contract(&assumptions);
        let said = |p| before.assumptions(Role::Peer).get(p).is_some();
        prop_assume!(more.as_ref().is_some_and(|(p, _)| !said(*p)));
        let after = contract(&[&assumptions[..], &[more]].concat());
        prop_assume!(makes_sense(&before) && makes_sense(&after));
        prop_assert!(select(&after).is_subset(&select(&before)));
    }

    #[test]
    fn what_is_printed_is_read(
        assumptions in prop::collection::vec(assumption(), 0..5),
        manager in prop::collection::vec(assumption(), 0..3),
        nodes in 1..10_000_u32,
    ) {
        let manager = (manager.iter().flatten())
            .map(|(p, r)| format!("manager.{p}{}", r.print(*p).replacen(' ', "", 1)));
        let mut contract = contract(&assumptions).node_count(nodes);
        for text in manager {
            contract = contract.with(Contract::parse([text]).unwrap());
        }
        let again = Contract::parse(contract.to_assumptions()).unwrap();
        prop_assert_eq!(&again, &contract);
        let toml = Contract::from_toml("x", &contract.to_toml()).unwrap();
        prop_assert_eq!(&toml, &contract, "{}", contract.to_toml());
        let json = serde_json::to_string(&contract).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Contract>(&json).unwrap(), &contract);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", key in "[a-z_.]{0,30}", value in ".{0,40}") {
        let _ = Contract::parse([&text]);
        let _ = Contract::from_toml("x", &text);
        let assumption = format!("{key}={value}");
        let _ = Contract::parse([&assumption]);
        for parameter in Parameter::all() {
            if let Ok(contract) = Contract::parse([format!("{parameter}={value}")]) {
                let _ = Catalog::embedded().select(&contract, Role::Peer);
            }
        }
    }
}
