use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::dns::{Binding, Dns, DnsConfig, LocalContainer};
use crate::docker::engine::Container;
use crate::docker::engine::tests::FakeEngine;
use crate::network::Joined;
use crate::store::Store;

const LIST: &str = r#"[
    {"Id":"c1c1c1","Names":["/shop"],"NetworkSettings":{"Networks":{
        "web":{"EndpointID":"e1","IPAddress":"10.1.0.2","GlobalIPv6Address":"fd00::2"},
        "bridge":{"EndpointID":"e9","IPAddress":"172.17.0.2"}}}},
    {"Id":"d2d2d2","Names":["/plain"],"NetworkSettings":{"Networks":{
        "bridge":{"EndpointID":"e8","IPAddress":"172.17.0.3"}}}}]"#;
const DETAIL: &str = r#"{"Id":"c1c1c1","Config":{"Hostname":"foo.weave.local"},
    "NetworkSettings":{"Networks":{
        "web":{"EndpointID":"e1","Aliases":["c1c1","Store","x.weave.local"]},
        "bridge":{"EndpointID":"e9","Aliases":["other"]}}}}"#;
const BRIDGE: &str = r#"{"Id":"b","Containers":{
    "c1c1c1":{"IPv4Address":"172.18.0.2/16","IPv6Address":""}}}"#;

fn joined() -> JoinedEndpoints {
    let endpoint = Joined {
        network: "n1".parse().unwrap(),
        segment: SegmentId::of_name("web"),
        sandbox: PathBuf::new(),
    };
    [("e1".parse().unwrap(), endpoint)].into()
}

fn all() -> ContainerChanges {
    let all: Vec<Arc<Container>> = serde_json::from_str(LIST).unwrap();
    all.into_iter().map(|c| (c.id.clone(), Some(c))).collect()
}

fn names_of(joined: &JoinedEndpoints, attached: &AttachedEndpoints) -> Names {
    let mut names = Names::new("weave.local".parse().unwrap());
    names.handle_joined(joined);
    names.handle_attached(attached);
    names.handle_containers(all());
    names
}

/// Asks all that there is to be asked.
async fn learn(names: &mut Names) {
    let fake = engine();
    while let Some(question) = names.poll_question(&BTreeSet::new()) {
        if let Some(answer) = ask(&fake.engine(), &question).await.unwrap() {
            names.handle_answer(&question, answer);
        }
    }
}

/// What is told, each change on top of what was told before.
fn told(names: &mut Names, known: &mut BTreeMap<String, LocalContainer>) {
    for (id, container) in names.poll_changes() {
        match container {
            Some(container) => drop(known.insert(id, container)),
            None => drop(known.remove(&id)),
        }
    }
}

/// Who asks from where, with the segments that they are on.
fn askers(known: &BTreeMap<String, LocalContainer>) -> BTreeMap<IpAddr, BTreeSet<SegmentId>> {
    let all = known.values();
    let all = all.flat_map(|c| c.asks_from.iter().map(|a| (*a, c.segments.clone())));
    all.collect()
}

fn engine() -> FakeEngine {
    FakeEngine::start(
        Some("1.41"),
        [
            ("/containers/c1c1c1/json", DETAIL),
            ("/networks/docker_gwbridge", BRIDGE),
        ],
    )
}

fn shown(binding: &Binding) -> Vec<&str> {
    binding.names.iter().map(DnsName::as_str).collect()
}

/// The Engine tells of a container that has ended as well.
#[tokio::test]
async fn an_answer_that_comes_after_its_containers_end_leaves_nothing() {
    let mut names = names_of(&joined(), &AttachedEndpoints::new());
    let question = Question::Container("c1c1c1".to_owned());
    names.poll_changes();
    while names.poll_question(&BTreeSet::new()).is_some() {}
    let answer = ask(&engine().engine(), &question).await.unwrap().unwrap();
    names.handle_containers([("c1c1c1".to_owned(), None)].into());
    names.poll_changes();
    names.handle_answer(&question, answer);
    assert!(names.poll_changes().is_empty());
    assert_eq!(names.poll_question(&BTreeSet::new()), None);
}

#[tokio::test]
async fn containers_are_called_by_name_hostname_and_aliases_on_our_networks() {
    let mut names = names_of(&joined(), &AttachedEndpoints::new());
    let mut known = BTreeMap::new();
    told(&mut names, &mut known);
    assert_eq!(known["c1c1c1"].bindings[0].names.len(), 1);
    learn(&mut names).await;
    told(&mut names, &mut known);
    let [binding] = &known["c1c1c1"].bindings[..] else {
        panic!("{known:?}");
    };
    let expected = ["foo", "shop", "store", "x"].map(|n| format!("{n}.weave.local"));
    assert_eq!(shown(binding), expected);
    assert_eq!(binding.addresses.len(), 2);
    assert!(known["d2d2d2"].bindings.is_empty());
    let web = [SegmentId::of_name("web")];
    let askers = askers(&known);
    for (address, segments) in [
        ("10.1.0.2", &web[..]),
        ("172.17.0.2", &web[..]),
        ("172.18.0.2", &web[..]),
        ("172.17.0.3", &[]),
    ] {
        let address: IpAddr = address.parse().unwrap();
        let expected = segments.iter().cloned().collect();
        assert_eq!(askers.get(&address), Some(&expected), "{address}");
    }
}

