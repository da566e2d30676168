//! Receiving a file or folder.

use std::fs::Permissions;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;
use cc_core::wire::stream::Transfer;
use cc_core::{codec, limits};
use quinn::RecvStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::TransferError;
use crate::store::{self, is_folder};
use crate::transfer::folder;
use crate::transfer::pipe::{self, Counter, Part, PartReader};

pub(super) async fn fetch(
    mut recv: RecvStream,
    length: Option<u64>,
    mode: u32,
    destination: &Path,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<u64, TransferError> {
    let (sender, parts) = mpsc::channel(pipe::DEPTH);
    let counter = Counter::default();
    let (count, path) = (counter.clone(), destination.to_owned());
    let task = tokio::task::spawn_blocking(move || write(parts, &count, mode, &path));
    let mut batch: [Bytes; pipe::BATCH] = Default::default();
    // How the stream ended, if it did; the writer may give up before.
    let mut ended = None;
    loop {
        match timeout(limits::TRANSFER_SILENCE, recv.read_chunks(&mut batch)).await {
            Ok(Ok(Some(read))) => {
                let chunks = batch[..read].iter_mut().map(std::mem::take).collect();
                if sender.send(Part::Data(chunks)).await.is_err() {
                    break;
                }
                progress(counter.get(), length);
            }
            Ok(Ok(None)) => {
                let _ = sender.send(Part::End).await;
                break;
            }
            Ok(Err(error)) => {
                ended = Some(TransferError::Stream("receiving", error.to_string()));
                break;
            }
            Err(_) => {
                ended = Some(TransferError::Stalled(
                    "receiving",
                    limits::TRANSFER_SILENCE,
                ));
                break;
            }
        }
    }
    drop(sender);
    let written = task
        .await
        .unwrap_or_else(|e| Err(TransferError::Stream("writing", e.to_string())));
    match (written, ended) {
        (Ok(()), _) => {
            progress(counter.get(), length);
            Ok(counter.get())
        }
        (Err(_), Some(ended)) => Err(ended),
        (Err(error), None) => Err(error),
    }
}

/// Counts what passes.
struct Counting<'a, R> {
    reader: R,
    counter: &'a Counter,
    /// Failures of the source, so that they are not taken for the destination's.
    failed: Option<io::Error>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.reader.read(out) {
            Ok(read) => {
                self.counter.add(read);
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

fn write(
    parts: mpsc::Receiver<Part>,
    counter: &Counter,
    mode: u32,
    path: &Path,
) -> Result<(), TransferError> {
    let mut parts = PartReader::new(parts);
    let receiving = |e: io::Error| TransferError::Stream("receiving", e.to_string());
    let writing = |e: io::Error| TransferError::Local("writing", path.to_owned(), e);

    let mut data = Counting {
        reader: pipe::decompress(&mut parts).map_err(receiving)?,
        counter,
        failed: None,
    };
    let mut file = None;
    let result = if is_folder(mode) {
        folder::unpack(&mut data, path)
    } else {
        store::beside(path).and_then(|temporary| {
            let temporary = file.insert(temporary);
            copy(&mut data, temporary.as_file_mut())
        })
    };
    if let Some(error) = data.failed {
        return Err(receiving(error));
    }
    // An archive has an end of its own, before the frame's.
    let complete = match result {
        Ok(()) => io::copy(&mut data, &mut io::sink())
            .map_err(receiving)
            .map(|_| ()),
        // Perhaps because the node had no more to give, which it then says.
        Err(error) => match data.read(&mut [0]) {
            Ok(0) => Err(writing(error)),
            _ => return Err(writing(error)),
        },
    };
    drop(data);
    last_answer(&mut parts)?;
    complete?;
    if let Some(file) = file {
        // No more than permissions: a node must not make programs here that run as their owner.
        file.as_file()
            .set_permissions(Permissions::from_mode(mode & 0o777))
            .and_then(|()| Ok(file.into_temp_path().persist(path)?))
            .map_err(writing)?;
    }
    Ok(())
}

fn copy(data: &mut impl Read, file: &mut std::fs::File) -> io::Result<()> {
    let mut chunk = vec![0; limits::CHUNK];
    loop {
        match data.read(&mut chunk)? {
            0 => return Ok(()),
            read => file.write_all(&chunk[..read])?,
        }
    }
}

/// What the node says after the data.
fn last_answer(parts: &mut PartReader) -> Result<(), TransferError> {
    let malformed = |text: &str| TransferError::Stream("receiving", text.to_owned());
    let mut frame = Vec::new();
    parts
        .take(limits::CONTROL_FRAME as u64)
        .read_to_end(&mut frame)
        .map_err(|e| malformed(&e.to_string()))?;
    let body = frame
        .split_first_chunk::<4>()
        .filter(|(length, body)| u32::from_le_bytes(**length) as usize == body.len())
        .map(|(_, body)| body)
        .ok_or_else(|| malformed("the node broke off"))?;
    match codec::decode(body).map_err(|e| malformed(&e.to_string()))? {
        Transfer::Done => Ok(()),
        Transfer::Failed(text) => Err(TransferError::Node(text)),
        _ => Err(malformed("an answer that does not belong here")),
    }
}
