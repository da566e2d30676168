//! Which of the published prices are right.
//!
//! The list that is at hand was made from one in which prices of shared and of dedicated tenancy stand
//! side by side, and whichever came last was kept. So a good part of it is missing (0) and a fifth of the
//! rest too high, by 6 or by 10 %, which is what dedicated tenancy costs more. It is never too low.
//!
//! EC2's prices are products: within a family, what a size costs in a region is what the size costs in
//! Virginia times one factor of the region and the family. So each price is foretold by three others
//! of its family, and a price is kept if, and only if, it is what others foretell. No price is made up:
//! what the list does not have, or has wrongly, stays unknown.
//!
//! Lists of the same types with a licensed system add a fee that is the same in all regions, and are mixed
//! up independently. So they can tell where all the sizes of a region are too high.
//!
//! Measured on the list of 2025-03-02: where a type has a price in two of the regions in [`BASE`],
//! 85 % of 1,991 prices are the lowest of them within half a per cent, and all but four of the others
//! are 6 or 10 % above it, so these regions are priced alike. Of the prices that fit the factors, one in
//! 7,100 that the licensed lists also have was too high by them, before they were asked; of those
//! that do not fit, three in four.

use std::collections::BTreeMap;

/// Regions with the same prices.
pub(crate) const BASE: [&str; 3] = ["us-east-1", "us-east-2", "us-west-2"];

/// What prices differ by when they are alike: they are rounded to four digits or fewer. Dedicated
/// tenancy adds four times as much. This and all below are logarithms.
const ALIKE: f64 = 0.015;
/// What factors of large prices differ by, when those are the only evidence.
const EXACT: f64 = 0.003;
/// How often sizes and regions are estimated from each other. Ten times is more than any needs.
const ROUNDS: usize = 50;
/// How many prices that fit speak against one that is lower, since none is too low.
const ONE_LOWER: i64 = 2;

/// What dedicated tenancy costs more, as a factor from and to, roundings included.
const SURCHARGES: [(f64, f64); 2] = [(1.055, 1.075), (1.095, 1.105)];
/// In how many regions a fee must be the same to be one.
const SAME_FEES: usize = 5;

/// What the list says of a type, or of the dedicated hosts of a family, which count as one more size.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The family.
    pub(crate) family: String,
    /// Virtual processors; none for a host.
    pub(crate) vcpus: Option<u32>,
    /// Dollars an hour by region.
    pub(crate) prices: BTreeMap<String, f64>,
    /// The same with each of the licensed systems.
    pub(crate) licensed: Vec<BTreeMap<String, f64>>,
}

/// What is found of a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Others foretell it.
    Kept,
    /// The list has none.
    Missing,
    /// It is not what others foretell.
    Contradicted,
    /// There is nothing to tell it by.
    Unconfirmed,
}

/// Judges all prices. The answer has the rows' order.
pub(crate) fn judge(rows: &[Row]) -> Vec<BTreeMap<String, Verdict>> {
    let first = judge_once(rows);
    let mut corrected = rows.to_vec();
    let mut wrong: Vec<(usize, String)> = Vec::new();
    for (index, row) in corrected.iter_mut().enumerate() {
        for (region, price) in too_high(&rows[index], &first[index]) {
            // What it should have been is evidence about the others.
            row.prices.insert(region.clone(), price);
            wrong.push((index, region));
        }
    }
    let mut verdicts = judge_once(&corrected);
    for (index, region) in wrong {
        verdicts[index].insert(region, Verdict::Contradicted);
    }
    verdicts
}

/// Prices that were kept and are those of dedicated tenancy by a licensed list, with what that says.
fn too_high(row: &Row, verdicts: &BTreeMap<String, Verdict>) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    for list in &row.licensed {
        let both = || {
            (row.prices.iter())
                .filter(|(region, _)| verdicts.get(*region) == Some(&Verdict::Kept))
                .filter_map(|(region, price)| Some((region, *price, *list.get(region)?)))
                .filter(|(.., licensed)| *licensed > 0.0)
        };
        // In tenths of a cent, since both prices are rounded.
        let mut fees: BTreeMap<i64, usize> = BTreeMap::new();
        for (_, price, licensed) in both() {
            *fees
                .entry(((licensed - price) * 1e3).round() as i64)
                .or_default() += 1;
        }
        let usual = fees.into_iter().max_by_key(|(fee, times)| (*times, -fee));
        let Some((fee, SAME_FEES..)) = usual.filter(|(fee, _)| *fee > 0) else {
            continue;
        };
        for (region, price, licensed) in both() {
            let shared = licensed - fee as f64 / 1e3;
            let more = price / shared;
            if (SURCHARGES.iter()).any(|(from, to)| (*from..=*to).contains(&more)) {
                found.push((region.clone(), shared));
            }
        }
    }
    found
}

