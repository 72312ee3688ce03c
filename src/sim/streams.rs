//! Snapshot streams, as the transport runs them: offered, resumed where the
//! receiver left off, chunk by chunk, staged at the end, cut at any point.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::peer::{SnapshotOffer, SnapshotSink, SnapshotSource};
use crate::types::{LogIndex, NodeId};

use super::coverage::Mark;
use super::world::{Event, Step, World};

/// All streams under way.
#[derive(Default)]
pub(super) struct Streams {
    open: BTreeMap<u64, Stream>,
    begun: u64,
    /// The stream that moves that many chunks from now is cut.
    cut_after: Option<u64>,
}

struct Stream {
    from: usize,
    from_run: u64,
    to: usize,
    to_run: u64,
    to_id: NodeId,
    source: Arc<dyn SnapshotSource>,
    offer: SnapshotOffer,
    /// Absent until the receiver has answered the offer.
    sink: Option<Box<dyn SnapshotSink>>,
}

/// How far one step of a stream came.
enum Progress {
    Going,
    Staged,
    Failed(String),
    /// The receiver had all of it, or the file cannot be read.
    Doubted(String),
}

impl Streams {
    /// A process ended; the senders to it notice when they go on. What was
    /// received is dropped with the process.
    pub fn end_of_process(&mut self, seat: usize) {
        let streams = self.open.values_mut().filter(|stream| stream.to == seat);
        let sinks = streams.filter_map(|stream| stream.sink.take());
        sinks.for_each(drop);
    }

    /// The connection that moves that many chunks from now breaks.
    pub fn cut_after(&mut self, chunks: u64) {
        self.cut_after = Some(chunks);
    }

    fn is_cut_now(&mut self) -> bool {
        let left = self.cut_after;
        self.cut_after = left.and_then(|left| left.checked_sub(1));
        left == Some(0)
    }
}

impl World {
    /// A core wants its newest snapshot streamed.
    pub fn begin_stream(&mut self, from: usize, to_id: NodeId, least: LogIndex) {
        let server = &self.servers[from];
        let run = server.run;
        let fail = Event::StreamFailed {
            seat: from,
            run,
            to: to_id,
        };
        let source = server.newest_snapshot(least);
        let seat = self.seats.get(&to_id).copied();
        if source.is_none() {
            server.want_snapshot();
        }
        let (Some(source), Some(to)) = (source, seat) else {
            self.agenda.add(self.now, fail);
            return;
        };
        self.streams.begun += 1;
        let number = self.streams.begun;
        let delay = self.network.delay(from, to) * 2;
        self.streams.open.insert(
            number,
            Stream {
                from,
                from_run: run,
                to,
                to_run: self.servers[to].run,
                to_id,
                offer: source.offer(),
                source,
                sink: None,
            },
        );
        self.story.tell(self.now, || {
            let (from, to) = (&self.servers[from].name, &self.servers[to].name);
            format!("{from} offers {to} a snapshot")
        });
        self.agenda.add(self.now.plus(delay), Event::Stream(number));
    }

    /// The next step of a stream is due.
    pub fn stream_goes_on(&mut self, number: u64) -> Step {
        let Some(mut stream) = self.streams.open.remove(&number) else {
            return Ok(());
        };
        let awake = self.servers[stream.from]
            .paused_until
            .max(self.servers[stream.to].paused_until);
        if self.now < awake && self.servers[stream.to].is_running() {
            self.streams.open.insert(number, stream);
            self.agenda.add(awake, Event::Stream(number));
            return Ok(());
        }
        let to = stream.to;
        let progress = self.advance(&mut stream);
        match progress {
            Progress::Going => {
                let delay = self.network.delay(stream.from, stream.to);
                self.agenda.add(self.now.plus(delay), Event::Stream(number));
                self.streams.open.insert(number, stream);
            }
            Progress::Staged => self.stream_succeeded(&stream),
            Progress::Failed(reason) => self.stream_fails(stream, &reason),
            Progress::Doubted(reason) => {
                self.doubt_file(&stream);
                self.stream_fails(stream, &reason);
            }
        }
        self.settle(to)
    }

