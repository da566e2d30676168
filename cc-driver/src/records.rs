//! The state directory: what this user's drivers have written down about their clusters, so that
//! any later process finds them.
//!
//! A record is written before what it speaks of is made, whole or not at all, and is deleted
//! by [`StateDirectory::remove`] alone, never because it cannot be read. Everything here blocks
//! on the disk, for milliseconds.

mod files;
#[cfg(test)]
mod tests;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cc_core::ids::Handle;
use cc_core::limits;
use cc_core::net::identity::Credentials;
use cc_core::record::{ClusterRecord, RECORD_VERSION};
use etcetera::BaseStrategy as _;
use serde::Deserialize;

/// The directory's name below those of the user.
const NAME: &str = "cloudclusters";
const RECORD: &str = "record.json";
const LOCK: &str = ".lock";
/// What the directory of a cluster is called before it has its record, and when it has none any
/// more.
const NEW: &str = ".new.";
const GONE: &str = ".gone.";
/// Making a directory with a record takes milliseconds: an older one was left by a process that
/// was killed.
const ABANDONED: Duration = Duration::from_secs(3600);
const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const DRIVER_CERTIFICATE: &str = "driver.pem";
const DRIVER_KEY: &str = "driver.key";

/// Why a record could not be read or written, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No such cluster.
    #[error("there is no cluster {0} here: `cctl clusters` lists those that there are")]
    NotFound(String),
    /// Several clusters begin that way.
    #[error(
        "{prefix} is the beginning of {}: write more letters",
        candidates.iter().map(Handle::as_str).collect::<Vec<_>>().join(", ")
    )]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The clusters that it may mean.
        candidates: Vec<Handle>,
    },
    /// A cluster that was to be created and exists.
    #[error("cluster {0} exists already")]
    Exists(Handle),
    /// A record that ends early.
    #[error(
        "{} is cut off: restore it from a backup; without one, wait until the cluster's agents \
         have ended by themselves (driver_timeout) and delete its directory",
        path.display()
    )]
    Truncated {
        /// The record.
        path: PathBuf,
    },
    /// A record that is not one.
    #[error(
        "{} is not a cluster's record ({reason}): restore it from a backup; without one, wait \
         until the cluster's agents have ended by themselves (driver_timeout) and delete its \
         directory",
        path.display()
    )]
    Malformed {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A record of a later version of this software.
    #[error(
        "{} has version {version} and this program knows versions up to {ours}: use the program \
         that made the cluster, or a newer one",
        path.display()
    )]
    Newer {
        /// The record.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The latest version that this program reads.
        ours: u32,
    },
    /// Somebody else writes and does not end.
    #[error(
        "another process has been writing the record beside {} for more than {} s: end it, or \
         try again",
        path.display(),
        waited.as_secs()
    )]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The state directory is somebody else's.
    #[error(
        "{} belongs to user {owner} and this program runs as user {ours}: set CC_STATE_DIR to a \
         directory of your own",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        ours: u32,
    },
    /// The user has no home directory.
    #[error("this user has no home directory: set CC_STATE_DIR to a directory for records")]
    NoHome,
    /// The disk.
    #[error("{phase} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done to it.
        phase: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

fn io_error<'a>(phase: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RecordError + 'a {
    move |source| RecordError::Io {
        path: path.to_owned(),
        phase,
        source,
    }
}

/// A cluster in a list: its handle, and its record or why that cannot be read.
pub type Listed = (Handle, Result<ClusterRecord, RecordError>);

/// The directory in which drivers write down their clusters.
///
/// Each cluster has a directory `clusters/<handle>`, with its record, its keys and what its
/// provider keeps there. Cloning it is cheap enough; every clone means the same directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDirectory {
    path: PathBuf,
    lock_wait: Duration,
}

impl StateDirectory {
    /// The user's state directory: `$CC_STATE_DIR`, otherwise `$XDG_STATE_HOME/cloudclusters`,
    /// otherwise `~/.local/state/cloudclusters`. Made, for the user alone, if missing.
    ///
    /// # Errors
    /// Fails when the directory cannot be made, belongs to somebody else, or the user has no
    /// home to make it in.
    pub fn discover() -> Result<Self, RecordError> {
        if let Some(path) = std::env::var_os("CC_STATE_DIR").filter(|path| !path.is_empty()) {
            return Self::at(path);
        }
        let base = etcetera::choose_base_strategy().map_err(|_| RecordError::NoHome)?;
        let state = base.state_dir().ok_or(RecordError::NoHome)?;
        Self::at(state.join(NAME))
    }

