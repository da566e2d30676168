//! The catalog: the instance types of all providers, with their features, where they are offered, and
//! for how much.
//!
//! A snapshot is embedded in this crate; a newer one, or the machine that a program runs on, can be
//! put in its place or beside it. A fact that is not known is absent and never guessed. There is no
//! I/O here.

mod facts;
mod snapshot;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::platform::{Kind, Taxonomy, TypeId, gcp_name, machine_name};

pub use facts::{
    Accelerators, Family, InstanceType, Network, Offer, Price, Processor, Region, Source, Storage,
    Tenure, Zone,
};
pub use snapshot::{SNAPSHOT_VERSION, Snapshot, SnapshotError};

static EMBEDDED: &[u8] = include_bytes!("../../catalog.bin");

/// An instance type's platform types, found once.
#[derive(Debug, Clone, Default)]
pub struct Types {
    /// Who offers it.
    pub provider: Option<TypeId>,
    /// The type itself.
    pub machine: Option<TypeId>,
    /// Its processor's manufacturer.
    pub processor_manufacturer: Option<TypeId>,
    /// Its processor.
    pub processor: Option<TypeId>,
    /// Its processor's microarchitecture.
    pub microarchitecture: Option<TypeId>,
    /// Its instruction set.
    pub isa: Option<TypeId>,
    /// The model of its accelerators.
    pub accelerator: Option<TypeId>,
    /// What they are.
    pub accelerator_type: Option<TypeId>,
    /// Who makes them.
    pub accelerator_manufacturer: Option<TypeId>,
    /// Their architecture.
    pub accelerator_architecture: Option<TypeId>,
    /// What its instance store is made of.
    pub storage: Option<TypeId>,
}

/// An instance type of a catalog.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its facts.
    pub facts: InstanceType,
    /// Its platform types.
    pub types: Types,
}

/// The instance types of all providers.
#[derive(Debug, Clone)]
pub struct Catalog {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    taxonomy: Taxonomy,
    regions: Vec<Region>,
    region_types: Vec<TypeId>,
    sources: Vec<Source>,
    made: String,
}

impl Catalog {
    /// The snapshot that this crate was built with. It is decoded at the first use.
    ///
    /// ```
    /// let catalog = cc_core::catalog::Catalog::embedded();
    /// assert_eq!(catalog.get("p4d.24xlarge").unwrap().facts.accelerators.as_ref().unwrap().count, 8.0);
    /// ```
    pub fn embedded() -> Arc<Self> {
        static CATALOG: OnceLock<Arc<Catalog>> = OnceLock::new();
        Arc::clone(CATALOG.get_or_init(|| {
            let snapshot = Snapshot::decode(EMBEDDED);
            debug_assert!(snapshot.is_ok(), "the embedded catalog: {snapshot:?}");
            Arc::new(Self::new(snapshot.unwrap_or_default()))
        }))
    }

