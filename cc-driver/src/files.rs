//! Files and folders between the driver's machine and the nodes.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use cc_agent::client;
use cc_core::wire::stream::Place;

use crate::error::DriverError;
use crate::progress::Progress;
use crate::session::Session;
use crate::ship::{self, Receivers};

/// Copies a local file or folder to every one of these nodes.
pub(crate) async fn upload(
    nodes: Receivers,
    local: PathBuf,
    remote: String,
    label: Option<String>,
) -> Result<(), DriverError> {
    let fail = |e: &dyn std::fmt::Display| {
        DriverError::local(
            "read the file to upload",
            format!("{}: {e}", local.display()),
        )
    };
    let path = local.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let metadata = std::fs::metadata(&path)?;
        if metadata.is_dir() {
            let (archive, hash, length) = client::pack_folder(&path)?;
            return Ok((archive, client::FOLDER | 0o755, hash, length));
        }
        let file = File::open(&path)?;
        let (hash, length) = client::hash_file(&file)?;
        Ok::<_, std::io::Error>((file, metadata.permissions().mode() & 0o7777, hash, length))
    });
    let (file, mode, hash, length) = opened.await.map_err(|e| fail(&e))?.map_err(|e| fail(&e))?;
    let progress = label.map(|label| Progress::bytes(&label, Some(length)));
    let add = |bytes| {
        if let Some(progress) = &progress {
            progress.at(bytes, Some(length));
        }
    };
    let place = Place { path: remote, mode };
    ship::everywhere(&nodes, hash, length, Arc::new(file), Some(place), add).await?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(())
}

/// Copies a file or folder from a node; gives its bytes.
pub(crate) async fn download(
    session: Arc<Session>,
    remote: String,
    local: PathBuf,
    label: Option<String>,
) -> Result<u64, DriverError> {
    let progress = label.map(|label| Progress::bytes(&label, None));
    let add = |bytes, length: Option<u64>| {
        if let Some(progress) = &progress {
            progress.at(bytes, length);
        }
    };
    let bytes = client::get(&session.connection, &remote, &local, add)
        .await
        .map_err(|e| DriverError::node(session.node, "download", e))?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(bytes)
}
