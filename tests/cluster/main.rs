//! Real nodes in one process, over loopback TLS: threads, files and sockets as
//! in production; only the processes are missing.

mod cluster;

mod crashes;
mod repairs;

mod identity;
mod lifecycle;

mod membership;

mod reads_and_writes;

mod room;

mod snapshots;

mod survivors;
