//! A datapath that only remembers what it was told: the twin of the kernel's for tests of the
//! floors above.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    Datapath, DatapathError, Forwarding, Inventory, PortSpec, SegmentSpec, host_name, port_name,
};
use crate::types::{Mac, SegmentId};

/// What a host's devices would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Segments, by tag.
    pub segments: BTreeMap<u32, SegmentSpec>,
    /// Where each segment's frames go.
    pub forwarding: BTreeMap<SegmentId, Forwarding>,
    /// Ports, by name.
    pub ports: BTreeMap<String, PortSpec>,
    /// What was announced, in order.
    pub announced: Vec<(SegmentId, Mac, Vec<IpAddr>)>,
}

/// The twin.
#[derive(Debug, Default)]
pub struct MemoryDatapath {
    devices: Mutex<Devices>,
}

impl MemoryDatapath {
    /// The devices, to look at and to change behind the daemon's back.
    pub fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Datapath for MemoryDatapath {
    async fn inventory(&self) -> Result<Inventory, DatapathError> {
        let devices = self.devices();
        let ports = devices.ports.iter();
        Ok(Inventory {
            segments: devices.segments.keys().copied().collect(),
            ports: ports
                .map(|(name, port)| (name.clone(), Some(port.segment.tag())))
                .collect(),
        })
    }

    async fn ensure_segment(&self, spec: &SegmentSpec) -> Result<(), DatapathError> {
        let mut devices = self.devices();
        devices.segments.insert(spec.id.tag(), spec.clone());
        Ok(())
    }

    async fn remove_segment(&self, tag: u32) -> Result<(), DatapathError> {
        let mut devices = self.devices();
        devices.segments.remove(&tag);
        devices.forwarding.retain(|segment, _| segment.tag() != tag);
        Ok(())
    }

    async fn set_forwarding(
        &self,
        segment: &SegmentId,
        forwarding: &Forwarding,
    ) -> Result<(), DatapathError> {
        let mut devices = self.devices();
        if !devices.segments.contains_key(&segment.tag()) {
            return Err(DatapathError::UnknownSegment(segment.clone()));
        }
        devices
            .forwarding
            .insert(segment.clone(), forwarding.clone());
        Ok(())
    }

    async fn plug(&self, port: &PortSpec) -> Result<String, DatapathError> {
        let mut devices = self.devices();
        if !devices.segments.contains_key(&port.segment.tag()) {
            return Err(DatapathError::UnknownSegment(port.segment.clone()));
        }
        devices
            .ports
            .insert(port_name(&port.endpoint), port.clone());
        Ok(host_name(&port.endpoint))
    }

    async fn unplug(&self, port: &str) -> Result<(), DatapathError> {
        self.devices().ports.remove(port);
        Ok(())
    }

    async fn announce(
        &self,
        segment: &SegmentId,
        mac: Mac,
        addresses: &[IpAddr],
    ) -> Result<(), DatapathError> {
        let announcement = (segment.clone(), mac, addresses.to_vec());
        self.devices().announced.push(announcement);
        Ok(())
    }
}
