//! Google's machine types, from our own table: Google has no list of them that can be had without an
//! account. A row of the table describes a series of one shape, and is expanded here.
//!
//! Regions and prices are not known, and a guaranteed bandwidth is nowhere published.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use cc_core::catalog::{Accelerators, InstanceType, Network, Processor, Storage, Tenure};
use cc_core::platform::{Kind, Taxonomy};

use crate::tables::{GIB, columns, named, number, processor, rows, sourced};

const TABLE: &str = include_str!("../data/gcp.tsv");

/// All types of the table.
///
/// # Errors
/// Names the row that is wrong.
pub(crate) fn types(taxonomy: &Taxonomy) -> Result<Vec<InstanceType>> {
    let mut all = Vec::new();
    for row in rows(TABLE) {
        all.extend(expand(&row, taxonomy)?);
    }
    let names: BTreeSet<&String> = all.iter().map(|t| &t.name).collect();
    if names.len() != all.len() {
        bail!("gcp.tsv describes a type twice");
    }
    Ok(all)
}

fn expand(row: &str, taxonomy: &Taxonomy) -> Result<Vec<InstanceType>> {
    let [
        family,
        prefix,
        sizes,
        memory,
        threads,
        manufacturer,
        model,
        microarchitecture,
        isa,
        accelerator,
        counts,
        accelerator_memory,
        burst,
        disks,
        terms,
        source,
    ] = columns("gcp.tsv", row)?;
    sourced(source, row)?;
    let (model, microarchitecture) = processor(taxonomy, model, microarchitecture)?;
    let processor = Processor {
        manufacturer: named(taxonomy, Kind::Manufacturer, manufacturer)?,
        model,
        microarchitecture,
        isa: named(taxonomy, Kind::ProcessorIsa, isa)?,
    };
    let accelerator = named(taxonomy, Kind::Accelerator, accelerator)?;
    let burstable = match terms {
        "" => false,
        "burstable" => true,
        other => bail!("unknown terms `{other}` in `{row}`"),
    };
    let sizes: Vec<&str> = sizes.split(',').collect();
    let mut types = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let each = |text| value(text, index, sizes.len(), row);
        // A size is its number of processors, unless that follows after a colon.
        let (label, vcpus) = size.split_once(':').unwrap_or((size, size));
        let vcpus = number(vcpus, row)?;
        let gib = match memory.strip_suffix("/vcpu") {
            Some(share) => number(share, row)? * vcpus,
            None => match each(memory)? {
                Some(gib) => gib,
                None => bail!("no memory in `{row}`"),
            },
        };
        let disk = each(disks)?.unwrap_or(0.0);
        let accelerators = match (&accelerator, each(counts)?) {
            (Some(model), Some(count)) => Some(Accelerators {
                model: model.clone(),
                count,
                memory: each(accelerator_memory)?.map(bytes),
            }),
            (None, None) => None,
            _ => bail!("an accelerator without a count, or the reverse, in `{row}`"),
        };
        types.push(InstanceType {
            provider: "gcp".to_owned(),
            name: format!("{prefix}{label}"),
            family: family.to_owned(),
            vcpus: Some(vcpus as u32),
            cores: each(threads)?.map(|threads| (vcpus / threads).ceil() as u32),
            memory: Some(bytes(gib)),
            ecu: None,
            processor: processor.clone(),
            accelerators,
            storage: Some(Storage {
                bytes: bytes(disk),
                kind: (disk > 0.0).then(|| "StorageType_GCP_LocalSSD".to_owned()),
            }),
            network: Network {
                baseline: None,
                burst: each(burst)?.map(|gigabits| (gigabits * 1e9) as u64),
                efa: None,
            },
            placement: Vec::new(),
            tenure: Tenure {
                on_demand: true,
                spot: true,
                burstable,
                ..Tenure::default()
            },
            offers: Vec::new(),
        });
    }
    Ok(types)
}

/// A column's value for one of the sizes: it has one for all or one for each, or is empty.
fn value(text: &str, index: usize, sizes: usize, row: &str) -> Result<Option<f64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let values: Vec<&str> = text.split(',').collect();
    let value = match values.len() {
        1 => values[0],
        all if all == sizes => values[index],
        other => bail!("{other} values for {sizes} sizes in `{row}`"),
    };
    Ok(Some(number(value, row)?))
}

fn bytes(gib: f64) -> u64 {
    (gib * GIB) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_type_for_each_size() {
        let row = "g2\tg2-standard-\t4,48\t4/vcpu\t2\tIntel\t\tCascadeLake\tx86_64\tL4\t1,4\t24\t10,50\t\t\tsomewhere";
        let types = expand(row, &Taxonomy::base()).unwrap();
        assert_eq!(types.len(), 2);
        let large = &types[1];
        assert_eq!(
            (&*large.name, large.cores, large.memory),
            ("g2-standard-48", Some(24), Some(192 << 30))
        );
        let accelerators = large.accelerators.as_ref().unwrap();
        assert_eq!(
            (&*accelerators.model, accelerators.count),
            ("NVIDIA_L4", 4.0)
        );
        assert_eq!(
            (large.network.baseline, large.network.burst),
            (None, Some(50_000_000_000))
        );
        assert_eq!(
            large.storage,
            Some(Storage {
                bytes: 0,
                kind: None
            })
        );
        assert_eq!(large.processor.isa.as_deref(), Some("ISA_x86_64"));
        let wrong = row.replace("10,50", "10,20,50");
        let error = expand(&wrong, &Taxonomy::base()).unwrap_err().to_string();
        assert!(error.contains("3 values for 2 sizes"), "{error}");
    }

    #[test]
    fn sizes_may_have_names() {
        let row =
            "e2\te2-\tmicro:2,medium:2\t1,4\t2\t\t\t\tx86_64\t\t\t\t1,2\t\tburstable\tsomewhere";
        let types = expand(row, &Taxonomy::base()).unwrap();
        assert_eq!((&*types[0].name, types[0].vcpus), ("e2-micro", Some(2)));
        assert!(types[1].tenure.burstable && types[1].accelerators.is_none());
        assert_eq!(types[1].memory, Some(4 << 30));
    }

    #[test]
    fn the_table_has_what_google_sells() {
        let types = types(&Taxonomy::base()).unwrap();
        let get = |name: &str| types.iter().find(|t| t.name == name).unwrap();
        let g2 = get("g2-standard-96");
        assert_eq!((g2.vcpus, g2.memory), (Some(96), Some(384 << 30)));
        assert_eq!(g2.accelerators.as_ref().unwrap().count, 8.0);
        assert_eq!(
            g2.processor.microarchitecture.as_deref(),
            Some("CascadeLake")
        );
        let memory = |name: &str| get(name).accelerators.as_ref().unwrap().memory.unwrap() >> 30;
        assert_eq!(
            (memory("a2-highgpu-8g"), memory("a2-ultragpu-8g")),
            (40, 80)
        );
        assert_eq!(get("a3-highgpu-8g").memory, Some(1872 << 30));
        assert_eq!(get("n1-standard-8+t4x1").vcpus, Some(8));
        assert_eq!(get("t2d-standard-60").cores, Some(60));
    }
}
