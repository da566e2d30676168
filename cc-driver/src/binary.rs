//! The worker binary that a driver ships: its own executable, or one that was named.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cc_core::ids::ContentHash;
use tokio::sync::OnceCell;

use crate::error::DriverError;

/// An executable, opened once: what is built at its path meanwhile does not matter.
#[derive(Debug)]
pub(crate) struct Binary {
    file: Arc<File>,
    name: String,
    content: OnceCell<(ContentHash, u64)>,
}

impl Binary {
    /// The executable that is running.
    pub(crate) fn own() -> Result<Self, DriverError> {
        let name = std::env::current_exe()
            .ok()
            .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "worker".to_owned());
        // A deleted executable is marked in the link's text.
        let name = name.trim_end_matches(" (deleted)").to_owned();
        Self::open(Path::new("/proc/self/exe"), name)
    }

    /// An executable at a path.
    pub(crate) fn at(path: &Path) -> Result<Self, DriverError> {
        let name = path
            .file_name()
            .map_or_else(|| "worker".into(), |n| n.to_string_lossy().into_owned());
        Self::open(path, name)
    }

    fn open(path: &Path, name: String) -> Result<Self, DriverError> {
        let file = File::open(path).map_err(|e| {
            DriverError::local("open the worker binary", format!("{}: {e}", path.display()))
        })?;
        Ok(Self {
            file: Arc::new(file),
            name,
            content: OnceCell::new(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// What tells it from another build, as a worker says it of itself.
    pub(crate) fn build(&self) -> u64 {
        cc_agent::build::hash(&self.file)
    }

    /// The instruction set that it is for, if it is an ELF file of one that is known.
    pub(crate) fn isa(&self) -> Option<String> {
        use std::os::unix::fs::FileExt as _;
        let mut header = [0; 20];
        self.file.read_exact_at(&mut header, 0).ok()?;
        // The machine is a half-word behind the identification and the type, in the file's own
        // byte order, and all of ours are little-endian.
        let is_elf = header.starts_with(b"\x7fELF") && header[5] == 1;
        match u16::from_le_bytes([header[18], header[19]]) {
            object::elf::EM_X86_64 if is_elf => Some("x86_64".to_owned()),
            object::elf::EM_AARCH64 if is_elf => Some("aarch64".to_owned()),
            _ => None,
        }
    }

    /// Its hash and length, computed once.
    pub(crate) async fn content(&self) -> Result<(ContentHash, u64), DriverError> {
        let hash = || async {
            let file = Arc::clone(&self.file);
            tokio::task::spawn_blocking(move || cc_agent::client::hash_file(&file))
                .await
                .map_err(|e| DriverError::local("hash the worker binary", e))?
                .map_err(|e| DriverError::local("hash the worker binary", e))
        };
        self.content.get_or_try_init(hash).await.copied()
    }
}

/// Finds the agent's executable: where the contract says, `$CC_AGENT`, beside this executable,
/// the user's data directory, and at last this executable itself where that can be an agent.
pub(crate) fn find_agent(
    configured: Option<&Path>,
    data: Option<PathBuf>,
    own_may: bool,
) -> Result<PathBuf, DriverError> {
    let mut looked = Vec::new();
    let named = configured
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("CC_AGENT").map(PathBuf::from));
    if let Some(path) = named {
        // A named agent that is missing is a mistake to report, not to work around.
        return if path.is_file() {
            Ok(path)
        } else {
            Err(DriverError::NoAgent(vec![path]))
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("cc-agent")));
    for path in beside.into_iter().chain(data) {
        if path.is_file() {
            return Ok(path);
        }
        looked.push(path);
    }
    if own_may {
        Ok(PathBuf::from("/proc/self/exe"))
    } else {
        Err(DriverError::NoAgent(looked))
    }
}