    /// A state directory at a given path. Made, for the user alone, if missing.
    ///
    /// # Errors
    /// Fails when the directory cannot be made or belongs to somebody else.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self, RecordError> {
        let path = path.into();
        // The agents that get told about it run elsewhere in the file system.
        let path = std::path::absolute(&path).map_err(io_error("find", &path))?;
        files::make_directory(&path).map_err(io_error("make", &path))?;
        let owner = std::fs::metadata(&path)
            .map_err(io_error("look at", &path))?
            .uid();
        let ours = nix::unistd::Uid::effective().as_raw();
        if owner != ours {
            return Err(RecordError::Foreign { path, owner, ours });
        }
        Ok(Self {
            path,
            lock_wait: limits::RECORD_LOCK_WAIT,
        })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content store that agents on this machine share.
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Where the user keeps the agent for an architecture (as `uname -m` calls it) and this
    /// version: `$XDG_DATA_HOME/cloudclusters/agents/<version>/<architecture>/cc-agent`, with
    /// `~/.local/share` for a missing variable. `None` for a user without a home.
    pub fn agents(architecture: &str) -> Option<PathBuf> {
        let base = etcetera::choose_base_strategy().ok()?;
        let mut path = base.data_dir();
        path.extend([
            NAME,
            "agents",
            env!("CARGO_PKG_VERSION"),
            architecture,
            "cc-agent",
        ]);
        Some(path)
    }

    /// The directory of a cluster.
    pub fn cluster_directory(&self, handle: Handle) -> PathBuf {
        self.clusters().join(handle.as_str())
    }

    fn clusters(&self) -> PathBuf {
        self.path.join("clusters")
    }

