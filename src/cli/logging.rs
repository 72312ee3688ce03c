//! Log lines on standard error, at a level that can be changed.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::LogFormat;

/// Changes the level.
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

/// Starts logging; once a process.
///
/// # Errors
/// Something logs already.
pub fn start(level: &str, format: LogFormat) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = match format {
        LogFormat::Standard => fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .boxed(),
        LogFormat::Json => fmt::layer().with_writer(std::io::stderr).json().boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(LogLevel(handle))
}

impl LogLevel {
    /// Uses another level from now on.
    pub fn set(&self, level: &str) {
        if self.0.reload(filter(level)).is_ok() {
            tracing::info!(level, "log level set");
        }
    }
}

fn filter(level: &str) -> LevelFilter {
    level.parse().unwrap_or(LevelFilter::INFO)
}
