//! What is asked of the allocator: pools and addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rand::RngExt;

use super::allocator::Core;
use super::joining::ballots;
use super::pools::{Carving, DEFAULT_NETWORK, Handle, NAME_OPTION, subnet_v6};
use super::range::{Range, address, number};
use super::space::Holder;
use super::state::{Entry, Place};
use super::waiting::{Answer, Wish, answer};
use super::{
    AddressRequest, AddressSpace, InUse, Init, IpamError, Pool, PoolId, PoolRequest, Request,
    Response,
};
use crate::types::PeerId;

/// When Docker asks again for the pool of the same name this soon, without having given it back,
/// the pool collides with a network of the host, and it would ask for ever.
const COLLIDES: Duration = Duration::from_secs(2);

/// For how long after its pool a network may be in the making, should another driver make it.
const MAKING: Duration = Duration::from_secs(2);

/// Names that belong to this daemon itself rather than to a container.
const OWN_NAMES: &str = "weave:";

impl Core {
    pub(super) fn request(&mut self, id: u64, what: Request) {
        let answer = match what {
            Request::Pool(request) => self.request_pool(&request).map(Response::Pool),
            Request::ReleasePool(pool) => self.release_pool(&pool),
            Request::Address(request) => return self.request_address(id, &request),
            Request::ReleaseAddress(pool, address) => self.release_address(&pool, address),
            Request::Allocate { container, subnet } => return self.allocate(id, container, subnet),
            Request::Claim {
                container,
                address,
                running,
            } => return self.claim(id, container, address, running),
            Request::Lookup { container } => Ok(Response::Addresses(self.lookup(&container))),
            Request::Release { container, address } => self.release(&container, address),
            Request::NetworkMade(subnets) => {
                subnets.iter().for_each(|subnet| {
                    self.being_made.remove(&subnet.trunc());
                });
                Ok(Response::Done)
            }
            Request::Retain(in_use) => self.retain(&in_use),
            Request::Init(init) => self.init(init),
            Request::Identity(me) => {
                self.become_another(me);
                Ok(Response::Done)
            }
            Request::RemovePeer(peer) => return self.remove_peer(id, peer),
            Request::Reset => return self.reset(id),
            Request::Prime => return self.wish(id, Wish::Ready),
            Request::Status => Ok(Response::Status(Box::new(self.status()))),
        };
        self.reply(id, answer);
    }

    fn request_pool(&mut self, request: &PoolRequest) -> Result<Pool, IpamError> {
        let subnet = match request.subnet {
            Some(subnet) => self.given_subnet(subnet)?,
            None if request.range.is_some() => {
                return Err(IpamError::Invalid("--ip-range needs --subnet".to_owned()));
            }
            None => self.chosen_subnet(request)?,
        };
        let handle = Handle::new(request.space, subnet, request.range)?;
        // The swarm's managers reserve what is auxiliary in their networks themselves.
        if request.space == AddressSpace::Local && !self.is_of_swarm(subnet.network()) {
            self.being_made.insert(subnet, self.now);
        }
        if request.space == AddressSpace::Global {
            self.note_swarm_pool(subnet);
        }
        // An address that no interface can have: so it uses none up, and lies in the subnet as
        // newer Engines demand.
        let gateway = IpNet::new(subnet.network(), subnet.prefix_len()).ok();
        Ok(Pool {
            id: handle.id(),
            subnet,
            gateway,
        })
    }

    fn note_swarm_pool(&mut self, subnet: IpNet) {
        if !self.state.swarm_pools.contains(&subnet) {
            self.persist(Entry::SwarmPool(subnet, true));
            self.dirty = true;
        }
    }

    fn given_subnet(&self, subnet: IpNet) -> Result<IpNet, IpamError> {
        let (subnet, range) = (subnet.trunc(), self.state.range);
        if subnet != range && subnet.contains(&range) {
            return Err(IpamError::Invalid(format!(
                "subnet {subnet} contains the range {range} that networks without --subnet get \
                 their addresses from: choose a smaller one, or change IPALLOC_RANGE"
            )));
        }
        Ok(subnet)
    }

    fn chosen_subnet(&mut self, request: &PoolRequest) -> Result<IpNet, IpamError> {
        let name = request.options.get(NAME_OPTION).filter(|n| !n.is_empty());
        let Some(name) = name else {
            return self.fresh_subnet(request.v6);
        };
        let asked = (name.clone(), request.v6);
        let (before, now) = (self.named_at.insert(asked, self.now), self.now);
        let subnet = self.named_subnet(name, request.v6);
        if request.space == AddressSpace::Local
            && before.is_some_and(|before| now < before + COLLIDES)
        {
            return Err(IpamError::Invalid(format!(
                "the pool {subnet} of network {name} collides with a network of this host: give \
                 one with --subnet"
            )));
        }
        if !request.v6 && name != DEFAULT_NETWORK && self.state.names.get(name) != Some(&subnet) {
            self.persist(Entry::Name(name.clone(), Some(subnet)));
            self.dirty = true;
        }
        Ok(subnet)
    }

