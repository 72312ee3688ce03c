//! The people around a cluster: who change its members on a whim, and who
//! replace what is lost. They never do what would leave the cluster without a
//! quorum of members that can come back: no cluster survives such an operator.

use std::collections::BTreeSet;

use crate::node::manual::{Answer, Ticket, Transfer};
use crate::types::{Incarnation, Membership, MembershipChange, NodeId, Outcome};

use super::agenda::Moment;
use super::coverage::Mark;
use super::dice::Dice;
use super::processes::Watched;
use super::server::Presence;
use super::world::{Event, Step, World};

/// Requests of operators under way.
#[derive(Default)]
pub(super) struct Wishes {
    changes: Vec<(Vec<MembershipChange>, Ticket<Outcome>)>,
    transfers: Vec<Transfer>,
    /// When leadership was last asked to move, and from whom.
    transfer_at: Option<(Moment, usize)>,
}

impl Wishes {
    /// Whether no operator waits for a change.
    pub fn is_idle(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Watched {
    /// Whether a transfer began a moment ago.
    pub fn is_transferring(&self, now: Moment) -> bool {
        let wished = self.wishes.transfer_at;
        wished.is_some_and(|(at, _)| now.0 - at.0 < 1_000_000)
    }
}

impl World {
    /// Whether this server's data may be lost for good: in the membership as
    /// any server knows it, a majority of each half stays without it.
    pub fn may_lose(&self, seat: usize) -> bool {
        if self.servers[seat].presence == Presence::Lost {
            return false;
        }
        let mut lost = self.lost();
        lost.insert(self.servers[seat].id);
        self.survive_all(&lost)
    }

    /// Whether every membership known, and every one on its way, keeps its
    /// majorities without those.
    ///
    /// On its way is what somebody asked for, and the promotion of learners: a
    /// leader may promote one for as long as it cannot know that it is gone,
    /// and then that one is missed like any voter.
    pub fn survive_all(&self, lost: &BTreeSet<NodeId>) -> bool {
        let asked = &self.watched.wishes.changes;
        self.memberships().into_iter().all(|known| {
            let wished = asked
                .iter()
                .map(|(changes, _)| voters_after(known, changes));
            survives(known, lost)
                && wished.chain([known.voters.clone()]).all(|mut voters| {
                    voters.extend(promotable(known).filter(|id| lost.contains(id)));
                    has_majority(&voters, lost)
                })
        })
    }

    pub fn lost(&self) -> BTreeSet<NodeId> {
        let gone =
            |server: &&super::server::Server| server.presence == Presence::Lost || server.is_rotten;
        let lost = self.servers.iter().filter(gone).map(|server| server.id);
        let mut lost: BTreeSet<NodeId> = lost.collect();
        // A new life is no help to those who still count on the former.
        for known in self.memberships() {
            for (id, member) in &known.members {
                let seat = self.seats.get(id);
                if seat.is_some_and(|seat| self.servers[*seat].incarnation != member.incarnation) {
                    lost.insert(*id);
                }
            }
        }
        lost
    }

    /// What nodes hold for the membership, or held when they were up.
    fn memberships(&self) -> Vec<&Membership> {
        let known = self.servers.iter().map(|server| &*server.membership);
        known
            .filter(|membership| !membership.members.is_empty())
            .collect()
    }

    pub fn wish_membership(&mut self, dice: &mut Dice) {
        let anybody = dice.index(self.servers.len());
        let seat = self
            .leader()
            .filter(|_| dice.percent(90))
            .unwrap_or(anybody);
        let count = dice.pick(&[1, 1, 2, 3]);
        let changes: Vec<MembershipChange> = (0..count).map(|_| self.draw_change(dice)).collect();
        if self.is_sensible(seat, &changes) {
            self.change_members(seat, changes);
        }
    }

    fn draw_change(&self, dice: &mut Dice) -> MembershipChange {
        let server = &self.servers[dice.index(self.servers.len())];
        let id = server.id;
        match dice.below(10) {
            0..3 => MembershipChange::AddLearner {
                id,
                member: server.member(),
            },
            3..6 => MembershipChange::Promote(id),
            6..8 => MembershipChange::Demote(id),
            8 => MembershipChange::SetAddress {
                id,
                address: format!("{}:{}", server.name, dice.within(1, 9)),
            },
            _ => MembershipChange::Remove(id),
        }
    }

    /// Whether enough voters that can come back remain.
    fn is_sensible(&self, seat: usize, changes: &[MembershipChange]) -> bool {
        let Some(node) = &self.servers[seat].node else {
            return false;
        };
        let membership = node.status().membership;
        let lost = self.lost();
        let mut voters = voters_after(&membership, changes);
        voters.extend(promotable(&membership).filter(|id| lost.contains(id)));
        // One that is out for good must not be asked for its vote again.
        has_majority(&voters, &lost) && survives(&membership, &lost)
    }

    /// Asks a node for another membership.
    pub fn change_members(&mut self, seat: usize, changes: Vec<MembershipChange>) {
        let Some(node) = &self.servers[seat].node else {
            return;
        };
        let ticket = node.change(changes.clone());
        if self.story.is_told() {
            let wishes = changes.iter().map(|change| self.describe(change));
            let wishes = wishes.collect::<Vec<_>>().join(", ");
            let name = &self.servers[seat].name;
            self.story
                .tell(self.now, || format!("operator asks {name} to {wishes}"));
        }
        self.watched.wishes.changes.push((changes, ticket));
        self.request_turn(seat);
    }

    fn describe(&self, change: &MembershipChange) -> String {
        match change {
            MembershipChange::AddLearner { id, .. } => format!("add {}", self.name(*id)),
            MembershipChange::Promote(id) => format!("promote {}", self.name(*id)),
            MembershipChange::Demote(id) => format!("demote {}", self.name(*id)),
            MembershipChange::Remove(id) => format!("remove {}", self.name(*id)),
            MembershipChange::SetAddress { id, .. } => format!("move {}", self.name(*id)),
        }
    }

    pub fn wish_transfer(&mut self, dice: &mut Dice) {
        let anybody = dice.index(self.servers.len());
        let seat = self
            .leader()
            .filter(|_| dice.percent(95))
            .unwrap_or(anybody);
        let target = dice
            .percent(60)
            .then(|| self.servers[dice.index(self.servers.len())].id);
        let Some(node) = &self.servers[seat].node else {
            return;
        };
        let transfer = node.transfer(target);
        let heir = target.map_or_else(|| "anybody".into(), |id| self.name(id));
        let name = &self.servers[seat].name;
        self.story.tell(self.now, || {
            format!("operator asks {name} to hand over to {heir}")
        });
        self.watched.wishes.transfers.push(transfer);
        self.watched.wishes.transfer_at = Some((self.now, seat));
        self.request_turn(seat);
    }

    /// The operator looks at the cluster, once a second.
    pub fn care(&mut self) -> Step {
        self.agenda
            .add(self.now.plus_milliseconds(1000), Event::Care);
        self.note_wishes();
        for seat in 0..self.servers.len() {
            self.keep_witness(seat)?;
            if self.servers[seat].presence == Presence::Lost {
                self.renew(seat)?;
            }
        }
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        let Some(status) = self.servers[leader].node.as_ref().map(|node| node.status()) else {
            return Ok(());
        };
        let members = &status.membership.members;
        let reborn = self.servers.iter().find(|server| {
            let member = members.get(&server.id);
            member.is_some_and(|member| member.incarnation != server.incarnation)
        });
        if let Some(server) = reborn
            && !status.membership.is_joint()
        {
            let change = MembershipChange::AddLearner {
                id: server.id,
                member: server.member(),
            };
            self.change_members(leader, vec![change]);
            self.hit(Mark::Replaced);
        }
        Ok(())
    }

    /// As the node itself would, every few seconds.
    fn keep_witness(&mut self, seat: usize) -> Step {
        let server = &self.servers[seat];
        if !server.is_awake(self.now) || self.now < server.stalled_until {
            return Ok(());
        }
        if let Some(node) = &server.node {
            node.keep_witness();
        }
        self.settle(seat)
    }

    /// A lost directory is made anew, under another incarnation.
    fn renew(&mut self, seat: usize) -> Step {
        let incarnation = Incarnation(self.dice.roll());
        let server = &mut self.servers[seat];
        server.disk = crate::disk::MemoryDisk::new();
        server.incarnation = incarnation;
        server.is_rotten = false;
        server.is_impostor = false;
        server.membership = std::sync::Arc::default();
        server.is_faulty = false;
        server.presence = Presence::Down;
        let name = server.name.clone();
        self.story
            .tell(self.now, || format!("{name} gets an empty directory"));
        self.create(seat, None)?;
        self.start(seat)
    }

    fn note_wishes(&mut self) {
        let mut marks = Vec::new();
        self.watched
            .wishes
            .changes
            .retain_mut(|(_, ticket)| match ticket.poll() {
                None => true,
                Some(answer) => {
                    marks.push(match answer {
                        Answer::Done(_) => Mark::MembershipChanged,
                        Answer::Refused | Answer::Unknown => Mark::MembershipRefused,
                    });
                    false
                }
            });
        self.watched
            .wishes
            .transfers
            .retain_mut(|transfer| match transfer.poll() {
                None => true,
                Some(began) => {
                    if began {
                        marks.push(Mark::TransferStarted);
                    }
                    false
                }
            });
        for mark in marks {
            self.hit(mark);
        }
    }

    /// Another leader than the one asked to hand over.
    pub fn note_transfer(&mut self, seat: usize) {
        if self.watched.is_transferring(self.now)
            && let Some((_, from)) = self.watched.wishes.transfer_at.take()
            && from != seat
        {
            self.hit(Mark::TransferDone);
        }
    }
}

/// Whether each half keeps a majority without those.
fn survives(membership: &Membership, lost: &BTreeSet<NodeId>) -> bool {
    let halves = [&membership.voters, &membership.voters_outgoing];
    halves.into_iter().all(|half| has_majority(half, lost))
}

fn has_majority(voters: &BTreeSet<NodeId>, lost: &BTreeSet<NodeId>) -> bool {
    let left = voters.difference(lost).count();
    voters.is_empty() || voters.len() < 2 * left
}

/// Who votes when these changes are made.
fn voters_after(membership: &Membership, changes: &[MembershipChange]) -> BTreeSet<NodeId> {
    let mut voters = membership.voters.clone();
    for change in changes {
        match change {
            MembershipChange::Promote(id) => voters.insert(*id),
            MembershipChange::Demote(id) | MembershipChange::Remove(id) => voters.remove(id),
            _ => false,
        };
    }
    voters
}

/// Learners that policy may promote.
fn promotable(membership: &Membership) -> impl Iterator<Item = NodeId> {
    let learners = membership.learners.union(&membership.learners_next);
    let may = |id: &&NodeId| {
        !membership
            .members
            .get(id)
            .is_some_and(|member| member.non_voter)
    };
    learners.filter(may).copied()
}
