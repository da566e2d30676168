//! Reading `accelerators.tsv`: what is known of each model of accelerators.

use super::{Kind, Taxonomy, TypeId};

const TABLE: &str = include_str!("accelerators.tsv");
const GIB: u64 = 1 << 30;

/// What is known of a model of accelerators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Who makes it.
    pub manufacturer: TypeId,
    /// What it is.
    pub kind: TypeId,
    /// Its generation, if it belongs to a line.
    pub architecture: Option<TypeId>,
    /// The memory that it is made with, in bytes, smallest first.
    pub memory: Vec<u64>,
    /// Where these facts are from.
    pub source: &'static str,
}

impl Model {
    /// The nominal memory of a share of an accelerator whose usable memory is known: of an L4 with
    /// 22,888 MiB it is 24 GiB.
    pub fn nominal_memory(&self, usable: u64, share: f64) -> u64 {
        let whole = (usable as f64 / share) as u64;
        let nominal = self.memory.iter().find(|size| **size >= whole);
        let nominal = nominal.or(self.memory.last()).copied().unwrap_or(whole);
        (nominal as f64 * share) as u64
    }
}

pub(super) fn read(taxonomy: &mut Taxonomy) {
    let Some(root) = taxonomy.root(Kind::Accelerator) else {
        return;
    };
    for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
        let columns: Vec<_> = line.split('\t').collect();
        // A mistake in the table, which a test would see.
        let &[name, aliases, maker, kind, architecture, memory, source] = &columns[..] else {
            continue;
        };
        let (Some(manufacturer), Some(kind)) = (
            taxonomy.get(Kind::Manufacturer, maker),
            taxonomy.get(Kind::AcceleratorType, kind),
        ) else {
            continue;
        };
        let group = taxonomy.add(
            Kind::Accelerator,
            &format!("{maker}Accelerator"),
            Some(root),
        );
        let group = match name.strip_prefix("NVIDIATesla") {
            Some(_) => taxonomy.add(Kind::Accelerator, "NVIDIATesla", Some(group)),
            None => group,
        };
        let id = taxonomy.add(Kind::Accelerator, name, Some(group));
        for alias in aliases.split(',') {
            taxonomy.alias(id, alias.trim());
        }
        let memory = memory
            .split(',')
            .filter_map(|size| size.parse::<u64>().ok());
        let model = Model {
            manufacturer,
            kind,
            architecture: taxonomy.get(Kind::AcceleratorArchitecture, architecture),
            memory: memory.map(|size| size * GIB).collect(),
            source,
        };
        taxonomy.models.insert(id, model);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_model_and_its_types_exist() {
        let types = Taxonomy::base();
        for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
            let columns: Vec<_> = line.split('\t').collect();
            let id = types.get(Kind::Accelerator, columns[0]).unwrap();
            let model = types.model(id).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(
                model.architecture.is_some(),
                !columns[4].is_empty(),
                "{line}"
            );
            assert!(
                !model.memory.is_empty() && !model.source.is_empty(),
                "{line}"
            );
        }
    }

    #[test]
    fn memory_is_nominal() {
        let types = Taxonomy::base();
        let nominal = |name, mib: u64, share| {
            let id = types.get(Kind::Accelerator, name).unwrap();
            types.model(id).unwrap().nominal_memory(mib << 20, share) >> 30
        };
        assert_eq!(nominal("L4", 22_888, 1.0), 24);
        assert_eq!(nominal("L4", 2_861, 0.125), 3);
        assert_eq!(nominal("L40S", 45_776, 1.0), 48);
        assert_eq!(
            (nominal("A100", 40_960, 1.0), nominal("A100", 81_920, 1.0)),
            (40, 80)
        );
        assert_eq!(
            nominal("Trainium2", 524_288, 1.0),
            96,
            "its answer is wrong"
        );
    }
}
