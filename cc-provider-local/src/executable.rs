//! Why an executable did not start, said better than by the error number alone.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::FileHeader as _;

/// What the failed start of an executable means, and what to do.
pub(crate) fn explain(executable: &Path, error: &io::Error) -> String {
    let path = executable.display();
    let here = rustix::system::uname();
    let here = here.machine().to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound if executable.exists() => format!(
            "{path} needs a program loader that this machine does not have: take a static agent, \
             or one made for this machine's C library"
        ),
        io::ErrorKind::NotFound => format!("there is no {path}"),
        io::ErrorKind::PermissionDenied => format!("{path} may not be executed: {error}"),
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            match architecture(executable) {
                Some(its) => format!(
                    "{path} is for {its} and this machine is {here}: name an agent for {here}"
                ),
                None => format!(
                    "{path} is not an executable of this machine ({here}): name the agent's binary"
                ),
            }
        }
        _ => format!("{path}: {error}"),
    }
}

/// The architecture that an ELF file is for; `None` for any other file.
fn architecture(executable: &Path) -> Option<String> {
    let mut head = Vec::new();
    let header = size_of::<FileHeader64<Endianness>>() as u64;
    File::open(executable)
        .ok()?
        .take(header)
        .read_to_end(&mut head)
        .ok()?;
    machine(&head)
}

fn machine(head: &[u8]) -> Option<String> {
    let machine = if let Ok(header) = FileHeader64::<Endianness>::parse(head) {
        header.e_machine(header.endian().ok()?)
    } else {
        let header = FileHeader32::<Endianness>::parse(head).ok()?;
        header.e_machine(header.endian().ok()?)
    };
    // As `uname -m` calls them.
    Some(match machine {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_386 => "i686".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        elf::EM_PPC64 => "ppc64".to_owned(),
        elf::EM_RISCV => "riscv".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        other => format!("another architecture (ELF machine {other:?})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_for_this_machine() {
        let own = architecture(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(own, std::env::consts::ARCH);
    }

    #[test]
    fn what_is_no_elf_file_has_no_architecture() {
        for head in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &[0; 64]] {
            assert_eq!(machine(head), None);
        }
    }
}
