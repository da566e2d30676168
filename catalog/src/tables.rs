//! Our own tables, in `data/`: what the providers publish on pages and not in answers. Every row says
//! where it is from. A name that is no platform type is an error, since nobody could ask for it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use cc_core::catalog::Accelerators;
use cc_core::platform::{Kind, Taxonomy};

const FAMILIES: &str = include_str!("../data/ec2-families.tsv");
const ECU: &str = include_str!("../data/ec2-ecu.tsv");
const ACCELERATORS: &str = include_str!("../data/ec2-accelerators.tsv");

/// The day that the tables speak of. Change it with them.
pub(crate) const DATE: &str = "2026-11-24";
pub(crate) const GIB: f64 = (1_u64 << 30) as f64;

/// What a family's machines have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machines {
    /// The model of their processor.
    pub(crate) model: Option<String>,
    /// Its microarchitecture.
    pub(crate) microarchitecture: Option<String>,
}

/// The tables about EC2.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    /// By family.
    pub(crate) families: BTreeMap<String, Machines>,
    /// EC2 compute units by type.
    pub(crate) ecu: BTreeMap<String, f32>,
    /// Accelerators by type, where answers leave them out.
    pub(crate) accelerators: BTreeMap<String, Accelerators>,
}

impl Tables {
    /// Reads them.
    ///
    /// # Errors
    /// Names the row that is wrong.
    pub(crate) fn read(taxonomy: &Taxonomy) -> Result<Self> {
        let mut tables = Self {
            families: BTreeMap::new(),
            ecu: BTreeMap::new(),
            accelerators: BTreeMap::new(),
        };
        for row in rows(FAMILIES) {
            let [family, model, microarchitecture, source] = columns("ec2-families.tsv", &row)?;
            sourced(source, &row)?;
            let (model, microarchitecture) = processor(taxonomy, model, microarchitecture)?;
            let machines = Machines {
                model,
                microarchitecture,
            };
            if (tables.families.insert(family.to_owned(), machines)).is_some() {
                bail!("ec2-families.tsv: {family} stands twice");
            }
        }
        for row in rows(ECU) {
            let [name, units, source] = columns("ec2-ecu.tsv", &row)?;
            sourced(source, &row)?;
            tables
                .ecu
                .insert(name.to_owned(), number(units, &row)? as f32);
        }
        for row in rows(ACCELERATORS) {
            let [name, model, count, memory, source] = columns("ec2-accelerators.tsv", &row)?;
            sourced(source, &row)?;
            let accelerators = Accelerators {
                model: named(taxonomy, Kind::Accelerator, model)?.unwrap_or_default(),
                count: number(count, &row)?,
                memory: Some((number(memory, &row)? * GIB) as u64),
            };
            tables.accelerators.insert(name.to_owned(), accelerators);
        }
        Ok(tables)
    }
}

/// The rows of a table, without its comments.
pub(crate) fn rows(table: &str) -> impl Iterator<Item = String> + '_ {
    (table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty()))
    .map(str::to_owned)
}

/// The columns of a row.
pub(crate) fn columns<'a, const N: usize>(table: &str, row: &'a str) -> Result<[&'a str; N]> {
    let columns: Vec<&str> = row.split('\t').map(str::trim).collect();
    let found = columns.len();
    (columns.try_into().ok())
        .with_context(|| format!("{table}: {found} columns instead of {N} in `{row}`"))
}

/// A platform type's name, as it is printed; none if it is empty.
pub(crate) fn named(taxonomy: &Taxonomy, kind: Kind, name: &str) -> Result<Option<String>> {
    if name.is_empty() {
        return Ok(None);
    }
    let id = taxonomy.get(kind, name).with_context(|| {
        format!("{name} is no {kind}: add it to cc-core/src/platform, or correct the table")
    })?;
    Ok(Some(taxonomy[id].name.clone()))
}

/// A number of a row.
pub(crate) fn number(text: &str, row: &str) -> Result<f64> {
    (text.parse().ok()).with_context(|| format!("`{text}` is no number in `{row}`"))
}

/// Refuses a row that does not say where it is from.
pub(crate) fn sourced(source: &str, row: &str) -> Result<()> {
    if source.is_empty() {
        bail!("no source in `{row}`");
    }
    Ok(())
}

/// A processor's model and microarchitecture, as both tables of machines name them.
///
/// # Errors
/// Names what is no platform type.
pub(crate) fn processor(
    taxonomy: &Taxonomy,
    model: &str,
    microarchitecture: &str,
) -> Result<(Option<String>, Option<String>)> {
    let kind = Kind::ProcessorMicroarchitecture;
    Ok((
        named(taxonomy, Kind::Processor, model)?,
        named(taxonomy, kind, microarchitecture)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_order() {
        let tables = Tables::read(&Taxonomy::base()).unwrap();
        assert!(tables.families.len() > 150 && tables.ecu.len() > 40);
        let m8i = &tables.families["m8i"];
        assert_eq!(m8i.microarchitecture.as_deref(), Some("GraniteRapids"));
        assert_eq!(
            tables.families["m5"].microarchitecture, None,
            "AWS names two"
        );
        assert_eq!(tables.ecu["c3.8xlarge"], 108.0);
        for table in [FAMILIES, ECU, ACCELERATORS] {
            assert!(rows(table).all(|row| !row.contains("  ")));
        }
    }

    #[test]
    fn wrong_rows_are_named() {
        let taxonomy = Taxonomy::base();
        let error = named(&taxonomy, Kind::Processor, "Zen9").unwrap_err();
        assert!(error.to_string().contains("Zen9"), "{error}");
        let error = columns::<2>("x.tsv", "a\tb\tc").unwrap_err();
        assert!(error.to_string().contains("x.tsv: 3 columns"), "{error}");
    }
}
