//! Progress, on a terminal and nowhere else.

use std::io::{IsTerminal, stderr};

use evertide::{RestoreProgress, RestoreStage, VerifyProgress, VerifyStage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whether progress is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Show {
    /// On standard error, if that is a terminal.
    OnTerminal,
    Never,
}

/// A bar for a restore or a verification.
#[derive(Clone, Debug)]
pub(crate) struct RestoreBar(ProgressBar);

const TEMPLATE: &str = "{msg:9} [{wide_bar}] {decimal_bytes} of {decimal_total_bytes}, \
 {decimal_bytes_per_sec} {eta:>4}";

impl RestoreBar {
    pub(crate) fn new(show: Show) -> Self {
        let shown = show == Show::OnTerminal && stderr().is_terminal();
        let target = if shown {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    pub(crate) fn update(&self, progress: &RestoreProgress) {
        self.0.set_length(progress.total_bytes);
        self.0.set_position(progress.bytes);
        self.0.set_message(match progress.stage {
            RestoreStage::Applying => "restoring",
            RestoreStage::Syncing => "syncing",
            RestoreStage::Checking => "checking",
            _ => "",
        });
    }

    /// The same for a verification.
    pub(crate) fn verifying(&self, progress: &VerifyProgress) {
        self.0.set_length(progress.total_bytes);
        self.0.set_position(progress.bytes);
        self.0.set_message(match progress.stage {
            VerifyStage::Reading => "verifying",
            VerifyStage::Restoring => "restoring",
            VerifyStage::Checking => "checking",
            _ => "",
        });
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