fn judge_once(rows: &[Row]) -> Vec<BTreeMap<String, Verdict>> {
    let mut families: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        families.entry(&row.family).or_default().push(index);
    }
    let fits: BTreeMap<&str, Fit> = (families.iter())
        .map(|(family, members)| {
            let members = members.iter().map(|index| &rows[*index]);
            (*family, Fit::of(members.collect()))
        })
        .collect();
    let mut verdicts: Vec<BTreeMap<String, Verdict>> = vec![BTreeMap::new(); rows.len()];
    for (family, members) in &families {
        let kin: Vec<&Fit> = (fits.iter())
            .filter(|(other, _)| *other != family && kind(other) == kind(family))
            .map(|(_, fit)| fit)
            .collect();
        for (row, index) in members.iter().enumerate() {
            for (region, price) in &rows[*index].prices {
                let verdict = match *price > 0.0 {
                    true => fits[family].verdict(row, region, &kin),
                    false => Verdict::Missing,
                };
                verdicts[*index].insert(region.clone(), verdict);
            }
        }
    }
    verdicts
}

/// What families are of a kind: the letters that they begin with.
fn kind(family: &str) -> &str {
    let end = family.find(|c: char| !c.is_ascii_lowercase());
    &family[..end.unwrap_or(family.len())]
}

/// The regions that have the same prices, under one name.
fn column(region: &str) -> &str {
    if BASE.contains(&region) {
        BASE[0]
    } else {
        region
    }
}

/// The factors of a family's sizes and regions.
struct Fit<'a> {
    /// Logarithms of the prices that there are, by row and region.
    prices: Vec<BTreeMap<&'a str, f64>>,
    vcpus: Vec<Option<u32>>,
    sizes: Vec<Option<f64>>,
    columns: BTreeMap<&'a str, f64>,
}

