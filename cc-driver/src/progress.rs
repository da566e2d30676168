//! Progress bars on standard error: shown on a terminal, absent elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar, or nothing when standard error is not a terminal.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Counts items, of a known number or not.
    pub(crate) fn items(label: &str, length: Option<u64>) -> Self {
        let template = match length {
            Some(_) => "{prefix} [{bar:30.cyan/blue}] {human_pos}/{human_len} {per_sec} eta {eta}",
            None => "{prefix} {spinner} {human_pos} {per_sec} {elapsed}",
        };
        Self::with(label, length, template)
    }

    /// Counts bytes.
    pub(crate) fn bytes(label: &str, length: Option<u64>) -> Self {
        let template = match length {
            Some(_) => {
                "{prefix} [{bar:30.cyan/blue}] {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta}"
            }
            None => "{prefix} {spinner} {bytes} {binary_bytes_per_sec}",
        };
        Self::with(label, length, template)
    }

    fn with(label: &str, length: Option<u64>, template: &str) -> Self {
        let bar = ProgressBar::new(length.unwrap_or(0));
        if length.is_none() {
            bar.unset_length();
        }
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(label.to_owned());
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.inc(count);
    }

    /// So much is done, of this length if it is known.
    pub(crate) fn at(&self, position: u64, length: Option<u64>) {
        if let Some(length) = length {
            self.0.set_length(length);
        }
        self.0.set_position(position);
    }

    pub(crate) fn finish(&self) {
        self.0.finish();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.0.is_finished() {
            self.0.abandon();
        }
    }
}
