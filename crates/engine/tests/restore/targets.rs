//! What is restored, and what is said about it.

use std::sync::{Arc, Mutex};

use evertide::{RestoreError, RestoreStage, RestoreTarget, restore, restore_plan};
use evertide_ltx::{PageSize, Txid};

use crate::scene::{PAGE, Scene, created, ltx, name, page};

#[tokio::test]
async fn a_database_that_grew_and_shrank_is_restored_page_for_page() {
    let scene = Scene::usual().await;
    let report = scene.restore().await.unwrap();
    scene.assert_restored();
    assert_eq!(
        (report.txid, report.pages, report.files),
        (Txid::new(6), 6, 6)
    );
    assert_eq!(report.database_bytes, 6 * PAGE as u64);
    assert_eq!(report.created, Some(created(6)));
}

#[tokio::test]
async fn a_database_large_enough_for_several_threads_is_restored_page_for_page() {
    let scene = Scene::large().await;
    let report = scene.restore().await.unwrap();
    scene.assert_restored();
    assert_eq!(report.pages, 3000);
}

#[test]
fn a_restore_needs_no_async_runtime_of_the_caller() {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let scene = tokio.block_on(Scene::usual());
    drop(tokio);
    let (sender, receiver) = std::sync::mpsc::channel();
    let options = scene.options();
    std::thread::spawn(move || {
        let mut restore = Box::pin(restore(options));
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        loop {
            if let std::task::Poll::Ready(result) = restore.as_mut().poll(&mut context) {
                return sender.send(result.map(|report| report.pages));
            }
            std::thread::yield_now();
        }
    });
    assert_eq!(receiver.recv().unwrap().unwrap(), 6);
    scene.assert_restored();
}

#[tokio::test]
async fn an_earlier_transaction_or_time_can_be_had() {
    let states: [&[(u32, u64)]; 3] = [
        &[(1, 2), (2, 1), (3, 2), (4, 1), (5, 1)],
        &[
            (1, 3),
            (2, 1),
            (3, 2),
            (4, 1),
            (5, 1),
            (6, 3),
            (7, 3),
            (8, 3),
        ],
        &[(1, 4), (2, 4), (3, 2)],
    ];
    for (state, txid) in states.into_iter().zip(2..) {
        let time = RestoreTarget::Timestamp(created(txid));
        for target in [RestoreTarget::Txid(Txid::new(txid)), time] {
            let mut scene = Scene::usual().await;
            scene.expected = state
                .iter()
                .flat_map(|(n, by)| page(PAGE, *n, *by))
                .collect();
            let mut options = scene.options();
            options.target = target;
            assert_eq!(restore(options).await.unwrap().txid, Txid::new(txid));
            scene.assert_restored();
        }
    }
}

#[tokio::test]
async fn a_state_that_cannot_be_had_is_refused_by_name() {
    let scene = Scene::usual().await;
    let mut options = scene.options();
    options.target = RestoreTarget::Txid(Txid::new(7));
    let error = restore(options).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::TxidNotAvailable { .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("the newest one is 0000000000000006"),
        "{error}"
    );
    let mut options = scene.options();
    options.target = RestoreTarget::Timestamp(created(0));
    let error = restore(options).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::NoSnapshot { first: Some(_), .. }),
        "{error}"
    );
    // What can be had is said, and can be had.
    let text = error.to_string();
    let first = humantime::format_rfc3339_millis(created(1)).to_string();
    assert!(
        text.contains("0000000000000001") && text.contains(&first),
        "{text}"
    );
    let first = RestoreTarget::Timestamp(humantime::parse_rfc3339(&first).unwrap());
    let plan = restore_plan(Arc::clone(&scene.replica), first).await;
    assert_eq!(plan.unwrap().txid(), Txid::FIRST);
    scene.assert_nothing_left();
}

#[tokio::test]
async fn an_empty_replica_is_an_error_and_not_an_empty_database() {
    let scene = Scene::empty();
    let error = scene.restore().await.unwrap_err();
    assert!(error.is_no_backup(), "{error}");
    scene.assert_nothing_left();
}

#[tokio::test]
async fn a_plan_can_be_had_without_a_restore() {
    let scene = Scene::usual().await;
    let plan = restore_plan(Arc::clone(&scene.replica), RestoreTarget::Latest)
        .await
        .unwrap();
    assert_eq!((plan.files().len(), plan.txid()), (6, Txid::new(6)));
    let bytes: u64 = scene
        .objects()
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert_eq!(plan.bytes(), bytes);
    scene.assert_nothing_left();
}

#[tokio::test]
async fn progress_only_grows_and_ends_at_its_totals() {
    for scene in [Scene::usual().await, Scene::large().await] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let options = scene.options();
        let report = restore(options.on_progress(move |now| log.lock().unwrap().push(*now)));
        let report = report.await.unwrap();
        let seen = seen.lock().unwrap();
        let grows = |pair: &[evertide::RestoreProgress]| {
            pair[0].bytes <= pair[1].bytes && pair[0].pages <= pair[1].pages
        };
        assert!(seen.windows(2).all(grows), "{seen:?}");
        let last = seen.last().unwrap();
        assert_eq!(
            (last.files, last.bytes),
            (last.total_files, last.total_bytes)
        );
        assert_eq!((last.files, last.bytes), (report.files, report.bytes));
        assert!(last.pages >= u64::from(report.pages));
        assert_eq!(last.stage, RestoreStage::Syncing);
    }
}

#[tokio::test]
async fn a_database_over_1_gib_gets_a_lock_page_of_zeros_and_its_exact_size() {
    const SIZE: usize = 65536;
    let lock = PageSize::MAX.lock_page().get();
    let mut scene = Scene::empty();
    // A snapshot of empty pages, which costs little, and the pages around the lock page.
    let header = |min, max| {
        let (min, max) = (Txid::new(min), Txid::new(max));
        evertide_ltx::Header::new(PageSize::MAX, lock + 1, min, max)
    };
    let mut encoder = evertide_ltx::Encoder::new(Vec::new(), header(1, 1)).unwrap();
    for number in (1..=lock + 1).filter(|number| *number != lock) {
        let pgno = evertide_ltx::Pgno::new(number).unwrap();
        encoder.encode_page(pgno, &[0; SIZE]).unwrap();
    }
    scene.put(9, name(1, 1), encoder.finish().unwrap().0).await;
    scene
        .put(
            0,
            name(2, 2),
            ltx(SIZE, (2, 2), lock + 1, &[lock - 1, lock + 1]),
        )
        .await;
    let report = scene.restore().await.unwrap();
    assert_eq!(report.pages, lock + 1);
    assert_eq!(
        scene.output().metadata().unwrap().len(),
        u64::from(lock + 1) * SIZE as u64
    );

    let file = std::fs::File::open(scene.output()).unwrap();
    let mut found = vec![1; 3 * SIZE];
    let start = u64::from(lock - 2) * SIZE as u64;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, start).unwrap();
    scene.expected = [
        page(SIZE, lock - 1, 2),
        vec![0; SIZE],
        page(SIZE, lock + 1, 2),
    ]
    .concat();
    assert!(found == scene.expected, "the pages around the lock page");
}
