//! The published files that the catalog is made from: fetched once, checked by their hashes, and
//! read. No other module does I/O. What is read here is never trusted to be right, only to be what
//! was reviewed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use zip::ZipArchive;

use crate::ec2::Answer;
use crate::regions::Offering;

/// What to fetch, in the form that pip takes.
const REQUIREMENTS: &str = include_str!("../requirements.txt");
/// Largest member of a wheel, unpacked: some ten times those of today.
const MEMBER: u64 = 64 << 20;
const OFFERINGS: &str = "moto/ec2/resources/instance_type_offerings";

/// Dollars an hour by type or family, and region; 0 if they are not known.
pub(crate) type PriceList = BTreeMap<String, BTreeMap<String, f64>>;

/// All that the sources say.
#[derive(Debug)]
pub(crate) struct Sources {
    /// EC2's answers about its instance types.
    pub(crate) types: BTreeMap<String, Answer>,
    /// By region: where types are offered, by zone identifiers.
    pub(crate) by_id: BTreeMap<String, Vec<Offering>>,
    /// By region: the same by zone names.
    pub(crate) by_name: BTreeMap<String, Vec<Offering>>,
    /// What is said to be the prices with Linux.
    pub(crate) prices: PriceList,
    /// The same with each of two licensed systems.
    pub(crate) licensed: [PriceList; 2],
    /// The day of EC2's answers.
    pub(crate) answered: String,
    /// The day of the prices.
    pub(crate) priced: String,
    /// The versions, in the order of the requirements.
    pub(crate) versions: Vec<String>,
}

#[derive(Deserialize)]
struct Pricing {
    compute: Compute,
    updated: u64,
}

#[derive(Deserialize)]
struct Compute {
    ec2_linux: PriceList,
    ec2_rhel: PriceList,
    ec2_suse: PriceList,
}

/// Fetches what is not in a folder yet, and reads it.
///
/// # Errors
/// Says which file cannot be had or is not what it should be, and what to do.
pub(crate) fn read(folder: &Path) -> Result<Sources> {
    let required = required(REQUIREMENTS)?;
    let [moto, libcloud] = &required[..] else {
        bail!("requirements.txt does not name two packages, EC2's answers first and prices second");
    };
    if find(folder, &moto.hash)?.is_none() || find(folder, &libcloud.hash)?.is_none() {
        fetch(folder)?;
    }
    let mut answers = open(folder, moto)?;
    let types = unzip_json(&mut answers, "moto/ec2/resources/instance_types.json.gz")?;
    let prices: Pricing = member(&mut open(folder, libcloud)?, "libcloud/data/pricing.json")
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .context("the prices have another form than expected")?;
    let updated = std::time::UNIX_EPOCH + std::time::Duration::from_secs(prices.updated);
    let priced = humantime::format_rfc3339_seconds(updated).to_string();
    Ok(Sources {
        types,
        by_id: offerings(&mut answers, "availability-zone-id")?,
        by_name: offerings(&mut answers, "availability-zone")?,
        prices: prices.compute.ec2_linux,
        licensed: [prices.compute.ec2_rhel, prices.compute.ec2_suse],
        answered: newest(&mut answers)?,
        priced: priced.split('T').next().unwrap_or_default().to_owned(),
        versions: required.into_iter().map(|r| r.name).collect(),
    })
}

/// A line of the requirements.
#[derive(Debug, PartialEq, Eq)]
struct Required {
    /// Name and version.
    name: String,
    hash: String,
}

fn required(text: &str) -> Result<Vec<Required>> {
    (text.lines().filter(|line| !line.starts_with('#')))
        .map(|line| {
            let (name, hash) = line
                .split_once(" --hash=sha256:")
                .with_context(|| format!("requirements.txt: no hash in `{line}`"))?;
            Ok(Required {
                name: name.replace("==", " "),
                hash: hash.trim().to_owned(),
            })
        })
        .collect()
}

/// The file with this content, whatever its name.
fn find(folder: &Path, hash: &str) -> Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(None);
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "whl") {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            if hex(&Sha256::digest(&bytes)) == hash {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lets pip fetch both, which checks their hashes.
fn fetch(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let list = folder.join("requirements.txt");
    let mut file = File::create(&list).with_context(|| format!("write {}", list.display()))?;
    file.write_all(REQUIREMENTS.as_bytes())?;
    let status = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--no-input"])
        .args(["--only-binary", ":all:", "--require-hashes"])
        .args(["--timeout", "30", "--retries", "3"])
        .arg("--dest")
        .arg(folder)
        .arg("-r")
        .arg(&list)
        .stdin(Stdio::null())
        .status()
        .context("cannot start python3: install python3 and python3-pip")?;
    if !status.success() {
        bail!(
            "pip could not fetch the catalog's sources ({status}): check the network, or put the \
             wheels of catalog/requirements.txt into {}",
            folder.display()
        );
    }
    Ok(())
}

fn open(folder: &Path, required: &Required) -> Result<ZipArchive<File>> {
    let path = find(folder, &required.hash)?.with_context(|| {
        format!(
            "no wheel of {} with the hash of catalog/requirements.txt is in {}",
            required.name,
            folder.display()
        )
    })?;
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    ZipArchive::new(file).with_context(|| format!("read {}", path.display()))
}

fn member(wheel: &mut ZipArchive<File>, name: &str) -> Result<Vec<u8>> {
    let found = wheel.by_name(name).with_context(|| format!("no {name}"))?;
    bounded(found).with_context(|| format!("unpack {name}"))
}

fn unzip_json<T: DeserializeOwned>(wheel: &mut ZipArchive<File>, name: &str) -> Result<T> {
    let packed = member(wheel, name)?;
    let bytes = bounded(GzDecoder::new(&*packed)).with_context(|| format!("unpack {name}"))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{name} has another form than expected"))
}

fn bounded(from: impl std::io::Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MEMBER + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MEMBER {
        bail!("larger than {MEMBER} bytes");
    }
    Ok(bytes)
}

fn offerings(wheel: &mut ZipArchive<File>, kind: &str) -> Result<BTreeMap<String, Vec<Offering>>> {
    let names: Vec<String> = (wheel.file_names())
        .map(|name| Ok(name?.into_owned()))
        .collect::<Result<_>>()?;
    let mut found = BTreeMap::new();
    for name in names {
        let region = (name.strip_prefix(&format!("{OFFERINGS}/{kind}/")))
            .and_then(|rest| rest.strip_suffix(".json.gz"));
        if let Some(region) = region {
            found.insert(region.to_owned(), unzip_json(wheel, &name)?);
        }
    }
    Ok(found)
}

/// The day of the newest member.
fn newest(wheel: &mut ZipArchive<File>) -> Result<String> {
    let mut newest = String::new();
    for index in 0..wheel.len() {
        if let Some(time) = wheel.by_index_raw(index)?.last_modified() {
            let day = format!("{:04}-{:02}-{:02}", time.year(), time.month(), time.day());
            newest = newest.max(day);
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_name_versions_and_hashes() {
        let required = required(REQUIREMENTS).unwrap();
        assert_eq!(required.len(), 2);
        for package in required {
            assert_eq!(package.hash.len(), 64, "{package:?}");
            assert_eq!(package.name.split(' ').count(), 2, "{package:?}");
        }
        assert!(super::required("moto==5").is_err());
    }

    #[test]
    fn hashes_are_written_as_pip_writes_them() {
        assert!(hex(&Sha256::digest(b"")).starts_with("e3b0c44298fc1c14"));
    }
}
