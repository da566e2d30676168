//! What Linux' `/proc/cpuinfo` says of a processor.

use std::collections::HashSet;

use cc_core::catalog::Processor;
use cc_core::platform::{Kind, Taxonomy};

use super::value;

/// The processor, but for its instruction set.
pub(super) fn describe(cpuinfo: &str, types: &Taxonomy) -> Processor {
    let field = |name| cpuinfo.lines().find_map(|line| value(line, name));
    let number = |name| field(name).and_then(|text| text.parse::<u32>().ok());
    let family = number("cpu family").zip(number("model"));
    let (manufacturer, microarchitecture) = match field("vendor_id") {
        Some("GenuineIntel") => (
            Some("Intel"),
            family.and_then(|(family, model)| intel(family, model, number("stepping"))),
        ),
        Some("AuthenticAMD") => (
            Some("AMD"),
            family.and_then(|(family, model)| amd(family, model)),
        ),
        _ => arm(cpuinfo),
    };
    let model = match (manufacturer, field("model name")) {
        (Some(maker), Some(name)) => model(maker, name, types),
        _ => None,
    };
    Processor {
        manufacturer: manufacturer.map(str::to_owned),
        model,
        microarchitecture: microarchitecture.map(str::to_owned),
        isa: None,
    }
}

/// The number of physical cores.
pub(super) fn cores(cpuinfo: &str, processor: &Processor) -> Option<u32> {
    let (mut cores, mut processors, mut package) = (HashSet::new(), 0u32, "0");
    for line in cpuinfo.lines() {
        if value(line, "processor").is_some() {
            processors += 1;
            package = "0";
        } else if let Some(id) = value(line, "physical id") {
            package = id;
        } else if let Some(core) = value(line, "core id") {
            cores.insert((package, core));
        }
    }
    let one_thread_each = (processor.microarchitecture.as_deref())
        .is_some_and(|name| name.starts_with("Neoverse") || name == "CortexA72");
    match u32::try_from(cores.len()) {
        Ok(0) => (one_thread_each && processors > 0).then_some(processors),
        cores => cores.ok(),
    }
}

fn intel(family: u32, model: u32, stepping: Option<u32>) -> Option<&'static str> {
    if family != 6 {
        return None;
    }
    Some(match (model, stepping) {
        (44, _) => "Westmere",
        (45, _) => "SandyBridge",
        (62, _) => "IvyBridge",
        (63, _) => "Haswell",
        (79 | 86, _) => "Broadwell",
        (85, Some(0..5)) => "Skylake",
        // From 10 on, it is one that has no platform type.
        (85, Some(5..10)) => "CascadeLake",
        (106 | 108, _) => "IceLake",
        (143, _) => "SapphireRapids",
        (207, _) => "EmeraldRapids",
        (173 | 174, _) => "GraniteRapids",
        _ => return None,
    })
}

fn amd(family: u32, model: u32) -> Option<&'static str> {
    Some(match (family, model) {
        (23, ..0x30) => "Zen",
        (23, _) => "Zen2",
        (25, 0x10..=0x1f | 0x60..=0x7f | 0xa0..=0xaf) => "Zen4",
        (25, _) => "Zen3",
        (26, _) => "Zen5",
        _ => return None,
    })
}

/// Who makes it, if that follows from who designed it, and the design if all cores have the same.
fn arm(cpuinfo: &str) -> (Option<&'static str>, Option<&'static str>) {
    let all = |name| {
        let mut values = cpuinfo.lines().filter_map(move |line| value(line, name));
        let first = values.next()?;
        values.all(|value| value == first).then_some(first)
    };
    match (all("CPU implementer"), all("CPU part")) {
        (Some("0x41"), Some(part)) => {
            let design = match part {
                "0xd08" => Some("CortexA72"),
                "0xd0c" => Some("NeoverseN1"),
                "0xd40" => Some("NeoverseV1"),
                "0xd4f" => Some("NeoverseV2"),
                "0xd84" => Some("NeoverseV3"),
                _ => None,
            };
            (None, design)
        }
        (Some("0x61"), _) => (Some("Apple"), None),
        (Some("0xc0"), _) => (Some("AmpereComputing"), None),
        _ => (None, None),
    }
}

