//! The file format of a catalog: this crate's encoding of [`Snapshot`], compressed.

use serde::{Deserialize, Serialize};

use super::facts::{Family, InstanceType, Region, Source};
use crate::{codec, limits};

/// The version of [`Snapshot`]'s format.
///
/// - 1: the first.
pub const SNAPSHOT_VERSION: u32 = 1;

/// What begins every file.
const MAGIC: &[u8; 4] = b"CCat";
/// The slowest and smallest: it is written once and read always.
const LEVEL: i32 = 19;

/// A catalog as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The day of its newest source, as year-month-day.
    pub made: String,
    /// Where facts and prices are from.
    pub sources: Vec<Source>,
    /// All regions; offers speak of them by number.
    pub regions: Vec<Region>,
    /// Families, parents first.
    pub families: Vec<Family>,
    /// All instance types.
    pub types: Vec<InstanceType>,
}

/// A file that is not a catalog, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It begins with something else.
    #[error("not a catalog: delete the file")]
    Format,
    /// It was written by another version.
    #[error("a catalog of version {0} and this program reads {SNAPSHOT_VERSION}: delete the file")]
    Version(u32),
    /// It is damaged.
    #[error("a damaged catalog ({0}): delete the file")]
    Damaged(String),
}

impl Snapshot {
    /// The bytes of a catalog's file. The same snapshot gives the same bytes.
    ///
    /// # Errors
    /// Fails when it is too large.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let damaged = |e: String| SnapshotError::Damaged(e);
        let body = codec::encode(self).map_err(|e| damaged(e.to_string()))?;
        let packed = zstd::bulk::compress(&body, LEVEL).map_err(|e| damaged(e.to_string()))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(SNAPSHOT_VERSION.to_le_bytes());
        bytes.extend(packed);
        Ok(bytes)
    }

    /// Reads the bytes of a catalog's file.
    ///
    /// # Errors
    /// Fails when they are none, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotError::Format)?;
        let (version, packed) = rest.split_first_chunk().ok_or(SnapshotError::Format)?;
        let version = u32::from_le_bytes(*version);
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version(version));
        }
        let damaged = |e: String| SnapshotError::Damaged(e);
        let body =
            zstd::bulk::decompress(packed, limits::CATALOG).map_err(|e| damaged(e.to_string()))?;
        let snapshot: Self = codec::decode(&body).map_err(|e| damaged(e.to_string()))?;
        snapshot.check().map_err(|what| damaged(what.to_owned()))?;
        Ok(snapshot)
    }

    /// What is looked up by number must be there.
    fn check(&self) -> Result<(), &'static str> {
        if self
            .regions
            .iter()
            .any(|r| r.zones.len() > u16::BITS as usize)
        {
            return Err("a region has more zones than an offer can name");
        }
        if self.regions.len() > usize::from(u16::MAX) {
            return Err("there are more regions than an offer can name");
        }
        if self
            .types
            .iter()
            .any(|t| t.offers.len() > self.regions.len())
        {
            return Err("a type is offered in a region twice");
        }
        let mut offers = self.types.iter().flat_map(|t| &t.offers);
        match offers.any(|offer| usize::from(offer.region) >= self.regions.len()) {
            true => Err("an offer is in a region that is not there"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_catalog_is_an_error() {
        let snapshot = Snapshot {
            made: "2026-01-02".into(),
            ..Snapshot::default()
        };
        let bytes = snapshot.encode().unwrap();
        assert_eq!(Snapshot::decode(&bytes).unwrap(), snapshot);
        assert_eq!(snapshot.encode().unwrap(), bytes);
        assert_eq!(Snapshot::decode(b""), Err(SnapshotError::Format));
        assert_eq!(Snapshot::decode(b"CCat"), Err(SnapshotError::Format));
        let mut newer = bytes.clone();
        newer[4] = 9;
        assert_eq!(Snapshot::decode(&newer), Err(SnapshotError::Version(9)));
        for end in 8..bytes.len() {
            assert!(Snapshot::decode(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn numbers_that_lead_nowhere_are_damage() {
        let mut snapshot = Snapshot::decode(crate::catalog::Catalog::embedded_bytes()).unwrap();
        snapshot.regions.pop();
        let decoded = Snapshot::decode(&snapshot.encode().unwrap());
        assert!(
            matches!(decoded, Err(SnapshotError::Damaged(_))),
            "{decoded:?}"
        );
        snapshot.types.clear();
        let zone = snapshot.regions[0].zones[0].clone();
        snapshot.regions[0].zones = vec![zone; 17];
        let decoded = Snapshot::decode(&snapshot.encode().unwrap());
        assert!(
            matches!(decoded, Err(SnapshotError::Damaged(_))),
            "{decoded:?}"
        );
    }
}
