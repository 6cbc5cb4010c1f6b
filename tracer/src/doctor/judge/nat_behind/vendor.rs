//! The NATs of clouds: what limits them, and which metric shows that a limit was reached.

use std::ops::RangeInclusive;

use crate::doctor::{finding::Advice, judge::text::number};

/// The cloud that a host is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Vendor {
    Amazon,
    Google,
    Microsoft,
    /// None of these, or not known.
    Other,
}

/// A NAT of a cloud.
struct Nat {
    vendor: Vendor,
    name: &'static str,
    /// What proves that it has no port left.
    metric: &'static str,
    limit: &'static str,
    /// How many ports it can give to one host towards one destination, for each way in which it can be set up.
    ports: &'static [u32],
}

/// From the vendors' documents, November 2026.
const NATS: [Nat; 5] = [
    Nat {
        vendor: Vendor::Amazon,
        name: "AWS NAT gateway",
        metric: "ErrorPortAllocation above 0",
        limit: "55,000 ports to each destination for each of up to 8 addresses",
        ports: &[55_000],
    },
    Nat {
        vendor: Vendor::Google,
        name: "Google Cloud NAT",
        metric: "dropped_sent_packets_count with reason OUT_OF_RESOURCES, nat/port_usage",
        limit: "minPortsPerVm ports for each machine (64 by default, 32 with dynamic allocation)",
        ports: &[32, 64],
    },
    Nat {
        vendor: Vendor::Microsoft,
        name: "Azure NAT gateway",
        metric: "SNATConnectionCount with state failed",
        limit: "64,512 ports for each of up to 16 addresses, 50,000 connections to one destination",
        ports: &[50_000],
    },
    Nat {
        vendor: Vendor::Microsoft,
        name: "Azure load balancer",
        metric: "SNATConnectionCount with state failed",
        limit: "by default 1,024 ports for each machine in a pool of up to 50, down to 32 in one of up to 1,000",
        ports: &[1_024, 512, 256, 128, 64, 32],
    },
    Nat {
        vendor: Vendor::Other,
        name: "Linux gateway",
        metric: "insert_failed in conntrack -S, or `tracer doctor` on the gateway",
        limit: "64,512 ports to each destination for each address, or its rule's range",
        ports: &[ALL],
    },
];
const ALL: u32 = crate::host::nat_rules::ALL_PORTS;

impl Vendor {
    /// The cloud whose machines have this maker, the content of `/sys/class/dmi/id/sys_vendor` without its newline. `None` (the
    /// file is not there, or cannot be read), or another maker: [`Self::Other`].
    pub fn of(sys_vendor: Option<&str>) -> Self {
        match sys_vendor {
            Some("Amazon EC2") => Self::Amazon,
            Some("Google") => Self::Google,
            // Also machines of its own make, and those of Hyper-V elsewhere.
            Some("Microsoft Corporation") => Self::Microsoft,
            _ => Self::Other,
        }
    }

    /// Its name for programs; `None`: it is not known.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Amazon => Some("aws"),
            Self::Google => Some("gcp"),
            Self::Microsoft => Some("azure"),
            Self::Other => None,
        }
    }

    /// The NATs that may be between; all if the cloud is not known.
    fn nats(self) -> impl Iterator<Item = &'static Nat> {
        NATS.iter().filter(move |nat| self == Self::Other || nat.vendor == self)
    }

    /// What would prove that a NAT is full, one advice for each NAT of this cloud with its limit; of all clouds if it is
    /// [`Self::Other`].
    pub(super) fn proofs(self) -> Vec<Advice> {
        let proof = |nat: &Nat| {
            Advice::new(
                format!("look at the metric of the {}: {}", nat.name, nat.metric),
                nat.limit,
            )
        };
        self.nats().map(proof).collect()
    }

    /// The limit of a NAT of this cloud that so many connections are near, as a text; `None`: near none, or the cloud is
    /// not known. `near`: which shares of a limit, 1 being all of it, are near.
    pub(super) fn limit_near(self, connections: u32, near: &RangeInclusive<f64>) -> Option<String> {
        if self == Self::Other {
            return None;
        }
        let share = |ports: u32| f64::from(connections) / f64::from(ports);
        let (nat, ports) = self
            .nats()
            .flat_map(|nat| nat.ports.iter().map(move |ports| (nat, *ports)))
            .filter(|(_, ports)| near.contains(&share(*ports)))
            .min_by(|(_, one), (_, other)| {
                (share(*one) - 1.0).abs().total_cmp(&(share(*other) - 1.0).abs())
            })?;
        Some(format!("the {} ports that the {} may give", number(ports.into()), nat.name))
    }
}
