//! The domain with its devices in memory, and an allocator that is alone.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::datapath::memory::MemoryDatapath;
use crate::ipam::{self, Init, Ipam, MeshCommand};
use crate::mesh::MeshEvent;
use crate::network::{self, Networks, Policy, Stores};
use crate::store::Store;
use crate::types::PeerId;

/// Holds the state of [`Networks`] whose devices are in memory.
pub(in crate::docker) struct NetworksTwin {
    _dir: tempfile::TempDir,
}

impl NetworksTwin {
    pub(in crate::docker) fn start() -> (Networks, Self) {
        let dir = tempfile::tempdir().unwrap();
        let config = network::Config {
            id: PeerId::from_bytes([1; 16]),
            nickname: "host1".to_owned(),
            policy: Policy {
                encrypt: false,
                trusts: false,
            },
            mtu: None,
            multicast: false,
        };
        let stores = Stores {
            durable: Store::at(dir.path().join("lib")),
            runtime: Store::at(dir.path().join("run")),
        };
        let (_, events) = mpsc::unbounded_channel();
        let datapath = Arc::new(MemoryDatapath::default());
        let networks = Networks::start(config, 1500, datapath, stores, events, |_, _| {});
        (networks, Self { _dir: dir })
    }
}

/// Holds the state of an [`Ipam`] that is alone in its mesh.
pub(in crate::docker) struct IpamTwin {
    _dir: tempfile::TempDir,
    _mesh: mpsc::UnboundedReceiver<MeshCommand>,
    _events: mpsc::Sender<MeshEvent>,
}

impl IpamTwin {
    pub(in crate::docker) fn start() -> (Ipam, Self) {
        let dir = tempfile::tempdir().unwrap();
        let config = ipam::Config {
            me: PeerId::from_bytes([1; 16]),
            nickname: "host1".to_owned(),
            range: "10.32.0.0/12".parse().unwrap(),
            default_subnet: "10.32.0.0/12".parse().unwrap(),
            init: Init::Consensus { expected: 1 },
            takeover_after: None,
        };
        let (commands, mesh) = mpsc::unbounded_channel();
        let (events, of_mesh) = mpsc::channel(1);
        let ipam = Ipam::start(config, dir.path(), commands, of_mesh).unwrap();
        let twin = Self {
            _dir: dir,
            _mesh: mesh,
            _events: events,
        };
        (ipam, twin)
    }
}
