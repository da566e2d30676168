//! The machine that this program runs on, described as a catalog describes instance types, so that
//! a contract can be held against it.
//!
//! What cannot be told is left unknown and never guessed; nothing here fails. The system's files are
//! read in [`detect`] alone, and understood in functions of their text.

mod processor;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use cc_core::catalog::{Accelerators, InstanceType, Network, Processor, Tenure};
use cc_core::limits;
use cc_core::platform::{Kind, Taxonomy};

const NAME: &str = "local";
const GPUS: &str = "/proc/driver/nvidia/gpus";
/// The platform type above all of its maker's models.
const UNKNOWN_GPU: &str = "NVIDIAAccelerator";

/// What a system says of its machine.
#[derive(Debug, Default)]
struct Said<'a> {
    /// Processors that this program may use.
    vcpus: Option<u32>,
    /// Linux' `/proc/cpuinfo`; empty elsewhere.
    cpuinfo: &'a str,
    /// Linux' `/proc/meminfo`; empty elsewhere.
    meminfo: &'a str,
    /// What the driver of NVIDIA says of each GPU.
    gpus: &'a [String],
    /// The architecture and operating system that this program was compiled for.
    architecture: &'a str,
    system: &'a str,
}

/// Describes this machine.
///
/// ```
/// let machine = cc_provider_local::machine::detect();
/// assert_eq!(machine.provider, "local");
/// assert!(machine.vcpus.is_some_and(|n| n >= 1));
/// ```
pub fn detect() -> InstanceType {
    let gpus: Vec<_> = (std::fs::read_dir(GPUS).into_iter().flatten())
        .take(limits::MACHINE_ACCELERATORS)
        .filter_map(|entry| Some(read(&entry.ok()?.path().join("information"))))
        .collect();
    describe(&Said {
        vcpus: (std::thread::available_parallelism().ok()).and_then(|n| n.get().try_into().ok()),
        cpuinfo: &read(Path::new("/proc/cpuinfo")),
        meminfo: &read(Path::new("/proc/meminfo")),
        gpus: &gpus,
        architecture: std::env::consts::ARCH,
        system: std::env::consts::OS,
    })
}

/// The beginning of a file; nothing if it cannot be read.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // What was read before an error is as good as the whole of a shorter file.
        let _ = file.take(limits::MACHINE_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn describe(said: &Said<'_>) -> InstanceType {
    let types = Taxonomy::base();
    let processor = processor::describe(said.cpuinfo, &types);
    let isa = (types.get(Kind::ProcessorIsa, said.architecture)).map(|id| types[id].name.clone());
    let processor = match (said.system, said.architecture) {
        // There is no other machine that runs this system on this architecture.
        ("macos", "aarch64") => Processor {
            manufacturer: Some("Apple".to_owned()),
            model: Some("AppleSilicon".to_owned()),
            microarchitecture: None,
            isa,
        },
        _ => Processor { isa, ..processor },
    };
    // Of a machine of which only a part may be used, there are no more cores than that.
    let cores = (processor::cores(said.cpuinfo, &processor)).zip(said.vcpus);
    InstanceType {
        provider: NAME.to_owned(),
        name: NAME.to_owned(),
        family: NAME.to_owned(),
        vcpus: said.vcpus,
        cores: cores.map(|(cores, vcpus)| cores.min(vcpus)),
        memory: memory(said.meminfo),
        ecu: None,
        processor,
        accelerators: accelerators(said.gpus, &types),
        storage: None,
        network: Network::default(),
        placement: Vec::new(),
        tenure: Tenure {
            on_demand: true,
            ..Tenure::default()
        },
        offers: Vec::new(),
    }
}

/// The value of a line `name : value`.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = line.split_once(':')?;
    (key.trim() == name).then(|| value.trim())
}

fn memory(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| value(line, "MemTotal"))?;
    let kib: u64 = total.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// The accelerators of the model that there are most of.
fn accelerators(gpus: &[String], types: &Taxonomy) -> Option<Accelerators> {
    let mut models: Vec<(String, Option<u64>, u32)> = Vec::new();
    for text in gpus {
        let name = text.lines().find_map(|line| value(line, "Model"));
        let Some(name) = name else { continue };
        // One that the table does not know is still there: nothing but its maker is known of it.
        let (model, memory) = gpu(name, types).unwrap_or_else(|| (UNKNOWN_GPU.to_owned(), None));
        match models.iter_mut().find(|known| known.0 == model) {
            Some(known) => known.2 += 1,
            None => models.push((model, memory, 1)),
        }
    }
    let (model, memory, count) = models.into_iter().max_by_key(|model| model.2)?;
    Some(Accelerators {
        model,
        count: f64::from(count),
        memory,
    })
}