impl<'a> Fit<'a> {
    fn of(rows: Vec<&'a Row>) -> Self {
        let logarithms = |row: &&'a Row| {
            let known = row.prices.iter().filter(|(_, price)| **price > 0.0);
            known
                .map(|(region, price)| (&**region, price.ln()))
                .collect()
        };
        let mut fit = Self {
            prices: rows.iter().map(logarithms).collect(),
            vcpus: rows.iter().map(|row| row.vcpus).collect(),
            sizes: vec![None; rows.len()],
            columns: BTreeMap::new(),
        };
        if let Some(first) = fit.first_column() {
            fit.columns.insert(first, 0.0);
            for _ in 0..ROUNDS {
                let before = (fit.sizes.clone(), fit.columns.clone());
                fit.estimate_sizes();
                fit.estimate_columns(first);
                if before == (fit.sizes.clone(), fit.columns.clone()) {
                    break;
                }
            }
        }
        fit
    }

    /// The column that the others are told from: the base, or that with most prices.
    fn first_column(&self) -> Option<&'a str> {
        let mut counts: BTreeMap<&'a str, usize> = BTreeMap::new();
        for region in self.prices.iter().flat_map(BTreeMap::keys) {
            *counts.entry(column(region)).or_default() += 1;
        }
        let most = counts.values().max().copied();
        let has_base = counts.contains_key(BASE[0]);
        (counts.into_iter())
            .find(|(name, count)| {
                if has_base {
                    *name == BASE[0]
                } else {
                    Some(*count) == most
                }
            })
            .map(|(name, _)| name)
    }

    fn estimate_sizes(&mut self) {
        for (row, prices) in self.prices.iter().enumerate() {
            let known = prices.iter().filter_map(|(region, price)| {
                Some((*region, price - self.columns.get(column(region))?))
            });
            let known: Vec<(&str, f64)> = known.collect();
            let lowest_base = (known.iter().filter(|(region, _)| column(region) == BASE[0]))
                .map(|(_, price)| *price)
                .min_by(f64::total_cmp);
            let size = lowest_agreed(known.into_iter().map(|(_, price)| price).collect());
            // The base regions are alike for certain, so that the lowest price there is right.
            self.sizes[row] = match (size, lowest_base) {
                (Some(size), Some(lowest)) if size > lowest + ALIKE => Some(lowest),
                (size, _) => size,
            };
        }
    }

    fn estimate_columns(&mut self, first: &'a str) {
        let mut found: BTreeMap<&'a str, Vec<f64>> = BTreeMap::new();
        for (prices, size) in self.prices.iter().zip(&self.sizes) {
            for (region, price) in prices {
                if let Some(size) = size
                    && column(region) != first
                {
                    found.entry(column(region)).or_default().push(price - size);
                }
            }
        }
        for (name, factors) in found {
            if let Some(factor) = lowest_agreed(factors) {
                self.columns.insert(name, factor);
            }
        }
    }

    /// How far a price is from what its size and region say.
    fn off(&self, row: usize, region: &str) -> Option<f64> {
        let price = self.prices[row].get(region)?;
        Some(price - self.sizes[row]? - self.columns.get(column(region))?)
    }

    fn fits(&self, row: usize, region: &str) -> bool {
        self.off(row, region).is_some_and(|off| off.abs() <= ALIKE)
    }

    fn fits_in_column(&self, row: usize, name: &str) -> bool {
        let mut regions = self.prices[row]
            .keys()
            .filter(|region| column(region) == name);
        regions.any(|region| self.fits(row, region))
    }

    fn verdict(&self, row: usize, region: &str, kin: &[&Fit<'_>]) -> Verdict {
        if !self.fits(row, region) {
            return match self.off(row, region) {
                Some(off) if off > 0.0 => Verdict::Contradicted,
                _ => Verdict::Unconfirmed,
            };
        }
        let here = column(region);
        let others: Vec<&str> = (self.prices[row].keys().copied())
            .filter(|other| *other != region && self.fits(row, other))
            .collect();
        // Another size that is right both here and there makes three prices that foretell this one.
        let confirmed = others.iter().any(|other| {
            let there = column(other);
            here == there
                || (0..self.prices.len())
                    .filter(|other| *other != row)
                    .any(|other| {
                        self.fits_in_column(other, here) && self.fits_in_column(other, there)
                    })
        });
        let by_kin = !others.is_empty() && self.factor_is_of_kin(here, kin);
        if confirmed || by_kin || self.is_proportional(row, here) {
            Verdict::Kept
        } else {
            Verdict::Unconfirmed
        }
    }

    /// Whether a family of the same kind has the same factor in a region.
    fn factor_is_of_kin(&self, name: &str, kin: &[&Fit<'_>]) -> bool {
        let factor = |fit: &Fit<'_>| {
            fit.columns.get(BASE[0])?;
            fit.columns.get(name).copied()
        };
        factor(self).is_some_and(|own| {
            (kin.iter().filter_map(|fit| factor(fit))).any(|other| (own - other).abs() <= EXACT)
        })
    }

    /// Whether a size that has no other price costs as much a processor as one that has.
    fn is_proportional(&self, row: usize, name: &str) -> bool {
        let each = |row: usize| Some(self.sizes[row]? - f64::from(self.vcpus[row]?).ln());
        each(row).is_some_and(|own| {
            (0..self.prices.len())
                .filter(|other| *other != row && self.fits_in_column(*other, name))
                .filter(|other| {
                    let regions = self.prices[*other].keys();
                    regions.filter(|region| self.fits(*other, region)).count() > 1
                })
                .any(|other| each(other).is_some_and(|other| (own - other).abs() <= EXACT))
        })
    }
}

