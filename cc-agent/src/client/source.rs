//! What can be put on a node: files by descriptor, values in memory, folders as archives.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use cc_core::ids::ContentHash;

use crate::transfer::folder;

/// How much of a file is hashed at a time.
const HASH_CHUNK: usize = 1 << 20;

/// Content that can be sent.
///
/// Files are read by position from their beginning, so one descriptor serves any number of
/// puts at once.
pub trait Source: Send + 'static {
    /// The content from its beginning. It is read on a blocking thread.
    fn into_reader(self) -> Box<dyn Read + Send>;
}

struct FileReader {
    file: Arc<File>,
    at: u64,
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(out, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Source for Arc<File> {
    fn into_reader(self) -> Box<dyn Read + Send> {
        Box::new(FileReader { file: self, at: 0 })
    }
}

impl Source for File {
    fn into_reader(self) -> Box<dyn Read + Send> {
        Arc::new(self).into_reader()
    }
}

impl Source for Bytes {
    fn into_reader(self) -> Box<dyn Read + Send> {
        Box::new(self.reader())
    }
}

impl Source for Vec<Bytes> {
    fn into_reader(self) -> Box<dyn Read + Send> {
        let mut parts = self.into_iter();
        Box::new(Parts {
            now: parts.next().unwrap_or_default(),
            parts,
        })
    }
}

struct Parts {
    now: Bytes,
    parts: std::vec::IntoIter<Bytes>,
}

impl Read for Parts {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            let Some(next) = self.parts.next() else {
                return Ok(0);
            };
            self.now = next;
        }
        let amount = self.now.len().min(out.len());
        self.now.copy_to_slice(&mut out[..amount]);
        Ok(amount)
    }
}

/// The hash and the length, in bytes, of a file's content. Blocks.
///
/// # Errors
/// Fails when the file cannot be read.
///
/// ```
/// let file = tempfile::tempfile()?;
/// let (hash, length) = cc_agent::client::hash_file(&file)?;
/// assert_eq!((hash, length), (cc_core::ids::ContentHash::of(b""), 0));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn hash_file(file: &File) -> io::Result<(ContentHash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; HASH_CHUNK];
    let mut at = 0;
    loop {
        match file.read_at(&mut chunk, at) {
            Ok(0) => return Ok((ContentHash(*hasher.finalize().as_bytes()), at)),
            Ok(read) => {
                hasher.update(&chunk[..read]);
                at += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Packs a folder into an archive without a name, for a put with [`super::FOLDER`] in its place's
/// mode. Returns it with its hash and its length in bytes. Blocks.
///
/// Files, folders and symbolic links are packed; sockets, pipes and devices are left out.
///
/// # Errors
/// Fails when something in the folder cannot be read, or the temporary directory is full.
pub fn pack_folder(path: &Path) -> io::Result<(File, ContentHash, u64)> {
    let out = io::BufWriter::with_capacity(HASH_CHUNK, tempfile::tempfile()?);
    let file = folder::pack(path, out)?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    let (hash, length) = hash_file(&file)?;
    Ok((file, hash, length))
}