    /// The embedded snapshot as it is stored.
    pub fn embedded_bytes() -> &'static [u8] {
        EMBEDDED
    }

    /// The catalog of a snapshot.
    pub fn new(snapshot: Snapshot) -> Self {
        let mut catalog = Self {
            entries: Vec::with_capacity(snapshot.types.len() + 1),
            by_name: HashMap::with_capacity(snapshot.types.len() + 1),
            taxonomy: Taxonomy::base(),
            regions: Vec::new(),
            region_types: Vec::new(),
            sources: snapshot.sources,
            made: snapshot.made,
        };
        for region in snapshot.regions {
            catalog.add_region(region);
        }
        for family in &snapshot.families {
            catalog.add_family(family);
        }
        for facts in snapshot.types {
            catalog.add(facts);
        }
        catalog
    }

    fn add_region(&mut self, region: Region) {
        let Some(root) = self.taxonomy.root(Kind::Locale) else {
            return;
        };
        let provider = self.taxonomy.get(Kind::Provider, &region.provider);
        let provider = provider.map_or(&*region.provider, |id| &*self.taxonomy[id].name);
        let group = format!("{provider}Locale");
        let group = self.taxonomy.add(Kind::Locale, &group, Some(root));
        let id = self.taxonomy.add(Kind::Locale, &region.name, Some(group));
        for zone in &region.zones {
            self.taxonomy.add(Kind::Locale, &zone.id, Some(id));
            self.taxonomy.add(Kind::Locale, &zone.name, Some(id));
        }
        self.regions.push(region);
        self.region_types.push(id);
    }

    /// Families come parents first.
    fn add_family(&mut self, family: &Family) {
        let Some(root) = self.taxonomy.root(Kind::MachineType) else {
            return;
        };
        let group = match &*family.provider {
            "ec2" => "EC2Type",
            "gcp" => "GCPType",
            _ => return,
        };
        let group = self.taxonomy.add(Kind::MachineType, group, Some(root));
        let name = |name: &str| machine_of(&family.provider, name);
        let parent = family.parent.as_deref().map(name);
        let parent = parent.and_then(|parent| self.taxonomy.get(Kind::MachineType, &parent));
        let parent = parent.unwrap_or(group);
        let id = (self.taxonomy).add(Kind::MachineType, &name(&family.name), Some(parent));
        self.taxonomy.alias(id, &family.name);
    }

    /// Adds an instance type, or replaces the one of that name.
    pub fn add(&mut self, facts: InstanceType) {
        let types = self.types_of(&facts);
        let entry = Entry { facts, types };
        match self.by_name.get(&entry.facts.name) {
            Some(index) => self.entries[*index] = entry,
            None => {
                self.by_name
                    .insert(entry.facts.name.clone(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    fn types_of(&mut self, facts: &InstanceType) -> Types {
        let types = &mut self.taxonomy;
        let family = machine_of(&facts.provider, &facts.family);
        let group = match types.get(Kind::MachineType, &family) {
            Some(family) => Some(family),
            None => types.root(Kind::MachineType),
        };
        let machine = machine_of(&facts.provider, &facts.name);
        let machine = types.add(Kind::MachineType, &machine, group);
        types.alias(machine, &facts.name);
        // What the table does not know belongs below the root, so that it can at least be named.
        let mut named = |kind: Kind, name: &Option<String>| {
            let name = name.as_ref()?;
            Some(types.get(kind, name).unwrap_or_else(|| {
                let root = types.root(kind);
                types.add(kind, name, root)
            }))
        };
        let processor = &facts.processor;
        let mut found = Types {
            provider: named(Kind::Provider, &Some(facts.provider.clone())),
            machine: Some(machine),
            processor_manufacturer: named(Kind::Manufacturer, &processor.manufacturer),
            processor: named(Kind::Processor, &processor.model),
            microarchitecture: named(
                Kind::ProcessorMicroarchitecture,
                &processor.microarchitecture,
            ),
            isa: named(Kind::ProcessorIsa, &processor.isa),
            storage: (facts.storage.as_ref())
                .and_then(|storage| named(Kind::StorageType, &storage.kind)),
            ..Types::default()
        };
        if let Some(accelerators) = &facts.accelerators {
            found.accelerator = named(Kind::Accelerator, &Some(accelerators.model.clone()));
            if let Some(model) = found.accelerator.and_then(|id| types.model(id)) {
                found.accelerator_type = Some(model.kind);
                found.accelerator_manufacturer = Some(model.manufacturer);
                found.accelerator_architecture = model.architecture;
            }
        }
        found
    }

    /// All instance types.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// An instance type by its provider's name for it, such as `t3.xlarge`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|index| &self.entries[*index])
    }

    /// The hierarchies, with this catalog's machine types and locales.
    pub fn taxonomy(&self) -> &Taxonomy {
        &self.taxonomy
    }

    /// The regions that offers speak of by number.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The platform type of a region.
    pub fn region_type(&self, region: usize) -> Option<TypeId> {
        self.region_types.get(region).copied()
    }

    /// A region's number by its provider and name.
    pub fn region(&self, provider: &str, name: &str) -> Option<usize> {
        (self.regions.iter()).position(|r| r.provider == provider && r.name == name)
    }

    /// Where facts and prices are from.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The day of the newest source, as year-month-day.
    pub fn made(&self) -> &str {
        &self.made
    }
}

/// The platform type of a machine type or family. Providers have families of the same name: `c3` is one
/// of EC2's and one of Google's, so that the plain name says whose only to a person.
fn machine_of(provider: &str, name: &str) -> String {
    match provider {
        "ec2" => machine_name(name),
        "gcp" => gcp_name(name),
        _ => name.to_owned(),
    }
}

/// Compares names so that numbers in them count as numbers: `g6.4xlarge` is before `g6.12xlarge`.
pub fn compare_names(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.chars().peekable(), b.chars().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let number = |text: &mut std::iter::Peekable<std::str::Chars<'_>>| {
                    let mut value = 0_u64;
                    while let Some(digit) = text.peek().and_then(|c| c.to_digit(10)) {
                        value = value.saturating_mul(10).saturating_add(u64::from(digit));
                        text.next();
                    }
                    value
                };
                match number(&mut a).cmp(&number(&mut b)) {
                    Ordering::Equal => {}
                    other => return other,
                }
            }
            (Some(x), Some(y)) => match x.cmp(y) {
                Ordering::Equal => {
                    a.next();
                    b.next();
                }
                other => return other,
            },
        }
    }
}