    fn named_subnet(&self, name: &String, v6: bool) -> IpNet {
        if v6 {
            return subnet_v6(name);
        }
        if name == DEFAULT_NETWORK {
            return self.config.default_subnet.trunc();
        }
        let own = self.state.names.get(name);
        let known = own.or_else(|| self.members().find_map(|(_, part)| part.names.get(name)));
        if let Some(known) = known.filter(|known| self.state.range.contains(*known)) {
            return *known;
        }
        let taken = self.subnets_taken();
        let carving = Carving::of(self.state.range);
        let start = carving.start(name);
        (0..carving.count())
            .map(|step| carving.get(start.wrapping_add(step)))
            .find(|subnet| !taken.contains(subnet))
            .unwrap_or_else(|| carving.get(start))
    }

    fn subnets_taken(&self) -> BTreeSet<IpNet> {
        let named = self.members().flat_map(|(_, part)| part.names.values());
        let own = self.state.names.values().chain(&self.state.fresh);
        let default = &self.config.default_subnet;
        named.chain(own).chain([default]).copied().collect()
    }

    fn fresh_subnet(&mut self, v6: bool) -> Result<IpNet, IpamError> {
        if v6 {
            let name: u128 = self.rng.random();
            return Ok(subnet_v6(&format!("fresh {name:x}")));
        }
        let taken = self.subnets_taken();
        let carving = Carving::of(self.state.range);
        let cursor = match self.state.fresh_cursor {
            // Hosts that begin at different places rarely choose the same.
            0 => self.rng.random_range(0..carving.count()),
            cursor => cursor,
        };
        let free = (0..carving.count())
            .map(|step| cursor.wrapping_add(step))
            .find(|index| !taken.contains(&carving.get(*index)));
        let Some(index) = free else {
            return Err(IpamError::Exhausted {
                pool: self.state.range.to_string(),
                reason: format!("all {} subnets are given to networks", carving.count()),
            });
        };
        let subnet = carving.get(index);
        self.persist(Entry::Fresh(subnet, index.wrapping_add(1)));
        Ok(subnet)
    }

    fn release_pool(&mut self, pool: &PoolId) -> Answer {
        let Ok(handle) = pool.0.parse::<Handle>() else {
            return Ok(Response::Done);
        };
        let subnet = handle.subnet;
        if handle.space == AddressSpace::Global && self.state.swarm_pools.contains(&subnet) {
            self.persist(Entry::SwarmPool(subnet, false));
            self.dirty = true;
        }
        if self.state.fresh.contains(&subnet) {
            self.persist(Entry::FreshBack(subnet));
        }
        let name = self.state.names.iter().find(|(_, pool)| **pool == subnet);
        if let Some(name) = name.map(|(name, _)| name.clone()) {
            self.persist(Entry::Name(name, None));
            self.dirty = true;
        }
        let range = self.state.range;
        let default = self.config.default_subnet;
        self.named_at.retain(|(name, v6), _| {
            let given = match (v6, name.as_str()) {
                (true, _) => subnet_v6(name),
                (false, DEFAULT_NETWORK) => default,
                (false, _) => return !range.contains(&subnet),
            };
            given != subnet
        });
        Ok(Response::Done)
    }

    fn request_address(&mut self, id: u64, request: &AddressRequest) {
        let handle: Handle = match request.pool.0.parse() {
            Ok(handle) => handle,
            Err(error) => return self.reply(id, Err(error)),
        };
        let (subnet, prefix) = (handle.subnet, handle.subnet.prefix_len());
        let universe = self.state.universe(&subnet);
        let holder = Holder::Docker(handle.space);
        if handle.space == AddressSpace::Global {
            // Asked for the pool again only when it starts, the manager may have one not known here.
            self.note_swarm_pool(subnet);
        }
        let made = self.being_made.get(&subnet);
        let auxiliary = handle.space == AddressSpace::Local
            && request.address.is_some()
            && made.is_some_and(|at| self.now < *at + MAKING);
        match request.address {
            _ if request.gateway || auxiliary => {
                let answer = self.request_gateway(&handle, request.address);
                self.reply(id, answer);
            }
            Some(address) if subnet.contains(&address) => self.wish(
                id,
                Wish::Exact {
                    place: (universe, number(address)),
                    holder,
                    prefix,
                    running: handle.space == AddressSpace::Global,
                },
            ),
            Some(address) => {
                let error = format!("address {address} does not lie in the subnet {subnet}");
                self.reply(id, Err(IpamError::Invalid(error)));
            }
            None => self.wish(
                id,
                Wish::Any {
                    universe,
                    hosts: handle.hosts(),
                    holder,
                    prefix,
                },
            ),
        }
    }

