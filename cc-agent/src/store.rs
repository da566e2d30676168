//! The content store: one file per BLAKE3 hash, from which binaries are run and files are made.
//!
//! Agents of one machine may share a store, so everything here goes through a temporary
//! file and a rename: under a hash's name there is never part of its content, and two writers of
//! the same content both succeed. Nothing is synced to disk: the store is a cache, and a
//! length that is not what was asked for counts as absent. What no node has linked and nobody has
//! asked for in a week is removed when an agent sweeps the store, as every one does now and then.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cc_core::ids::ContentHash;
use cc_core::limits;
use cc_core::wire::stream::Place;
use tempfile::NamedTempFile;

use crate::transfer::folder;

/// Mode of stored content: executables are run from here, and nobody changes it.
const MODE: u32 = 0o555;

/// What unfinished files are called.
const UNFINISHED: &str = ".part-";

/// An unfinished file that was not written to for this long belongs to a process that is gone:
/// a transfer that stalls is given up long before.
const ABANDONED: Duration = Duration::from_secs(3600);

/// How old the mark of the last use may get before it is renewed: a write for every look would
/// be too much.
const MARK_EVERY: Duration = Duration::from_secs(3600);

/// The bits of a mode that are permissions.
const PERMISSIONS: u32 = 0o7777;

/// Whether a mode in a [`Place`] or an answer to a get says that the content is a tar archive of
/// a folder.
pub(crate) fn is_folder(mode: u32) -> bool {
    mode & folder::BIT == folder::BIT
}

/// A content store.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens the store in a directory, which is made if missing.
    pub(crate) fn open(directory: &Path) -> io::Result<Arc<Self>> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
        }))
    }

    /// Removes what anyone has left unfinished, or not used, for long.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let keep = if name.starts_with(UNFINISHED) {
                ABANDONED
            } else if is_content(&name) && metadata.nlink() == 1 {
                limits::STORE_UNUSED
            } else {
                continue;
            };
            if age(&metadata).is_some_and(|age| age > keep) {
                // Whoever shares the store may be removing it, too.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Where the store is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where content of this hash is, or would be.
    pub(crate) fn path(&self, hash: ContentHash) -> PathBuf {
        self.directory.join(hash.to_hex())
    }

    /// Whether content of this hash is there.
    pub(crate) fn has(&self, hash: ContentHash) -> bool {
        let path = self.path(hash);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                mark_used(&path, &metadata);
                true
            }
            _ => false,
        }
    }

    /// Whether content of this hash is there, all of it.
    pub(crate) fn holds(&self, hash: ContentHash, length: u64) -> bool {
        let path = self.path(hash);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() == length => {
                mark_used(&path, &metadata);
                true
            }
            _ => false,
        }
    }

    /// Links content into a directory of its own, made if missing, so that it stays in the store
    /// for as long as that directory does; what else is in the directory goes. Gives the link's
    /// path, or that in the store where there can be no link.
    pub(crate) fn keep(&self, hash: ContentHash, directory: &Path) -> PathBuf {
        let source = self.path(hash);
        let target = directory.join(hash.to_hex());
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        if made.is_err() {
            return source;
        }
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path() != target {
                // What still runs from there keeps its content.
                let _ = fs::remove_file(entry.path());
            }
        }
        match fs::hard_link(&source, &target) {
            Ok(()) => target,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && same(&source, &target) => target,
            Err(_) => source,
        }
    }

    /// A file to write content to; it goes away with its value.
    pub(crate) fn unfinished(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(UNFINISHED)
            .permissions(Permissions::from_mode(0o700))
            .tempfile_in(&self.directory)
    }

    /// Gives a file whose content has been checked its name.
    pub(crate) fn commit(&self, file: NamedTempFile, hash: ContentHash) -> io::Result<()> {
        file.as_file()
            .set_permissions(Permissions::from_mode(MODE))?;
        // Closed for writing before it has its name, or running it might fail as busy.
        file.into_temp_path().persist(self.path(hash))?;
        Ok(())
    }

    /// Makes a file, or unpacks a folder, from content in the store.
    pub(crate) async fn place(
        &self,
        hash: ContentHash,
        place: &Place,
        base: &Path,
    ) -> Result<(), String> {
        let source = self.path(hash);
        let named = place.path.clone();
        let target = base.join(&place.path);
        let mode = place.mode;
        let made = tokio::task::spawn_blocking(move || {
            if is_folder(mode) {
                folder::unpack(File::open(source)?, &target)
            } else {
                make_file(&source, &target, mode & PERMISSIONS)
            }
        })
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)));
        made.map_err(|e| format!("placing {named}: {e}"))
    }
}

fn is_content(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn age(metadata: &fs::Metadata) -> Option<Duration> {
    metadata.modified().ok()?.elapsed().ok()
}

/// The time of modification is that of the last use.
fn mark_used(path: &Path, metadata: &fs::Metadata) {
    if age(metadata).is_some_and(|age| age > MARK_EVERY) {
        // Somebody else's file cannot be marked, and is not ours to remove either.
        let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }
}

/// Whether two paths lead to the same file.
fn same(one: &Path, other: &Path) -> bool {
    let name = |path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    name(one).is_some_and(|one| name(other) == Some(one))
}

/// Makes the folder that a file goes to, and a temporary file in it, to be renamed.
pub(crate) fn beside(target: &Path) -> io::Result<NamedTempFile> {
    let parent = parent(target)?;
    fs::create_dir_all(parent)?;
    tempfile::Builder::new().prefix(".cc-").tempfile_in(parent)
}

fn parent(target: &Path) -> io::Result<&Path> {
    let named = !target.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !named || target.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "it is a folder: name a file in it",
        ));
    }
    match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(io::ErrorKind::InvalidFilename.into()),
    }
}

