//! The faults: at least one in each decision that a backup stands or falls with.

use super::{Fault, Test};

/// A unit test of the engine.
const fn unit(name: &'static str) -> Test {
    let (package, binary) = ("evertide", &["--lib"]);
    Test {
        package,
        binary,
        name,
    }
}

/// A unit test of the stores.
const fn storage(name: &'static str) -> Test {
    of("evertide-storage", &["--lib"], name)
}

const fn of(package: &'static str, binary: &'static [&'static str], name: &'static str) -> Test {
    Test {
        package,
        binary,
        name,
    }
}

/// Everything that maintenance does, for a year.
const YEAR: Test = of(
    "evertide",
    &["--test", "lifetime"],
    "year::in_a_year_of_everything_no_retained_state_is_lost_and_nothing_superfluous_is_left",
);

/// Two machines with one replica, 1,500 times.
const TWO_MACHINES: Test = unit(
    "simulation::whatever_happens_to_two_machines_no_two_histories_are_mixed_and_nothing_safe_is_lost",
);

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "capture-no-second-look",
        harm: "frames that a checkpoint backfills between capture and release are lost",
        file: "crates/engine/src/wal/protocol.rs",
        right: "Held::Both if backfilled && captured => Action::ReleasePin,",
        wrong: "Held::Both if backfilled => Action::ReleasePin,",
        tests: &[
            unit("wal::protocol::tests::the_pin_is_kept_until_everything_is_captured"),
            of(
                "evertide",
                &["--test", "model"],
                "kept::no_frame_is_lost_to_any_checkpoint",
            ),
        ],
    },
    Fault {
        name: "capture-oldest-frame",
        harm: "of a page written twice the older content is captured",
        file: "crates/engine/src/wal/file.rs",
        right: "newest.insert(pgno, frame_index);",
        wrong: "newest.entry(pgno).or_insert(frame_index);",
        tests: &[unit(
            "wal::fuzz::no_wal_is_read_otherwise_than_sqlite_would_recover_it",
        )],
    },
    Fault {
        name: "capture-no-growth",
        harm: "pages by which a database grew without writing them are missing: unrestorable",
        file: "crates/engine/src/capture/segment.rs",
        right: "(before.saturating_add(1)..=scan.pages)",
        wrong: "(before.saturating_add(2)..=scan.pages)",
        tests: &[unit(
            "capture::segment::tests::growth_that_is_not_in_the_wal_is_noticed",
        )],
    },
    Fault {
        name: "rotation-pin-first",
        harm: "the WAL may start over before its last frames are captured",
        file: "crates/engine/src/wal/protocol.rs",
        right: "Held::Pin if backfilled => Action::TakeGuard,",
        wrong: "Held::Pin if backfilled => Action::ReleasePin,",
        tests: &[
            unit("wal::protocol::tests::the_pin_is_let_go_only_under_the_guard"),
            of(
                "evertide",
                &["--test", "model"],
                "kept::no_frame_is_lost_while_we_rotate",
            ),
        ],
    },
    Fault {
        name: "upload-gap",
        harm: "files that do not continue the replica are uploaded, and leave a gap",
        file: "crates/engine/src/replica/plan.rs",
        right: "Some((first, file)) if file.name.min == remote.next() => UploadPlan::Files(first),",
        wrong: "Some((first, file)) if file.name.min > remote => UploadPlan::Files(first),",
        tests: &[unit(
            "replica::plan::tests::a_replica_gets_what_continues_it_and_a_snapshot_where_nothing_does",
        )],
    },
    Fault {
        name: "upload-name-first",
        harm: "an object has its name before its content is on the disk",
        file: "crates/storage/src/file/publish.rs",
        right: "file.sync_all().map_err(failure(\"sync\", path))?;\n    Ok(size)",
        wrong: "Ok(size)",
        tests: &[of(
            "evertide-storage",
            &["--test", "crash"],
            "after_a_power_cut_an_object_is_whole_or_absent_and_what_was_confirmed_is_there",
        )],
    },
    Fault {
        name: "lease-renewed-in-vain",
        harm: "who could not renew its lease, since another one has it, goes on writing",
        file: "crates/storage/src/lease/mod.rs",
        right: "self.recognise().await?;\n                if blind && (taken || self.arrived_late(&self.state())) {\n                    self.still_ours()?;\n                }\n                return Ok(());",
        wrong: "",
        tests: &[
            storage("lease::tests::who_wakes_after_its_lease_was_taken_writes_nothing_more"),
            storage(
                "lease::tests::of_two_who_looked_at_the_same_time_the_second_to_write_is_refused",
            ),
        ],
    },
    Fault {
        name: "lease-taken-back",
        harm: "who was stopped while it renewed its lease takes it back from whoever has it by then",
        file: "crates/storage/src/lease/mod.rs",
        right: "if blind && self.is_late(begun.uptime) {",
        wrong: "if blind && self.is_late(Duration::MAX) {",
        tests: &[storage(
            "lease::tests::blind::in_a_store_without_conditions_who_may_have_written_over_another_stops_and_waits",
        )],
    },
    Fault {
        name: "lease-no-last-look",
        harm: "what was being sent when the lease ended is stored after another one has begun",
        file: "crates/storage/src/lease/client.rs",
        right: "stream::once(async move { lease.check() })",
        wrong: "stream::once(async move { lease.check().or(Ok(())) })",
        tests: &[
            storage(
                "lease::tests::an_object_whose_lease_ends_while_it_is_sent_never_becomes_visible",
            ),
            storage(
                "lease::tests::wherever_a_writer_is_stopped_nothing_of_it_is_stored_after_another_has_begun",
            ),
        ],
    },
    Fault {
        name: "lease-settled-in-vain",
        harm: "who stops while an upload may still arrive lets another one continue what it will overlap",
        file: "crates/storage/src/lease/mod.rs",
        right: "self.lease.state().unsettled = true;",
        wrong: "self.lease.state().unsettled = false;",
        tests: &[storage(
            "lease::tests::who_lets_go_while_something_may_still_arrive_says_so",
        )],
    },
    Fault {
        name: "lease-taken-too-soon",
        harm: "a lease is taken while its owner still writes",
        file: "crates/storage/src/lease/decide.rs",
        right: "let end = last.renewed.checked_add(duration + CLOCK_SKEW);",
        wrong: "let end = last.renewed.checked_add(duration / 2);",
        tests: &[
            storage(
                "lease::decide::tests::a_holder_stops_before_another_one_begins_whatever_their_clocks_show",
            ),
            TWO_MACHINES,
        ],
    },
    Fault {
        name: "succession-no-gap",
        harm: "what a former owner stores late is taken for a part of the new history: unrestorable",
        file: "crates/engine/src/replica/succession.rs",
        right: "(Taken::FromAnother(last) | Taken::Displacing(last), _) => apart(Some(last)),",
        wrong: "(Taken::New, _) => apart(None),",
        tests: &[
            unit(
                "replica::succession::tests::a_new_owner_begins_above_whatever_the_one_before_may_still_store",
            ),
            TWO_MACHINES,
        ],
    },
    Fault {
        name: "lock-taken-twice",
        harm: "a guard that is taken again is let go of: what a checkpoint backfills and a reset takes is never captured",
        file: "crates/engine/src/capture/attached.rs",
        right: "Action::TakeGuard if self.guard.is_some() => true,",
        wrong: "Action::TakeGuard if self.guard.is_some() && self.pin.is_none() => true,",
        tests: &[unit(
            "capture::attached::tests::a_lock_that_is_taken_again_is_still_held",
        )],
    },
    Fault {
        name: "compaction-strange-copies",
        harm: "what is captured here is merged in place of another history's files of the same transactions",
        file: "crates/engine/src/replica/maintain/mod.rs",
        right: "_ => local.from = Some(object.name.max.next()),",
        wrong: "_ => _ = local.from.get_or_insert(object.name.min),",
        tests: &[unit(
            "replica::maintain::tests::no_captured_file_is_merged_in_place_of_one_of_another_history",
        )],
    },
    Fault {
        name: "compaction-uncovered",
        harm: "files of level 0 are deleted that no file of level 1 holds",
        file: "crates/engine/src/replica/retain.rs",
        right: "let window = files.covering(level_1, file.name)?;",
        wrong: "let window = files.covering(level_1, file.name).unwrap_or(file);",
        tests: &[unit(
            "replica::retain::tests::level_0_goes_once_it_is_compacted_and_old_and_never_the_newest_file",
        )],
    },
    Fault {
        name: "retention-base",
        harm: "the files that lead to the oldest state still promised are deleted",
        file: "crates/engine/src/replica/retain.rs",
        right: "&& !kept.contains(&(file.level, file.name))",
        wrong: "&& (file.level != Level::SNAPSHOT || !kept.contains(&(file.level, file.name)))",
        tests: &[
            unit(
                "replica::retain::tests::what_leads_to_the_beginning_of_retention_stays_and_what_is_older_goes",
            ),
            unit(
                "replica::retain::tests::retention_changes_no_state_that_it_promises_and_leaves_nothing_over",
            ),
        ],
    },
    Fault {
        name: "retention-newer-first",
        harm: "of level 0 newer windows are deleted before older ones, which makes a sound replica look damaged",
        file: "crates/engine/src/replica/retain.rs",
        right: "let time = |file: &LtxObject| times.get(&key(file)).copied();",
        wrong: "let time = |file: &LtxObject| times.get(&key(file)).map(|_| file.created);",
        tests: &[unit(
            "replica::retain::tests::files_of_level_0_go_from_old_to_new_whatever_kind_their_times_are_of",
        )],
    },
    Fault {
        name: "compaction-window",
        harm: "what was captured in later windows goes into one file with an earlier one: states are lost",
        file: "crates/engine/src/replica/compact.rs",
        right: "if !continues || time >= end || sources.len()",
        wrong: "if !continues || time >= now || sources.len()",
        tests: &[
            unit(
                "replica::compact::tests::compaction_makes_one_file_of_each_closed_window_wherever_it_is_interrupted",
            ),
            YEAR,
        ],
    },
    Fault {
        name: "retention-one-too-many",
        harm: "a file that leads on from the oldest state still promised is deleted",
        file: "crates/engine/src/replica/retain.rs",
        right: "file.name.max <= base && !stays(file)",
        wrong: "file.name.max <= base.next() && !stays(file)",
        tests: &[
            unit(
                "replica::retain::tests::retention_changes_no_state_that_it_promises_and_leaves_nothing_over",
            ),
            YEAR,
        ],
    },
    Fault {
        name: "deletion-believed",
        harm: "what a store did not delete stays for ever, and costs money",
        file: "crates/storage/src/object/mod.rs",
        right: "match self.find(level, &looked_for(names)).await?.first() {",
        wrong: "match self.find(level, &[]).await?.first() {",
        tests: &[storage(
            "object::s3::tests::requests::a_store_that_says_it_deleted_and_did_not_is_found_out",
        )],
    },
    Fault {
        name: "restore-overwrites",
        harm: "a restore replaces a database that appeared meanwhile",
        file: "crates/engine/src/restore/output.rs",
        right: "self.check()?;\n        let Some(Temporary(temporary)) = &state.temporary else {\n            return Err(RestoreError::Cancelled);\n        };\n        match self.existing {\n            ExistingOutput::Refuse => {\n                drop(file);\n                let renamed = self.disk.rename_noreplace(temporary, &self.path);",
        wrong: "let Some(Temporary(temporary)) = &state.temporary else {\n            return Err(RestoreError::Cancelled);\n        };\n        match self.existing {\n            ExistingOutput::Refuse => {\n                drop(file);\n                let renamed = self.disk.rename(temporary, &self.path);",
        tests: &[of(
            "evertide",
            &["--test", "restore"],
            "outputs::a_file_that_appears_during_the_restore_is_not_touched",
        )],
    },
    Fault {
        name: "restore-unsynced-name",
        harm: "after a power cut a restore that was reported done is gone",
        file: "crates/engine/src/restore/output.rs",
        right: "state.temporary = None;\n        let directory = self.directory();\n        self.disk\n            .sync_dir(directory)\n            .map_err(RestoreError::io(\"sync\", directory))",
        wrong: "state.temporary = None;\n        Ok(())",
        tests: &[of(
            "evertide",
            &["--test", "restore"],
            "faults::after_a_power_cut_there_is_a_whole_database_or_none",
        )],
    },
    Fault {
        name: "vault-plaintext",
        harm: "the configuration is stored as it is, with its credentials",
        file: "crates/vault/src/store.rs",
        right: "let encrypted = cipher::encrypt(&self.identities()?, content)?;",
        wrong: "let encrypted = self.identities().map(|_| content.to_vec())?;",
        tests: &[of(
            "evertide-vault",
            &["--test", "it"],
            "secrets::no_plaintext_ever_reaches_a_file_of_the_database",
        )],
    },
    Fault {
        name: "vault-clock",
        harm: "after the clock stepped back, an older configuration is taken for the newest",
        file: "crates/vault/src/table.rs",
        right: "coalesce((SELECT max(created_at) FROM app_config WHERE scope = ?1), '')",
        wrong: "coalesce((SELECT min(created_at) FROM app_config WHERE scope = ?1), '')",
        tests: &[of(
            "evertide-vault",
            &["--test", "it"],
            "store::the_row_saved_last_is_the_newest_even_after_the_clock_stepped_back",
        )],
    },
    Fault {
        name: "vault-journal",
        harm: "a rollback journal that comes back after a power cut takes a configuration that was reported as stored",
        file: "crates/vault/src/connection.rs",
        right: "pragma_update(None, \"synchronous\", \"EXTRA\")",
        wrong: "pragma_update(None, \"synchronous\", \"FULL\")",
        tests: &[of(
            "evertide-vault",
            &["--test", "it"],
            "cuts::a_power_cut_at_any_operation_of_a_store_made_from_nothing_takes_no_version_that_was_reported",
        )],
    },
    Fault {
        name: "vault-key",
        harm: "a power cut leaves an empty file in place of a new key",
        file: "crates/vault/src/private.rs",
        right: "    file.write_all(bytes)?;\n    file.sync_all()\n",
        wrong: "    file.write_all(bytes)\n",
        tests: &[of(
            "evertide-vault",
            &["--test", "it"],
            "cuts::a_power_cut_at_any_operation_leaves_a_whole_key_or_none_and_takes_none_that_was_reported",
        )],
    },
];