/// The platform type of a processor with a name such as `AMD EPYC 7R13 48-Core Processor`: of its
/// model, or of what it is at least known to be one of.
fn model(maker: &str, name: &str, types: &Taxonomy) -> Option<String> {
    let name = name.replace("(R)", "").replace("(TM)", "");
    let name = name.split_once('@').map_or(&*name, |(name, _)| name);
    let words: Vec<_> = name
        .split_whitespace()
        // Some have their generation in front.
        .skip_while(|word| !word.eq_ignore_ascii_case(maker))
        .filter(|word| {
            let word = word.to_lowercase();
            let grade = ["platinum", "gold", "silver", "bronze", "cpu", "processor"];
            !grade.contains(&&*word) && !word.ends_with("-core")
        })
        .collect();
    let get = |name: &str| types.get(Kind::Processor, name);
    let id = get(&words.concat()).or_else(|| {
        (1..words.len())
            .rev()
            .map(|end| words[..end].concat())
            .chain([format!("{maker}Processor")])
            .filter_map(|name| get(&name))
            // The beginning of a name may be that of another model, but not of a family.
            .find(|id| !types.children(*id).is_empty())
    })?;
    Some(types[id].name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x86(vendor: &str, family: u32, model: u32, stepping: u32, name: &str) -> String {
        format!(
            "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: {name}\nstepping\t: {stepping}\nphysical id\t: 0\ncore id\t\t: 0\n\n"
        )
    }

    fn arm(implementer: &str, part: &str) -> String {
        format!(
            "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: {implementer}\n\
             CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        )
    }

    fn read(cpuinfo: &str) -> [Option<String>; 3] {
        let processor = describe(cpuinfo, &Taxonomy::base());
        assert_eq!(processor.isa, None);
        [
            processor.manufacturer,
            processor.model,
            processor.microarchitecture,
        ]
    }

    #[test]
    fn processors_are_platform_types() {
        const INTEL: &str = "GenuineIntel";
        const AMD: &str = "AuthenticAMD";
        let types = Taxonomy::base();
        for (vendor, family, number, stepping, name, model, design) in [
            (
                INTEL,
                6,
                63,
                2,
                "Intel(R) Xeon(R) CPU E5-2676 v3 @ 2.40GHz",
                "IntelXeon_E5_2676v3",
                "Haswell",
            ),
            (
                INTEL,
                6,
                79,
                1,
                "Intel(R) Xeon(R) CPU E5-2670 v4 @ 2.30GHz",
                "IntelXeon",
                "Broadwell",
            ),
            (
                INTEL,
                6,
                85,
                4,
                "Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz",
                "IntelXeon_8175M",
                "Skylake",
            ),
            (
                INTEL,
                6,
                85,
                7,
                "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz",
                "IntelXeon_8259CL",
                "CascadeLake",
            ),
            (
                INTEL,
                6,
                85,
                11,
                "Intel(R) Xeon(R) Platinum 8380H CPU @ 2.90GHz",
                "IntelXeon",
                "",
            ),
            (
                INTEL,
                6,
                106,
                6,
                "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
                "IntelXeon_8375C",
                "IceLake",
            ),
            (
                INTEL,
                6,
                143,
                8,
                "Intel(R) Xeon(R) Platinum 8488C",
                "IntelXeon_8488C",
                "SapphireRapids",
            ),
            (
                INTEL,
                6,
                207,
                2,
                "INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.30GHz",
                "IntelXeon_8581C",
                "EmeraldRapids",
            ),
            (
                INTEL,
                6,
                173,
                1,
                "Intel(R) Xeon(R) 6972P",
                "IntelXeon_6972P",
                "GraniteRapids",
            ),
            (
                INTEL,
                6,
                186,
                2,
                "13th Gen Intel(R) Core(TM) i7-1370P",
                "IntelCore",
                "",
            ),
            (
                INTEL,
                15,
                6,
                2,
                "Intel(R) Pentium(R) D CPU 3.00GHz",
                "IntelProcessor",
                "",
            ),
            (AMD, 23, 1, 2, "AMD EPYC 7571", "AMDEPYC_7571", "Zen"),
            (AMD, 23, 49, 0, "AMD EPYC 7R32", "AMDEPYC_7R32", "Zen2"),
            (
                AMD,
                25,
                1,
                1,
                "AMD EPYC 7R13 48-Core Processor",
                "AMDEPYC_7R13",
                "Zen3",
            ),
            (
                AMD,
                25,
                17,
                1,
                "AMD EPYC 9R14 96-Core Processor",
                "AMDEPYC_9R14",
                "Zen4",
            ),
            (
                AMD,
                25,
                0x61,
                2,
                "AMD Ryzen 9 7950X 16-Core Processor",
                "AMDProcessor",
                "Zen4",
            ),
            (AMD, 26, 2, 1, "AMD EPYC 9R45", "AMDEPYC_9R45", "Zen5"),
        ] {
            let found = read(&x86(vendor, family, number, stepping, name));
            let maker = if vendor == AMD { "AMD" } else { "Intel" };
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            assert_eq!(found, [text(maker), text(model), text(design)], "{name}");
            if !design.is_empty() {
                assert!(
                    types
                        .get(Kind::ProcessorMicroarchitecture, design)
                        .is_some()
                );
            }
        }
    }

    #[test]
    fn designs_of_arm_are_told_by_their_part() {
        for (part, design) in [
            ("0xd08", "CortexA72"),
            ("0xd0c", "NeoverseN1"),
            ("0xd40", "NeoverseV1"),
            ("0xd4f", "NeoverseV2"),
            ("0xd84", "NeoverseV3"),
        ] {
            let cpuinfo = arm("0x41", part).repeat(4);
            assert_eq!(read(&cpuinfo), [None, None, Some(design.to_owned())]);
            let processor = describe(&cpuinfo, &Taxonomy::base());
            assert_eq!(cores(&cpuinfo, &processor), Some(4));
        }
        let mixed = arm("0x41", "0xd0c") + &arm("0x41", "0xd40");
        assert_eq!(read(&mixed), [None, None, None]);
        let ampere = arm("0xc0", "0xac3");
        assert_eq!(read(&ampere)[0].as_deref(), Some("AmpereComputing"));
        assert_eq!(cores(&ampere, &Processor::default()), None);
    }

    #[test]
    fn cores_are_counted_once() {
        let thread = |package, core| {
            format!("processor\t: 0\nphysical id\t: {package}\ncore id\t\t: {core}\n\n")
        };
        let cpuinfo: String = [(0, 0), (0, 1), (1, 0), (1, 1)]
            .repeat(2)
            .into_iter()
            .map(|(package, core)| thread(package, core))
            .collect();
        assert_eq!(cores(&cpuinfo, &Processor::default()), Some(4));
        assert_eq!(cores("", &Processor::default()), None);
    }

    #[test]
    fn nonsense_is_unknown() {
        for text in [
            "",
            ":",
            "vendor_id: GenuineIntel",
            "model name\t: \n",
            "CPU part:",
        ] {
            let [_, _, design] = read(text);
            assert_eq!(design, None, "{text}");
        }
    }
}
