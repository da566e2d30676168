//! Platform types: the hierarchies of what machines are made of, by which contracts say what they
//! want without naming a machine.
//!
//! What is known beforehand stands in `types.txt` and `accelerators.tsv` beside this file; a
//! catalog adds its machine types and locales. Nothing here knows which machine has what.

mod accelerators;
mod names;
mod table;

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::nearest::nearest;

pub use accelerators::Model;
pub use names::{gcp_name, machine_name, simplified};

/// What a platform type is a type of. Each kind has one hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Who makes nodes.
    Provider,
    /// Families and types of machines.
    MachineType,
    /// Regions and zones.
    Locale,
    /// Who makes processors and accelerators.
    Manufacturer,
    /// What an accelerator is: GPU, FPGA, …
    AcceleratorType,
    /// The generations of accelerators.
    AcceleratorArchitecture,
    /// Models of accelerators.
    Accelerator,
    /// The generations of processors.
    ProcessorMicroarchitecture,
    /// Models of processors.
    Processor,
    /// Instruction sets.
    ProcessorIsa,
    /// Kinds of disks.
    StorageType,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Provider,
        Self::Locale,
        Self::MachineType,
        Self::Manufacturer,
        Self::AcceleratorType,
        Self::AcceleratorArchitecture,
        Self::Accelerator,
        Self::ProcessorMicroarchitecture,
        Self::Processor,
        Self::ProcessorIsa,
        Self::StorageType,
    ];

    /// Its name, which for most is also the parameter that asks for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::MachineType => "machinetype",
            Self::Locale => "locale",
            Self::Manufacturer => "manufacturer",
            Self::AcceleratorType => "accelerator_type",
            Self::AcceleratorArchitecture => "accelerator_architecture",
            Self::Accelerator => "accelerator",
            Self::ProcessorMicroarchitecture => "processor_microarchitecture",
            Self::Processor => "processor",
            Self::ProcessorIsa => "processor_isa",
            Self::StorageType => "storage_type",
        }
    }

    /// What the root of its hierarchy is called.
    pub fn root_name(self) -> &'static str {
        match self {
            Self::Provider => "CloudProvider",
            Self::MachineType => "MachineType",
            Self::Locale => "Locale",
            Self::Manufacturer => "Manufacturer",
            Self::AcceleratorType => "AcceleratorType",
            Self::AcceleratorArchitecture => "AcceleratorArchitecture",
            Self::Accelerator => "Accelerator",
            Self::ProcessorMicroarchitecture => "ProcessorMicroarchitecture",
            Self::Processor => "Processor",
            Self::ProcessorIsa => "ProcessorISA",
            Self::StorageType => "StorageType",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A platform type's place in a [`Taxonomy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

impl TypeId {
    /// Counted from 0 in its taxonomy.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A node of a hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformType {
    /// The name that it is printed with.
    pub name: String,
    /// What it is a type of.
    pub kind: Kind,
    /// What it is a kind of; none for the root.
    pub parent: Option<TypeId>,
    /// Other names.
    pub aliases: Vec<String>,
    /// Its place among its siblings if those are generations, the oldest 0.
    pub generation: Option<u32>,
}

/// A name that is no platform type, and those that it may have meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownType {
    /// What was looked for.
    pub kind: Kind,
    /// What was written.
    pub name: String,
    /// The nearest names of that kind, best first.
    pub nearest: Vec<String>,
    /// Other kinds that have a type of that name.
    pub elsewhere: Vec<Kind>,
}

/// The hierarchies of all kinds.
///
/// ```
/// use cc_core::platform::{Kind, Taxonomy};
/// let types = Taxonomy::base();
/// let ada = types.find(Kind::AcceleratorArchitecture, "Ada").unwrap();
/// let hopper = types.find(Kind::AcceleratorArchitecture, "hopper").unwrap();
/// let nvidia = types.find(Kind::AcceleratorArchitecture, "NVIDIAArchitecture").unwrap();
/// assert!(types.is_below(ada, nvidia) && !types.is_below(ada, hopper));
/// assert!(types.is_same_or_newer(hopper, ada));
/// ```
#[derive(Debug, Clone)]
pub struct Taxonomy {
    types: Vec<PlatformType>,
    by_name: HashMap<(Kind, String), TypeId>,
    models: HashMap<TypeId, Model>,
}

