//! The allocator behind its handle: Docker's sequences as they were recorded, restarts, a full
//! disk, and how fast it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::mpsc;
use weave_net::ipam::shell::MeshCommand;
use weave_net::ipam::{
    AddressRequest, AddressSpace, Config, InUse, Ipam, IpamError, PoolId, PoolRequest,
};
use weave_net::mesh::MeshEvent;
use weave_net::types::PeerId;

fn config() -> Config {
    let me = PeerId::from_bytes([1; 16]);
    Config::new(me, "host1", "10.32.0.0/12".parse().unwrap())
}

struct Host {
    ipam: Ipam,
    _events: mpsc::Sender<MeshEvent>,
    _mesh: mpsc::UnboundedReceiver<MeshCommand>,
}

fn start(dir: &Path, config: Config) -> Host {
    let (mesh, _mesh) = mpsc::unbounded_channel();
    let (_events, events) = mpsc::channel(16);
    let ipam = Ipam::start(config, dir, mesh, events).unwrap();
    Host {
        ipam,
        _events,
        _mesh,
    }
}

fn pool(space: AddressSpace, subnet: Option<&str>, name: Option<&str>) -> PoolRequest {
    let name = name.map(|name| ("works.weave.network".to_owned(), name.to_owned()));
    PoolRequest {
        space,
        subnet: subnet.map(|subnet| subnet.parse().unwrap()),
        range: None,
        options: name.into_iter().collect::<BTreeMap<_, _>>(),
        v6: false,
    }
}

fn address(pool: &PoolId, address: Option<&str>) -> AddressRequest {
    AddressRequest {
        pool: pool.clone(),
        address: address.map(|address| address.parse().unwrap()),
        gateway: false,
        serial: false,
        mac: None,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_local_network_with_subnet_gateway_and_aux_address() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), config());
    let ipam = &host.ipam;
    let mut request = pool(AddressSpace::Local, Some("10.6.0.0/16"), None);
    request.range = Some(net("10.6.4.0/24"));
    let pool = ipam.request_pool(request).await.unwrap();
    assert_eq!(pool.gateway, Some(net("10.6.0.0/16")));
    let mut gateway = address(&pool.id, Some("10.6.0.1"));
    gateway.gateway = true;
    let granted = ipam.request_address(gateway.clone()).await.unwrap();
    assert_eq!(granted, net("10.6.0.1/16"));
    assert_eq!(ipam.request_address(gateway).await.unwrap(), granted);
    // Another network of the same subnet and auxiliary address may be made on another host.
    for _ in 0..2 {
        let aux = ipam
            .request_address(address(&pool.id, Some("10.6.0.9")))
            .await;
        assert_eq!(aux.unwrap(), net("10.6.0.9/16"));
    }
    ipam.network_made(vec![pool.subnet]);
    let first = ipam.request_address(address(&pool.id, None)).await.unwrap();
    let second = ipam.request_address(address(&pool.id, None)).await.unwrap();
    assert_eq!((first, second), (net("10.6.4.0/16"), net("10.6.4.1/16")));
    let error = ipam
        .request_address(address(&pool.id, Some("10.6.0.9")))
        .await;
    assert!(matches!(error, Err(IpamError::InUse { .. })), "{error:?}");
    let error = ipam
        .request_address(address(&pool.id, Some("10.6.0.1")))
        .await;
    assert!(matches!(error, Err(IpamError::InUse { .. })), "{error:?}");
    for _ in 0..2 {
        ipam.release_address(pool.id.clone(), first.addr())
            .await
            .unwrap();
        ipam.release_address(pool.id.clone(), ip("0.0.0.0"))
            .await
            .unwrap();
        ipam.release_address(pool.id.clone(), ip("10.6.0.1"))
            .await
            .unwrap();
    }
    let third = ipam.request_address(address(&pool.id, None)).await.unwrap();
    assert_eq!(third, net("10.6.4.2/16"), "freed addresses come last");
    ipam.release_pool(pool.id).await.unwrap();
    ipam.release_pool(PoolId("test-10.77.0.0-16".to_owned()))
        .await
        .unwrap();
}

#[tokio::test]
async fn ipv6_subnets_are_allocated_from() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), config());
    let request = pool(AddressSpace::Local, Some("fd00:1::/64"), None);
    let pool = host.ipam.request_pool(request).await.unwrap();
    let granted = host.ipam.request_address(address(&pool.id, None)).await;
    assert_eq!(granted.unwrap(), net("fd00:1::1/64"));
}

