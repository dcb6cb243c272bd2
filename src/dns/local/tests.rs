use super::*;
use crate::types::SegmentId;

fn local(dir: &tempfile::TempDir) -> Local {
    let mut local = Local::load(Store::at(dir.path()));
    let binding = Binding {
        segment: Some(SegmentId::of_name("web")),
        addresses: vec![[10, 1, 0, 1].into()],
        names: vec!["shop.weave.local".parse().unwrap()],
    };
    let shop = LocalContainer {
        name: "shop".to_owned(),
        bindings: vec![binding],
        ..LocalContainer::default()
    };
    let plain = LocalContainer {
        name: "plain".to_owned(),
        ..LocalContainer::default()
    };
    let all = [
        ("c0ffee".repeat(4), Some(shop)),
        ("dead".repeat(4), Some(plain)),
    ];
    local.handle_containers(all.into());
    local
}

fn request(name: &str, container: &str, addresses: &[[u8; 4]]) -> NameRequest {
    NameRequest {
        name: (!name.is_empty()).then(|| name.parse().unwrap()),
        container: (!container.is_empty()).then(|| container.to_owned()),
        addresses: addresses.iter().map(|a| IpAddr::from(*a)).collect(),
    }
}

fn shown(local: &Local) -> Vec<String> {
    let ids = local.containers.keys().map(|id| Some(id.as_str()));
    let all = ids.chain([None]).flat_map(|id| local.registrations_of(id));
    let bindings = all.flat_map(|(_, registration)| registration.bindings);
    let lines = bindings.map(|b| {
        let segment = b
            .segment
            .map_or_else(|| "all".to_owned(), |s| s.to_string());
        format!("{} {:?} {segment}", b.names[0], b.addresses)
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

#[test]
fn names_are_added_and_removed_for_containers_and_for_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let domain = "weave.local".parse().unwrap();
    let mut local = local(&dir);
    let own = "shop.weave.local [10.1.0.1] name:web";
    assert_eq!(shown(&local), [own]);
    for added in [
        request("www", "shop", &[]),
        request("out.weave.local", "", &[[192, 0, 2, 1]]),
        request("out", "", &[[192, 0, 2, 2]]),
        request("a", "c0ffeec0ffee", &[[10, 1, 0, 1], [10, 9, 0, 1]]),
    ] {
        local.handle_add(&domain, added).unwrap();
    }
    let all = [
        "a.weave.local [10.1.0.1] name:web",
        "a.weave.local [10.9.0.1] all",
        "out.weave.local [192.0.2.1] all",
        "out.weave.local [192.0.2.2] all",
        own,
        "www.weave.local [10.1.0.1] name:web",
    ];
    assert_eq!(shown(&local), all);
    // They are there after a restart, once the containers are known again.
    let mut again = Local::load(Store::at(dir.path()));
    let running = local.containers.clone().into_iter();
    let news = again.handle_containers(running.map(|(id, c)| (id, Some(*c))).collect());
    assert_eq!(shown(&again), all);
    assert_eq!(news.registrations.len(), 4);
    for removed in [
        request("", "shop", &[]),
        request("out", "", &[[192, 0, 2, 1]]),
    ] {
        local.handle_remove(&domain, removed).unwrap();
    }
    assert_eq!(shown(&local), ["out.weave.local [192.0.2.2] all", own]);
    local
        .handle_remove(&domain, request("out", "", &[]))
        .unwrap();
    assert_eq!(shown(&local), [own]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let domain: DnsName = "weave.local".parse().unwrap();
    let mut local = local(&dir);
    for wrong in [
        request("", "", &[]),
        request("", "", &[[192, 0, 2, 1]]),
        request("x", "", &[]),
        request("x", "nobody", &[]),
        request("", "plain", &[]),
        request("weave.local", "shop", &[]),
    ] {
        assert!(
            local.handle_add(&domain, wrong.clone()).is_err(),
            "{wrong:?}"
        );
    }
    assert!(local.handle_remove(&domain, request("x", "", &[])).is_err());
    assert!(
        local
            .handle_remove(&domain, request("", "shop", &[]))
            .is_err()
    );
}

#[test]
fn added_names_go_with_their_container() {
    let dir = tempfile::tempdir().unwrap();
    let domain = "weave.local".parse().unwrap();
    let mut local = local(&dir);
    local
        .handle_add(&domain, request("www", "shop", &[]))
        .unwrap();
    assert!(local.absent().is_empty());
    let news = local.handle_containers([("c0ffee".repeat(4), None)].into());
    let gone = ["c0ffeec0ffee", "c0ffeec0ffee+www.weave.local"];
    assert_eq!(
        news.registrations,
        gone.map(|origin| (origin.to_owned(), None)).into()
    );
    assert_eq!(shown(&local), [""; 0]);
    let absent = local.absent();
    assert_eq!(absent, ["c0ffee".repeat(4)]);
    local.handle_removed(&absent[0]).unwrap();
    assert!(local.absent().is_empty());
}

#[test]
fn who_shares_an_address_is_told_what_all_who_have_it_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut local = Local::load(Store::at(dir.path()));
    let address = IpAddr::from([172, 18, 0, 2]);
    let on = |name: &str| LocalContainer {
        asks_from: [address].into(),
        segments: [SegmentId::of_name(name)].into(),
        ..LocalContainer::default()
    };
    let mut change = |id: &str, container| {
        let news = local.handle_containers([(id.to_owned(), container)].into());
        let mut askers = news.askers;
        let segments = askers.remove(&address);
        assert!(askers.is_empty(), "{askers:?}");
        segments.map(|segments| segments.map_or(0, |segments| segments.len()))
    };
    assert_eq!(change("a", Some(on("web"))), Some(1));
    assert_eq!(change("b", Some(on("db"))), Some(2));
    assert_eq!(change("b", Some(on("db"))), None);
    assert_eq!(change("a", None), Some(1));
    assert_eq!(change("b", None), Some(0));
    assert!(local.holders.is_empty());
}