    /// Writes down a new cluster.
    ///
    /// # Errors
    /// Fails when it exists already, or cannot be written.
    pub fn create(&self, record: &ClusterRecord) -> Result<(), RecordError> {
        let clusters = self.clusters();
        files::make_directory(&clusters).map_err(io_error("make", &clusters))?;
        let directory = self.cluster_directory(record.handle);
        let content = encode(&directory, record)?;
        let write = || {
            // The directory comes into being with its record in it.
            let new = tempfile::Builder::new()
                .prefix(NEW)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(&clusters)?;
            files::write(new.path(), RECORD, &content)?;
            // Fails if the other exists, unless it is empty.
            std::fs::rename(new.path(), &directory)?;
            // It is not there any more.
            let _ = new.keep();
            files::sync_directory(&clusters)
        };
        write().map_err(|e| match e.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                RecordError::Exists(record.handle)
            }
            _ => io_error("make", &directory)(e),
        })
    }

    /// Changes a record. Waits for others that are changing it, up to
    /// [`limits::RECORD_LOCK_WAIT`]; what they wrote is what `change` gets to see.
    ///
    /// # Errors
    /// Fails when the record is missing, cannot be read or cannot be written; it is then as it
    /// was.
    pub fn update(
        &self,
        handle: Handle,
        change: impl FnOnce(&mut ClusterRecord),
    ) -> Result<ClusterRecord, RecordError> {
        let directory = self.cluster_directory(handle);
        let _lock = self.lock(handle)?;
        let mut record = self.load(handle)?;
        change(&mut record);
        // These two say what and whose the file is.
        record.version = RECORD_VERSION;
        record.handle = handle;
        let content = encode(&directory, &record)?;
        files::write(&directory, RECORD, &content)
            .map_err(io_error("write", &directory.join(RECORD)))?;
        Ok(record)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Fails when there is none, or it cannot be read.
    pub fn load(&self, handle: Handle) -> Result<ClusterRecord, RecordError> {
        let directory = self.cluster_directory(handle);
        let path = directory.join(RECORD);
        let content = match files::read(&path, limits::RECORD) {
            Ok(content) => content,
            Err(e) if e.kind() == io::ErrorKind::NotFound && directory.exists() => {
                return Err(RecordError::Malformed {
                    path,
                    reason: "the file is missing".to_owned(),
                });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(RecordError::NotFound(handle.to_string()));
            }
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        decode(path, handle, &content)
    }

    /// Whether there is a record of a cluster, readable or not.
    pub(crate) fn has_record(&self, handle: Handle) -> bool {
        self.cluster_directory(handle).join(RECORD).exists()
    }

    /// All clusters, by handle. One whose record cannot be read comes with the reason.
    ///
    /// # Errors
    /// Fails when the directory of the clusters cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, RecordError> {
        let handles = self.handles()?.into_iter();
        // One that has gone meanwhile is no cluster any more.
        Ok(handles
            .map(|handle| (handle, self.load(handle)))
            .filter(|(_, record)| !matches!(record, Err(RecordError::NotFound(_))))
            .collect())
    }

    fn handles(&self) -> Result<Vec<Handle>, RecordError> {
        let clusters = self.clusters();
        let entries = match std::fs::read_dir(&clusters) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io_error("read", &clusters)(e)),
        };
        let mut handles = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("read", &clusters))?;
            // Whatever else is there is not a cluster's.
            if let Some(Ok(handle)) = entry.file_name().to_str().map(str::parse) {
                handles.push(handle);
            }
        }
        handles.sort_unstable();
        Ok(handles)
    }

    /// The cluster whose handle begins with `prefix`.
    ///
    /// # Errors
    /// Fails when none does, or several do; these are then listed.
    pub fn resolve_handle(&self, prefix: &str) -> Result<Handle, RecordError> {
        let mut candidates = self.handles()?;
        candidates.retain(|handle| handle.as_str().starts_with(prefix));
        match candidates[..] {
            // Nobody who writes nothing means a cluster, even if there is only one.
            [handle] if !prefix.is_empty() => Ok(handle),
            [_, _, ..] if !prefix.is_empty() => Err(RecordError::Ambiguous {
                prefix: prefix.to_owned(),
                candidates,
            }),
            _ => Err(RecordError::NotFound(format!("`{prefix}`"))),
        }
    }

    /// Deletes a cluster's directory: keys, what providers have left there, and the record.
    /// Removing what is gone succeeds.
    ///
    /// # Errors
    /// Fails when something cannot be deleted; the record is then still there.
    pub fn remove(&self, handle: Handle) -> Result<(), RecordError> {
        let directory = self.cluster_directory(handle);
        let _lock = match self.lock(handle) {
            Ok(lock) => lock,
            Err(RecordError::NotFound(_)) => return Ok(()),
            Err(e) => return Err(e),
        };
        let entries = std::fs::read_dir(&directory).map_err(io_error("read", &directory))?;
        for entry in entries {
            let entry = entry.map_err(io_error("read", &directory))?;
            // The record goes last, so that a removal that fails half-way can be repeated.
            if entry.file_name() != RECORD && entry.file_name() != LOCK {
                delete(&entry.path())?;
            }
        }
        // All at once, or a process that is killed here would leave a cluster without a record.
        let gone = self.clusters().join(format!("{GONE}{handle}"));
        std::fs::rename(&directory, &gone).map_err(io_error("delete", &directory))?;
        delete(&gone)?;
        self.sweep();
        Ok(())
    }

    /// Deletes what killed processes have left of clusters that were removed, or were not there
    /// yet.
    fn sweep(&self) {
        for entry in std::fs::read_dir(self.clusters())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let modified = entry.metadata().and_then(|m| m.modified()).ok();
            let age = modified.and_then(|modified| modified.elapsed().ok());
            let abandoned = name.starts_with(NEW) && age.is_some_and(|age| age > ABANDONED);
            if abandoned || name.starts_with(GONE) {
                // Another process may be doing the same; whatever stays is tried again.
                let _ = delete(&entry.path());
            }
        }
    }

    fn lock(&self, handle: Handle) -> Result<files::Lock, RecordError> {
        let path = self.cluster_directory(handle).join(LOCK);
        match files::Lock::take(&path, self.lock_wait) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(RecordError::Locked {
                path,
                waited: self.lock_wait,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(RecordError::NotFound(handle.to_string()))
            }
            Err(e) => Err(io_error("lock", &path)(e)),
        }
    }

    /// Keeps the cluster's CA: certificate and private key, in PEM.
    ///
    /// # Errors
    /// Fails when there is no such cluster, or the files cannot be written.
    pub fn store_authority(
        &self,
        handle: Handle,
        certificate: &str,
        key: &str,
    ) -> Result<(), RecordError> {
        // The certificate last: with it, the key is there.
        self.write(handle, CA_KEY, key)?;
        self.write(handle, CA_CERTIFICATE, certificate)
    }

    /// The cluster's CA: certificate and private key, in PEM.
    ///
    /// # Errors
    /// Fails when there is no such cluster, or the files cannot be read.
    pub fn load_authority(&self, handle: Handle) -> Result<(String, String), RecordError> {
        Ok((
            self.read(handle, CA_CERTIFICATE)?,
            self.read(handle, CA_KEY)?,
        ))
    }

    /// Keeps the driver's certificate and private key, and the CA's certificate.
    ///
    /// # Errors
    /// Fails when there is no such cluster, or the files cannot be written.
    pub fn store_credentials(
        &self,
        handle: Handle,
        credentials: &Credentials,
    ) -> Result<(), RecordError> {
        self.write(handle, CA_CERTIFICATE, &credentials.ca)?;
        self.write(handle, DRIVER_KEY, &credentials.key)?;
        self.write(handle, DRIVER_CERTIFICATE, &credentials.certificate)
    }

    /// The driver's certificate and private key, with the CA's certificate.
    ///
    /// # Errors
    /// Fails when there is no such cluster, or the files cannot be read.
    pub fn load_credentials(&self, handle: Handle) -> Result<Credentials, RecordError> {
        Ok(Credentials {
            certificate: self.read(handle, DRIVER_CERTIFICATE)?,
            key: self.read(handle, DRIVER_KEY)?,
            ca: self.read(handle, CA_CERTIFICATE)?,
        })
    }

    fn write(&self, handle: Handle, name: &str, content: &str) -> Result<(), RecordError> {
        let directory = self.cluster_directory(handle);
        files::write(&directory, name, content.as_bytes())
            .map_err(|e| missing(handle, &directory, "write", name, e))
    }

    fn read(&self, handle: Handle, name: &str) -> Result<String, RecordError> {
        let directory = self.cluster_directory(handle);
        files::read(&directory.join(name), limits::BOOTSTRAP_LINE as u64)
            .and_then(|content| {
                String::from_utf8(content).map_err(|_| io::ErrorKind::InvalidData.into())
            })
            .map_err(|e| missing(handle, &directory, "read", name, e))
    }
}

