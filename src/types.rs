//! The values every floor speaks of, parsed once and valid ever after.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// A text that is not the value it should be.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("expected {expected}, got {got:?}")]
pub struct ParseError {
    /// What would have been right.
    pub expected: &'static str,
    /// What came.
    pub got: String,
}

impl ParseError {
    /// An error that says what was expected and what came.
    pub fn new(expected: &'static str, got: impl Into<String>) -> Self {
        Self {
            expected,
            got: got.into(),
        }
    }
}

/// Text in documents for people, bytes on the wire.
macro_rules! text_or_bytes {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    return serializer.collect_str(self);
                }
                self.0.serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    return text.parse().map_err(de::Error::custom);
                }
                Deserialize::deserialize(deserializer).map(Self)
            }
        }
    };
}

/// The name of a peer in the mesh: the first 16 bytes of the SHA-256 of its public key.
///
/// Being derived from the key, it cannot be claimed by anyone who does not hold that key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 16]);

impl PeerId {
    /// The identity that belongs to an X25519 public key.
    pub fn of_public_key(key: &[u8; 32]) -> Self {
        let digest = Sha256::digest(key);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// The identity with exactly these bytes, as it came over the wire.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes that go over the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The first 10 hexadecimal digits: enough to tell peers apart by eye.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }

    /// As people know it: `host1 (3f70e96fa3)`, or its first digits alone while it has no nickname.
    pub fn called(&self, nickname: &str) -> String {
        match nickname {
            "" => self.short(),
            _ => format!("{nickname} ({})", self.short()),
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PeerId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseError::new("a peer id of 32 hexadecimal digits", text);
        if text.len() != 32 || !text.is_ascii() {
            return Err(error());
        }
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| error())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| error())?;
        }
        Ok(Self(id))
    }
}

text_or_bytes!(PeerId);

/// A VXLAN network identifier: 24 bits, never zero (RFC 7348, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier that fits into 24 bits.
    pub const MAX: u32 = (1 << 24) - 1;

    /// The number as the kernel takes it.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u32> for Vni {
    type Error = ParseError;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        match number {
            1..=Self::MAX => Ok(Self(number)),
            _ => Err(ParseError::new(
                "a VNI from 1 to 16777215",
                number.to_string(),
            )),
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl FromStr for Vni {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<u32>()
            .map_err(|_| ParseError::new("a VNI from 1 to 16777215", text))?
            .try_into()
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address with exactly these bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The bytes in the order of the wire.
    pub const fn octets(&self) -> [u8; 6] {
        self.0
    }

    /// Whether one interface can have this address: not a group address, not all zero.
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The address of the container that has this IP address.
    ///
    /// Being the same wherever an address turns up again, it keeps neighbours' ARP caches right
    /// when a container is recreated, on this host or on another.
    pub fn of_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_ipv4(ip),
            IpAddr::V6(ip) => {
                let digest = Sha256::digest(ip.octets());
                Self([0x06, digest[0], digest[1], digest[2], digest[3], digest[4]])
            }
        }
    }

    fn of_ipv4(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x77, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseError::new("an Ethernet address like 02:77:0a:00:00:01", text);
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(error)?;
            if part.is_empty() || part.len() > 2 {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(error()),
        }
    }
}

text_or_bytes!(Mac);

/// Longest identifier taken from Docker; its own have 25 (swarm) or 64 characters.
const MAX_DOCKER_ID: usize = 128;

