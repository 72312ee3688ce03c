//! `listener "tcp" { … }`.

use std::path::PathBuf;

use super::section::{Block, Section};
use super::{ConfigError, HostPort, tls_version};
use crate::http::server::Limits;
use crate::http::tls::TlsFiles;

/// One API listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Where to listen.
    pub address: HostPort,
    /// Where other nodes are accepted; the first listener's counts.
    pub cluster_address: Option<HostPort>,
    /// `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Bounds of requests.
    pub limits: Limits,
}

impl ListenerConfig {
    pub(super) fn read(
        top: &Section<'_>,
        block: &Block<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        if block.label != "tcp" {
            let expected = "\"tcp\", the only listener there is";
            return Err(top.error(block.line, &format!("listener {}", block.label), expected));
        }
        let mut section = top.nested("listener \"tcp\"", block);
        let expected = "an address such as \"127.0.0.1:8200\"";
        let address = section
            .parsed("address", expected, HostPort::parse)?
            .unwrap_or_else(|| HostPort {
                host: "127.0.0.1".into(),
                port: 8200,
            });
        let listener = Self {
            address,
            cluster_address: section.parsed("cluster_address", expected, HostPort::parse)?,
            tls: read_tls(&mut section, block)?,
            limits: read_limits(&mut section)?,
        };
        for key in section.ignored(IGNORED) {
            warnings.push(format!("listener \"tcp\": {key} has no effect"));
        }
        section.finish()?;
        Ok(listener)
    }
}

fn read_tls(section: &mut Section<'_>, block: &Block<'_>) -> Result<Option<TlsFiles>, ConfigError> {
    let disabled = section.boolean("tls_disable")?.unwrap_or(false);
    let file = |value: Option<String>| value.map(PathBuf::from);
    let certificate = file(section.text("tls_cert_file")?);
    let key = file(section.text("tls_key_file")?);
    let client_authorities = file(section.text("tls_client_ca_file")?);
    let required = section.boolean("tls_require_and_verify_client_cert")?;
    let client_certificate_required = required.unwrap_or(false);
    let expected = "\"tls12\" or \"tls13\"";
    let version_min = section
        .parsed("tls_min_version", expected, tls_version)?
        .unwrap_or_default();
    if disabled {
        return Ok(None);
    }
    let (Some(certificate), Some(key)) = (certificate, key) else {
        let expected = "tls_cert_file and tls_key_file, or tls_disable = true";
        return Err(section.error(block.line, "listener", expected));
    };
    if client_certificate_required && client_authorities.is_none() {
        let line = section.line_of("tls_require_and_verify_client_cert");
        let key = "tls_require_and_verify_client_cert";
        return Err(section.error(line, key, "tls_client_ca_file beside it"));
    }
    Ok(Some(TlsFiles {
        certificate,
        key,
        client_authorities,
        client_certificate_required,
        version_min,
    }))
}

fn read_limits(section: &mut Section<'_>) -> Result<Limits, ConfigError> {
    let default = Limits::default();
    let bytes = section.integer("max_request_size", 1, 1 << 30)?;
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    Ok(Limits {
        body_bytes_max: bytes.unwrap_or(default.body_bytes_max),
        head_time_max: section
            .duration("http_read_header_timeout")?
            .unwrap_or(default.head_time_max),
        body_time_max: section
            .duration("http_read_timeout")?
            .unwrap_or(default.body_time_max),
        idle_time_max: section
            .duration("http_idle_timeout")?
            .unwrap_or(default.idle_time_max),
    })
}

const IGNORED: &[&str] = &[
    "http_write_timeout",
    "max_request_duration",
    "max_request_json_memory",
    "max_request_json_strings",
    "require_request_header",
    "tls_cipher_suites",
    "tls_max_version",
    "tls_prefer_server_cipher_suites",
    "tls_disable_client_certs",
    "proxy_protocol_behavior",
    "proxy_protocol_authorized_addrs",
    "x_forwarded_for_authorized_addrs",
    "x_forwarded_for_hop_skips",
    "x_forwarded_for_reject_not_authorized",
    "x_forwarded_for_reject_not_present",
    "custom_response_headers",
    "telemetry",
    "profiling",
    "inflight_requests_logging",
    "cors_enabled",
    "cors_allowed_origins",
    "cors_allowed_headers",
    "redact_addresses",
    "redact_cluster_name",
    "redact_version",
    "disable_unauthed_rekey_endpoints",
    "disable_unauthed_generate_root_endpoints",
    "chroot_namespace",
    "disable_replication_status_endpoints",
];
