//! Giving databases other settings, also where one is to get the replica that another one has.

use std::path::PathBuf;

use evertide::{Error, Replication, ReplicationOptions};

use super::{Fleet, REMOVAL, Unsettled, stop};

/// A database and what it could not be given.
struct Refusal {
    member: Replication,
    wanted: ReplicationOptions,
    error: Error,
}

impl Fleet {
    /// Gives databases these settings. What was changed, and what failed: that is kept, to be tried again.
    pub(super) async fn change(
        &mut self,
        wanted: Vec<(PathBuf, ReplicationOptions)>,
    ) -> (Vec<String>, Vec<String>) {
        let mut changed = Vec::new();
        let mut refused = Vec::new();
        for (path, options) in wanted {
            if let Some(member) = self.members.get(&path) {
                refused.extend(update(member.clone(), options, &mut changed).await);
            }
        }
        // What one of them waits for, another one may have let go of by now.
        while refused.iter().any(Refusal::waits) {
            let before = refused.len();
            let mut still = Vec::new();
            for Refusal { member, wanted, .. } in refused {
                still.extend(update(member, wanted, &mut changed).await);
            }
            refused = still;
            if refused.len() == before {
                break;
            }
        }
        let (circle, refused) = circle(refused);
        let mut failed = self.restart(circle, &mut changed).await;
        for refusal in refused {
            failed.push(self.keep(refusal));
        }
        (changed, failed)
    }

    /// Gives databases what they could not be given before. It is said once why that cannot be.
    pub(super) async fn try_again(&mut self) {
        let before = std::mem::take(&mut self.unsettled);
        let wanted = before
            .iter()
            .map(|(path, one)| (path.clone(), one.wanted.clone()));
        let (changed, _) = self.change(wanted.collect()).await;
        for what in changed {
            tracing::info!("{what}, with the settings of the last reload");
        }
        for (path, now) in &self.unsettled {
            if before.get(path).is_none_or(|before| before.why != now.why) {
                tracing::error!(
                    database = %path.display(), error = now.why,
                    "cannot give the database its new settings; trying again"
                );
            }
        }
    }

    /// Stops databases of which each has what another one is to get, and starts them with that: no other order would do.
    async fn restart(&mut self, circle: Vec<Refusal>, changed: &mut Vec<String>) -> Vec<String> {
        let mut failed = Vec::new();
        for Refusal { member, .. } in &circle {
            failed.extend(stop(member, REMOVAL).await.err());
        }
        for Refusal { member, wanted, .. } in circle {
            let before = member.options();
            let Err(error) = start_with(&member, wanted.clone()).await else {
                changed.push(format!("changed {}", member.path().display()));
                continue;
            };
            // With those before rather than not at all.
            if let Err(error) = start_with(&member, before).await {
                let path = member.path().to_owned();
                self.members.remove(&path);
                self.refuse(path, &error, Some(member.clone()));
            }
            failed.push(self.keep(Refusal {
                member,
                wanted,
                error,
            }));
        }
        failed
    }

    /// It is tried again with every look.
    fn keep(&mut self, refusal: Refusal) -> String {
        let Refusal {
            member,
            wanted,
            error,
        } = refusal;
        let (path, why) = (member.path(), error.to_string());
        let said = format!("{}: {why}", path.display());
        self.unsettled
            .insert(path.to_owned(), Unsettled { wanted, why });
        said
    }
}

/// Gives a database other settings, or says why not.
async fn update(
    member: Replication,
    wanted: ReplicationOptions,
    changed: &mut Vec<String>,
) -> Option<Refusal> {
    match member.update(wanted.clone()).await {
        Ok(()) => {
            changed.push(format!("changed {}", member.path().display()));
            None
        }
        Err(error) => Some(Refusal {
            member,
            wanted,
            error,
        }),
    }
}

async fn start_with(member: &Replication, options: ReplicationOptions) -> Result<(), Error> {
    member.update(options).await?;
    member.start().await
}

/// Those that wait for nothing but each other, and the rest.
fn circle(refused: Vec<Refusal>) -> (Vec<Refusal>, Vec<Refusal>) {
    let (mut within, mut outside) = (refused, Vec::new());
    loop {
        let at = within
            .iter()
            .position(|one| !within.iter().any(|other| one.waits_for(other)));
        match at {
            Some(at) => outside.push(within.remove(at)),
            None => return (within, outside),
        }
    }
}

impl Refusal {
    /// Whether it may be done once another database has let go of its replica.
    fn waits(&self) -> bool {
        matches!(self.error, Error::DestinationInUse { .. })
    }

    fn waits_for(&self, other: &Self) -> bool {
        let Error::DestinationInUse { destination, .. } = &self.error else {
            return false;
        };
        let replicas = other.member.options().replicas;
        let mut had = replicas.iter().map(|one| one.destination.to_string());
        had.any(|had| had == *destination)
    }
}
