//! Failures, with their exit code and what to do next.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use cc_driver::config::ConfigError;
use cc_driver::records::RecordError;
use cc_driver::{DriverError, ResolveError};

const FAILED: u8 = 1;
const WRONG_INPUT: u8 = 2;
/// Nothing satisfies the assumptions.
pub(crate) const NOTHING: u8 = 3;
const AMBIGUOUS: u8 = 4;
const NOT_FOUND: u8 = 5;
const INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    messages: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    fn new(code: u8, message: impl Display) -> Self {
        Self {
            code,
            messages: vec![message.to_string()],
            hint: None,
        }
    }

    /// It was tried and did not work.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self::new(FAILED, message)
    }

    /// It makes no sense.
    pub(crate) fn wrong(message: impl Display) -> Self {
        Self::new(WRONG_INPUT, message)
    }

    /// Nothing satisfies what was asked for.
    pub(crate) fn nothing(message: impl Display) -> Self {
        Self::new(NOTHING, message)
    }

    /// The user or the system wants it to end.
    pub(crate) fn interrupted(hint: Option<&str>) -> Self {
        Self {
            hint: hint.map(str::to_owned),
            ..Self::new(INTERRUPTED, "interrupted")
        }
    }

    /// It has been said already.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            code,
            messages: Vec::new(),
            hint: None,
        }
    }

    /// Ends with another code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Says what to do next.
    pub(crate) fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Prints it on standard error and gives the exit code.
    pub(crate) fn report(&self) -> u8 {
        // Nobody is left to tell if that does not work.
        let _ = self.write();
        self.code
    }

    fn write(&self) -> io::Result<()> {
        let mut stderr = io::stderr().lock();
        let (red, plain) = if colours() {
            ("\x1b[1;31m", "\x1b[0m")
        } else {
            ("", "")
        };
        for message in &self.messages {
            writeln!(stderr, "{red}error:{plain} {message}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(stderr, "  hint: {hint}")?;
        }
        Ok(())
    }
}

fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::Record(error @ RecordError::NotFound(_)) => Self::new(NOT_FOUND, error),
            DriverError::Record(error @ RecordError::Ambiguous { .. }) => {
                Self::new(AMBIGUOUS, error)
            }
            DriverError::Resolve(error) => match error {
                ResolveError::Nothing(_) => {
                    Self::nothing(error).hint("`cctl explain` with the same assumptions says more")
                }
                ResolveError::Ambiguous { .. } => Self::new(AMBIGUOUS, error),
                error => Self::wrong(error),
            },
            DriverError::Config(error) => error.into(),
            DriverError::Several(failures) => Self {
                code: FAILED,
                messages: failures.0.iter().map(ToString::to_string).collect(),
                hint: None,
            },
            error => Self::failed(error),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Unreadable { .. } => Self::failed(error),
            error => Self::wrong(error),
        }
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        DriverError::from(error).into()
    }
}

/// Writing the answer.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Whoever reads has read enough.
            io::ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::failed(format!("write the answer: {error}")),
        }
    }
}
