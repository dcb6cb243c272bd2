//! A datapath that may be missing: the daemon runs without one, and says why.

use std::net::IpAddr;

use super::{
    Datapath, DatapathError, Forwarding, Inventory, KernelDatapath, PortSpec, SegmentSpec,
};
use crate::types::{Mac, SegmentId};

/// The kernel's datapath, or why there is none.
#[derive(Debug)]
pub enum MaybeDatapath {
    /// It is there.
    Kernel(KernelDatapath),
    /// It could not be opened, for this reason.
    Absent(String),
}

impl MaybeDatapath {
    fn kernel(&self) -> Result<&KernelDatapath, DatapathError> {
        match self {
            Self::Kernel(kernel) => Ok(kernel),
            Self::Absent(reason) => Err(DatapathError::Unsupported {
                what: "the datapath",
                reason: reason.clone(),
            }),
        }
    }
}

impl Datapath for MaybeDatapath {
    async fn inventory(&self) -> Result<Inventory, DatapathError> {
        self.kernel()?.inventory().await
    }

    async fn ensure_segment(&self, spec: &SegmentSpec) -> Result<(), DatapathError> {
        self.kernel()?.ensure_segment(spec).await
    }

    async fn remove_segment(&self, tag: u32) -> Result<(), DatapathError> {
        self.kernel()?.remove_segment(tag).await
    }

    async fn set_forwarding(
        &self,
        segment: &SegmentId,
        forwarding: &Forwarding,
    ) -> Result<(), DatapathError> {
        self.kernel()?.set_forwarding(segment, forwarding).await
    }

    async fn plug(&self, port: &PortSpec) -> Result<String, DatapathError> {
        self.kernel()?.plug(port).await
    }

    async fn unplug(&self, port: &str) -> Result<(), DatapathError> {
        self.kernel()?.unplug(port).await
    }

    async fn announce(
        &self,
        segment: &SegmentId,
        mac: Mac,
        addresses: &[IpAddr],
    ) -> Result<(), DatapathError> {
        self.kernel()?.announce(segment, mac, addresses).await
    }
}