/// The platform type and memory of a GPU with a name such as `NVIDIA A100-SXM4-40GB`.
fn gpu(name: &str, types: &Taxonomy) -> Option<(String, Option<u64>)> {
    let words: Vec<_> = name
        .split([' ', '-'])
        .filter(|word| !matches!(*word, "NVIDIA" | "Tesla" | ""))
        .collect();
    let nvidia = types.get(Kind::Accelerator, UNKNOWN_GPU)?;
    // The model is followed by its form and memory.
    let id = (1..=words.len()).rev().find_map(|end| {
        let model = words[..end].join(" ");
        [format!("NVIDIA {model}"), model]
            .into_iter()
            .filter_map(|model| types.get(Kind::Accelerator, &model))
            .find(|id| types.is_below(*id, nvidia))
    })?;
    let sizes = types.model(id).map_or(&[][..], |model| &model.memory);
    let stated = words.iter().find_map(|word| {
        let gib: u64 = word.strip_suffix("GB")?.parse().ok()?;
        gib.checked_mul(1 << 30)
    });
    let memory = match (stated, sizes) {
        (Some(size), sizes) => sizes.contains(&size).then_some(size),
        // It has more than others of its model.
        (None, _) if words.contains(&"NVL") => None,
        (None, [only]) => Some(*only),
        (None, _) => None,
    };
    Some((types[id].name.clone(), memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(names: &[&str]) -> Option<Accelerators> {
        let texts: Vec<_> = (names.iter())
            .map(|name| format!("Model: \t\t {name}\nIRQ:   \t\t 24\nGPU UUID: \t GPU-1\n"))
            .collect();
        accelerators(&texts, &Taxonomy::base())
    }

    #[test]
    fn gpus_are_platform_types() {
        for (name, model, gib) in [
            ("Tesla T4", "NVIDIATesla_T4", Some(16)),
            ("Tesla V100-SXM2-16GB", "NVIDIATesla_V100", Some(16)),
            ("Tesla V100-SXM2-32GB", "NVIDIATesla_V100", Some(32)),
            ("Tesla V100-SXM2", "NVIDIATesla_V100", None),
            ("NVIDIA A100-SXM4-40GB", "NVIDIA_A100", Some(40)),
            ("NVIDIA A10G", "NVIDIA_A10G", Some(24)),
            ("NVIDIA L40S", "NVIDIA_L40S", Some(48)),
            ("NVIDIA H100 80GB HBM3", "NVIDIA_H100", Some(80)),
            ("NVIDIA H100 NVL", "NVIDIA_H100", None),
            (
                "NVIDIA RTX PRO 6000 Blackwell Server Edition",
                "NVIDIA_RTX_PRO_6000",
                Some(96),
            ),
        ] {
            let found = gpus(&[name]).unwrap();
            assert_eq!((&*found.model, found.count), (model, 1.0), "{name}");
            assert_eq!(found.memory, gib.map(|n: u64| n << 30), "{name}");
        }
        for name in [
            "NVIDIA A10",
            "NVIDIA GeForce RTX 4090",
            "Tesla",
            "MI300X",
            "",
        ] {
            assert_eq!(gpus(&[name]).unwrap().model, UNKNOWN_GPU, "{name}");
        }
        assert_eq!(gpus(&["NVIDIA L4"; 4]).unwrap().count, 4.0);
        let mixed = gpus(&["NVIDIA L4", "Tesla T4", "Tesla T4"]).unwrap();
        assert_eq!((&*mixed.model, mixed.count), ("NVIDIATesla_T4", 2.0));
        assert_eq!(accelerators(&["nothing".into()], &Taxonomy::base()), None);
    }

    #[test]
    fn memory_is_what_the_system_has() {
        let text = "MemTotal:       16131424 kB\nMemFree:         1 kB\n";
        assert_eq!(memory(text), Some(16_131_424 << 10));
        for wrong in [
            "",
            "MemTotal: x kB",
            "MemTotal: 5",
            "MemTotal: 99999999999999999999 kB",
        ] {
            assert_eq!(memory(wrong), None);
        }
    }

    #[test]
    fn a_system_that_says_nothing_has_a_description() {
        let machine = describe(&Said {
            architecture: "riscv64",
            ..Said::default()
        });
        assert_eq!(machine.processor, Processor::default());
        assert_eq!((machine.cores, machine.memory), (None, None));
        assert!(machine.tenure.on_demand && machine.offers.is_empty());

        let apple = describe(&Said {
            vcpus: Some(8),
            architecture: "aarch64",
            system: "macos",
            ..Said::default()
        });
        assert_eq!(apple.processor.model.as_deref(), Some("AppleSilicon"));
        assert_eq!(apple.processor.isa.as_deref(), Some("ISA_aarch64"));
    }

    #[test]
    fn what_is_said_are_names_of_platform_types() {
        let machine = detect();
        let types = Taxonomy::base();
        let processor = &machine.processor;
        for (kind, name) in [
            (Kind::Manufacturer, &processor.manufacturer),
            (Kind::Processor, &processor.model),
            (
                Kind::ProcessorMicroarchitecture,
                &processor.microarchitecture,
            ),
            (Kind::ProcessorIsa, &processor.isa),
        ] {
            if let Some(name) = name {
                let id = types.get(kind, name).unwrap();
                assert_eq!(types[id].name, *name);
            }
        }
        assert!(
            machine
                .cores
                .is_none_or(|n| n >= 1 && n <= machine.vcpus.unwrap())
        );
    }
}