#[tokio::test]
async fn what_was_attached_beside_docker_is_called_as_its_container_or_as_was_asked() {
    let mut names = names_of(&JoinedEndpoints::new(), &attached());
    learn(&mut names).await;
    let mut known = BTreeMap::new();
    told(&mut names, &mut known);
    let red = SegmentId::of_name("red");
    let [shop] = &known["c1c1c1"].bindings[..] else {
        panic!("{known:?}");
    };
    assert_eq!(shown(shop), ["foo.weave.local", "shop.weave.local"]);
    assert_eq!(shop.segment, Some(red.clone()));
    assert!(known["d2d2d2"].bindings.is_empty());
    let [host] = &known["weave:expose"].bindings[..] else {
        panic!("{known:?}");
    };
    assert_eq!(shown(host), ["host.weave.local"]);
    // Whoever was attached is told what is on the segment, from whichever address it asks.
    let askers = askers(&known);
    for address in ["172.17.0.3", "10.9.0.2"] {
        let segments = &askers[&address.parse().unwrap()];
        assert!(segments.contains(&red), "{address}");
    }
}

fn attached() -> AttachedEndpoints {
    let attached = |container: Option<&str>, last, without_dns, names: &[&str]| Attached {
        segment: SegmentId::of_name("red"),
        container: container.map(str::to_owned),
        name: container.unwrap_or("weave:expose").to_owned(),
        address: [10, 9, 0, last].into(),
        without_dns,
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
    };
    let all = [
        ("a1", attached(Some("c1c1c1"), 1, false, &[])),
        ("a2", attached(Some("d2d2d2"), 2, true, &[])),
        ("a3", attached(None, 3, false, &["host.weave.local"])),
        ("a4", attached(None, 4, false, &[])),
    ];
    let all = all.map(|(endpoint, attached)| (endpoint.parse().unwrap(), attached));
    all.into()
}

/// In whichever order news comes, one by one, the names are those of all of it at once, and only
/// what has changed is told.
#[tokio::test]
async fn increments_end_in_the_names_of_the_whole() {
    let mut at_once = names_of(&joined(), &attached());
    learn(&mut at_once).await;
    let mut expected = BTreeMap::new();
    told(&mut at_once, &mut expected);
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut names = Names::new("weave.local".parse().unwrap());
        let mut known = BTreeMap::new();
        for news in order {
            match news {
                0 => names.handle_joined(&joined()),
                1 => names.handle_attached(&attached()),
                _ => names.handle_containers(all()),
            }
            told(&mut names, &mut known);
            learn(&mut names).await;
            told(&mut names, &mut known);
        }
        assert_eq!(known, expected, "{order:?}");
        assert!(names.poll_changes().is_empty());
        // The same once more, with one container less, and all taken back.
        names.handle_joined(&joined());
        names.handle_attached(&attached());
        assert!(names.poll_changes().is_empty());
        let ended = ContainerChanges::from([("d2d2d2".to_owned(), None)]);
        names.handle_containers(ended);
        let changes = names.poll_changes();
        assert_eq!(changes, [("d2d2d2".to_owned(), None)].into());
        names.handle_joined(&JoinedEndpoints::new());
        names.handle_attached(&AttachedEndpoints::new());
        told(&mut names, &mut known);
        assert!(
            known
                .values()
                .all(|container| container.bindings.is_empty())
        );
        assert!(!known.contains_key("weave:expose"));
    }
}

/// What one change costs where many containers run: `cargo test --lib -- --ignored --nocapture`
/// with this test's name.
#[test]
#[ignore = "measures"]
fn one_change_among_fifty_thousand_containers() {
    const CONTAINERS: u32 = 50_000;
    let container = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        let text = format!(
            r#"{{"Id":"{number:064x}","Names":["/c{number}"],"NetworkSettings":{{"Networks":{{
            "web":{{"EndpointID":"{number:064x}","IPAddress":"10.{a}.{b}.{c}"}}}}}}}}"#
        );
        let container: Arc<Container> = serde_json::from_str(&text).unwrap();
        (container.id.clone(), Some(container))
    };
    let mut joined: JoinedEndpoints = (0..CONTAINERS)
        .map(|number| {
            let joined = Joined {
                network: "n1".parse().unwrap(),
                segment: SegmentId::of_name("web"),
                sandbox: PathBuf::new(),
            };
            (format!("{number:064x}").parse().unwrap(), joined)
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let config = DnsConfig::of_test(dir.path());
    let dns = Dns::start(&config, Store::at(dir.path()), |_, _| ());
    let mut names = Names::new(config.domain);
    let timed = |what: &str, step: &mut dyn FnMut()| {
        let begin = std::time::Instant::now();
        step();
        println!("{what}: {:?}", begin.elapsed());
    };
    timed("all", &mut || {
        names.handle_joined(&joined);
        names.handle_containers((0..CONTAINERS).map(container).collect());
        dns.containers(names.poll_changes());
    });
    let one = container(4711);
    let endpoint = one.0.parse().unwrap();
    timed("the end of one", &mut || {
        names.handle_containers([(one.0.clone(), None)].into());
        dns.containers(names.poll_changes());
    });
    let left = joined.remove(&endpoint).unwrap();
    timed("its endpoint left", &mut || names.handle_joined(&joined));
    joined.insert(endpoint, left);
    timed("its endpoint joined", &mut || names.handle_joined(&joined));
    timed("the start of one", &mut || {
        names.handle_containers([one.clone()].into());
        dns.containers(names.poll_changes());
    });
    assert_eq!(dns.lookup(&"c4711".parse().unwrap()).len(), 1);
}
