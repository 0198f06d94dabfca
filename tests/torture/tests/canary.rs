//! The torture must be able to fail: damage to the replica is noticed.

use evertide_torture::{Fault, Options, Subject, Verdict, torture};

fn torture_with(fault: Fault) -> Verdict {
    let options = Options {
        seconds: 6,
        seed: evertide_testkit::seed(),
        writers: 2,
        subject: Subject::Evertide,
        form: None,
        plant: Some(fault),
        keep: false,
    };
    torture(&options).unwrap_or_else(|error| panic!("seed {}: {error:#}", options.seed))
}

#[test]
fn lost_last_commits_are_noticed_though_both_restores_succeed() {
    let verdict = torture_with(Fault::DropNewest);
    assert_eq!(verdict.faults.len(), 2, "{verdict}");
    assert!(
        verdict
            .faults
            .iter()
            .all(|fault| fault.contains("databases differ")),
        "{verdict}"
    );
}

#[test]
fn a_file_missing_in_the_middle_is_noticed_by_both_restores() {
    let verdict = torture_with(Fault::DropMiddle);
    assert_eq!(verdict.faults.len(), 2, "{verdict}");
}

#[test]
fn a_flipped_byte_is_noticed_by_both_restores() {
    let verdict = torture_with(Fault::FlipByte);
    assert_eq!(verdict.faults.len(), 2, "{verdict}");
}
