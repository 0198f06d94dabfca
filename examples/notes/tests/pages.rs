//! The pages, over a real database that is really replicated.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper has nobody to return an error to"
)]
#![allow(clippy::disallowed_methods, reason = "a test may touch its own files")]

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode, header};
use evertide::{DatabaseState, ReplicaOptions, Replication};
use evertide_storage::Destination;
use evertide_testkit::{TempDir, restore_with_litestream, temp_dir};
use notes::Notes;
use tower::ServiceExt;

struct Site {
    folder: TempDir,
    notes: Notes,
    backup: Replication,
    router: Router,
}

impl Site {
    fn new() -> Self {
        let folder = temp_dir();
        let database = folder.path().join("notes.db");
        let url = format!("file://{}", folder.path().join("replica").display());
        let replica = ReplicaOptions::new("local", Destination::parse(&url).unwrap());
        let backup = Replication::builder(&database)
            .replica(replica)
            .build()
            .unwrap();
        let notes = Notes::open(&database).unwrap();
        let router = notes::router(notes.clone(), backup.clone());
        Self {
            folder,
            notes,
            backup,
            router,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn get(&self, path: &str) -> String {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    async fn post(&self, path: &str, form: &str, from: &str) -> Response<Body> {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("sec-fetch-site", from)
            .body(Body::from(form.to_owned()))
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a form as a browser does and returns the address of the page it is sent on to.
    async fn submit(&self, path: &str, form: &str) -> String {
        let response = self.post(path, form, "same-origin").await;
        assert_eq!(
            response.status(),
            StatusCode::SEE_OTHER,
            "a reload would send it again"
        );
        response.headers()[header::LOCATION]
            .to_str()
            .unwrap()
            .to_owned()
    }

    async fn texts(&self) -> Vec<String> {
        self.notes
            .newest(10)
            .await
            .unwrap()
            .into_iter()
            .map(|note| note.text)
            .collect()
    }
}

#[tokio::test]
async fn what_a_person_types_is_text_on_the_page_and_never_markup() {
    let site = Site::new();
    let typed = "text=%3Cscript%3Ealert(1)%3C%2Fscript%3E+%26+%22quotes%22%0Asecond+line";
    let page = site.submit("/notes", typed).await;
    assert_eq!(page, "/?outcome=saved");
    let page = site.get(&page).await;
    assert!(!page.contains("<script"), "{page}");
    let shown = "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot;\nsecond line";
    assert!(page.contains(shown), "{page}");
}

#[tokio::test]
async fn deleting_removes_the_note_that_was_meant() {
    let site = Site::new();
    for text in ["text=one", "text=two", "text=three"] {
        site.submit("/notes", text).await;
    }
    assert_eq!(
        site.submit("/notes/2/delete", "").await,
        "/?outcome=deleted"
    );
    assert_eq!(
        site.submit("/notes/99/delete", "").await,
        "/?outcome=deleted"
    );
    assert_eq!(site.texts().await, ["three", "one"]);
}

#[tokio::test]
async fn a_form_on_another_site_cannot_write() {
    let site = Site::new();
    site.submit("/notes", "text=mine").await;
    for (path, form) in [("/notes", "text=forged"), ("/notes/1/delete", "")] {
        for from in ["cross-site", "same-site"] {
            assert_eq!(
                site.post(path, form, from).await.status(),
                StatusCode::FORBIDDEN
            );
        }
    }
    assert_eq!(site.texts().await, ["mine"]);
}

#[tokio::test]
async fn an_empty_or_endless_note_is_refused_with_a_reason() {
    let site = Site::new();
    let endless = format!("text={}", "x".repeat(10_001));
    for form in ["text=", "text=+%0A+", endless.as_str()] {
        let page = site.submit("/notes", form).await;
        assert_eq!(page, "/?outcome=refused");
        assert!(site.get(&page).await.contains("1 to 10000 characters"));
    }
    assert!(site.texts().await.is_empty());
}

#[tokio::test]
async fn an_important_note_is_confirmed_only_when_a_restore_would_have_it() {
    let site = Site::new();
    site.backup.start().await.unwrap();
    let page = site.submit("/notes", "text=keep+me&important=on").await;
    // At this very moment, with the application still running and nothing flushed by a stop.
    restore_with_litestream(site.path("replica"), &site.path("restored.db"));
    let restored = Notes::open(site.path("restored.db"))
        .unwrap()
        .newest(10)
        .await
        .unwrap();
    assert_eq!(restored.len(), 1);
    assert_eq!(restored[0].text, "keep me");

    assert!(page.starts_with("/?outcome=durable&ms="), "{page}");
    let page = site.get(&page).await;
    assert!(
        page.contains("Saved, and on every replica after "),
        "{page}"
    );
    let txid = site.backup.status().txid.to_string();
    assert_eq!(
        page.matches(&txid).count(),
        2,
        "the database's and the replica's: {page}"
    );
    assert!(page.contains("complete"), "{page}");
    site.backup.stop(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_important_note_that_no_replica_took_is_saved_and_not_confirmed() {
    let site = Site::new();
    // A file where the replica's directory should be.
    std::fs::write(site.path("replica"), "in the way").unwrap();
    site.backup.start().await.unwrap();
    site.backup
        .wait_for(|status| status.state == DatabaseState::Running)
        .await;
    let page = site.submit("/notes", "text=keep+me&important=on").await;
    assert_eq!(page, "/?outcome=behind");
    assert!(site.get(&page).await.contains("not on every replica yet"));
    assert_eq!(site.texts().await, ["keep me"]);
}
