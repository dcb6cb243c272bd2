//! Why two peers do not get a session.

use std::fmt;

use thiserror::Error;

/// Why no session came about, for machines by its variant and for people by its text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(super) enum Refusal {
    /// Both sides have a password, and not the same.
    #[error("the passwords differ: set WEAVE_PASSWORD to the same on both hosts")]
    PasswordMismatch,
    /// Only the other side has a password.
    #[error("the other host has a password and this one has none: set WEAVE_PASSWORD here too")]
    PasswordMissingHere,
    /// Only this side has a password.
    #[error("this host has a password and the other one has none: set WEAVE_PASSWORD there too")]
    PasswordMissingThere,
    /// There is no protocol version that both sides speak.
    #[error(
        "this host speaks mesh protocol {ours} and the other one {theirs}: upgrade the older one"
    )]
    VersionMismatch {
        /// What this side speaks.
        ours: VersionRange,
        /// What the other side speaks.
        theirs: VersionRange,
    },
    /// The address is one of this peer itself.
    #[error("this address leads back to this host")]
    SelfConnection,
    /// What came is not what the protocol has at this point.
    #[error("the other side does not speak the mesh protocol: {0}")]
    ProtocolError(String),
}

impl Refusal {
    /// Whether it may be an attempt to guess the password or to wear the listener down.
    pub(super) fn is_suspect(&self) -> bool {
        !matches!(self, Self::SelfConnection | Self::VersionMismatch { .. })
    }

    pub(super) fn protocol(what: impl Into<String>) -> Self {
        Self::ProtocolError(what.into())
    }

    /// What goes over the wire.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::PasswordMismatch => 1,
            Self::PasswordMissingHere => 2,
            Self::PasswordMissingThere => 3,
            Self::SelfConnection => 4,
            Self::VersionMismatch { .. } | Self::ProtocolError(_) => 0,
        }
    }

    /// What the other side's reason is, seen from here.
    pub(super) fn of_their_code(code: Option<&u8>) -> Self {
        match code {
            Some(1) => Self::PasswordMismatch,
            Some(2) => Self::PasswordMissingThere,
            Some(3) => Self::PasswordMissingHere,
            Some(4) => Self::SelfConnection,
            _ => Self::protocol("it refused the session and did not say why"),
        }
    }
}

/// Protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VersionRange {
    /// The lowest.
    pub(super) min: u8,
    /// The highest.
    pub(super) max: u8,
}

impl VersionRange {
    /// The highest version in both ranges.
    pub(super) fn common(self, other: Self) -> Option<u8> {
        let version = self.max.min(other.max);
        (version >= self.min.max(other.min)).then_some(version)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "version {}", self.max)
        } else {
            write!(f, "versions {} to {}", self.min, self.max)
        }
    }
}