    /// Gateways and auxiliary addresses are the same on all hosts and belong to none; no container
    /// gets one.
    fn request_gateway(&mut self, handle: &Handle, address: Option<IpAddr>) -> Answer {
        let subnet = handle.subnet;
        let pretended = address.is_none_or(|a| a.is_unspecified() || a == subnet.network());
        let address = address.unwrap_or(subnet.network());
        if !pretended {
            if !subnet.contains(&address) {
                return Err(IpamError::Invalid(format!(
                    "address {address} does not lie in the subnet {subnet}"
                )));
            }
            let place = self.state.place(&subnet, address);
            let mut holders = self.state.holders(&place).iter();
            if let Some(holder) = holders.find(|holder| **holder != Holder::Gateway) {
                let holder = format!("{holder} on this host");
                return Err(IpamError::InUse { address, holder });
            }
            if !self.state.gateways.contains(&(place, handle.space)) {
                self.persist(Entry::Gateway(place, handle.space, true));
                self.dirty = true;
            }
        }
        answer(address, subnet.prefix_len())
    }

    fn release_address(&mut self, pool: &PoolId, address: IpAddr) -> Answer {
        let Ok(handle) = pool.0.parse::<Handle>() else {
            return Ok(Response::Done);
        };
        let place = self.state.place(&handle.subnet, address);
        if let Some(released) = &mut self.released {
            released.insert(place);
        }
        if self.state.gateways.contains(&(place, handle.space)) {
            self.persist(Entry::Gateway(place, handle.space, false));
            self.dirty = true;
            return Ok(Response::Done);
        }
        if handle.space == AddressSpace::Local && self.state.borrowed.contains(&place) {
            self.persist(Entry::Return(place));
        }
        let holder = Holder::Docker(handle.space);
        self.release_holder(place, &holder);
        Ok(Response::Done)
    }

    fn release_holder(&mut self, place: Place, holder: &Holder) {
        self.before_start.remove(&place);
        if self.state.holders(&place).contains(holder) {
            let held = self.state.held.contains_key(&place);
            self.persist(Entry::Release(place, holder.clone()));
            // Owned addresses come and go without the other peers being told.
            self.dirty |= held || !self.pending.is_empty();
        }
    }

    fn allocate(&mut self, id: u64, container: String, subnet: Option<IpNet>) {
        let subnet = subnet.unwrap_or(self.config.default_subnet).trunc();
        let universe = self.state.universe(&subnet);
        let has = self.lookup(&container);
        if let Some(address) = has.iter().find(|address| subnet.contains(&address.addr())) {
            return self.reply(id, Ok(Response::Address(*address)));
        }
        if let Err(error) = self.given_subnet(subnet) {
            return self.reply(id, Err(error));
        }
        let prefix = subnet.prefix_len();
        self.wish(
            id,
            Wish::Any {
                universe,
                hosts: Range::of_hosts(&subnet),
                holder: Holder::Container(container, prefix),
                prefix,
            },
        );
    }

    fn claim(&mut self, id: u64, container: String, address: IpNet, running: bool) {
        let prefix = address.prefix_len();
        let holder = Holder::Container(container, prefix);
        let inside = self.state.range.contains(&address.addr());
        let universe = if inside {
            self.state.range
        } else {
            address.trunc()
        };
        let place = (universe, number(address.addr()));
        if !inside && !self.state.spaces.contains_key(&universe) {
            // Nobody here allocates from that subnet: no reason to wait for anyone. Should others,
            // they are told.
            if !self.state.holders(&place).contains(&holder) {
                self.persist(Entry::Hold(place, holder));
                self.dirty = true;
            }
            return self.reply(id, Ok(Response::Address(address)));
        }
        self.wish(
            id,
            Wish::Exact {
                place,
                holder,
                prefix,
                running,
            },
        );
    }

    fn lookup(&self, container: &str) -> Vec<IpNet> {
        let mut found = Vec::new();
        for ((universe, n), holders) in self.state.in_use() {
            for holder in holders {
                if let Holder::Container(name, prefix) = holder
                    && name == container
                    && let Ok(net) = IpNet::new(address(&universe, n), *prefix)
                {
                    found.push(net);
                }
            }
        }
        found
    }