#[tokio::test]
async fn a_swarm_manager_and_its_node_ask_for_the_same_addresses_and_release_them_twice() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), config());
    let ipam = &host.ipam;
    let request = pool(AddressSpace::Global, None, None);
    let global = ipam.request_pool(request).await.unwrap();
    let subnet = global.subnet.to_string();
    let task = ipam
        .request_address(address(&global.id, None))
        .await
        .unwrap();
    let chosen = task.addr().to_string();
    let local = pool(AddressSpace::Local, Some(&subnet), None);
    let local = ipam.request_pool(local).await.unwrap();
    assert_ne!(local.id, global.id);
    let mut gateway = address(&local.id, Some("0.0.0.0"));
    gateway.gateway = true;
    ipam.request_address(gateway).await.unwrap();
    ipam.network_made(vec![local.subnet]);
    for pool in [&local.id, &local.id, &global.id] {
        let again = ipam.request_address(address(pool, Some(&chosen))).await;
        assert_eq!(again.unwrap(), task, "{pool:?}");
    }
    for _ in 0..2 {
        ipam.release_address(local.id.clone(), task.addr())
            .await
            .unwrap();
        ipam.release_pool(local.id.clone()).await.unwrap();
    }
    let next = ipam
        .request_address(address(&global.id, None))
        .await
        .unwrap();
    assert_ne!(next, task, "the manager's own request still holds it");
    ipam.release_address(global.id.clone(), task.addr())
        .await
        .unwrap();
    // A manager that was restarted asks for everything again.
    drop(host);
    let host = start(dir.path(), config());
    let again = pool(AddressSpace::Global, Some(&subnet), None);
    assert_eq!(host.ipam.request_pool(again).await.unwrap(), global);
    let chosen = next.addr().to_string();
    let again = host
        .ipam
        .request_address(address(&global.id, Some(&chosen)))
        .await;
    assert_eq!(again.unwrap(), next);
}

#[tokio::test]
async fn docker_never_gets_the_same_pool_twice_while_it_keeps_asking() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), config());
    let mut seen = BTreeSet::new();
    let exhausted = loop {
        let request = pool(AddressSpace::Local, None, None);
        match host.ipam.request_pool(request).await {
            Ok(pool) => assert!(seen.insert(pool.id.0)),
            Err(error) => break error,
        }
    };
    assert_eq!(seen.len(), 256);
    assert!(
        matches!(exhausted, IpamError::Exhausted { .. }),
        "{exhausted}"
    );
    for id in seen {
        host.ipam.release_pool(PoolId(id)).await.unwrap();
    }
    let request = pool(AddressSpace::Local, None, Some("web"));
    let named = host.ipam.request_pool(request.clone()).await.unwrap();
    let again = host.ipam.request_pool(request.clone()).await;
    assert!(matches!(again, Err(IpamError::Invalid(_))), "{again:?}");
    host.ipam.release_pool(named.id.clone()).await.unwrap();
    assert_eq!(host.ipam.request_pool(request).await.unwrap(), named);
}

#[tokio::test]
async fn the_name_of_a_network_decides_its_pool_on_every_host() {
    let mut subnets = BTreeSet::new();
    for _ in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let host = start(dir.path(), config());
        let request = pool(AddressSpace::Local, None, Some("web"));
        subnets.insert(host.ipam.request_pool(request).await.unwrap().subnet);
        let request = pool(AddressSpace::Local, None, Some("weave"));
        let weave = host.ipam.request_pool(request).await.unwrap();
        assert_eq!(weave.subnet, config().default_subnet);
    }
    assert_eq!(subnets.len(), 1);
}

#[tokio::test]
async fn containers_keep_their_addresses_over_a_restart_and_the_dead_lose_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), config());
    let alive = host.ipam.allocate("alive".to_owned(), None).await.unwrap();
    let dead = host.ipam.allocate("dead".to_owned(), None).await.unwrap();
    let expose = host
        .ipam
        .allocate("weave:expose".to_owned(), None)
        .await
        .unwrap();
    drop(host);
    let host = start(dir.path(), config());
    assert_eq!(
        host.ipam.allocate("alive".to_owned(), None).await.unwrap(),
        alive
    );
    let new = host.ipam.allocate("new".to_owned(), None).await.unwrap();
    let in_use = InUse {
        containers: ["alive".to_owned()].into(),
        ..InUse::default()
    };
    host.ipam.retain(in_use).await.unwrap();
    let lookup = async |name: &str| host.ipam.lookup(name.to_owned()).await.unwrap();
    assert_eq!(lookup("alive").await, [alive]);
    assert_eq!(lookup("dead").await, []);
    assert_eq!(lookup("weave:expose").await, [expose]);
    assert_eq!(lookup("new").await, [new], "it came after the start");
    host.ipam
        .claim("other".to_owned(), dead, false)
        .await
        .unwrap();
    let error = host
        .ipam
        .claim("third".to_owned(), alive, true)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("container alive on this host"),
        "{error}"
    );
}

