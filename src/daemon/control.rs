//! What operators tell the daemon.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Daemon;
use crate::config::PeerAddress;
use crate::control::{
    AddressCommand, AttachCommand, Control, ControlError, NameCommand, Part, Report, Switch,
    Targets, Warning,
};
use crate::dns::{Dns, DnsError};
use crate::ipam::IpamError;
use crate::store::StoreError;
use crate::types::PeerId;

impl Control for Daemon {
    async fn report(&self) -> Report {
        Self::report(self).await
    }

    async fn connect(&self, peers: Vec<PeerAddress>, replace: bool) -> Result<(), ControlError> {
        self.change_targets(move |targets, of_settings| {
            (targets.connect(peers, replace, of_settings), ())
        })
        .await
    }

    async fn addresses(&self, command: AddressCommand) -> Result<Vec<IpNet>, ControlError> {
        let ipam = &self.ipam;
        let done = |()| Vec::new();
        let answer = match command {
            AddressCommand::Allocate { container, subnet } => {
                ipam.allocate(container, subnet).await.map(|a| vec![a])
            }
            AddressCommand::Claim { container, address } => ipam
                .claim(container, address, false)
                .await
                .map(|()| vec![address]),
            AddressCommand::Lookup { container } => ipam.lookup(container).await,
            AddressCommand::Release { container, address } => {
                ipam.release(container, address).await.map(done)
            }
            AddressCommand::Remove { peer } => return self.remove_peer(&peer).await.map(done),
            AddressCommand::Prime => ipam.prime().await.map(done),
            AddressCommand::Reset => ipam.reset().await.map(done),
        };
        answer.map_err(refused)
    }

    async fn attachments(&self, mut command: AttachCommand) -> Result<Vec<IpNet>, ControlError> {
        if let AttachCommand::Expose {
            name: Some(name), ..
        } = &mut command
        {
            let within = self.dns()?.within(name);
            *name = within.map_err(|error| ControlError::Refused(error.to_string()))?;
        }
        self.attachments.command(command).await
    }

    async fn names(&self, command: NameCommand) -> Result<Vec<IpAddr>, ControlError> {
        let dns = self.dns()?;
        let done = |()| Vec::new();
        let answer = match command {
            NameCommand::Add(request) => dns.add(request).map(done),
            NameCommand::Remove(request) => dns.remove(request).map(done),
            NameCommand::Lookup { name } => Ok(dns.lookup(&name)),
        };
        answer.map_err(|error| match error {
            DnsError::Store(error) => ControlError::Store(error.to_string()),
            error => ControlError::Refused(error.to_string()),
        })
    }

    async fn switch(&self, part: Part, state: Switch) -> Result<(), ControlError> {
        let parts = std::sync::Arc::clone(&self.parts);
        let switched = tokio::task::spawn_blocking(move || parts.switch(part, state)).await;
        switched.map_err(|_| ControlError::Stopped)?
    }

    async fn forget(&self, peers: Vec<PeerAddress>) -> Result<Vec<PeerAddress>, ControlError> {
        self.change_targets(move |targets, of_settings| {
            let unknown = peers.iter().filter(|p| !targets.contains(p, of_settings));
            let unknown = unknown.cloned().collect();
            (targets.forget(peers, of_settings), unknown)
        })
        .await
    }
}

/// Where to connect to, by source.
pub(super) fn targets(
    of_commands: &Targets,
    of_settings: &[PeerAddress],
) -> Vec<(String, Vec<String>)> {
    let wanted = of_commands.wanted(of_settings).map(ToString::to_string);
    let added = of_commands.added().map(ToString::to_string);
    vec![
        ("settings".to_owned(), wanted.collect()),
        ("command".to_owned(), added.collect()),
    ]
}

fn refused(error: IpamError) -> ControlError {
    match error {
        IpamError::Stopped => ControlError::Stopped,
        error => ControlError::Refused(error.to_string()),
    }
}

impl Daemon {
    fn dns(&self) -> Result<&Dns, ControlError> {
        let reason = "names are not served: set WEAVE_DNS=true";
        let off = || ControlError::Refused(reason.to_owned());
        self.dns.as_ref().ok_or_else(off)
    }

    async fn remove_peer(&self, name: &str) -> Result<(), ControlError> {
        let peer = self.peer_called(name).await?;
        self.ipam.remove_peer(peer).await.map_err(refused)?;
        self.mesh.forget(peer);
        Ok(())
    }

    /// The one other peer with this nickname or identifier that is gone, among those that were
    /// connected and those that have addresses.
    async fn peer_called(&self, name: &str) -> Result<PeerId, ControlError> {
        let refuse = |reason| Err(ControlError::Refused(reason));
        let (mesh, ipam) = tokio::join!(self.mesh.status(), self.ipam.status());
        let of_mesh = mesh.into_iter().flat_map(|mesh| mesh.peers);
        let of_mesh = of_mesh.map(|peer| (peer.id, peer.nickname, peer.reachable));
        let spaces = ipam.into_iter().flat_map(|ipam| ipam.spaces);
        let of_ipam = spaces
            .flat_map(|space| space.peers)
            .map(|peer| (peer.peer, peer.nickname, peer.reachable));
        let called: BTreeSet<(PeerId, bool)> = of_mesh
            .chain(of_ipam)
            .filter(|(id, nickname, _)| {
                nickname == name || id.short() == name || id.to_string() == name
            })
            .map(|(id, _, reachable)| (id, reachable))
            .collect();
        let all: BTreeSet<PeerId> = called.iter().map(|(id, _)| *id).collect();
        // A host that was set up anew has the name of the one that is gone.
        let gone = all
            .iter()
            .copied()
            .filter(|id| !called.contains(&(*id, true)));
        let gone: BTreeSet<PeerId> = gone.collect();
        let peers = if gone.is_empty() { all } else { gone };
        let Some(peer) = peers.first().copied() else {
            return refuse(format!(
                "no peer is called {name}: `weave status ipam` shows those that have addresses"
            ));
        };
        if peers.len() > 1 {
            let ids: Vec<_> = peers.iter().map(PeerId::short).collect();
            let ids = ids.join(", ");
            return refuse(format!("{name} may be any of {ids}: name one of these"));
        }
        if peer == self.mesh.id() {
            return refuse(format!(
                "{name} is this host: `weave reset` hands its addresses over"
            ));
        }
        if called.contains(&(peer, true)) {
            return refuse(format!(
                "{name} can be reached: stop it first, or run `weave reset` there"
            ));
        }
        Ok(peer)
    }

    async fn change_targets<T: Send + 'static>(
        &self,
        change: impl FnOnce(Targets, &[PeerAddress]) -> (Targets, T) + Send + 'static,
    ) -> Result<T, ControlError> {
        let _one_at_a_time = self.targets.lock().await;
        let store = self.store.clone();
        let of_settings = self.settings.peers.clone();
        let write = move || -> Result<_, StoreError> {
            let (changed, told) = change(Targets::load(&store)?, &of_settings);
            changed.save(&store)?;
            Ok((targets(&changed, &of_settings), told))
        };
        let written = tokio::task::spawn_blocking(write).await;
        let (by_source, told) = written
            .map_err(|_| ControlError::Stopped)?
            .map_err(|error| ControlError::Store(error.to_string()))
            .inspect_err(|error| {
                let remedy = "free space or repair the file, then repeat the command";
                self.warnings
                    .set("targets", Warning::new(error.to_string(), remedy));
            })?;
        self.warnings.clear("targets");
        for (source, targets) in by_source {
            self.mesh.set_targets(source, targets);
        }
        Ok(told)
    }
}