fn make_file(source: &Path, target: &Path, mode: u32) -> io::Result<()> {
    // A link has the store's mode, and must be one that nobody would write through.
    if mode == MODE && link(source, target).is_ok() {
        return Ok(());
    }
    let mut file = beside(target)?;
    // Within the kernel, and without a copy where the file system can share blocks.
    io::copy(&mut File::open(source)?, file.as_file_mut())?;
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.into_temp_path().persist(target)?;
    Ok(())
}

fn link(source: &Path, target: &Path) -> io::Result<()> {
    let parent = parent(target)?;
    fs::create_dir_all(parent)?;
    let link = tempfile::Builder::new()
        .prefix(".cc-")
        .make_in(parent, |path| fs::hard_link(source, path))?;
    // Renaming one name of a file to another of the same file does nothing, and leaves both.
    let result = fs::rename(link.path(), target);
    drop(link);
    result
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn insert(store: &Store, content: &[u8]) -> ContentHash {
        let hash = ContentHash::of(content);
        let mut file = store.unfinished().unwrap();
        file.write_all(content).unwrap();
        store.commit(file, hash).unwrap();
        hash
    }

    #[test]
    fn content_has_its_name_only_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("a/store")).unwrap();
        let content = b"content";
        let hash = ContentHash::of(content);
        let mut file = store.unfinished().unwrap();
        file.write_all(content).unwrap();
        assert!(!store.has(hash));
        store.commit(file, hash).unwrap();
        assert!(store.has(hash) && store.holds(hash, 7) && !store.holds(hash, 8));
        let mode = fs::metadata(store.path(hash)).unwrap().mode();
        assert_eq!(mode & PERMISSIONS, MODE);
        drop(store.unfinished().unwrap());
        assert_eq!(fs::read_dir(store.directory()).unwrap().count(), 1);
    }

    #[test]
    fn writers_of_the_same_content_all_succeed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let hash = ContentHash::of(&content);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        insert(&store, &content);
                        let mut seen = Vec::new();
                        let mut file = File::open(store.path(hash)).unwrap();
                        file.read_to_end(&mut seen).unwrap();
                        assert_eq!(ContentHash::of(&seen), hash);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_nobody_uses_goes_after_a_week() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = Store::open(&path).unwrap();
        let week = limits::STORE_UNUSED + Duration::from_secs(60);
        let [unused, looked_up, linked] = [b"1", b"2", b"3"].map(|c| insert(&store, c));
        let mut link = store.keep(linked, &directory.path().join("node"));
        assert!(link.ends_with(format!("node/{linked}")), "{link:?}");
        for hash in [unused, looked_up, linked] {
            let file = File::open(store.path(hash)).unwrap();
            file.set_modified(SystemTime::now() - week).unwrap();
        }
        let present = |store: &Store| [unused, looked_up, linked].map(|h| store.path(h).exists());
        assert!(store.has(looked_up));
        let unfinished = [store.unfinished().unwrap(), store.unfinished().unwrap()];
        let abandoned = SystemTime::now() - 2 * ABANDONED;
        unfinished[0].as_file().set_modified(abandoned).unwrap();
        store.sweep().unwrap();
        assert_eq!(
            [0, 1].map(|n: usize| unfinished[n].path().exists()),
            [false, true]
        );
        assert_eq!(present(&store), [false, true, true]);
        // The next program takes the former one's place.
        link = store.keep(looked_up, &directory.path().join("node"));
        assert_eq!(fs::read(&link).unwrap(), b"2");
        assert_eq!(store.keep(looked_up, &directory.path().join("node")), link);
        store.sweep().unwrap();
        assert_eq!(present(&store), [false, true, false]);
        assert_eq!(
            fs::read_dir(directory.path().join("node")).unwrap().count(),
            1
        );
    }

    #[tokio::test]
    async fn only_files_that_nobody_writes_to_share_the_stores_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        let store = Store::open(&directory.path().join("store")).unwrap();
        let hash = insert(&store, b"content");
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        // Twice: the second finds the first's file there.
        for _ in 0..2 {
            for (path, mode) in [("deep/er/tool", 0o555), ("data", 0o644), ("read", 0o444)] {
                let place = Place {
                    path: path.to_owned(),
                    mode,
                };
                store.place(hash, &place, &base).await.unwrap();
                let made = base.join(path);
                assert_eq!(fs::read(&made).unwrap(), b"content");
                assert_eq!(fs::metadata(&made).unwrap().mode() & PERMISSIONS, mode);
                assert_eq!(inode(&made) == inode(&store.path(hash)), mode == MODE);
            }
        }
        fs::write(base.join("data"), b"changed").unwrap();
        assert_eq!(fs::read(store.path(hash)).unwrap(), b"content");
        assert_eq!(fs::read_dir(&base).unwrap().count(), 3);
        assert_eq!(fs::read_dir(base.join("deep/er")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let hash = insert(&store, b"content");
        fs::write(directory.path().join("file"), b"").unwrap();
        for path in ["file/below", "store", "new/", "/proc/none"] {
            for mode in [0o555, 0o644] {
                let place = Place {
                    path: path.to_owned(),
                    mode,
                };
                let error = store.place(hash, &place, directory.path()).await;
                assert!(error.unwrap_err().contains(path), "{path}");
            }
        }
        let missing = ContentHash::of(b"never stored");
        let place = Place {
            path: "x".to_owned(),
            mode: 0o644,
        };
        assert!(
            store
                .place(missing, &place, directory.path())
                .await
                .is_err()
        );
        assert!(!directory.path().join("x").exists());
    }
}
