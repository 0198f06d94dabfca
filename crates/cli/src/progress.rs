//! Progress, on a terminal and nowhere else.

use std::{
    fmt::Write,
    io::{IsTerminal, stderr},
    time::Duration,
};

use evertide::{RestoreProgress, RestoreStage, VerifyProgress, VerifyStage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output;

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

const TEMPLATE: &str = "{msg:9} [{wide_bar}] {figures}";

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
            let style = style.with_key("figures", |state: &ProgressState, out: &mut dyn Write| {
                let (done, total) = (state.pos(), state.len().unwrap_or_default());
                // A bar that cannot be drawn is none of the restore's business.
                let _ = out.write_str(&figures(done, total, state.elapsed()));
            });
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

/// How far it is, how fast it was so far, and how long the rest takes at that rate.
fn figures(done: u64, total: u64, elapsed: Duration) -> String {
    let mut text = format!("{} of {}", output::bytes(done), output::bytes(total));
    let seconds = elapsed.as_secs_f64();
    if done == 0 || seconds < FIRST_RATE.as_secs_f64() {
        return text;
    }
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let rate = done as f64 / seconds;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rounded = rate as u64;
    let _ = write!(text, ", {}/s", output::bytes(rounded));
    if done < total {
        #[allow(clippy::cast_precision_loss)]
        let left = (total - done) as f64 / rate;
        let _ = write!(text, ", {} left", time_left(left));
    }
    text
}

/// Before that, a rate would be that of the first few packets.
const FIRST_RATE: Duration = Duration::from_millis(100);

/// `8 s`, `3 min 20 s`, `5 h 12 min`.
fn time_left(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
    let seconds = seconds.ceil() as u64;
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_follow_from_what_is_done_and_how_long_it_took() {
        const MB: u64 = 1_000_000;
        let cases = [
            (0, 400 * MB, 9_000, "0 B of 400.0 MB"),
            // Too early to tell.
            (MB, 400 * MB, 20, "1.0 MB of 400.0 MB"),
            (
                100 * MB,
                400 * MB,
                10_000,
                "100.0 MB of 400.0 MB, 10.0 MB/s, 30 s left",
            ),
            (
                400 * MB - 1,
                400 * MB,
                10_000,
                "400.0 MB of 400.0 MB, 40.0 MB/s, 1 s left",
            ),
            (
                400 * MB,
                400 * MB,
                10_000,
                "400.0 MB of 400.0 MB, 40.0 MB/s",
            ),
            (
                MB,
                201 * MB,
                1_000,
                "1.0 MB of 201.0 MB, 1.0 MB/s, 3 min 20 s left",
            ),
            (1, 86_400, 1_000, "1 B of 86.4 kB, 1 B/s, 23 h 59 min left"),
            (
                1,
                u64::MAX,
                u64::MAX,
                "1 B of 18446.7 PB, 0 B/s, 5124095576030431 h 0 min left",
            ),
            // Of files that take the place of others that vanished, more is read than was planned.
            (500, 400, 1_000, "500 B of 400 B, 500 B/s"),
        ];
        for (done, total, milliseconds, text) in cases {
            let elapsed = Duration::from_millis(milliseconds);
            assert_eq!(figures(done, total, elapsed), text);
        }
    }
}
