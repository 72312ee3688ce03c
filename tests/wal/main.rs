//! The log on disk: against a model, at every crash point, under every single
//! fault. `WAL_DEEP=n` multiplies the amount of work.

mod model;

mod basics;

mod properties;

mod crashes;

mod faults;

mod salvages;

mod failed_syncs;

mod rooms;

mod scrubs;

mod surveys;

mod decoders;

mod golden;

mod real_files;