impl Taxonomy {
    /// What is known without a catalog.
    pub fn base() -> Self {
        let mut taxonomy = Self {
            types: Vec::new(),
            by_name: HashMap::new(),
            models: HashMap::new(),
        };
        table::read(&mut taxonomy);
        for kind in [Kind::MachineType, Kind::Locale, Kind::Accelerator] {
            taxonomy.add(kind, kind.root_name(), None);
        }
        accelerators::read(&mut taxonomy);
        taxonomy
    }

    /// Adds a type below another, or the root of a kind; a type that is there already stays where
    /// it is.
    pub fn add(&mut self, kind: Kind, name: &str, parent: Option<TypeId>) -> TypeId {
        let key = (kind, key(kind, name));
        if let Some(id) = self.by_name.get(&key) {
            return *id;
        }
        let id = TypeId(self.types.len() as u32);
        self.by_name.insert(key, id);
        self.types.push(PlatformType {
            name: name.to_owned(),
            kind,
            parent,
            aliases: Vec::new(),
            generation: None,
        });
        id
    }

    /// Gives a type another name, unless that is taken.
    pub fn alias(&mut self, id: TypeId, name: &str) {
        let kind = self[id].kind;
        let key = (kind, key(kind, name));
        if let std::collections::hash_map::Entry::Vacant(entry) = self.by_name.entry(key) {
            entry.insert(id);
            self.types[id.index()].aliases.push(name.to_owned());
        }
    }

    fn set_generation(&mut self, id: TypeId, generation: u32) {
        self.types[id.index()].generation = Some(generation);
    }

    /// The root of a kind.
    pub fn root(&self, kind: Kind) -> Option<TypeId> {
        self.get(kind, kind.root_name())
    }

    /// A type by one of its names.
    pub fn get(&self, kind: Kind, name: &str) -> Option<TypeId> {
        self.by_name.get(&(kind, key(kind, name))).copied()
    }

    /// A type by one of its names.
    ///
    /// # Errors
    /// Names the nearest types.
    pub fn find(&self, kind: Kind, name: &str) -> Result<TypeId, Box<UnknownType>> {
        self.get(kind, name).ok_or_else(|| {
            Box::new(UnknownType {
                kind,
                name: name.chars().take(limits::NAME).collect(),
                nearest: self.nearest(kind, name),
                elsewhere: (Kind::ALL.into_iter())
                    .filter(|other| *other != kind && self.get(*other, name).is_some())
                    .collect(),
            })
        })
    }

    /// Up to three names of a kind that are alike, best first.
    fn nearest(&self, kind: Kind, name: &str) -> Vec<String> {
        let keys = self.by_name.keys().filter(|(k, _)| *k == kind);
        let keys = nearest(&key(kind, name), keys.map(|(_, key)| &**key), 6);
        let mut names: Vec<String> = (keys.into_iter())
            .filter_map(|key| Some(self[self.get(kind, key)?].name.clone()))
            .collect();
        // A type and its other name are one.
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names.truncate(3);
        names
    }

    /// All types with one of their names, in any kind.
    pub fn find_all(&self, name: &str) -> Vec<TypeId> {
        (Kind::ALL.into_iter())
            .filter_map(|kind| self.get(kind, name))
            .collect()
    }

    /// What is directly below a type, in order.
    pub fn children(&self, parent: TypeId) -> Vec<TypeId> {
        (self.ids())
            .filter(|id| self[*id].parent == Some(parent))
            .collect()
    }

    /// Whether a type is another or below it.
    pub fn is_below(&self, id: TypeId, ancestor: TypeId) -> bool {
        self.line_up(id).any(|id| id == ancestor)
    }

    /// Whether a type belongs to the same line as another and to its generation or a newer one.
    pub fn is_same_or_newer(&self, id: TypeId, than: TypeId) -> bool {
        let Some((line, oldest)) = self.generation_of(than) else {
            return self.is_below(id, than);
        };
        self.generation_of(id)
            .is_some_and(|(other, generation)| other == line && generation >= oldest)
    }

