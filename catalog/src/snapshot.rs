//! Puts the snapshot together from what the sources and our tables say. Nothing here reads or writes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use cc_core::catalog::{InstanceType, Price, Region, Snapshot, Source, compare_names};
use cc_core::platform::Taxonomy;

use crate::prices::{self, Row, Verdict};
use crate::sources::Sources;
use crate::tables::{self, Tables};
use crate::{ec2, families, gcp, regions};

/// The number of the prices' source in the snapshot.
const PRICES: u8 = 1;

/// A snapshot, and what was found on the way.
#[derive(Debug)]
pub(crate) struct Made {
    /// The snapshot.
    pub(crate) snapshot: Snapshot,
    /// How many prices of types that are offered came to which verdict.
    pub(crate) verdicts: BTreeMap<Verdict, usize>,
    /// How many offers the list of prices does not speak of.
    pub(crate) unlisted: usize,
}

/// Makes the snapshot.
///
/// # Errors
/// Says what is new in the sources and where to add it.
pub(crate) fn make(sources: &Sources) -> Result<Made> {
    let taxonomy = Taxonomy::base();
    let tables = Tables::read(&taxonomy)?;
    let regions = regions::regions(&sources.by_id, &sources.by_name)?;
    let mut types = Vec::new();
    let mut offers = regions::offers(&sources.by_id, &regions);
    for (name, answer) in &sources.types {
        let made = ec2::instance_type(name, answer, &tables, &taxonomy);
        let mut made = made.with_context(|| format!("the type {name}"))?;
        made.offers = offers.remove(name).unwrap_or_default();
        types.push(made);
    }
    if let Some(name) = offers.keys().next() {
        bail!("{name} is offered, but there is no answer about it: see what changed");
    }
    for name in tables.ecu.keys().chain(tables.accelerators.keys()) {
        if !sources.types.contains_key(name) {
            bail!("{name} is no type: correct the table in catalog/data");
        }
    }
    types.sort_by(|a, b| compare_names(&a.name, &b.name));
    let (verdicts, unlisted) = set_prices(&mut types, &regions, sources);

    let mut google = gcp::types(&taxonomy)?;
    google.sort_by(|a, b| compare_names(&a.name, &b.name));
    let families = [("ec2", &types), ("gcp", &google)]
        .into_iter()
        .flat_map(|(provider, types)| {
            let names: BTreeSet<String> = types.iter().map(|t| t.family.clone()).collect();
            families::families(provider, &names)
        });
    let families = families.collect();
    types.extend(google);
    let named = |name: &str, date: &str| Source {
        name: name.to_owned(),
        date: date.to_owned(),
    };
    let version = |index: usize| sources.versions.get(index).map_or("", String::as_str);
    let sources = vec![
        named(
            &format!("EC2's answers, in {}", version(0)),
            &sources.answered,
        ),
        named(&format!("EC2's prices, in {}", version(1)), &sources.priced),
        named("CloudClusters' tables", tables::DATE),
    ];
    let made = sources.iter().map(|source| source.date.clone()).max();
    Ok(Made {
        snapshot: Snapshot {
            made: made.unwrap_or_default(),
            sources,
            regions,
            families,
            types,
        },
        verdicts,
        unlisted,
    })
}

/// Puts those prices that are right into offers, and counts the others.
fn set_prices(
    types: &mut [InstanceType],
    regions: &[Region],
    sources: &Sources,
) -> (BTreeMap<Verdict, usize>, usize) {
    let vcpus: BTreeMap<&str, Option<u32>> = types.iter().map(|t| (&*t.name, t.vcpus)).collect();
    let known: BTreeSet<&str> = regions.iter().map(|r| &*r.name).collect();
    let listed = &sources.prices;
    let rows: Vec<Row> = (listed.iter())
        .map(|(name, prices)| Row {
            family: ec2::family_of(name).to_owned(),
            vcpus: vcpus.get(&**name).copied().flatten(),
            prices: (prices.iter())
                .filter(|(region, _)| known.contains(&***region))
                .map(|(region, price)| (region.clone(), *price))
                .collect(),
            licensed: (sources.licensed.iter())
                .filter_map(|list| list.get(name).cloned())
                .collect(),
        })
        .collect();
    let verdicts = prices::judge(&rows);
    let judged: BTreeMap<&str, (&Row, &BTreeMap<String, Verdict>)> = (listed.keys())
        .zip(rows.iter().zip(&verdicts))
        .map(|(name, of)| (&**name, of))
        .collect();
    let (mut counts, mut unlisted) = (BTreeMap::new(), 0);
    for of_type in types {
        for offer in &mut of_type.offers {
            let region = &regions[usize::from(offer.region)].name;
            let found = judged
                .get(&*of_type.name)
                .and_then(|(row, verdicts)| Some((row.prices.get(region)?, verdicts.get(region)?)));
            let Some((dollars, verdict)) = found else {
                unlisted += 1;
                continue;
            };
            *counts.entry(*verdict).or_default() += 1;
            if *verdict == Verdict::Kept {
                offer.price = Some(Price {
                    micro_dollars: (dollars * 1e6).round() as u32,
                    source: PRICES,
                });
            }
        }
    }
    (counts, unlisted)
}

#[cfg(test)]
mod tests {
    use cc_core::catalog::{Catalog, Entry};
    use cc_core::platform::Kind;