    fn stream_succeeded(&mut self, stream: &Stream) {
        self.hit(Mark::SnapshotStreamed);
        let sender = &self.servers[stream.from];
        if sender.run == stream.from_run
            && let Some(node) = &sender.node
        {
            node.streamed(stream.to_id, Some(stream.offer.meta.clone()));
            self.request_turn(stream.from);
        }
    }

    /// The sender looks whether it is its own file that is damaged.
    fn doubt_file(&mut self, stream: &Stream) {
        let sender = &self.servers[stream.from];
        if sender.run != stream.from_run || !sender.doubts_snapshot(&stream.offer.meta) {
            return;
        }
        let name = sender.name.clone();
        self.story.tell(self.now, || {
            format!("{name} sets the snapshot aside: it is damaged there")
        });
        self.hit(Mark::SentSnapshotSetAside);
        self.servers[stream.from].want_snapshot();
        self.request_turn(stream.from);
    }

    fn stream_fails(&mut self, stream: Stream, reason: &str) {
        self.story.tell(self.now, || {
            let (from, to) = (
                &self.servers[stream.from].name,
                &self.servers[stream.to].name,
            );
            format!("snapshot {from} → {to} fails: {reason}")
        });
        let event = Event::StreamFailed {
            seat: stream.from,
            run: stream.from_run,
            to: stream.to_id,
        };
        self.agenda
            .add(self.now.plus_milliseconds(RETRY_PAUSE), event);
    }

    fn advance(&mut self, stream: &mut Stream) -> Progress {
        let (from, to) = (stream.from, stream.to);
        let failed = |reason: &str| Progress::Failed(reason.to_owned());
        let (sender, receiver) = (&self.servers[from], &self.servers[to]);
        if !sender.is_running() || sender.run != stream.from_run {
            return failed("the sender is gone");
        }
        if !receiver.is_running() {
            return failed("the receiver is gone");
        }
        if receiver.run != stream.to_run {
            return failed("the receiver is another process");
        }
        if self.network.is_cut(from, to) || self.network.is_cut(to, from) {
            return failed("no connection");
        }
        let run = stream.from_run;
        let greeted = self.greet(from, to, &sender.book.hello);
        if greeted.is_err() || self.meet(from, run, to).is_err() {
            return failed("refused");
        }
        let (sender, receiver) = (&self.servers[from], &self.servers[to]);
        let Some(sink) = &mut stream.sink else {
            let accepted = receiver.accept_snapshot(sender.id, &stream.offer);
            return match accepted {
                Ok(sink) => {
                    if sink.held() > 0 {
                        self.hit(Mark::SnapshotResumed);
                    }
                    stream.sink = Some(sink);
                    self.supersede(to);
                    Progress::Going
                }
                Err(reason) => Progress::Failed(reason),
            };
        };
        if self.streams.is_cut_now() {
            // The sink keeps what it has for the next stream.
            self.coverage.hit(Mark::SnapshotCut);
            return failed("the connection broke");
        }
        let left = stream.offer.bytes - sink.held();
        if left == 0 {
            let finished = stream.sink.take().map(|sink| sink.finish());
            return match finished {
                Some(Err(error)) => Progress::Doubted(error.0),
                _ => Progress::Staged,
            };
        }
        let chunk = self.plan.options.node.chunk_bytes;
        let length = usize::try_from(left).unwrap_or(chunk).min(chunk);
        let mut bytes = vec![0; length];
        let offset = sink.held();
        match stream.source.read(offset, &mut bytes) {
            Ok(()) => match sink.append(offset, &bytes) {
                Ok(()) => Progress::Going,
                Err(error) => Progress::Failed(error.0),
            },
            Err(error) => Progress::Doubted(error.0),
        }
    }

    /// A newer stream to a node takes the place of older ones.
    fn supersede(&mut self, to: usize) {
        let older = |stream: &Stream| stream.to == to && stream.sink.is_some();
        let open = self.streams.open.iter();
        let numbers: Vec<u64> = open
            .filter(|(_, stream)| older(stream))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            if let Some(stream) = self.streams.open.remove(&number) {
                self.hit(Mark::SnapshotSuperseded);
                self.stream_fails(stream, "another snapshot took this one's place");
            }
        }
    }
}

/// As the transport of a real node waits, in milliseconds.
const RETRY_PAUSE: u64 = 500;