#[tokio::test]
async fn what_runs_has_its_addresses_although_the_state_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), config());
    let subnet = net("10.6.0.0/16");
    let request = pool(AddressSpace::Local, Some("10.6.0.0/16"), None);
    let pool = host.ipam.request_pool(request).await.unwrap();
    host.ipam.network_made(vec![subnet]);
    let stopped = ip("10.6.0.2");
    host.ipam
        .release_address(pool.id.clone(), stopped)
        .await
        .unwrap();
    let in_use = InUse {
        local: [(subnet, ip("10.6.0.1")), (subnet, stopped)].into(),
        ..InUse::default()
    };
    host.ipam.retain(in_use).await.unwrap();
    let next = host.ipam.request_address(address(&pool.id, None)).await;
    assert_eq!(next.unwrap(), net("10.6.0.2/16"), "not what runs");
    let taken = address(&pool.id, Some("10.6.0.1"));
    let error = host.ipam.request_address(taken).await.unwrap_err();
    assert!(matches!(error, IpamError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn a_changed_range_is_refused_while_addresses_are_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let other = Config::new(config().me, "host1", net("10.64.0.0/16"));
    let host = start(dir.path(), config());
    let address = host.ipam.allocate("web".to_owned(), None).await.unwrap();
    drop(host);
    let host = start(dir.path(), other.clone());
    let status = host.ipam.status().await.unwrap();
    assert_eq!(status.range, net("10.32.0.0/12"));
    assert!(status.conflicts[0].contains("IPALLOC_RANGE"), "{status:?}");
    host.ipam.release("web".to_owned(), None).await.unwrap();
    assert!(config().range.contains(&address));
    drop(host);
    let host = start(dir.path(), other);
    let address = host.ipam.allocate("web".to_owned(), None).await.unwrap();
    assert!(net("10.64.0.0/16").contains(&address.addr()));
}

/// Needs a file system of its own that can be filled: `IPAM_SMALL_DISK=DIR`, a tmpfs of 8 MB.
#[tokio::test]
#[ignore = "needs a small file system"]
async fn a_full_disk_refuses_changes_and_serves_what_is_known() {
    let dir = std::path::PathBuf::from(std::env::var("IPAM_SMALL_DISK").unwrap());
    let host = start(&dir, config());
    let first = host.ipam.allocate("first".to_owned(), None).await.unwrap();
    let filler = dir.join("filler");
    let _ = std::fs::write(&filler, vec![0; 64 << 20]);
    let mut granted = Vec::new();
    let error = loop {
        let name = format!("c{}", granted.len());
        match host.ipam.allocate(name, None).await {
            Ok(address) => granted.push(address),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, IpamError::Store(_)), "{error}");
    assert_eq!(host.ipam.lookup("first".to_owned()).await.unwrap(), [first]);
    assert_eq!(
        host.ipam.status().await.unwrap().state,
        "no space on the disk"
    );
    std::fs::remove_file(filler).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let after = loop {
        match host.ipam.allocate("after".to_owned(), None).await {
            Ok(address) => break address,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    assert!(!granted.contains(&after) && after != first);
}

/// `cargo test --release --test ipam_shell -- --ignored --nocapture speed`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a while and says nothing on a busy machine"]
async fn speed() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let host = start(dir.path(), config());
    let request = pool(AddressSpace::Local, None, Some("weave"));
    let pool = host.ipam.request_pool(request).await.unwrap();
    let measure = async |count: usize, clients: usize| {
        let begin = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let (ipam, pool) = (host.ipam.clone(), pool.id.clone());
                tokio::spawn(async move {
                    for _ in 0..count / clients {
                        ipam.request_address(address(&pool, None)).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        count as f64 / begin.elapsed().as_secs_f64()
    };
    println!("first 100: {:.0}/s", measure(100, 1).await);
    println!("8 clients, 100 owned: {:.0}/s", measure(20_000, 8).await);
    measure(80_000, 64).await;
    println!(
        "8 clients, 100,000 owned: {:.0}/s",
        measure(20_000, 8).await
    );
    println!("1 client: {:.0}/s", measure(2_000, 1).await);
}
