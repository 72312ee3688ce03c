//! Clients: reads and conditional writes on few keys, with values that are
//! never used twice, and the history of what they were told.

use std::sync::Arc;

use crate::node::manual::{Answer, Ticket};
use crate::store::View;
use crate::types::{Command, Operation, Outcome, Precondition, Transaction};

use super::coverage::Mark;
use super::dice::Dice;
use super::options::Load;
use super::world::{Event, World};

/// A value of a key; absent is `None`.
pub type ClientValue = Option<u64>;

/// What a client asked, and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// What it read; `None` while it is not known.
    Read(Option<ClientValue>),
    /// An unconditional write or delete.
    Write(ClientValue),
    /// A write if the value is another; `succeeded` false: it was not.
    Cas {
        /// Expected.
        from: ClientValue,
        /// New.
        to: ClientValue,
        /// The answer, if there was one.
        succeeded: bool,
    },
}

/// One operation of a client's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOperation {
    /// Which client; one whose operation has no answer is never used again.
    pub process: u64,
    /// On which key.
    pub key: u64,
    /// Position of the call in the history.
    pub call: u64,
    /// Position of the return; `None`: it may have happened, or may yet.
    pub returned: Option<u64>,
    /// What.
    pub action: ClientAction,
}

/// All clients.
pub(super) struct Clients {
    sessions: Vec<Session>,
    processes: u64,
    values: u64,
    positions: u64,
    /// Operations that were not refused.
    operations: Vec<Option<ClientOperation>>,
}

/// One client.
struct Session {
    process: u64,
    /// Its operation under way.
    open: Option<usize>,
    /// What it last knew of each key.
    known: Vec<ClientValue>,
}

/// An operation under way at some server.
pub(super) struct Ask {
    session: usize,
    operation: usize,
    waits: Waits,
}

enum Waits {
    Write(Ticket<Outcome>),
    Read(Ticket<Arc<View>>),
}

/// A client's patience ends.
pub(super) struct GaveUp {
    session: usize,
    operation: usize,
}

/// What became of an operation.
enum Fate {
    Done(ClientAction),
    Refused,
    Unknown,
}

impl Clients {
    pub fn new(load: &Load) -> Self {
        let keys = usize::try_from(load.keys).unwrap_or(1);
        let session = |process| Session {
            process,
            open: None,
            known: vec![None; keys],
        };
        Self {
            sessions: (0..load.clients as u64).map(session).collect(),
            processes: load.clients as u64,
            values: 0,
            positions: 0,
            operations: Vec::new(),
        }
    }

    /// The history: operations that took effect, or may have.
    pub fn history(&self) -> Vec<ClientOperation> {
        self.operations.iter().flatten().copied().collect()
    }

    fn next_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    fn position(&mut self) -> u64 {
        self.positions += 1;
        self.positions
    }

    fn call(&mut self, session: usize, key: u64, action: ClientAction) -> usize {
        let call = self.position();
        let process = self.sessions[session].process;
        self.operations.push(Some(ClientOperation {
            process,
            key,
            call,
            returned: None,
            action,
        }));
        let operation = self.operations.len() - 1;
        self.sessions[session].open = Some(operation);
        operation
    }

    fn finish(&mut self, session: usize, operation: usize, fate: Fate) {
        if self.sessions[session].open != Some(operation) {
            return;
        }
        self.sessions[session].open = None;
        let returned = self.position();
        let Some(record) = self.operations[operation].as_mut() else {
            return;
        };
        match fate {
            Fate::Done(action) => {
                record.action = action;
                record.returned = Some(returned);
                let value = match action {
                    ClientAction::Read(Some(value)) => Some(value),
                    ClientAction::Write(value) => Some(value),
                    ClientAction::Cas {
                        to,
                        succeeded: true,
                        ..
                    } => Some(to),
                    _ => None,
                };
                if let (Some(value), Ok(key)) = (value, usize::try_from(record.key)) {
                    self.sessions[session].known[key] = value;
                }
            }
            Fate::Unknown if !matches!(record.action, ClientAction::Read(_)) => {
                self.sessions[session].process = self.processes;
                self.processes += 1;
            }
            Fate::Refused | Fate::Unknown => self.operations[operation] = None,
        }
    }
}

