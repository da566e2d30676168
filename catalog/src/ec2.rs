//! EC2's instance types: from what EC2 answers about them, and our tables of what it does not say.

use anyhow::{Context as _, Result, bail};
use cc_core::catalog::{Accelerators, InstanceType, Network, Processor, Storage, Tenure};
use cc_core::platform::{Kind, Taxonomy};
use serde::Deserialize;

use crate::tables::Tables;

const MIB: u64 = 1 << 20;
/// The interfaces of one card or of a type are far below; floats above would not convert exactly.
const LARGEST_GIGABITS: f64 = 1e6;

/// What EC2 answers about a type, as far as the catalog holds it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Answer {
    bare_metal: bool,
    burstable_performance_supported: bool,
    supported_usage_classes: Vec<String>,
    processor_info: ProcessorInfo,
    v_cpu_info: VCpuInfo,
    memory_info: MemoryInfo,
    instance_storage_info: Option<InstanceStorageInfo>,
    network_info: NetworkInfo,
    placement_group_info: PlacementGroupInfo,
    gpu_info: Option<GpuInfo>,
    fpga_info: Option<FpgaInfo>,
    neuron_info: Option<NeuronInfo>,
    inference_accelerator_info: Option<OtherInfo>,
    media_accelerator_info: Option<OtherInfo>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessorInfo {
    manufacturer: Option<String>,
    supported_architectures: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VCpuInfo {
    default_v_cpus: u32,
    default_cores: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MemoryInfo {
    #[serde(rename = "SizeInMiB")]
    size_in_mib: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InstanceStorageInfo {
    #[serde(rename = "TotalSizeInGB")]
    total_size_in_gb: u64,
    nvme_support: String,
    disks: Vec<Disk>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Disk {
    r#type: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkInfo {
    network_performance: String,
    network_cards: Vec<NetworkCard>,
    efa_info: Option<EfaInfo>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkCard {
    baseline_bandwidth_in_gbps: Option<f64>,
    peak_bandwidth_in_gbps: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EfaInfo {
    maximum_efa_interfaces: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PlacementGroupInfo {
    supported_strategies: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GpuInfo {
    gpus: Vec<Device>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FpgaInfo {
    fpgas: Vec<Device>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NeuronInfo {
    neuron_devices: Vec<Device>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OtherInfo {
    accelerators: Vec<Device>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Device {
    name: String,
    count: f64,
    gpu_partition_size: Option<f64>,
    logical_gpu_count: Option<f64>,
    memory_info: Option<MemoryInfo>,
}

/// The facts of a type, without its offers.
///
/// # Errors
/// Names what the taxonomy or the tables do not know, and where to add it.
pub(crate) fn instance_type(
    name: &str,
    answer: &Answer,
    tables: &Tables,
    taxonomy: &Taxonomy,
) -> Result<InstanceType> {
    let family = family_of(name);
    let known = tables.families.get(family).with_context(|| {
        format!("the family {family} is new: add it to catalog/data/ec2-families.tsv")
    })?;
    let is_mac = |architecture: &String| architecture.ends_with("_mac");
    let architectures = &answer.processor_info.supported_architectures;
    let class = |class: &str| answer.supported_usage_classes.iter().any(|c| c == class);
    Ok(InstanceType {
        provider: "ec2".to_owned(),
        name: name.to_owned(),
        family: family.to_owned(),
        vcpus: Some(answer.v_cpu_info.default_v_cpus),
        cores: Some(answer.v_cpu_info.default_cores),
        memory: Some(answer.memory_info.size_in_mib * MIB),
        ecu: tables.ecu.get(name).copied(),
        processor: Processor {
            manufacturer: answer.processor_info.manufacturer.clone(),
            model: known.model.clone(),
            microarchitecture: known.microarchitecture.clone(),
            isa: isa(architectures)?,
        },
        accelerators: match accelerators(answer, taxonomy)? {
            None => tables.accelerators.get(name).cloned(),
            some => some,
        },
        storage: Some(storage(answer.instance_storage_info.as_ref())?),
        network: network(&answer.network_info)?,
        placement: answer.placement_group_info.supported_strategies.clone(),
        tenure: Tenure {
            on_demand: class("on-demand"),
            spot: class("spot"),
            capacity_block: class("capacity-block"),
            // Apple's licence wants a whole host; EC2's answer does not say so.
            dedicated_host: architectures.iter().any(is_mac),
            // T1 has bursts and no credits for them, which is what the answer speaks of.
            burstable: answer.burstable_performance_supported || family == "t1",
            bare_metal: answer.bare_metal,
        },
        offers: Vec::new(),
    })
}

/// The family of a type: what is before the dot.
pub(crate) fn family_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(family, _)| family)
}

fn isa(architectures: &[String]) -> Result<Option<String>> {
    let has = |name: &str| {
        let mut plain = architectures.iter().map(|a| a.trim_end_matches("_mac"));
        plain.any(|a| a == name)
    };
    let isa = match () {
        () if has("x86_64") => "ISA_x86_64",
        () if has("arm64") => "ISA_aarch64",
        () if has("i386") => "ISA_x86_32",
        () => bail!("unknown architectures {architectures:?}: add them to ec2.rs"),
    };
    Ok(Some(isa.to_owned()))
}

fn accelerators(answer: &Answer, taxonomy: &Taxonomy) -> Result<Option<Accelerators>> {
    let other = |info: &Option<OtherInfo>| info.as_ref().map(|i| i.accelerators.clone());
    // Neuron devices are listed a second time among the accelerators for inference.
    let devices = (answer.gpu_info.as_ref().map(|i| i.gpus.clone()))
        .or_else(|| answer.fpga_info.as_ref().map(|i| i.fpgas.clone()))
        .or_else(|| (answer.neuron_info.as_ref()).map(|i| i.neuron_devices.clone()))
        .or_else(|| other(&answer.inference_accelerator_info))
        .or_else(|| other(&answer.media_accelerator_info));
    let Some(devices) = devices else {
        return Ok(None);
    };
    let [device] = &devices[..] else {
        bail!(
            "{} models of accelerators in a type: the catalog holds one",
            devices.len()
        );
    };
    let id = taxonomy.get(Kind::Accelerator, &device.name);
    let model = id.and_then(|id| taxonomy.model(id));
    let (Some(id), Some(model)) = (id, model) else {
        bail!(
            "the accelerator `{}` is new: add it to cc-core/src/platform/accelerators.tsv",
            device.name
        );
    };
    // A part of an accelerator is counted as none of them, with the size of the part beside it.
    let share = device.gpu_partition_size.filter(|size| *size < 1.0);
    let count = match share {
        Some(share) => share * device.logical_gpu_count.unwrap_or(1.0),
        None => device.count,
    };
    let usable = device.memory_info.as_ref().map(|m| m.size_in_mib * MIB);
    Ok(Some(Accelerators {
        model: taxonomy[id].name.clone(),
        count,
        memory: usable.map(|usable| model.nominal_memory(usable, share.unwrap_or(1.0))),
    }))
}

fn storage(info: Option<&InstanceStorageInfo>) -> Result<Storage> {
    let Some(info) = info else {
        return Ok(Storage {
            bytes: 0,
            kind: None,
        });
    };
    let disk = info.disks.first().map(|disk| &*disk.r#type);
    let kind = match (disk, info.nvme_support != "unsupported") {
        (Some("ssd"), true) => "StorageType_EC2_NVMeSSD",
        (Some("ssd"), false) => "StorageType_EC2_SSD",
        (Some("hdd"), true) => "StorageType_EC2_NVMeHDD",
        (Some("hdd"), false) => "StorageType_EC2_HDD",
        (other, _) => bail!("unknown disk {other:?}: add it to ec2.rs"),
    };
    Ok(Storage {
        bytes: info.total_size_in_gb * 1_000_000_000,
        kind: Some(kind.to_owned()),
    })
}

/// What the cards have together. With several cards that is not always what the type has: each card
/// of `m6in.32xlarge` is said to have all of its 200 Gbit/s, and each of `p6-b200.48xlarge` half of
/// its share. There the figure for the whole type counts, which is what AWS publishes.
fn network(info: &NetworkInfo) -> Result<Network> {
    let sum = |of: fn(&NetworkCard) -> Option<f64>| -> Option<f64> {
        info.network_cards.iter().map(of).sum()
    };
    let mut baseline = sum(|card| card.baseline_bandwidth_in_gbps);
    let mut burst = sum(|card| card.peak_bandwidth_in_gbps);
    if info.network_cards.len() > 1
        && let Some(whole) = stated(&info.network_performance)
    {
        baseline = Some(whole);
        burst = Some(whole);
    }
    Ok(Network {
        baseline: baseline.map(bits).transpose()?,
        burst: burst.map(bits).transpose()?,
        efa: Some((info.efa_info.as_ref()).map_or(0, |efa| efa.maximum_efa_interfaces)),
    })
}

/// The Gbit/s of a statement such as `200 Gigabit` or `4x 100 Gigabit`.
fn stated(performance: &str) -> Option<f64> {
    let figures = performance.strip_suffix(" Gigabit")?;
    let (cards, each) = figures.split_once("x ").unwrap_or(("1", figures));
    Some(cards.parse::<f64>().ok()? * each.parse::<f64>().ok()?)
}

/// Bits per second. Answers have up to three decimals of Gbit/s.
fn bits(gigabits: f64) -> Result<u64> {
    if !(0.0..LARGEST_GIGABITS).contains(&gigabits) {
        bail!("{gigabits} Gbit/s is no bandwidth");
    }
    Ok((gigabits * 1e3).round() as u64 * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn answer(changes: Value) -> Answer {
        let mut answer = json!({
            "BareMetal": false, "BurstablePerformanceSupported": false,
            "SupportedUsageClasses": ["on-demand", "spot"],
            "ProcessorInfo": {"Manufacturer": "AMD", "SupportedArchitectures": ["i386", "x86_64"]},
            "VCpuInfo": {"DefaultVCpus": 4, "DefaultCores": 2},
            "MemoryInfo": {"SizeInMiB": 16384},
            "NetworkInfo": {"NetworkPerformance": "Up to 5 Gigabit", "NetworkCards": [
                {"BaselineBandwidthInGbps": 1.024, "PeakBandwidthInGbps": 5.0}]},
            "PlacementGroupInfo": {"SupportedStrategies": ["partition", "spread"]},
        });
        let (Value::Object(answer), Value::Object(changes)) = (&mut answer, changes) else {
            unreachable!()
        };
        answer.extend(changes);
        serde_json::from_value(Value::Object(answer.clone())).unwrap()
    }

    fn made(name: &str, changes: Value) -> Result<InstanceType> {
        let taxonomy = Taxonomy::base();
        let tables = Tables::read(&taxonomy).unwrap();
        instance_type(name, &answer(changes), &tables, &taxonomy)
    }

    #[test]
    fn an_answer_becomes_facts() {
        let t3 = made("t3a.xlarge", json!({"BurstablePerformanceSupported": true})).unwrap();
        assert_eq!(
            (t3.vcpus, t3.cores, t3.memory),
            (Some(4), Some(2), Some(16 << 30))
        );
        assert_eq!(t3.processor.isa.as_deref(), Some("ISA_x86_64"));
        assert_eq!(t3.processor.microarchitecture.as_deref(), Some("Zen"));
        assert_eq!(
            (t3.network.baseline, t3.network.burst),
            (Some(1_024_000_000), Some(5_000_000_000))
        );
        assert_eq!((t3.network.efa, t3.accelerators), (Some(0), None));
        assert!(t3.tenure.burstable && t3.tenure.spot && !t3.tenure.dedicated_host);
        assert_eq!(
            t3.storage,
            Some(Storage {
                bytes: 0,
                kind: None
            })
        );
    }

    #[test]
    fn parts_of_accelerators_are_fractions() {
        let gpu = json!({"GpuInfo": {"Gpus": [{"Name": "L4", "Count": 0, "GpuPartitionSize": 0.125,
            "LogicalGpuCount": 1, "MemoryInfo": {"SizeInMiB": 2861}}]}});
        let found = made("g6f.large", gpu).unwrap().accelerators.unwrap();
        assert_eq!(
            (&*found.model, found.count, found.memory),
            ("NVIDIA_L4", 0.125, Some(3 << 30))
        );
        let new = json!({"GpuInfo": {"Gpus": [{"Name": "X9", "Count": 1}]}});
        let error = made("g6.xlarge", new).unwrap_err().to_string();
        assert!(
            error.contains("X9") && error.contains("accelerators.tsv"),
            "{error}"
        );
        let neuron = json!({
            "NeuronInfo": {"NeuronDevices": [{"Name": "Inferentia2", "Count": 6}]},
            "InferenceAcceleratorInfo": {"Accelerators": [{"Name": "Inferentia2", "Count": 9}]}});
        assert_eq!(
            made("inf2.24xlarge", neuron)
                .unwrap()
                .accelerators
                .unwrap()
                .count,
            6.0
        );
        let unsaid = made("trn2u.48xlarge", json!({}))
            .unwrap()
            .accelerators
            .unwrap();
        assert_eq!((&*unsaid.model, unsaid.count), ("AWSTrainium2", 16.0));
    }

    #[test]
    fn several_cards_have_what_is_stated_for_all() {
        let cards = |performance: &str, cards: usize, each: f64| {
            let card = json!({"BaselineBandwidthInGbps": each, "PeakBandwidthInGbps": each});
            let cards = vec![card; cards];
            let info = json!({"NetworkPerformance": performance, "NetworkCards": cards,
                "EfaInfo": {"MaximumEfaInterfaces": 2}});
            let network = made("m6in.32xlarge", json!({"NetworkInfo": info}))
                .unwrap()
                .network;
            network.baseline.unwrap() / 1_000_000_000
        };
        assert_eq!(cards("200 Gigabit", 2, 200.0), 200);
        assert_eq!(cards("3200 Gigabit", 32, 100.0), 3200);
        assert_eq!(cards("4x 100 Gigabit", 4, 100.0), 400);
        assert_eq!(cards("10 Gigabit", 1, 12.0), 12);
    }

    #[test]
    fn disks_and_macs() {
        let disks = json!({"InstanceStorageInfo": {"TotalSizeInGB": 1900, "NvmeSupport": "required",
            "Disks": [{"Type": "ssd"}]}});
        let storage = made("m6id.8xlarge", disks).unwrap().storage.unwrap();
        assert_eq!(storage.bytes, 1_900_000_000_000);
        assert_eq!(storage.kind.as_deref(), Some("StorageType_EC2_NVMeSSD"));
        let mac = json!({"ProcessorInfo": {"SupportedArchitectures": ["arm64_mac"]}});
        let mac = made("mac2.metal", mac).unwrap();
        assert!(mac.tenure.dedicated_host);
        assert_eq!(mac.processor.isa.as_deref(), Some("ISA_aarch64"));
        let error = made("zz9.large", json!({})).unwrap_err().to_string();
        assert!(error.contains("ec2-families.tsv"), "{error}");
    }
}
