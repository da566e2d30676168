//! An error that can travel: what a remote function returns when it fails.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Any error, as text with its causes, so that `?` works in a remote function and the driver
/// can print the whole story.
///
/// It is not itself a [`std::error::Error`] (so that every error converts into it), but
/// `?` turns it into an [`anyhow::Error`].
///
/// ```
/// use cc_driver::Failure;
/// fn parse(text: &str) -> Result<u32, Failure> {
///     let number: u32 = text.parse()?;
///     if number == 0 { return Err("zero is not allowed".into()); }
///     Ok(number)
/// }
/// assert_eq!(parse("x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    message: String,
    causes: Vec<String>,
}

impl Failure {
    /// A failure with this message.
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            causes: Vec::new(),
        }
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What caused it, nearest first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes
            .iter()
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error: Box<dyn std::error::Error + Send + Sync> = error.into();
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            // Many errors repeat their cause in their own text.
            let text = cause.to_string();
            causes.push(text);
            source = cause.source();
        }
        Self {
            message: error.to_string(),
            causes,
        }
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        anyhow::Error::msg(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_becomes_a_failure_and_an_anyhow_error() {
        fn io() -> Result<(), Failure> {
            std::fs::read("/nonexistent")?;
            Ok(())
        }
        fn any() -> anyhow::Result<()> {
            io()?;
            Ok(())
        }
        fn from_anyhow() -> Result<(), Failure> {
            any()?;
            Err("unreachable")?
        }
        assert!(any().unwrap_err().to_string().contains("No such file"));
        assert!(
            from_anyhow()
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
    }
}
