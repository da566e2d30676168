//! Folders as tar archives.
//!
//! Files, folders and symbolic links are carried with their permission bits and times; sockets,
//! pipes and devices are left out. Unpacking never writes outside of the folder it was given,
//! whatever the archive says.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// In a mode: the content is an archive of a folder (`S_IFDIR`).
pub(crate) const BIT: u32 = 0o040_000;

/// Writes a folder's archive.
pub(crate) fn pack<W: Write>(folder: &Path, out: W) -> io::Result<W> {
    let mut archive = tar::Builder::new(out);
    let mut open = vec![PathBuf::new()];
    while let Some(inside) = open.pop() {
        for entry in fs::read_dir(folder.join(&inside))? {
            let entry = entry?;
            let name = inside.join(entry.file_name());
            append(&mut archive, &entry.path(), &name)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", name.display())))?;
            if entry.file_type()?.is_dir() {
                open.push(name);
            }
        }
    }
    archive.into_inner()
}

fn append<W: Write>(archive: &mut tar::Builder<W>, path: &Path, name: &Path) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&metadata);
    if metadata.is_dir() {
        archive.append_data(&mut header, name, io::empty())
    } else if metadata.is_symlink() {
        header.set_size(0);
        archive.append_link(&mut header, name, fs::read_link(path)?)
    } else if metadata.is_file() {
        // The header has said how long it is; meanwhile it may grow or shrink.
        let exactly = Exactly {
            file: File::open(path)?,
            left: metadata.len(),
        };
        archive.append_data(&mut header, name, exactly)
    } else {
        Ok(())
    }
}

/// A file of a known length.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(out.len());
        let read = self.file.read(&mut out[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it became shorter while it was read",
            ));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Unpacks an archive into a folder, which is made if missing; what is there already stays
/// unless the archive has something else of the same name.
pub(crate) fn unpack(archive: impl Read, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut archive = tar::Archive::new(archive);
    let mut folders = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        match entry.header().entry_type() {
            // Last, and the innermost first: one may not let us write into it.
            tar::EntryType::Directory => {
                let name = entry.path()?.into_owned();
                folders.push((name, entry));
            }
            tar::EntryType::Regular | tar::EntryType::Symlink => unpack_one(&mut entry, folder)?,
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the archive has an entry of kind {other:?}"),
                ));
            }
        }
    }
    folders.sort_by(|a, b| b.0.cmp(&a.0));
    for (_, mut entry) in folders {
        unpack_one(&mut entry, folder)?;
    }
    Ok(())
}

fn unpack_one(entry: &mut tar::Entry<'_, impl Read>, folder: &Path) -> io::Result<()> {
    if entry.unpack_in(folder)? {
        return Ok(());
    }
    let name = entry.path()?.display().to_string();
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the archive's entry {name} leads out of the folder"),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_folder_comes_out_as_it_went_in() {
        let directory = tempfile::tempdir().unwrap();
        let from = directory.path().join("from");
        let long = "x".repeat(150);
        fs::create_dir_all(from.join("a/b").join(&long)).unwrap();
        fs::create_dir_all(from.join("empty")).unwrap();
        fs::write(from.join("a/b").join(&long).join(&long), b"deep").unwrap();
        fs::write(from.join("a/script"), b"#!").unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(from.join("a/script"), mode).unwrap();
        symlink("script", from.join("a/link")).unwrap();
        let closed = fs::Permissions::from_mode(0o555);
        fs::set_permissions(from.join("a/b"), closed).unwrap();

        let to = directory.path().join("new/to");
        let archive = pack(&from, Vec::new()).unwrap();
        // Twice: into nothing, and over itself.
        unpack(&archive[..], &to).unwrap();
        unpack(&archive[..], &to).unwrap();
        let deep = to.join("a/b").join(&long).join(&long);
        assert_eq!(fs::read(deep).unwrap(), b"deep");
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a/script"), mode("a/b")), (0o755, 0o555));
        assert_eq!(
            fs::read_link(to.join("a/link")).unwrap(),
            Path::new("script")
        );
        assert!(to.join("empty").is_dir());
    }

    fn archive_of(name: &str, kind: tar::EntryType, link: Option<&str>) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        // Past the builder's own checks.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        header.set_cksum();
        let mut out = header.as_bytes().to_vec();
        out.resize(3 * 512, 0);
        out
    }

    #[test]
    fn nothing_is_written_outside() {
        use tar::EntryType;
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("to");
        let up = archive_of("../out", EntryType::Regular, None);
        assert!(unpack(&up[..], &to).is_err());
        let link = archive_of("way", EntryType::Symlink, Some(".."));
        unpack(&link[..], &to).unwrap();
        let through = archive_of("way/out", EntryType::Regular, None);
        assert!(unpack(&through[..], &to).is_err());
        let hard = archive_of("hard", EntryType::Link, Some("/etc/passwd"));
        assert!(unpack(&hard[..], &to).is_err());
        let pipe = archive_of("pipe", EntryType::Fifo, None);
        assert!(unpack(&pipe[..], &to).is_err());
        assert!(!directory.path().join("out").exists());
        // An absolute name is taken as one inside.
        let absolute = archive_of("/cc-absolute", EntryType::Regular, None);
        unpack(&absolute[..], &to).unwrap();
        assert!(to.join("cc-absolute").exists());
        assert!(unpack(&[0x5a; 5000][..], &to).is_err());
    }
}