/// A file's error, or that the whole cluster is not there.
fn missing(
    handle: Handle,
    directory: &Path,
    phase: &'static str,
    name: &str,
    error: io::Error,
) -> RecordError {
    if error.kind() == io::ErrorKind::NotFound && !directory.exists() {
        RecordError::NotFound(handle.to_string())
    } else {
        io_error(phase, &directory.join(name))(error)
    }
}

/// Deletes a file, or a directory with everything in it.
fn delete(path: &Path) -> Result<(), RecordError> {
    let deleted = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match deleted {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("delete", path)(e)),
        _ => Ok(()),
    }
}

fn encode(directory: &Path, record: &ClusterRecord) -> Result<Vec<u8>, RecordError> {
    let path = directory.join(RECORD);
    // For people who look at it, too.
    let content =
        serde_json::to_vec_pretty(record).map_err(|e| io_error("write", &path)(e.into()))?;
    if content.len() as u64 > limits::RECORD {
        // It could not be read again.
        return Err(io_error("write", &path)(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(content)
}

fn decode(path: PathBuf, handle: Handle, content: &[u8]) -> Result<ClusterRecord, RecordError> {
    /// The only part that every version has.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let wrong = |error: serde_json::Error| {
        // A number that is cut at its point is wrong and not short, but at the very end.
        let last = content
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let lines = content.iter().filter(|byte| **byte == b'\n').count() + 1;
        let at_end = error.line() == lines && error.column() >= last.len();
        if error.is_eof() || (at_end && error.is_syntax() && last.ends_with(b".")) {
            RecordError::Truncated { path: path.clone() }
        } else {
            RecordError::Malformed {
                path: path.clone(),
                reason: error.to_string(),
            }
        }
    };
    let Version { version } = serde_json::from_slice(content).map_err(wrong)?;
    if version > RECORD_VERSION {
        return Err(RecordError::Newer {
            path,
            version,
            ours: RECORD_VERSION,
        });
    }
    let record: ClusterRecord = serde_json::from_slice(content).map_err(wrong)?;
    if record.handle != handle {
        return Err(RecordError::Malformed {
            path,
            reason: format!("it is cluster {}'s", record.handle),
        });
    }
    Ok(record)
}
