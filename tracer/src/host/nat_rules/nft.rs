//! Parses rules of nftables as netlink returns them (`include/uapi/linux/netfilter/nf_tables.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{PortChoice, Rule, compat};
use crate::host::netlink::attributes;

/// Length of `struct nfgenmsg`, whose first byte is the family of the rule's table.
const HEADER: usize = 4;
/// Families (`NFPROTO_*`) of tables, and of what a rule is for.
const INET: u8 = 1;
/// `NFPROTO_IPV4`
pub(super) const IPV4: u8 = 2;
/// `NFPROTO_IPV6`
pub(super) const IPV6: u8 = 10;

/// The bits of an attribute's type that are its number.
const NUMBER: u16 = 0x3fff;
/// Attributes of a rule, of a list, and of an expression.
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
/// `immediate`: writes a value to a register.
const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
/// `meta`: writes a fact about the packet to a register; which one is in the key.
const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;
const META_PROTOCOL: u32 = 16;
/// `cmp`: compares a register with a value.
const CMP_REGISTER: u16 = 1;
const CMP_OPERATOR: u16 = 2;
const CMP_DATA: u16 = 3;
const CMP_EQUAL: u32 = 0;
/// `nat`
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_FIRST_ADDRESS: u16 = 3;
const NAT_LAST_ADDRESS: u16 = 4;
const NAT_FIRST_PORT: u16 = 5;
const NAT_LAST_PORT: u16 = 6;
const NAT_FLAGS: u16 = 7;
const TYPE_SOURCE: u32 = 0;
/// `masq`
const MASQ_FLAGS: u16 = 1;
const MASQ_FIRST_PORT: u16 = 2;
const MASQ_LAST_PORT: u16 = 3;
/// `target`: a target of iptables.
const TARGET_NAME: u16 = 1;
const TARGET_REVISION: u16 = 2;
const TARGET_INFO: u16 = 3;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`
pub(super) const FULLY_RANDOM: u32 = 0x10;

/// Parses one rule of nftables, and calls `found`, in their order, for each of its expressions that translates the source:
/// `masq`, `nat`, and `target` (of iptables). `message`: `struct nfgenmsg`, then the attributes of the rule. `found` is not
/// called if the message is shorter than that structure, or the table's family is not INET, IPv4 or IPv6.
///
/// A damaged attribute, and all after it in its list, count as absent: an expression without a name, a `nat` without a type and a
/// `target` without data are skipped; without addresses or ports, `masq` and `nat` are reported as those that name none.
/// Addresses and ports that no `immediate` right before the expression wrote are not known (`None`, [`PortChoice::Unknown`]).
pub(super) fn rules(message: &[u8], mut found: impl FnMut(Rule)) {
    let Some((family, body)) = message.first().copied().zip(message.get(HEADER..)) else { return };
    if ![INET, IPV4, IPV6].contains(&family) {
        return;
    }
    let mut state = State { family, protocol: None, protocol_register: None, values: Vec::new() };
    let lists = numbered(body).filter(|(kind, _)| *kind == RULE_EXPRESSIONS);
    for (kind, element) in lists.flat_map(|(_, list)| numbered(list)) {
        let name = find(element, EXPRESSION_NAME).map(until_nul);
        let data = find(element, EXPRESSION_DATA).unwrap_or_default();
        if let (LIST_ELEMENT, Some(name)) = (kind, name)
            && let Some(rule) = state.expression(name, data)
        {
            found(rule);
        }
    }
}

/// The most registers that an expression reads: two addresses, two ports.
const REGISTERS: usize = 4;

/// What the expressions before have done.
struct State<'a> {
    family: u8,
    /// The protocol that the packet must have.
    protocol: Option<u8>,
    /// The register that has the packet's protocol.
    protocol_register: Option<u32>,
    /// Registers and their values, the newest last. Values are written right before the expression that reads them.
    values: Vec<(u32, &'a [u8])>,
}

impl<'a> State<'a> {
    /// Applies the next expression of the rule. Returns the rule if it translates the source.
    fn expression(&mut self, name: &[u8], data: &'a [u8]) -> Option<Rule> {
        let protocol_register = self.protocol_register.take();
        if name == b"immediate" {
            let value = find(data, IMMEDIATE_DATA).and_then(|data| find(data, DATA_VALUE));
            if let Some((register, value)) = number(data, IMMEDIATE_REGISTER).zip(value) {
                self.values.retain(|(other, _)| *other != register);
                self.values.push((register, value));
                let more = self.values.len().saturating_sub(REGISTERS);
                self.values.drain(..more);
            }
            return None;
        }
        let rule = match name {
            b"masq" => Some(self.masquerade(data)),
            b"nat" => self.nat(data),
            b"target" => self.target(data),
            _ => None,
        };
        // Any other expression may write to these registers.
        self.values.clear();
        match name {
            b"meta" if number(data, META_KEY) == Some(META_PROTOCOL) => {
                self.protocol_register = number(data, META_REGISTER);
            }
            b"cmp"
                if protocol_register.is_some()
                    && number(data, CMP_REGISTER) == protocol_register =>
            {
                let value = find(data, CMP_DATA).and_then(|data| find(data, DATA_VALUE));
                if number(data, CMP_OPERATOR) == Some(CMP_EQUAL) {
                    self.protocol = value.and_then(|value| value.first().copied());
                }
            }
            _ => {}
        }
        rule
    }

    fn masquerade(&self, data: &[u8]) -> Rule {
        Rule {
            ports: self.ports(data, MASQ_FIRST_PORT, MASQ_LAST_PORT),
            fully_random: number(data, MASQ_FLAGS).unwrap_or(0) & FULLY_RANDOM != 0,
            ..self.rule(self.family)
        }
    }

    /// `None`: it translates the destination.
    fn nat(&self, data: &[u8]) -> Option<Rule> {
        if number(data, NAT_TYPE)? != TYPE_SOURCE {
            return None;
        }
        let family = number(data, NAT_FAMILY).and_then(|family| u8::try_from(family).ok());
        let first = self.value(data, NAT_FIRST_ADDRESS).and_then(address);
        let last = match find(data, NAT_LAST_ADDRESS) {
            Some(_) => self.value(data, NAT_LAST_ADDRESS).and_then(address),
            None => first,
        };
        Some(Rule {
            addresses: first.zip(last),
            ports: self.ports(data, NAT_FIRST_PORT, NAT_LAST_PORT),
            fully_random: number(data, NAT_FLAGS).unwrap_or(0) & FULLY_RANDOM != 0,
            ..self.rule(family.unwrap_or(self.family))
        })
    }

    fn target(&self, data: &[u8]) -> Option<Rule> {
        let name = find(data, TARGET_NAME).map(until_nul)?;
        let revision = number(data, TARGET_REVISION).unwrap_or(0);
        let info = find(data, TARGET_INFO)?;
        let choice = compat::choice(name, self.family, revision, info)?;
        Some(Rule {
            addresses: choice.addresses,
            ports: choice.ports,
            fully_random: choice.fully_random,
            ..self.rule(self.family)
        })
    }

    /// A rule for this family that takes the interface's address and any port.
    fn rule(&self, family: u8) -> Rule {
        Rule {
            v4: family != IPV6,
            v6: family != IPV4,
            protocol: self.protocol,
            addresses: None,
            ports: PortChoice::All,
            fully_random: false,
        }
    }

    /// The ports in the registers that these attributes name.
    fn ports(&self, data: &[u8], first: u16, last: u16) -> PortChoice {
        if find(data, first).is_none() {
            return PortChoice::All;
        }
        let low = self.value(data, first).and_then(port);
        let high =
            if find(data, last).is_some() { self.value(data, last).and_then(port) } else { low };
        low.zip(high).map_or(PortChoice::Unknown, |(low, high)| PortChoice::Range(low, high))
    }

    /// The value in the register that this attribute names; `None`: an expression wrote it whose result is not known.
    fn value(&self, data: &[u8], attribute: u16) -> Option<&'a [u8]> {
        let register = number(data, attribute)?;
        self.values.iter().find(|(it, _)| *it == register).map(|(_, value)| *value)
    }
}

fn numbered(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(bytes).map(|(kind, value)| (kind & NUMBER, value))
}

fn find(bytes: &[u8], attribute: u16) -> Option<&[u8]> {
    numbered(bytes).find(|(kind, _)| *kind == attribute).map(|(_, value)| value)
}

fn number(bytes: &[u8], attribute: u16) -> Option<u32> {
    Some(u32::from_be_bytes(*find(bytes, attribute)?.first_chunk()?))
}

fn until_nul(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

/// An address of 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}
