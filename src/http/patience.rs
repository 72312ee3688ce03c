//! How long a connection may be silent: long between requests, short inside
//! the head of one. A client that dribbles header bytes keeps nothing.
//!
//! The stream ends (as if the client had closed) when time is up. While a
//! request is being answered there is no limit here: its body has its own.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Requests of one connection that are being answered, and how many were.
#[derive(Debug, Default)]
pub struct Activity {
    started: AtomicUsize,
    finished: AtomicUsize,
    /// hyper does not read again by itself when it has answered; the wait for
    /// the next request is timed only if it does.
    reader: AtomicWaker,
}

impl Activity {
    /// Counts one request until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.started.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// (in flight, finished).
    fn counts(&self) -> (usize, usize) {
        let finished = self.finished.load(Ordering::Relaxed);
        let started = self.started.load(Ordering::Relaxed);
        (started.saturating_sub(finished), finished)
    }
}

/// One request being answered.
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.finished.fetch_add(1, Ordering::Relaxed);
        self.0.reader.wake();
    }
}

/// The limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between requests.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
}

/// A stream that ends when patience does.
pub struct Impatient<S> {
    stream: S,
    activity: Arc<Activity>,
    patience: Patience,
    finished_seen: usize,
    head_begun: bool,
    deadline: Pin<Box<Sleep>>,
}

impl<S> Impatient<S> {
    /// Watches `stream`, which has just been opened: the first request is
    /// waited for as the head of one.
    pub fn new(stream: S, activity: Arc<Activity>, patience: Patience) -> Self {
        Self {
            stream,
            activity,
            patience,
            finished_seen: 0,
            head_begun: true,
            deadline: Box::pin(tokio::time::sleep(patience.head)),
        }
    }

    fn restart(&mut self, limit: Duration) {
        self.deadline.as_mut().reset(Instant::now() + limit);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.activity.reader.register(context.waker());
        let (in_flight, finished) = this.activity.counts();
        if finished != this.finished_seen {
            this.finished_seen = finished;
            this.head_begun = false;
            let idle = this.patience.idle;
            this.restart(idle);
        }
        let before = buffer.filled().len();
        if Pin::new(&mut this.stream)
            .poll_read(context, buffer)?
            .is_ready()
        {
            let progressed = buffer.filled().len() > before;
            if progressed && in_flight == 0 && !this.head_begun {
                this.head_begun = true;
                let head = this.patience.head;
                this.restart(head);
            }
            return Poll::Ready(Ok(()));
        }
        if in_flight == 0 && this.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
