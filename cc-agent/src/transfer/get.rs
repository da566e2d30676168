//! Files and folders out of the node.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cc_core::limits;
use cc_core::wire::stream::{Get, Transfer};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::transfer::pipe::{self, Compressor, Part, PartWriter};
use crate::transfer::{TransferNode, answer_with, folder};

/// Serves a get stream to its end: an answer, one zstd frame, another answer.
pub(crate) async fn serve_get(
    node: &TransferNode,
    get: Get,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let _ = recv.stop(VarInt::from_u32(0));
    let path = node.base.join(&get.path);
    let failed = |phase: &str, e: io::Error| {
        Transfer::Failed(format!("{}: {phase} {}: {e}", node.node, get.path))
    };
    let opened = tokio::task::spawn_blocking(move || What::open(&path)).await;
    let last = match opened.unwrap_or_else(|e| Err(io::Error::other(e))) {
        Ok((what, answer)) => {
            answer_with(&mut send, &answer).await;
            match stream(what, &mut send).await {
                Some(Ok(())) => Transfer::Done,
                Some(Err(error)) => failed("reading", error),
                None => {
                    let _ = send.reset(VarInt::from_u32(1));
                    return;
                }
            }
        }
        Err(error) => failed("opening", error),
    };
    answer_with(&mut send, &last).await;
    let _ = send.finish();
}

enum What {
    File(File),
    Folder(PathBuf),
}

impl What {
    fn open(path: &Path) -> io::Result<(Self, Transfer)> {
        // Opening a pipe would wait for its other end.
        let metadata = fs::metadata(path)?;
        let mode = metadata.permissions().mode();
        if metadata.is_dir() {
            fs::read_dir(path)?;
            let answer = Transfer::Data { length: None, mode };
            return Ok((Self::Folder(path.to_owned()), answer));
        }
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a file nor a folder",
            ));
        }
        let file = File::open(path)?;
        // Files of /proc say that they are empty, and are not.
        let length = Some(metadata.len()).filter(|length| *length > 0);
        Ok((Self::File(file), Transfer::Data { length, mode }))
    }

    /// The frame is completed in any case, so that a failure can be told after it.
    fn write(self, out: PartWriter) -> (io::Result<()>, io::Result<()>) {
        let mut out = Compressor::new(out);
        let result = match self {
            Self::File(file) => copy(file, &mut out),
            Self::Folder(path) => folder::pack(&path, &mut out).map(|_| ()),
        };
        let ended = out.finish().and_then(PartWriter::end);
        (result, ended)
    }
}

fn copy(mut file: File, out: &mut impl io::Write) -> io::Result<()> {
    let mut chunk = vec![0; limits::CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => out.write_all(&chunk[..read])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Sends the data. `None`: the other end wants no more.
async fn stream(what: What, send: &mut SendStream) -> Option<io::Result<()>> {
    let (sender, mut parts) = mpsc::channel(pipe::DEPTH);
    let task = tokio::task::spawn_blocking(move || what.write(PartWriter::new(sender)));
    let mut ended = false;
    while let Some(part) = parts.recv().await {
        match part {
            Part::Data(mut chunks) => {
                let write = send.write_all_chunks(&mut chunks);
                timeout(limits::TRANSFER_SILENCE, write).await.ok()?.ok()?;
            }
            Part::End => ended = true,
        }
    }
    match task.await {
        Ok((result, Ok(()))) if ended => Some(result),
        _ => None,
    }
}
