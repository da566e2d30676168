//! Files and folders to nodes and from them.

use std::path::{Path, PathBuf};

use cc_driver::{Driver, NodeIndex, Tools};

use crate::args::Side;
use crate::failure::Failure;
use crate::output::{bytes, count, note, waiting};

pub(crate) async fn run(driver: &Driver, source: &str, target: &str) -> Result<(), Failure> {
    match (Side::parse(source), Side::parse(target)) {
        (
            Side::Local(source),
            Side::Remote {
                cluster,
                node,
                path,
            },
        ) => upload(driver, &source, &cluster, node, &path).await,
        (
            Side::Remote {
                cluster,
                node,
                path,
            },
            Side::Local(target),
        ) => download(driver, &cluster, node, &path, &target).await,
        (Side::Local(_), Side::Local(_)) => Err(Failure::wrong("neither side is on a cluster")
            .hint("write HANDLE:PATH or HANDLE/NODE:PATH on one side")),
        (Side::Remote { .. }, Side::Remote { .. }) => {
            Err(Failure::wrong("both sides are on a cluster")
                .hint("copy to this machine first; a local name with a colon is written ./name"))
        }
    }
}

async fn upload(
    driver: &Driver,
    source: &Path,
    cluster: &str,
    node: Option<u32>,
    path: &str,
) -> Result<(), Failure> {
    if let Err(error) = std::fs::metadata(source) {
        return Err(Failure::wrong(format!("{}: {error}", source.display())));
    }
    let path = if path.is_empty() || path.ends_with('/') {
        // `.` and `..` have a name, too.
        let named = std::fs::canonicalize(source)
            .ok()
            .and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        let given = source.file_name().map(|n| n.to_string_lossy().into_owned());
        let name = given.or(named).ok_or_else(|| {
            Failure::wrong(format!(
                "{} has no name: write one after the colon",
                source.display()
            ))
        })?;
        format!("{path}{name}")
    } else {
        path.to_owned()
    };
    let mut tools = connect(driver, cluster).await?;
    if let Some(node) = node {
        check(&tools, node)?;
        tools.only(&[NodeIndex(node)])?;
    }
    // It has a progress bar of its own.
    tools.upload(source, &path).await?;
    if node.is_none()
        && let Some((_, error)) = tools.unreachable().first()
    {
        return Err(
            Failure::failed(error).hint(format!("{} of the nodes have it", tools.nodes().len()))
        );
    }
    note(format!(
        "{path} is on {} of {}",
        count(tools.nodes().len() as u64, "node"),
        tools.record().handle
    ));
    Ok(())
}

async fn download(
    driver: &Driver,
    cluster: &str,
    node: Option<u32>,
    path: &str,
    target: &Path,
) -> Result<(), Failure> {
    let into = target.is_dir() || target.as_os_str().as_encoded_bytes().ends_with(b"/");
    let target = if into {
        let name = Path::new(path).file_name().ok_or_else(|| {
            Failure::wrong(format!("`{path}` has no name: write one in the target"))
        })?;
        target.join(name)
    } else {
        target.to_path_buf()
    };
    let tools = connect(driver, cluster).await?;
    let node = match (node, tools.record().nodes.len()) {
        (Some(node), _) => node,
        (None, 1) => 0,
        (None, nodes) => {
            return Err(
                Failure::wrong(format!("{cluster} has {nodes} nodes: which one?"))
                    .hint(format!("write {cluster}/0:{path}")),
            );
        }
    };
    check(&tools, node)?;
    // A folder that is to be made is made here, for nobody else knows that it may.
    if into && let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| Failure::failed(format!("make {}: {e}", folder.display())))?;
    }
    let read = tools
        .download(NodeIndex(node), path, &absolute(&target))
        .await?;
    note(format!("{} in {}", bytes(read), target.display()));
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

async fn connect(driver: &Driver, cluster: &str) -> Result<Tools, Failure> {
    let handle = driver.find(cluster)?;
    let tools = waiting(format!("connecting to {handle}"), driver.tools(handle)).await?;
    if tools.nodes().is_empty() {
        let failure = match tools.unreachable().first() {
            Some((_, error)) => Failure::failed(error),
            None => Failure::failed(format!("{handle} has no nodes")),
        };
        return Err(failure.hint(format!("`cctl status {handle}` says more")));
    }
    Ok(tools)
}

/// Fails for a node that the cluster does not have.
pub(crate) fn check(tools: &Tools, node: u32) -> Result<(), Failure> {
    let record = tools.record();
    if record.nodes.iter().any(|n| n.node.0 == node) {
        return Ok(());
    }
    let last = record.nodes.len().saturating_sub(1);
    Err(
        Failure::wrong(format!("{} has no node {node}", record.handle))
            .hint(format!("its nodes are 0 to {last}")),
    )
}
