//! Regions, their zones, and which instance types are offered where.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use cc_core::catalog::{Offer, Region, Zone};
use serde::Deserialize;

/// A type and a place where it is offered, as EC2 answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Offering {
    /// The type's name.
    pub(crate) instance_type: String,
    /// The zone's identifier or name.
    pub(crate) location: String,
}

/// The regions with their zones, both sorted.
///
/// Which identifier is which name differs from account to account, so that no table can say it:
/// they are paired as they are sorted, and only the identifiers mean something.
pub(crate) fn regions(
    by_id: &BTreeMap<String, Vec<Offering>>,
    by_name: &BTreeMap<String, Vec<Offering>>,
) -> Result<Vec<Region>> {
    let mut regions = Vec::new();
    for (name, offerings) in by_id {
        let ids = locations(offerings);
        let names = locations(by_name.get(name).map_or(&[], Vec::as_slice));
        if ids.len() != names.len() || ids.len() > 16 {
            bail!(
                "{name} has {} zones by identifier and {} by name; the catalog holds up to 16, \
                 and as many names: see what changed",
                ids.len(),
                names.len()
            );
        }
        let zones = ids.into_iter().zip(names);
        regions.push(Region {
            provider: "ec2".to_owned(),
            name: name.clone(),
            zones: zones.map(|(id, name)| Zone { id, name }).collect(),
        });
    }
    Ok(regions)
}

fn locations(offerings: &[Offering]) -> Vec<String> {
    let mut locations: Vec<_> = offerings.iter().map(|o| o.location.clone()).collect();
    locations.sort();
    locations.dedup();
    locations
}

/// By type: where it is offered, without prices, in the order of the regions.
pub(crate) fn offers(
    by_id: &BTreeMap<String, Vec<Offering>>,
    regions: &[Region],
) -> BTreeMap<String, Vec<Offer>> {
    let mut offers: BTreeMap<String, Vec<Offer>> = BTreeMap::new();
    for (number, region) in (0_u16..).zip(regions) {
        for offering in by_id.get(&region.name).map_or(&[][..], Vec::as_slice) {
            let zone = (region.zones.iter()).position(|z| z.id == offering.location);
            let bit = zone.map_or(0, |zone| 1 << zone);
            let of_type = offers.entry(offering.instance_type.clone()).or_default();
            match of_type.last_mut() {
                Some(offer) if offer.region == number => offer.zones |= bit,
                _ => of_type.push(Offer {
                    region: number,
                    zones: bit,
                    price: None,
                }),
            }
        }
    }
    offers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(region: &str, pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<Offering>> {
        let offering = |(instance_type, location): &(&str, &str)| Offering {
            instance_type: (*instance_type).to_owned(),
            location: (*location).to_owned(),
        };
        let offerings = pairs.iter().map(offering).collect();
        BTreeMap::from([(region.to_owned(), offerings)])
    }

    #[test]
    fn zones_are_paired_sorted_and_offers_have_a_bit_for_each() {
        let ids = [
            ("a1.large", "x1-az4"),
            ("t3.nano", "x1-az1"),
            ("a1.large", "x1-az1"),
        ];
        let names = [
            ("a1.large", "x-1d"),
            ("t3.nano", "x-1a"),
            ("a1.large", "x-1a"),
        ];
        let (ids, names) = (answer("x-1", &ids), answer("x-1", &names));
        let regions = regions(&ids, &names).unwrap();
        assert_eq!(
            (&*regions[0].zones[1].id, &*regions[0].zones[1].name),
            ("x1-az4", "x-1d")
        );
        let offers = offers(&ids, &regions);
        assert_eq!(offers["a1.large"][0].zones, 0b11);
        assert_eq!(offers["t3.nano"][0].zones, 0b01);
    }

    #[test]
    fn answers_that_do_not_fit_are_an_error() {
        let ids = answer("x-1", &[("a1.large", "x1-az1")]);
        assert!(regions(&ids, &BTreeMap::new()).is_err());
    }
}