/// The value that most agree on, when others may be too high but none is too low.
fn lowest_agreed(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let mut best: Option<(i64, f64)> = None;
    for (below, value) in values.iter().enumerate() {
        let agreeing = values[below..].iter().take_while(|v| **v <= value + ALIKE);
        let agreeing = agreeing.count();
        let score = agreeing as i64 - ONE_LOWER * below as i64;
        // Of equals the lowest, which comes first.
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, values[below + (agreeing - 1) / 2]));
        }
    }
    best.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(family: &str, vcpus: u32, prices: &[(&str, f64)]) -> Row {
        let prices = prices
            .iter()
            .map(|(region, price)| ((*region).to_owned(), *price));
        Row {
            family: family.to_owned(),
            vcpus: (vcpus > 0).then_some(vcpus),
            prices: prices.collect(),
            licensed: Vec::new(),
        }
    }

    fn verdicts(rows: &[Row]) -> Vec<Vec<Verdict>> {
        let judged = judge(rows).into_iter();
        judged.map(|row| row.into_values().collect()).collect()
    }

    use Verdict::{Contradicted, Kept, Missing, Unconfirmed};

    #[test]
    fn dedicated_tenancy_is_refused_even_where_it_is_the_majority() {
        let (east, ohio, oregon, frankfurt) =
            ("us-east-1", "us-east-2", "us-west-2", "eu-central-1");
        let rows = [
            row(
                "g6",
                4,
                &[
                    (frankfurt, 1.0064),
                    (east, 0.8048),
                    (ohio, 0.8048),
                    (oregon, 0.8048),
                ],
            ),
            row(
                "g6",
                48,
                &[
                    (frankfurt, 5.75429),
                    (east, 5.06176),
                    (ohio, 4.6016),
                    (oregon, 4.6016),
                ],
            ),
            row(
                "g6",
                96,
                &[
                    (frankfurt, 8.34732),
                    (east, 7.34272),
                    (ohio, 6.6752),
                    (oregon, 7.34272),
                ],
            ),
            row(
                "g6",
                192,
                &[
                    (frankfurt, 0.0),
                    (east, 13.3504),
                    (ohio, 13.3504),
                    (oregon, 13.3504),
                ],
            ),
        ];
        let expected = [
            vec![Kept, Kept, Kept, Kept],
            vec![Kept, Contradicted, Kept, Kept],
            vec![Kept, Contradicted, Kept, Contradicted],
            vec![Missing, Kept, Kept, Kept],
        ];
        assert_eq!(verdicts(&rows), expected);
    }

    #[test]
    fn rounding_is_no_contradiction() {
        let rows = [
            row("t3", 2, &[("eu-west-1", 0.0057), ("us-east-1", 0.0052)]),
            row("t3", 2, &[("eu-west-1", 0.0114), ("us-east-1", 0.0104)]),
            row(
                "t3",
                4,
                &[
                    ("eu-west-1", 0.1824),
                    ("us-east-1", 0.1763),
                    ("us-west-2", 0.1664),
                ],
            ),
        ];
        let expected = [vec![Kept; 2], vec![Kept; 2], vec![Kept, Contradicted, Kept]];
        assert_eq!(verdicts(&rows), expected);
    }

    #[test]
    fn what_nothing_confirms_is_unknown() {
        let alone = row("dl2q", 96, &[("us-west-2", 8.9194)]);
        assert_eq!(verdicts(&[alone]), [[Unconfirmed]]);
        // The single size of a family: the host confirms Frankfurt, and another family Ireland.
        let sizes = [
            ("ap-south-1", 39.99),
            ("eu-central-1", 40.94475),
            ("eu-west-1", 35.39655),
            ("us-east-1", 36.04986),
            ("us-west-2", 32.7726),
        ];
        let rows = [
            row("p4d", 96, &sizes),
            row("p4d", 0, &[("eu-central-1", 45.039), ("us-west-2", 36.05)]),
            row("p3", 64, &[("eu-west-1", 26.44), ("us-east-1", 24.48)]),
            row("p3", 32, &[("eu-west-1", 13.22), ("us-east-1", 12.24)]),
        ];
        let found = verdicts(&rows);
        assert_eq!(found[0], [Unconfirmed, Kept, Kept, Contradicted, Kept]);
    }

    #[test]
    fn a_size_with_one_price_is_told_by_its_processors() {
        let rows = [
            row("f2", 24, &[("us-east-1", 1.98), ("us-west-2", 1.98)]),
            row("f2", 192, &[("us-east-1", 15.84)]),
            row("f2", 48, &[("us-east-1", 4.356)]),
        ];
        assert_eq!(
            verdicts(&rows),
            [vec![Kept; 2], vec![Kept], vec![Unconfirmed]]
        );
    }

    #[test]
    fn a_licensed_system_tells_where_all_sizes_are_too_high() {
        let regions = ["ap-1", "eu-1", "eu-2", "sa-1", "us-east-1", "us-west-1"];
        let factors = [1.2, 1.375, 1.3, 1.5, 1.0, 1.1];
        let sizes = |each: f64| {
            let prices = regions.iter().zip(factors);
            let prices = prices.map(|(region, factor)| (*region, each * factor));
            row("inf2", 0, &prices.collect::<Vec<_>>())
        };
        let mut rows = [sizes(0.7582), sizes(6.49063), sizes(12.98127)];
        assert!(
            verdicts(&rows).iter().flatten().all(|v| *v == Kept),
            "nothing tells"
        );
        let mut with_fee = rows[1].prices.clone();
        with_fee.insert("eu-1".to_owned(), 6.49063 * 1.25);
        with_fee.values_mut().for_each(|price| *price += 1.0368);
        rows[1].licensed.push(with_fee);
        for verdicts in verdicts(&rows) {
            assert_eq!(verdicts, [Kept, Contradicted, Kept, Kept, Kept, Kept]);
        }
    }

    #[test]
    fn nothing_is_judged_twice_differently() {
        let rows = [
            row("x1", 64, &[("us-east-1", 6.669), ("us-west-2", 7.336)]),
            row("x1", 128, &[("us-east-1", 13.338)]),
        ];
        assert_eq!(verdicts(&rows), verdicts(&rows));
        assert!(judge(&[]).is_empty());
    }
}