macro_rules! docker_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as Docker wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 characters, as `docker ps` shows identifiers.
            pub fn short(&self) -> &str {
                &self.0[..self.0.len().min(12)]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
                if text.is_empty() || text.len() > MAX_DOCKER_ID || !text.chars().all(valid) {
                    return Err(ParseError::new($expected, text));
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}

docker_id!(
    /// Docker's identifier of a network: 64 hexadecimal digits, or 25 letters and digits in swarm.
    NetworkId,
    "a network id of letters and digits"
);
docker_id!(
    /// Docker's identifier of an endpoint: one container's attachment to one network.
    EndpointId,
    "an endpoint id of letters and digits"
);

/// The name by which all peers know one layer-2 segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId(String);

impl SegmentId {
    /// The segment of a network that swarm's managers define.
    pub fn of_swarm_network(id: &NetworkId) -> Self {
        Self(format!("swarm:{id}"))
    }

    /// The segment that local-scope networks name with `works.weave.network`.
    pub fn of_name(name: &str) -> Self {
        Self(format!("name:{name}"))
    }

    /// The segment of the local-scope networks that have these subnets and name no other.
    pub fn of_subnets(subnets: impl IntoIterator<Item = ipnet::IpNet>) -> Self {
        let mut subnets: Vec<_> = subnets.into_iter().map(|s| s.trunc().to_string()).collect();
        subnets.sort();
        Self(format!("subnet:{}", subnets.join("+")))
    }

    /// The segment with this name, as another peer wrote it.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let known = ["swarm:", "name:", "subnet:"];
        if !known.iter().any(|kind| text.starts_with(kind)) {
            return Err(ParseError::new(
                "a segment name that begins with swarm:, name: or subnet:",
                text,
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether swarm's managers define it.
    pub fn is_swarm(&self) -> bool {
        self.0.starts_with("swarm:")
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A number made from the name: in the names of the segment's devices, and where the search
    /// for its VNI begins.
    pub fn tag(&self) -> u32 {
        let digest = Sha256::digest(self.0.as_bytes());
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that must not be shown: passwords and keys.
#[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes the text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Longest name of DNS, as text without the final dot (RFC 1035, section 2.3.4).
const MAX_DNS_NAME: usize = 253;

/// Longest label of such a name.
const MAX_DNS_LABEL: usize = 63;

/// A name of DNS: lower case, without the final dot, of letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DnsName(Box<str>);

impl DnsName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is this domain's name or lies below it.
    pub fn is_within(&self, domain: &Self) -> bool {
        let above = self.0.strip_suffix(&*domain.0);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }

    /// This name, which may have several labels, below a domain; `None` when that is too long.
    pub fn below(&self, domain: &Self) -> Option<Self> {
        format!("{self}.{domain}").parse().ok()
    }

    /// Its labels, the first one first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DnsName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let label = |label: &str| {
            (1..=MAX_DNS_LABEL).contains(&label.len())
                && label
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > MAX_DNS_NAME || !name.split('.').all(label) {
            return Err(ParseError::new(
                "a DNS name of labels of letters, digits, `-` and `_`, like `foo.weave.local`",
                text,
            ));
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0.into()
    }
}

impl TryFrom<String> for DnsName {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn peer_ids_are_bound_to_their_keys() {
        let one = PeerId::of_public_key(&[1; 32]);
        assert_ne!(one, PeerId::of_public_key(&[2; 32]));
        assert_eq!(one.to_string().parse(), Ok(one));
    }

    #[test]
    fn a_vni_has_24_bits_and_is_never_zero() {
        assert!(Vni::try_from(0).is_err());
        assert!(Vni::try_from(Vni::MAX + 1).is_err());
        assert_eq!("4097".parse::<Vni>().unwrap().get(), 4097);
    }

    #[test]
    fn docker_ids_with_slashes_are_refused() {
        assert!("../etc".parse::<NetworkId>().is_err());
        assert!("".parse::<EndpointId>().is_err());
        assert!("ob5a0kd8tmw1ml0rdmzvnxt7l".parse::<NetworkId>().is_ok());
    }

    #[test]
    fn a_segment_of_subnets_ignores_order_and_host_bits() {
        let one = SegmentId::of_subnets(["10.1.0.1/16", "fd00::1/64"].map(|s| s.parse().unwrap()));
        let two = SegmentId::of_subnets(["fd00::/64", "10.1.0.0/16"].map(|s| s.parse().unwrap()));
        assert_eq!(one, two);
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }

    proptest! {
        #[test]
        fn macs_survive_text(bytes: [u8; 6]) {
            let mac = Mac::new(bytes);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }

        #[test]
        fn peer_ids_and_macs_survive_documents_and_the_wire(id: [u8; 16], mac: [u8; 6]) {
            let both = (PeerId::from_bytes(id), Mac::new(mac));
            let document = serde_json::to_string(&both).unwrap();
            prop_assert_eq!(serde_json::from_str::<(PeerId, Mac)>(&document).unwrap(), both);
            let wire = postcard::to_allocvec(&both).unwrap();
            prop_assert_eq!(wire.len(), 22);
            prop_assert_eq!(postcard::from_bytes::<(PeerId, Mac)>(&wire).unwrap(), both);
        }

        #[test]
        fn macs_made_from_addresses_are_unicast(ip: IpAddr) {
            prop_assert!(Mac::of_ip(ip).is_unicast());
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let _ = text.parse::<PeerId>();
            let _ = text.parse::<Mac>();
            let _ = text.parse::<Vni>();
            let _ = text.parse::<NetworkId>();
        }
    }

    #[test]
    fn dns_names_are_lower_case_and_know_their_domain() {
        let name = |text: &str| text.parse::<DnsName>();
        let domain = name("Weave.Local.").unwrap();
        assert_eq!(domain.as_str(), "weave.local");
        assert_eq!(
            name("a_b.sub").unwrap().below(&domain).unwrap().to_string(),
            "a_b.sub.weave.local"
        );
        for (text, inside) in [
            ("weave.local", true),
            ("FOO.weave.LOCAL", true),
            ("fooweave.local", false),
            ("local", false),
        ] {
            assert_eq!(name(text).unwrap().is_within(&domain), inside, "{text}");
        }
        let long = "x".repeat(64);
        for text in ["", ".", "a..b", ".a", "a b", "a/b", "\u{e4}", &long] {
            assert!(name(text).is_err(), "{text:?}");
        }
    }
}