    fn release(&mut self, container: &str, only: Option<IpAddr>) -> Answer {
        for net in self.lookup(container) {
            if only.is_none_or(|only| only == net.addr()) {
                let universe = if self.state.range.contains(&net.addr()) {
                    self.state.range
                } else {
                    net.trunc()
                };
                let holder = Holder::Container(container.to_owned(), net.prefix_len());
                self.release_holder((universe, number(net.addr())), &holder);
            }
        }
        Ok(Response::Done)
    }

    /// Frees what was in use before the daemon started and is not any more, and holds what is in
    /// use and was not known.
    fn retain(&mut self, in_use: &InUse) -> Answer {
        let state = &self.state;
        let places = |pairs: &BTreeSet<(IpNet, IpAddr)>| -> BTreeSet<Place> {
            let pairs = pairs.iter();
            pairs
                .map(|(net, address)| state.place(net, *address))
                .collect()
        };
        let (local, global) = (places(&in_use.local), places(&in_use.global));
        let services = places(&in_use.services);
        for place in std::mem::take(&mut self.before_start) {
            for holder in self.state.holders(&place).to_vec() {
                let gone = match &holder {
                    Holder::Docker(AddressSpace::Local) => {
                        !local.contains(&place) && !global.contains(&place)
                    }
                    Holder::Container(name, _) => {
                        !in_use.containers.contains(name) && !name.starts_with(OWN_NAMES)
                    }
                    Holder::Docker(AddressSpace::Global) | Holder::Gateway => false,
                };
                if gone {
                    self.release_holder(place, &holder);
                }
            }
        }
        let released = self.released.take().unwrap_or_default();
        let gone: Vec<Place> = self.state.borrowed.difference(&global).copied().collect();
        for place in gone {
            self.persist(Entry::Return(place));
        }
        for place in global.difference(&released) {
            if self.state.holders(place).is_empty() && !self.state.borrowed.contains(place) {
                self.persist(Entry::Borrow(*place));
            }
        }
        for (net, address, space) in &in_use.reserved {
            let reserved = (self.state.place(net, *address), *space);
            if !released.contains(&reserved.0) && !self.state.gateways.contains(&reserved) {
                self.persist(Entry::Gateway(reserved.0, reserved.1, true));
                self.dirty = true;
            }
        }
        for (found, space) in [
            (local, AddressSpace::Local),
            (services, AddressSpace::Global),
        ] {
            for place in found.difference(&released) {
                if self.state.holders(place).is_empty() {
                    self.persist(Entry::Hold(*place, Holder::Docker(space)));
                    self.dirty = true;
                }
            }
        }
        self.keep_pools(&in_use.pools);
        Ok(Response::Done)
    }

    /// Networks without a name have these of the subnets carved for them.
    fn keep_pools(&mut self, pools: &BTreeSet<IpNet>) {
        let carving = Carving::of(self.state.range);
        let taken = self.subnets_taken();
        for pool in pools.difference(&taken).filter(|pool| carving.has(pool)) {
            self.persist(Entry::Fresh(*pool, self.state.fresh_cursor));
        }
    }

    fn init(&mut self, init: Init) -> Answer {
        if self.config.init != init {
            self.config.init = init;
            self.birth.own = ballots(&self.config, &self.state);
            self.dirty = true;
        }
        Ok(Response::Done)
    }

    fn remove_peer(&mut self, id: u64, peer: PeerId) {
        if peer == self.config.me {
            let error = "this is this host's own name: to leave, run `weave reset`";
            return self.reply(id, Err(IpamError::Invalid(error.to_owned())));
        }
        if self.reachable.contains(&peer) {
            let error = format!(
                "peer {} can be reached: run `weave reset` there, or stop it first",
                peer.short()
            );
            return self.reply(id, Err(IpamError::Invalid(error)));
        }
        if self.view.of(peer).is_none() {
            return self.reply(id, Ok(Response::Done));
        }
        self.condemned.insert(peer);
        self.wish(id, Wish::Removal(peer));
    }

    /// Gives all space away, with what is in use.
    fn reset(&mut self, id: u64) {
        for (place, holders) in self.in_use_list() {
            for holder in holders {
                self.persist(Entry::Release(place, holder));
            }
        }
        let heir = self
            .members()
            .filter(|(peer, _)| self.reachable.contains(peer))
            .min_by_key(|(_, part)| {
                part.spaces
                    .values()
                    .map(|ranges| ranges.len())
                    .sum::<usize>()
            })
            .map(|(peer, part)| (peer, part.incarnation));
        if let Some((peer, incarnation)) = heir {
            self.give_everything(super::ring::Life { peer, incarnation });
        }
        self.wish(id, Wish::Departure);
    }

    fn in_use_list(&self) -> Vec<(Place, Vec<Holder>)> {
        let in_use = self.state.in_use();
        in_use.map(|(place, h)| (place, h.to_vec())).collect()
    }
}
