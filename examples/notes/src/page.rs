//! The page. `html!` escapes whatever it is given.

use std::time::Duration;

use evertide::{DatabaseState, DatabaseStatus, ReplicaStatus};
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;

use crate::notes::Note;

/// A note is at most this long, in characters.
pub(crate) const LONGEST_NOTE: usize = 10_000;

/// What came of the form that led here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Saved,
    Durable,
    Behind,
    Refused,
    Deleted,
}

pub(crate) fn notes(
    notes: &[Note],
    count: u32,
    outcome: Option<Outcome>,
    ms: Option<u64>,
    status: &DatabaseStatus,
) -> Markup {
    frame(html! {
        header { h1 { "Notes" } }
        main {
            @if let Some(outcome) = outcome { (message(outcome, ms)) }
            (form())
            @if notes.is_empty() {
                p.empty { "Nothing here yet. Write the first note." }
            } @else {
                ol.notes { @for note in notes { (item(note)) } }
            }
            @if count as usize > notes.len() {
                p.empty { "The newest " (notes.len()) " of " (count) " notes." }
            }
        }
        footer { (backup(status)) }
    })
}

pub(crate) fn failed() -> Markup {
    frame(html! {
        main {
            h1 { "That did not work" }
            p { "The log of the application says why. " a href="/" { "Back to the notes" } }
        }
    })
}

fn frame(body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Notes" }
                link rel="stylesheet" href="/style.css";
                // No request for an icon that does not exist.
                link rel="icon" href="data:,";
            }
            body { (body) }
        }
    }
}

fn form() -> Markup {
    html! {
        form.new method="post" action="/notes" {
            label for="text" { "New note" }
            textarea #text name="text" rows="3" required maxlength=(LONGEST_NOTE) autofocus {}
            div.row {
                label.check {
                    input type="checkbox" name="important";
                    span { "Important " small { "confirmed on every replica" } }
                }
                button type="submit" { "Save" }
            }
        }
    }
}

fn item(note: &Note) -> Markup {
    html! {
        li.important[note.important] {
            p.text { (note.text) }
            div.row {
                span.meta {
                    time { (note.written_at) " UTC" }
                    @if note.important { span.badge { "important" } }
                }
                form method="post" action={ "/notes/" (note.id) "/delete" } {
                    button.quiet type="submit" aria-label={ "Delete note " (note.id) } { "Delete" }
                }
            }
        }
    }
}

fn message(outcome: Outcome, ms: Option<u64>) -> Markup {
    let (class, text) = match (outcome, ms) {
        (Outcome::Saved, _) => ("good", "Saved.".to_owned()),
        (Outcome::Durable, Some(ms)) => (
            "good",
            format!("Saved, and on every replica after {ms} ms."),
        ),
        (Outcome::Durable, None) => ("good", "Saved, and on every replica.".to_owned()),
        (Outcome::Behind, _) => (
            "bad",
            "Saved here, but not on every replica yet. See below.".to_owned(),
        ),
        (Outcome::Refused, _) => (
            "bad",
            format!("A note has 1 to {LONGEST_NOTE} characters. Nothing was saved."),
        ),
        (Outcome::Deleted, _) => ("good", "Deleted.".to_owned()),
    };
    html! { p.message.(class) role="status" { (text) } }
}

fn backup(status: &DatabaseStatus) -> Markup {
    let failing = status
        .replicas
        .iter()
        .any(|replica| replica.error.is_some());
    let (class, state) = match status.state {
        DatabaseState::Running if failing => ("bad", "running, but not to every replica"),
        DatabaseState::Running => ("good", "running"),
        DatabaseState::Waiting => ("bad", "waiting for the database"),
        DatabaseState::Failing => ("bad", "failing"),
        _ => ("bad", "stopped"),
    };
    html! {
        section.backup aria-label="Backup" {
            p {
                span.dot.(class) {} "Backup " (state) ". Newest transaction "
                code { (status.txid) }
            }
            @if let Some(error) = &status.error { p.error { (error) } }
            @if !status.replicas.is_empty() {
                table {
                    thead { tr { th { "Replica" } th { "Transaction" } th { "Lag" } th { "Proven" } th { "State" } } }
                    tbody { @for one in &status.replicas { (replica(one, status)) } }
                }
            }
        }
    }
}

fn replica(replica: &ReplicaStatus, status: &DatabaseStatus) -> Markup {
    let behind = status.txid.get().saturating_sub(replica.txid.get());
    html! {
        tr {
            td title=(replica.location) { (replica.name) }
            td { @if replica.txid.get() == 0 { "none yet" } @else { code { (replica.txid) } } }
            td { @match replica.lag { Some(lag) => (milliseconds(lag)), None => "–" } }
            td { @match &replica.drill.proven { Some(proof) => code { (proof.txid) }, None => "–" } }
            td { @if behind == 0 { "complete" } @else { (behind) " behind" } }
        }
        @if let Some(error) = &replica.error { tr { td.error colspan="5" { (error) } } }
        @if let Some(failure) = &replica.drill.failure {
            tr { td.error colspan="5" { (failure.problem) } }
        }
    }
}

fn milliseconds(lag: Duration) -> String {
    let ms = lag.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}
