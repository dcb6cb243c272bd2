//! Twenty meshes, each on a host of its own: a network namespace with a port of one bridge.
//!
//! Needs root and the `ip` command; says so and does nothing without.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tokio::runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::timeout;
use weave_net::mesh::{Mesh, MeshConfig, MeshEvent};
use weave_net::types::PeerId;

const HOSTS: usize = 20;
const LAUNCHES: usize = 10;

/// Work for the thread that lives in a namespace.
type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which ends with it.
struct Host {
    jobs: mpsc::Sender<Job>,
    thread_id: i32,
}

impl Host {
    fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, thread_id) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            queue.iter().for_each(|job| job());
        });
        let thread_id = thread_id.recv().unwrap();
        Self { jobs, thread_id }
    }

    fn ip(&self, command: &str) {
        let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
        let (done, result) = mpsc::channel();
        let job = move || {
            done.send(Command::new("ip").args(words).status().unwrap())
                .unwrap()
        };
        self.jobs.send(Box::new(job)).unwrap();
        assert!(result.recv().unwrap().success(), "ip {command}");
    }

    /// A mesh on this host that lives until it is killed.
    fn launch(&self, config: MeshConfig) -> mpsc::Receiver<Launched> {
        let (launched, handle) = mpsc::channel();
        let job = move || {
            let daemon = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let (kill, killed) = oneshot::channel();
            let (dead, death) = mpsc::channel();
            daemon.block_on(async {
                let mesh = Mesh::start(config, None).await;
                launched.send(Launched { mesh, kill, death }).unwrap();
                let _ = killed.await;
            });
            // As the kernel does it for a process: all sockets are closed, nothing is said.
            daemon.shutdown_timeout(Duration::from_secs(1));
            let _ = dead.send(());
        };
        self.jobs.send(Box::new(job)).unwrap();
        handle
    }
}

struct Launched {
    mesh: Mesh,
    kill: oneshot::Sender<()>,
    death: mpsc::Receiver<()>,
}

impl Launched {
    fn kill(self) {
        self.kill.send(()).unwrap();
        self.death.recv().unwrap();
    }
}

struct Network {
    switch: Host,
    hosts: Vec<Host>,
}

impl Network {
    fn new() -> Self {
        let switch = Host::new();
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let host = |number| {
            let host = Host::new();
            let pid = host.thread_id;
            switch.ip(&format!(
                "link add v{number} type veth peer name eth0 netns {pid}"
            ));
            switch.ip(&format!("link set v{number} master br0 up"));
            host.ip("link set lo up");
            host.ip(&format!("address add {}/24 dev eth0", address(number)));
            host.ip("link set eth0 up");
            host
        };
        let hosts = (0..HOSTS).map(host).collect();
        Self { switch, hosts }
    }

    /// Starts a mesh on each host; each is told of one other.
    fn launch(&self, told_of: impl Fn(usize) -> usize) -> Vec<Launched> {
        let config = |number: usize| MeshConfig {
            nickname: format!("host{number}"),
            targets: vec![(
                "settings".to_owned(),
                vec![address(told_of(number)).to_string()],
            )],
            ..MeshConfig::default()
        };
        let launches = self.hosts.iter().enumerate();
        let launches: Vec<_> = launches.map(|(n, host)| host.launch(config(n))).collect();
        launches
            .into_iter()
            .map(|launch| launch.recv().unwrap())
            .collect()
    }
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number as u8 + 1)
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root to make network namespaces");
    }
    root
}

/// How many of the others a mesh has a session with.
async fn neighbours(mesh: &Mesh) -> usize {
    let status = mesh.status().await.unwrap();
    let peers = status.peers.iter();
    peers
        .filter(|peer| peer.id != status.id && peer.via == Some(peer.id))
        .count()
}

async fn fully_connected(meshes: &[Launched], begin: Instant) -> Duration {
    for launched in meshes {
        loop {
            let count = neighbours(&launched.mesh).await;
            if count == HOSTS - 1 {
                break;
            }
            let elapsed = begin.elapsed();
            assert!(
                elapsed < Duration::from_secs(60),
                "{count} neighbours after {elapsed:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    begin.elapsed()
}

async fn lost_by_all(
    events: Vec<UnboundedReceiver<MeshEvent>>,
    peer: PeerId,
    begin: Instant,
) -> Duration {
    let lost = MeshEvent::Unreachable { peer };
    for mut events in events {
        let search = async { while events.recv().await.unwrap() != lost {} };
        timeout(Duration::from_secs(60), search).await.unwrap();
    }
    begin.elapsed()
}

#[tokio::test]
async fn twenty_hosts_find_each_other_and_notice_who_is_gone() {
    if !is_root() {
        return;
    }
    let network = Network::new();
    let star = |number: usize| if number == 0 { 1 } else { 0 };
    let chain = |number: usize| if number == 0 { 1 } else { number - 1 };
    let mut times = Vec::new();
    for launch in 0..LAUNCHES {
        let begin = Instant::now();
        let meshes = if launch % 2 == 0 {
            network.launch(star)
        } else {
            network.launch(chain)
        };
        times.push(fully_connected(&meshes, begin).await);
        if launch + 1 < LAUNCHES {
            meshes.into_iter().for_each(Launched::kill);
            continue;
        }
        let killed = notice_a_killed_peer(meshes).await;
        let meshes = network_again(&network, star).await;
        let cut = notice_a_cut_link(&network, &meshes).await;
        println!("fully connected: {times:?}; killed: {killed:?}; cut: {cut:?}");
        assert!(
            times.iter().all(|time| *time < Duration::from_secs(5)),
            "{times:?}"
        );
        assert!(killed < Duration::from_secs(1), "{killed:?}");
        assert!(cut < Duration::from_secs(5), "{cut:?}");
        meshes.into_iter().for_each(Launched::kill);
    }
}

async fn network_again(network: &Network, told_of: impl Fn(usize) -> usize) -> Vec<Launched> {
    let meshes = network.launch(told_of);
    fully_connected(&meshes, Instant::now()).await;
    meshes
}

async fn notice_a_killed_peer(mut meshes: Vec<Launched>) -> Duration {
    let victim = meshes.pop().unwrap();
    let events = meshes
        .iter()
        .map(|launched| launched.mesh.subscribe())
        .collect();
    let peer = victim.mesh.id();
    let begin = Instant::now();
    victim.kill();
    let time = lost_by_all(events, peer, begin).await;
    meshes.into_iter().for_each(Launched::kill);
    time
}

async fn notice_a_cut_link(network: &Network, meshes: &[Launched]) -> Duration {
    let victim = HOSTS / 2;
    let others = meshes
        .iter()
        .enumerate()
        .filter(|(number, _)| *number != victim);
    let events = others
        .map(|(_, launched)| launched.mesh.subscribe())
        .collect();
    let begin = Instant::now();
    network.switch.ip(&format!("link set v{victim} nomaster"));
    lost_by_all(events, meshes[victim].mesh.id(), begin).await
}
