//! A network of the harness's own: one namespace a node, all on one bridge, and
//! any direction between two nodes can be cut. Needs root and `ip`.
//!
//! A direction is cut where it arrives: a routing rule for the sender's address
//! ends in a black hole. The rule stands before the one for local addresses,
//! which is moved behind it, and established connections look it up for every
//! packet because early demultiplexing is off.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::Placement;

/// The namespaces of a run; dropping it removes them.
pub struct Network {
    tag: String,
    subnet: [u8; 3],
    count: usize,
}

/// The harness's own address in the subnet.
const HARNESS: u8 = 254;
/// Priority of the rules that cut; the local table comes after them.
const CUT_PRIORITY: &str = "10";
const LOCAL_PRIORITY: &str = "100";

impl Network {
    /// Makes namespaces for this many nodes.
    ///
    /// # Errors
    /// No root, no `ip`, or names left by a run of the same process id.
    pub fn create(count: usize) -> anyhow::Result<Network> {
        let pid = std::process::id();
        // Names of interfaces hold 15 characters.
        let network = Network {
            tag: format!("hf{pid}"),
            subnet: [10, 64 + (pid >> 8) as u8 % 64, pid as u8],
            count,
        };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        let address = format!("{}/24", network.address_of_harness());
        ip(&["addr", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for node in 0..count {
            network.add_node(node)?;
        }
        Ok(network)
    }

    /// Where a node runs.
    pub fn placement(&self, node: usize) -> Placement {
        Placement {
            network: Some((self.namespace(node), self.address(node))),
            ..Placement::default()
        }
    }

    /// Drops every packet from one node to another, until healed.
    ///
    /// # Errors
    /// Of `ip`.
    pub fn cut(&self, from: usize, to: usize) -> anyhow::Result<()> {
        self.rule("add", from, to)
    }

    /// Drops every packet between two nodes.
    ///
    /// # Errors
    /// Of `ip`.
    pub fn cut_both(&self, one: usize, other: usize) -> anyhow::Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// Of `ip`.
    pub fn heal(&self) -> anyhow::Result<()> {
        for to in 0..self.count {
            for from in 0..self.count {
                // Most are not there.
                let _ = self.rule("del", from, to);
            }
        }
        Ok(())
    }

    fn add_node(&self, node: usize) -> anyhow::Result<()> {
        let (namespace, outside) = (self.namespace(node), format!("{}v{node}", self.tag));
        ip(&["netns", "add", &namespace])?;
        ip(&[
            "link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ])?;
        ip(&["link", "set", &outside, "master", &self.bridge(), "up"])?;
        let address = format!("{}/24", self.address(node));
        let inside = |arguments: &[&str]| {
            let mut all = vec!["-n", &namespace];
            all.extend(arguments);
            ip(&all)
        };
        inside(&["link", "set", "lo", "up"])?;
        inside(&["addr", "add", &address, "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["rule", "add", "pref", LOCAL_PRIORITY, "lookup", "local"])?;
        inside(&["rule", "del", "pref", "0"])?;
        ip(&[
            "netns",
            "exec",
            &namespace,
            "sysctl",
            "-q",
            "-w",
            "net.ipv4.ip_early_demux=0",
            "net.ipv4.tcp_early_demux=0",
        ])
    }

    fn rule(&self, verb: &str, from: usize, to: usize) -> anyhow::Result<()> {
        let from = self.address(from).to_string();
        ip(&[
            "-n",
            &self.namespace(to),
            "rule",
            verb,
            "pref",
            CUT_PRIORITY,
            "from",
            &from,
            "blackhole",
        ])
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}n{node}", self.tag)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.tag)
    }

    fn address(&self, node: usize) -> Ipv4Addr {
        self.host(1 + node as u8)
    }

    fn address_of_harness(&self) -> Ipv4Addr {
        self.host(HARNESS)
    }

    fn host(&self, host: u8) -> Ipv4Addr {
        let [first, second, third] = self.subnet;
        Ipv4Addr::new(first, second, third, host)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was never made, or left with its namespace, is no loss.
        for node in 0..self.count {
            let _ = ip(&["netns", "del", &self.namespace(node)]);
            let _ = ip(&["link", "del", &format!("{}v{node}", self.tag)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("run ip")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), errors.trim());
    }
    Ok(())
}