    /// The nearest generation at or above a type: the parent of its line, and its number.
    pub fn generation_of(&self, id: TypeId) -> Option<(TypeId, u32)> {
        self.line_up(id).find_map(|id| {
            let node = &self[id];
            Some((node.parent?, node.generation?))
        })
    }

    /// A type, its parent, and so on to the root.
    pub fn line_up(&self, id: TypeId) -> impl Iterator<Item = TypeId> + '_ {
        std::iter::successors(Some(id), |id| self[*id].parent)
    }

    /// What is known of a model of accelerators.
    pub fn model(&self, accelerator: TypeId) -> Option<&Model> {
        self.models.get(&accelerator)
    }

    /// All types, in order.
    pub fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        (0..self.types.len() as u32).map(TypeId)
    }

    /// How many types there are.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

impl std::ops::Index<TypeId> for Taxonomy {
    type Output = PlatformType;

    fn index(&self, id: TypeId) -> &PlatformType {
        &self.types[id.index()]
    }
}

/// A name as it is looked up. Dashes tell regions of different providers apart: `us-east-1` is EC2's
/// and `us-east1` is Google's.
fn key(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Locale => name.to_lowercase(),
        _ => simplified(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_root_and_names_lead_there() {
        let types = Taxonomy::base();
        for kind in Kind::ALL {
            let root = types.root(kind).unwrap();
            assert_eq!(types[root].parent, None, "{kind}");
        }
        for index in 0..types.len() as u32 {
            let id = TypeId(index);
            let node = &types[id];
            assert_eq!(types.get(node.kind, &node.name), Some(id), "{}", node.name);
            let top = types.line_up(id).last().unwrap();
            assert_eq!(Some(top), types.root(node.kind), "{}", node.name);
            for alias in &node.aliases {
                assert_eq!(types.get(node.kind, alias), Some(id), "{alias}");
            }
        }
    }

    #[test]
    fn generations_are_of_one_line() {
        let types = Taxonomy::base();
        let newer = |kind, a: &str, b: &str| {
            let (a, b) = (types.find(kind, a).unwrap(), types.find(kind, b).unwrap());
            types.is_same_or_newer(a, b)
        };
        let (gpu, cpu) = (
            Kind::AcceleratorArchitecture,
            Kind::ProcessorMicroarchitecture,
        );
        assert!(newer(gpu, "Blackwell", "Ada") && newer(gpu, "Ada", "Ada"));
        assert!(!newer(gpu, "Ampere", "Ada") && !newer(gpu, "CDNA3", "Ada"));
        assert!(newer(cpu, "GraniteRapids", "Skylake") && !newer(cpu, "Zen5", "Skylake"));
        assert!(newer(cpu, "Graviton4", "NeoverseN1") && newer(cpu, "NeoverseV1", "Graviton2"));
        assert!(!newer(cpu, "Graviton1", "NeoverseN1"));
        assert!(newer(cpu, "Zen3", "AMDMicroarchitecture"), "no generation");
    }

    #[test]
    fn regions_of_different_providers_are_told_apart() {
        let mut types = Taxonomy::base();
        let root = types.root(Kind::Locale);
        let ec2 = types.add(Kind::Locale, "us-east-1", root);
        assert_eq!(types.get(Kind::Locale, "US-East-1"), Some(ec2));
        assert_eq!(types.get(Kind::Locale, "us-east1"), None);
        assert_ne!(types.add(Kind::Locale, "us-east1", root), ec2);
    }

    #[test]
    fn unknown_names_come_with_the_nearest() {
        let types = Taxonomy::base();
        let unknown = types.find(Kind::AcceleratorArchitecture, "Adda");
        assert_eq!(unknown.unwrap_err().nearest[0], "Ada");
        let unknown = types.find(Kind::AcceleratorArchitecture, "L4").unwrap_err();
        assert_eq!(unknown.elsewhere, [Kind::Accelerator]);
    }
}