impl World {
    /// A client asks for something, at the leader mostly.
    pub fn request(&mut self, dice: &mut Dice) {
        let session = dice.index(self.clients.sessions.len());
        if self.clients.sessions[session].open.is_some() {
            return;
        }
        let astray = dice.percent(self.plan.options.load.astray);
        let anybody = dice.index(self.servers.len());
        let seat = self.leader().filter(|_| !astray).unwrap_or(anybody);
        let key = dice.below(self.plan.options.load.keys);
        let action = self.draw_action(session, key, dice);
        self.ask(session, seat, key, action);
    }

    fn draw_action(&mut self, session: usize, key: u64, dice: &mut Dice) -> ClientAction {
        let known =
            usize::try_from(key).map_or(None, |key| self.clients.sessions[session].known[key]);
        match dice.below(10) {
            0..4 => ClientAction::Read(None),
            4..6 => ClientAction::Write(Some(self.clients.next_value())),
            6 => ClientAction::Write(None),
            _ => ClientAction::Cas {
                from: known,
                to: Some(self.clients.next_value()),
                succeeded: true,
            },
        }
    }

    /// Whether it was asked at all: the server is awake.
    fn ask(&mut self, session: usize, seat: usize, key: u64, action: ClientAction) -> bool {
        if !self.servers[seat].is_awake(self.now) {
            return false;
        }
        let Some(node) = &self.servers[seat].node else {
            return false;
        };
        let waits = match action {
            ClientAction::Read(_) => Waits::Read(node.read()),
            ClientAction::Write(value) => Waits::Write(node.propose(&command(key, None, value))),
            ClientAction::Cas { from, to, .. } => {
                Waits::Write(node.propose(&command(key, Some(from), to)))
            }
        };
        let operation = self.clients.call(session, key, action);
        self.story.tell(self.now, || {
            let name = &self.servers[seat].name;
            format!("client {session} asks {name}: key {key} {action:?} (#{operation})")
        });
        self.servers[seat].asks.push(Ask {
            session,
            operation,
            waits,
        });
        if !self.is_calm {
            // Those who ask a calm cluster wait for as long as it may take.
            let patience = self.plan.options.load.patience;
            let gave_up = GaveUp { session, operation };
            self.agenda
                .add(self.now.plus_milliseconds(patience), Event::GiveUp(gave_up));
        }
        self.request_turn(seat);
        true
    }

    /// Sees which requests at a server have been answered.
    pub fn poll(&mut self, seat: usize) {
        let mut index = 0;
        while index < self.servers[seat].asks.len() {
            let ask = &mut self.servers[seat].asks[index];
            let key = self.clients.operations[ask.operation].map_or(0, |known| known.key);
            let asked = self.clients.operations[ask.operation].map(|known| known.action);
            let Some(fate) = ask.waits.poll(key, asked) else {
                index += 1;
                continue;
            };
            let ask = self.servers[seat].asks.swap_remove(index);
            self.answered(seat, &ask, fate);
        }
    }

    fn answered(&mut self, seat: usize, ask: &Ask, fate: Fate) {
        let is_open = self.clients.sessions[ask.session].open == Some(ask.operation);
        if is_open {
            let is_read = matches!(ask.waits, Waits::Read(_));
            self.note_answer(seat, is_read, &fate);
            self.story.tell(self.now, || {
                let (session, number) = (ask.session, ask.operation);
                let said = match &fate {
                    Fate::Done(action) => format!("{action:?}"),
                    Fate::Refused => "refused".into(),
                    Fate::Unknown => "unknown".into(),
                };
                format!("client {session} is told: {said} (#{number})")
            });
        }
        self.clients.finish(ask.session, ask.operation, fate);
    }

    fn note_answer(&mut self, seat: usize, is_read: bool, fate: &Fate) {
        let status = self.servers[seat].node.as_ref().map(|node| node.status());
        let leads = self.leader() == Some(seat);
        let mark = match (is_read, fate) {
            (true, Fate::Done(_)) if leads => return,
            (true, Fate::Done(_)) => {
                let id = self.servers[seat].id;
                let learns = status.is_some_and(|status| !status.membership.is_voter(id));
                if learns {
                    Mark::LearnerRead
                } else {
                    Mark::FollowerRead
                }
            }
            (true, _) => Mark::ReadRefused,
            (
                false,
                Fate::Done(ClientAction::Cas {
                    succeeded: false, ..
                }),
            ) => Mark::CasFailed,
            (false, Fate::Done(_)) => Mark::WriteDone,
            (false, Fate::Refused) if self.watched.is_transferring(self.now) => {
                Mark::TransferHeldWrite
            }
            (false, Fate::Refused) => Mark::WriteRefused,
            (false, Fate::Unknown) => Mark::WriteUnknown,
        };
        self.hit(mark);
    }

