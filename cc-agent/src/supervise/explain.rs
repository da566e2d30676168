//! Says why the kernel refused to run a program, in words that help.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader as _};

/// How much of a program is looked at: headers and the interpreter's name are at the start.
const HEAD: u64 = 64 * 1024;

/// Why `execve` failed for a program.
pub(super) fn refusal(program: &Path, error: Errno) -> String {
    let path = program.display();
    let head = head(program);
    let why = match error {
        Errno::ENOENT => match head.as_deref().map(interpreter) {
            None => "there is no such file".to_owned(),
            Some(None) => "the interpreter that it names is missing".to_owned(),
            Some(Some(interpreter)) => {
                format!("its interpreter {interpreter} is missing on this node")
            }
        },
        Errno::ENOEXEC => not_executable(head.as_deref().unwrap_or_default()),
        Errno::EACCES => access(program),
        other => other.desc().to_lowercase(),
    };
    format!("cannot run {path}: {why}")
}

fn head(program: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let file = File::open(program).ok()?;
    file.take(HEAD).read_to_end(&mut head).ok()?;
    Some(head)
}

fn not_executable(head: &[u8]) -> String {
    let here = std::env::consts::ARCH;
    match machine(head) {
        Some(machine) if machine != here => {
            format!("it is built for {machine}, this node is {here}")
        }
        Some(_) => format!("it is an executable for {here}, but damaged or cut short"),
        None if head.is_empty() => "it is empty".to_owned(),
        None => "it is neither an ELF executable nor a script with a `#!` line".to_owned(),
    }
}

fn access(program: &Path) -> String {
    let mut why = "permission denied".to_owned();
    if let Ok(metadata) = program.metadata() {
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            why.push_str(": it is a directory");
        } else if mode & 0o111 == 0 {
            let _ = write!(why, ": its mode is {mode:o}, it is not executable");
        } else {
            why.push_str(": its file system may be mounted noexec");
        }
    }
    why
}

/// The architecture that an ELF file is built for, as Rust names it where it does.
fn machine(head: &[u8]) -> Option<String> {
    fn of<H: FileHeader<Endian = Endianness>>(head: &[u8]) -> Option<u16> {
        let header = H::parse(head).ok()?;
        Some(header.e_machine(header.endian().ok()?))
    }
    let number = of::<FileHeader64<Endianness>>(head).or_else(|| of::<FileHeader32<_>>(head))?;
    Some(match number {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_RISCV => "riscv64".to_owned(),
        elf::EM_PPC64 => "powerpc64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        elf::EM_386 => "x86".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        other => format!("ELF machine {other}"),
    })
}

/// The dynamic loader of an ELF file, or the interpreter of a script.
fn interpreter(head: &[u8]) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let line = String::from_utf8_lossy(line);
        return line.split_whitespace().next().map(str::to_owned);
    }
    let header = FileHeader64::<Endianness>::parse(head).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, head).ok()?;
    let name = segments
        .iter()
        .find_map(|segment| segment.interpreter(endian, head).ok().flatten())?;
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test's own start, with another machine in its header.
    fn foreign(machine: u16) -> Vec<u8> {
        let mut head = head(Path::new("/proc/self/exe")).unwrap();
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head
    }

    #[test]
    fn another_architecture_is_named() {
        let other = if cfg!(target_arch = "x86_64") {
            (elf::EM_AARCH64, "aarch64")
        } else {
            (elf::EM_X86_64, "x86_64")
        };
        let text = not_executable(&foreign(other.0));
        let here = std::env::consts::ARCH;
        assert_eq!(
            text,
            format!("it is built for {}, this node is {here}", other.1)
        );
        assert!(not_executable(&foreign(0x7777)).contains("ELF machine 30583"));
        assert!(not_executable(b"hello").contains("neither"));
    }

    #[test]
    fn interpreters_of_programs_and_scripts_are_found() {
        let script = b"#! /no/such/thing -x\nbody";
        assert_eq!(interpreter(script).as_deref(), Some("/no/such/thing"));
        assert_eq!(interpreter(b"plain"), None);
        let own = interpreter(&head(Path::new("/proc/self/exe")).unwrap());
        assert!(own.is_none_or(|loader| loader.contains("ld")));
    }

    #[test]
    fn no_head_makes_it_panic() {
        let head = head(Path::new("/proc/self/exe")).unwrap();
        for cut in (0..400).chain([4000, 40_000]) {
            let _ = machine(&head[..cut]);
            let _ = interpreter(&head[..cut]);
        }
    }
}
