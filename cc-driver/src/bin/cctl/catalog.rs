//! What the catalog holds, from where, and how old it is.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use cc_core::catalog::Catalog;
use cc_driver::Driver;
use serde_json::json;

use crate::failure::Failure;
use crate::output;

/// Prices that are older than this are worth a word.
const OLD_DAYS: i64 = 90;

pub(crate) fn run(driver: &Driver, json: bool) -> Result<(), Failure> {
    let planner = driver.planner()?;
    let catalog = planner.catalog();
    // Instance types, and those of them with a price somewhere.
    let mut providers: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for entry in catalog.entries() {
        let (types, priced) = providers.entry(&entry.facts.provider).or_default();
        *types += 1;
        *priced += usize::from(entry.facts.offers.iter().any(|offer| offer.price.is_some()));
    }
    let offers = catalog
        .entries()
        .iter()
        .flat_map(|entry| &entry.facts.offers);
    let (offered, priced) = offers.fold((0, 0), |(all, priced), offer| {
        (all + 1, priced + usize::from(offer.price.is_some()))
    });
    let own = cc_driver::catalog_path().filter(|path| path.exists());
    let place = match &own {
        Some(path) if catalog.made() != Catalog::embedded().made() => path.display().to_string(),
        _ => "built in".to_owned(),
    };
    if json {
        let providers = providers.iter().map(|(name, (types, priced))| {
            (
                name.to_string(),
                json!({ "instance_types": types, "with_price": priced }),
            )
        });
        return output::json(&json!({
            "made": catalog.made(),
            "place": place,
            "regions": catalog.regions().len(),
            "offers": offered,
            "prices": priced,
            "providers": providers.collect::<serde_json::Map<_, _>>(),
            "sources": catalog.sources().iter().map(|source| {
                json!({ "name": source.name, "date": source.date, "age_days": age(&source.date) })
            }).collect::<Vec<_>>(),
        }));
    }
    output::text(&format!(
        "catalog  {place}\nregions  {}\noffers   {offered} types in regions, {priced} with a known price\n\n",
        catalog.regions().len(),
    ))?;
    let rows = providers
        .iter()
        .map(|(name, (types, priced))| [name.to_string(), types.to_string(), priced.to_string()]);
    output::table(["PROVIDER", ">TYPES", ">WITH A PRICE"], rows.collect())?;
    output::text("\n")?;
    let rows = catalog.sources().iter().map(|source| {
        let days = age(&source.date);
        let days = days.map_or_else(|| "?".to_owned(), |days| format!("{days} days"));
        [source.name.clone(), source.date.clone(), days]
    });
    output::table(["SOURCE", "OF", ">AGE"], rows.collect())?;
    let oldest = catalog
        .sources()
        .iter()
        .filter_map(|source| age(&source.date))
        .max();
    if oldest.is_some_and(|days| days > OLD_DAYS) {
        output::note("prices change: look at the provider's own before you spend much");
    }
    Ok(())
}

/// Days since a date.
fn age(date: &str) -> Option<i64> {
    let then = humantime::parse_rfc3339_weak(&format!("{date} 00:00:00")).ok()?;
    let since = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .ok()
            .map(|d| d.as_secs() as i64)
    };
    Some((since(SystemTime::now())? - since(then)?) / 86_400)
}