    pub fn give_up(&mut self, gave_up: GaveUp) {
        if self.clients.sessions[gave_up.session].open == Some(gave_up.operation) {
            self.hit(Mark::ClientGaveUp);
            self.clients
                .finish(gave_up.session, gave_up.operation, Fate::Unknown);
        }
    }

    /// A write of a fresh value that must succeed.
    pub fn fresh_write(&mut self, seat: usize, key: u64) -> Option<usize> {
        let value = self.clients.next_value();
        self.sure_request(seat, key, ClientAction::Write(Some(value)))
    }

    /// A read that must succeed.
    pub fn sure_read(&mut self, seat: usize, key: u64) -> Option<usize> {
        self.sure_request(seat, key, ClientAction::Read(None))
    }

    fn sure_request(&mut self, seat: usize, key: u64, action: ClientAction) -> Option<usize> {
        self.clients.sessions.push(Session {
            process: self.clients.processes,
            open: None,
            known: vec![None; usize::try_from(self.plan.options.load.keys).unwrap_or(1)],
        });
        self.clients.processes += 1;
        let session = self.clients.sessions.len() - 1;
        self.ask(session, seat, key, action)
            .then(|| self.clients.operations.len() - 1)
    }

    /// Whether that operation was answered with success.
    pub fn was_done(&self, operation: usize) -> bool {
        self.clients.operations[operation].is_some_and(|known| known.returned.is_some())
    }

    /// A process is gone, and those who waited for it know no more.
    pub fn drop_process(&mut self, seat: usize, node: crate::node::manual::ManualNode) {
        // What was answered before it ended did arrive.
        self.poll(seat);
        drop(node);
        self.poll(seat);
        self.servers[seat].asks.clear();
    }
}

impl Waits {
    fn poll(&mut self, key: u64, asked: Option<ClientAction>) -> Option<Fate> {
        match self {
            Self::Write(ticket) => Some(match ticket.poll()? {
                Answer::Done(outcome) => write_fate(asked, &outcome),
                Answer::Refused => Fate::Refused,
                Answer::Unknown => Fate::Unknown,
            }),
            Self::Read(ticket) => Some(match ticket.poll()? {
                Answer::Done(view) => Fate::Done(ClientAction::Read(Some(value_of(&view, key)))),
                Answer::Refused | Answer::Unknown => Fate::Refused,
            }),
        }
    }
}

fn write_fate(asked: Option<ClientAction>, outcome: &Outcome) -> Fate {
    let Some(action) = asked else {
        return Fate::Unknown;
    };
    match (action, outcome) {
        (ClientAction::Cas { from, to, .. }, Outcome::PreconditionFailed { .. }) => {
            let succeeded = false;
            Fate::Done(ClientAction::Cas {
                from,
                to,
                succeeded,
            })
        }
        (action, _) => Fate::Done(action),
    }
}

fn key_name(key: u64) -> String {
    format!("key/{key}")
}

fn value_bytes(value: u64) -> Vec<u8> {
    // Longer than a number, so that byte limits are met.
    format!("{value:0>40}").into_bytes()
}

fn value_of(view: &View, key: u64) -> ClientValue {
    let bytes = view.value(&key_name(key))?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

/// A write as the layers above would propose it.
fn command(key: u64, expected: Option<ClientValue>, value: ClientValue) -> Command {
    let key = key_name(key);
    let preconditions = expected.map(|expected| Precondition {
        key: key.clone(),
        expected: expected.map(value_bytes),
    });
    let operation = match value {
        Some(value) => Operation::Put {
            key,
            value: value_bytes(value),
        },
        None => Operation::Delete { key },
    };
    Command::Transaction(Transaction {
        preconditions: preconditions.into_iter().collect(),
        operations: vec![operation],
    })
}
