//! What becomes of the survivors.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{bail, ensure};

use super::report::{Known, Report};
use crate::node::Survivor;

/// Survivors, the most complete log first, and whom they were members with.
#[derive(Debug)]
pub(super) struct Plan {
    survivors: Vec<Report>,
    /// The newest membership that any of them knows.
    members: Vec<Known>,
}

impl Plan {
    /// Of all that are left.
    ///
    /// # Errors
    /// They do not belong together, or nobody of them can vote.
    pub(super) fn of(mut survivors: Vec<Report>) -> anyhow::Result<Self> {
        survivors.sort_by_key(|report| std::cmp::Reverse(report.end()));
        let Some(first) = survivors.first() else {
            bail!("no survivor");
        };
        for other in &survivors {
            ensure!(
                other.cluster_id == first.cluster_id,
                "{} and {} belong to different clusters ({} and {})",
                first.node_id,
                other.node_id,
                first.cluster_id,
                other.cluster_id
            );
        }
        let names: BTreeSet<&str> = survivors.iter().map(|one| one.node_id.as_str()).collect();
        ensure!(names.len() == survivors.len(), "a survivor is named twice");
        // Whoever knows the later membership knows better, elected or not.
        let newest = survivors.iter().max_by_key(|one| one.membership_index);
        let members = newest.map(|one| one.members.clone()).unwrap_or_default();
        for survivor in &survivors {
            let known = members
                .iter()
                .find(|known| known.node_id == survivor.node_id);
            let Some(known) = known else {
                bail!(
                    "{} is no member in the newest membership that the survivors know: leave it out",
                    survivor.node_id
                );
            };
            ensure!(
                known.incarnation == survivor.incarnation,
                "{} has joined again since with another data directory: leave this one out",
                survivor.node_id
            );
        }
        let plan = Self { survivors, members };
        ensure!(
            plan.peers().iter().any(|peer| !peer.non_voter),
            "only non-voters are left: none of them is sure to have every committed entry. Write \
             raft/peers.json by hand if you accept that"
        );
        Ok(plan)
    }

    /// The file for each of them: voters vote, the others do not.
    pub(super) fn peers(&self) -> Vec<Survivor> {
        let left = self.members.iter().filter(|known| self.survives(known));
        let peer = |known: &Known| Survivor {
            id: known.node_id.clone(),
            address: known.address.clone(),
            non_voter: !known.voter && !known.leaving,
        };
        left.map(peer).collect()
    }

    /// Whether they could elect a leader without any help.
    pub(super) fn is_quorum(&self) -> bool {
        let half = |votes: fn(&Known) -> bool| {
            let voters = || self.members.iter().filter(|known| votes(known));
            let left = voters().filter(|known| self.survives(known)).count();
            voters().count() == 0 || voters().count() < 2 * left
        };
        half(|known| known.voter) && half(|known| known.leaving)
    }

    fn survives(&self, known: &Known) -> bool {
        let mut names = self.survivors.iter().map(|one| &one.node_id);
        names.any(|name| *name == known.node_id)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20} {:>6} {:>10} {:>12} {:>10}",
            "survivor", "term", "last term", "last index", "committed"
        )?;
        for one in &self.survivors {
            writeln!(
                f,
                "{:<20} {:>6} {:>10} {:>12} {:>10}",
                one.node_id, one.term, one.last_term, one.last_index, one.commit_index
            )?;
        }
        let lost: Vec<&str> = self
            .members
            .iter()
            .filter(|known| !self.survives(known))
            .map(|known| known.node_id.as_str())
            .collect();
        let lost = if lost.is_empty() {
            "nobody".to_owned()
        } else {
            lost.join(", ")
        };
        writeln!(f, "lost: {lost}")?;
        let committed = self.survivors.iter().map(|one| one.commit_index).max();
        if let (Some(best), Some(committed)) = (self.survivors.first(), committed) {
            writeln!(
                f,
                "{} has the most complete log: the cluster will go on from index {} of term {}.\n\
                 Entries up to {committed} are known to be committed and are kept. Those after \
                 it are kept as far as {} has them;\nwrites that were answered and that only lost \
                 servers held are gone.",
                best.node_id, best.last_index, best.last_term, best.node_id
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn plan(survivors: Vec<Report>) -> Result<Plan, String> {
        Plan::of(survivors).map_err(|error| error.to_string())
    }

    #[test]
    fn most_complete_log_is_named_and_the_lost_are() {
        let survivors = vec![
            Report::made_up("a", (4, 90), 70, &FIVE),
            Report::made_up("b", (5, 80), 75, &FIVE),
        ];
        let plan = plan(survivors).expect("a plan");
        assert!(!plan.is_quorum());
        let names: Vec<_> = plan.peers().into_iter().map(|peer| peer.id).collect();
        assert_eq!(names, ["a", "b"]);
        let said = plan.to_string();
        assert!(said.contains("b has the most complete log"), "{said}");
        assert!(
            said.contains("index 80 of term 5") && said.contains("up to 75"),
            "{said}"
        );
        assert!(said.contains("lost: c, d, e"), "{said}");
    }

    #[test]
    fn quorum_of_survivors_needs_no_recovery() {
        let three = || {
            FIVE[..3]
                .iter()
                .map(|name| Report::made_up(name, (4, 90), 70, &FIVE))
        };
        assert!(plan(three().collect()).expect("a plan").is_quorum());
        let mut joint: Vec<_> = three().collect();
        for known in &mut joint[0].members {
            known.leaving = known.node_id == "e";
        }
        joint[0].membership_index = 9;
        assert!(
            !plan(joint).expect("a plan").is_quorum(),
            "the half being left is gone"
        );
    }

    #[test]
    fn strangers_are_refused_by_name() {
        let a = || Report::made_up("a", (4, 90), 70, &FIVE);
        let mut other = Report::made_up("b", (4, 90), 70, &FIVE);
        other.cluster_id = "another".to_owned();
        assert!(
            plan(vec![a(), other])
                .unwrap_err()
                .contains("different clusters")
        );
        assert!(plan(vec![a(), a()]).unwrap_err().contains("twice"));
        let stranger = Report::made_up("x", (4, 90), 70, &FIVE);
        assert!(
            plan(vec![a(), stranger])
                .unwrap_err()
                .contains("x is no member")
        );
        let mut former = Report::made_up("b", (4, 90), 70, &FIVE);
        former.incarnation = "another life".to_owned();
        assert!(
            plan(vec![a(), former])
                .unwrap_err()
                .contains("joined again")
        );
    }

    #[test]
    fn non_voters_stay_non_voters_and_are_not_enough() {
        let with_learner = |name: &str| {
            let mut report = Report::made_up(name, (4, 90), 70, &["a", "b", "c"]);
            report.members[2].voter = false;
            report
        };
        let plan_of_two = plan(vec![with_learner("a"), with_learner("c")]).expect("a plan");
        let roles: Vec<_> = plan_of_two
            .peers()
            .into_iter()
            .map(|peer| peer.non_voter)
            .collect();
        assert_eq!(roles, [false, true]);
        assert!(
            plan(vec![with_learner("c")])
                .unwrap_err()
                .contains("only non-voters")
        );
    }
}
