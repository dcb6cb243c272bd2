//! A datapath that may be missing: the daemon runs without one, and says why.

use std::net::IpAddr;

use super::{
    Datapath, DatapathError, Forwarding, HybridDatapath, Inventory, PortSpec, SegmentSpec,
};
use crate::types::{Mac, SegmentId};

/// The datapath, or why there is none.
#[derive(Debug)]
pub enum MaybeDatapath {
    /// It is there.
    Present(HybridDatapath),
    /// It could not be opened, for this reason.
    Absent(String),
}

impl MaybeDatapath {
    /// The datapath, if it is there.
    pub fn present(&self) -> Option<&HybridDatapath> {
        match self {
            Self::Present(datapath) => Some(datapath),
            Self::Absent(_) => None,
        }
    }

    fn get(&self) -> Result<&HybridDatapath, DatapathError> {
        match self {
            Self::Present(datapath) => Ok(datapath),
            Self::Absent(reason) => Err(DatapathError::Unsupported {
                what: "the datapath",
                reason: reason.clone(),
            }),
        }
    }
}

impl Datapath for MaybeDatapath {
    async fn inventory(&self) -> Result<Inventory, DatapathError> {
        self.get()?.inventory().await
    }

    async fn ensure_segment(&self, spec: &SegmentSpec) -> Result<(), DatapathError> {
        self.get()?.ensure_segment(spec).await
    }

    async fn remove_segment(&self, tag: u32) -> Result<(), DatapathError> {
        self.get()?.remove_segment(tag).await
    }

    async fn set_forwarding(
        &self,
        segment: &SegmentId,
        forwarding: &Forwarding,
    ) -> Result<(), DatapathError> {
        self.get()?.set_forwarding(segment, forwarding).await
    }

    async fn plug(&self, port: &PortSpec) -> Result<String, DatapathError> {
        self.get()?.plug(port).await
    }

    async fn unplug(&self, port: &str) -> Result<(), DatapathError> {
        self.get()?.unplug(port).await
    }

    async fn announce(
        &self,
        segment: &SegmentId,
        mac: Mac,
        addresses: &[IpAddr],
    ) -> Result<(), DatapathError> {
        self.get()?.announce(segment, mac, addresses).await
    }
}