    fn dollars(catalog: &Catalog, name: &str, region: &str) -> Option<f64> {
        let region = catalog.region("ec2", region).unwrap();
        let offers = &catalog.get(name).unwrap().facts.offers;
        let offer = offers.iter().find(|o| usize::from(o.region) == region)?;
        offer.price.map(cc_core::catalog::Price::dollars)
    }

    /// What Linux costs in Virginia, as AWS publishes it.
    const CERTAIN: &str = "t3.nano 0.0052, t3.micro 0.0104, t3.small 0.0208, t3.medium 0.0416,
        t3.large 0.0832, t3.xlarge 0.1664, t3.2xlarge 0.3328, t3a.xlarge 0.1504, t4g.xlarge 0.1344,
        t2.micro 0.0116, m5.large 0.096, m5.xlarge 0.192, m5.2xlarge 0.384, m5.24xlarge 4.608,
        c5.large 0.085, c5.xlarge 0.17, c5.4xlarge 0.68, c5.18xlarge 3.06, r5.large 0.126,
        r5.24xlarge 6.048, m6i.large 0.096, c6i.large 0.085, r6i.large 0.126, m6g.large 0.077,
        c6g.large 0.068, m6a.large 0.0864, c7g.large 0.0725, m7i.large 0.1008, c7i.large 0.08925,
        g4dn.xlarge 0.526, g4dn.12xlarge 3.912, g5.xlarge 1.006, g5.12xlarge 5.672,
        g5.48xlarge 16.288, g6.xlarge 0.8048, g6.24xlarge 6.6752, g6.48xlarge 13.3504,
        g6e.xlarge 1.861, p4d.24xlarge 32.7726, p5.48xlarge 98.32, inf2.xlarge 0.7582,
        trn1.32xlarge 21.5, x1.32xlarge 13.338, i3.large 0.156, i4i.large 0.172, d3.xlarge 0.499,
        hpc7a.96xlarge 7.2, a1.large 0.051";

    #[test]
    fn prices_that_are_known_are_right() {
        let catalog = Catalog::embedded();
        let mut known = 0;
        for pair in CERTAIN.split(',') {
            let (name, right) = pair.trim().split_once(' ').unwrap();
            let right: f64 = right.parse().unwrap();
            // The three have the same prices, and each lacks others.
            for region in crate::prices::BASE {
                if let Some(price) = dollars(&catalog, name, region) {
                    assert!(
                        (price - right).abs() < 1e-6,
                        "{name} {region} {price} {right}"
                    );
                    known += 1;
                }
            }
        }
        assert!(known > 90, "{known}");
        assert_eq!(
            dollars(&catalog, "t3.xlarge", "us-east-1"),
            None,
            "0.1763 is wrong"
        );
        assert_eq!(
            dollars(&catalog, "p4d.24xlarge", "us-east-1"),
            None,
            "36.04986 is wrong"
        );
        let inf2 = dollars(&catalog, "inf2.48xlarge", "eu-west-1");
        assert_eq!(inf2, None, "all sizes are too high there");
        assert_eq!(dollars(&catalog, "g6.48xlarge", "us-east-1"), Some(13.3504));
    }

    #[test]
    fn eight_of_ada_and_half_a_tebibyte_are_cheapest_in_g6() {
        let catalog = Catalog::embedded();
        let ada = catalog.taxonomy().get(Kind::AcceleratorArchitecture, "Ada");
        let fits = |entry: &&Entry| {
            let facts = &entry.facts;
            entry.types.accelerator_architecture == ada
                && facts.accelerators.as_ref().is_some_and(|a| a.count == 8.0)
                && facts.memory >= Some(512 << 30)
        };
        let priced = catalog.entries().iter().filter(fits).filter_map(|entry| {
            let price = dollars(&catalog, &entry.facts.name, "us-east-1")?;
            Some((price, &*entry.facts.name))
        });
        let cheapest = priced.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        assert_eq!(cheapest, (13.3504, "g6.48xlarge"));
    }

    #[test]
    fn the_embedded_catalog_is_whole() {
        let catalog = Catalog::embedded();
        let of = |provider: &str| {
            let all = catalog.entries().iter();
            all.filter(|e| e.facts.provider == provider).count()
        };
        assert_eq!(of("ec2"), 1395);
        assert!(of("gcp") > 200);
        assert_eq!(catalog.regions().len(), 30);
        for entry in catalog.entries() {
            let facts = &entry.facts;
            assert!(
                facts.vcpus.is_some() && facts.memory.is_some(),
                "{}",
                facts.name
            );
            let (region, zones) = (catalog.regions(), &facts.offers);
            for offer in zones {
                let zones = region[usize::from(offer.region)].zones.len();
                assert!(
                    offer.zones != 0 && offer.zones >> zones == 0,
                    "{}",
                    facts.name
                );
            }
            let machine = entry.types.machine.unwrap();
            let mut line = catalog.taxonomy().line_up(machine);
            let group = if facts.provider == "ec2" {
                "EC2Type"
            } else {
                "GCPType"
            };
            assert!(
                line.any(|id| catalog.taxonomy()[id].name == group),
                "{}",
                facts.name
            );
        }
        let p5 = &catalog.get("p5.48xlarge").unwrap().facts;
        assert_eq!(p5.network.baseline, Some(3_200_000_000_000));
        assert_eq!(
            catalog.get("m6in.32xlarge").unwrap().facts.network.burst,
            Some(200_000_000_000)
        );
    }
}
