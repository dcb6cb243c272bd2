use super::*;
use crate::control::report::examples;

fn shown(section: Section) -> String {
    self::section(&examples::report(), section, Style::Plain)
}

#[test]
fn the_overview_begins_with_what_is_wrong() {
    assert_eq!(
        overview(&examples::report(), Style::Plain),
        "\
Warnings
  ! docker.sock does not answer
    wait, or restart Docker
  ! 192.0.2.9 has another password
  ! WEAVE_MTU=\"99\" is not obeyed: expected a number of bytes from 576 to 65535; in force is: found from the path to the peers

      Version:  3.0.0, up 1d 2h
         Peer:  node1 (0101010101)
    Listening:  0.0.0.0:6783
     Password:  set
        Peers:  2, 2 of them reachable
  Connections:  1 established, 1 retrying
      Targets:  1
   Transports:  1 vxlan
        Scope:  local (this engine is not part of a swarm)
     Networks:  1 here, 1 segment known
    Endpoints:  1 here, 0 elsewhere
    Addresses:  ready (524288 addresses of 10.32.0.0/12 are this host's)
        Names:  2 in weave.local, served at 172.17.0.1:53
        Proxy:  unix:///var/run/weave/weave.sock
       Plugin:  /run/docker/plugins/weave.sock
       Kernel:  vxlan
"
    );
}

#[test]
fn names_are_shown_with_their_hosts_and_what_was_asked() {
    assert_eq!(
        shown(Section::Dns),
        "\
serving weave.local at 172.17.0.1:53
other names: 192.0.2.53:53
queries: 3 found, 0 empty, 1 unknown, 0 refused, 0 ignored, 2 forwarded, 0 failed
mean time to answer: 7.0 µs
not answered, as their hosts cannot be reached: 1
tombstones of names that are gone: 5

NAME              ADDRESS   CONTAINER  SEGMENT   HOST   ANSWERED
shop.weave.local  10.1.0.2  shop       name:web  node1  yes
out.weave.local   10.1.0.9  -          all       node2  no
"
    );
    let mut report = examples::report();
    report.dns = None;
    let text = self::section(&report, Section::Dns, Style::Plain);
    assert_eq!(text, "names are not served: WEAVE_DNS is off\n");
}

#[test]
fn the_proxy_tells_where_it_is_and_what_it_did() {
    assert_eq!(
        shown(Section::Proxy),
        "\
serving unix:///var/run/weave/weave.sock
clients: 2
containers: 5 placed on our networks, 1 left alone, 0 refused
"
    );
    let mut report = examples::report();
    report.proxy = None;
    let text = self::section(&report, Section::Proxy, Style::Plain);
    assert!(text.contains("launch-proxy"), "{text}");
}

#[test]
fn tables_are_aligned() {
    assert_eq!(
        shown(Section::Connections),
        "\
DIR  ADDRESS         STATE        PEER   TRANSPORT  MTU   RTT     INFO
->   192.0.2.2:6783  established  node2  vxlan      1450  412 µs  target of the settings; nothing is encrypted
->   192.0.2.3:6783  retrying     -      -          -     -       connection refused; again in 1m 15s
"
    );
    assert_eq!(
        shown(Section::Peers),
        "\
PEER   ID          REACHED    TRANSPORT  MTU   LINKS  VERSION  ADDRESSES
node1  0101010101  this host  -          -     1      3.0.0    192.0.2.2:6783
node2  0202020202  directly   vxlan      1450  1      3.0.0    192.0.2.2:6783
"
    );
    assert_eq!(
        shown(Section::Targets),
        "\
TARGET  GIVEN BY  ADDRESSES
node2   settings  192.0.2.2:6783
"
    );
    assert_eq!(
        shown(Section::Networks),
        "\
NETWORK  SCOPE  SUBNETS      VNI   MTU   PEERS        SEGMENT
web      local  10.1.0.0/16  4097  1450  node1 node2  name:web
"
    );
    assert_eq!(
        shown(Section::Ipam),
        "\
ready: 524288 addresses of 10.32.0.0/12 are this host's

SUBNET        PEER   ADDRESSES  SHARE   IN USE  REACHED
10.32.0.0/12  node1  524288     50.0 %  3       yes
10.32.0.0/12  node2  524288     50.0 %  0       no
10.32.0.0/12: 524288 addresses of peers that cannot be reached
"
    );
    assert_eq!(
        shown(Section::Endpoints),
        "\
CONTAINER  NETWORK  ADDRESSES  MAC                HOST
shop       web      10.1.0.2   02:77:0a:01:00:02  node1
"
    );
}

#[test]
fn services_are_shown_with_their_tasks() {
    assert_eq!(
        shown(Section::Services),
        "\
SERVICE  NETWORK  ADDRESS   READY  TASK      HOST   STATE     CONNECTIONS
shop     front    10.2.0.2  1/2    10.2.0.3  node1  ready     3
                                   10.2.0.4  node2  stopping  4
"
    );
}

#[test]
fn the_tunnel_is_shown_with_what_passed_and_what_was_dropped() {
    assert_eq!(
        shown(Section::Tunnel),
        "\
listening at 0.0.0.0:6783
with the kernel's udp_segment, udp_gro
dropped, of no peer: 1 unknown_session

PEER   PATH     TO              RTT     MTU   CIPHER       KEY AGE  SENT    RECEIVED  RELAYED  DROPPED
node2  direct   192.0.2.2:6783  412 µs  1390  AES-256-GCM  1m 15s   1.5 MB  999 B     0 B      2 replayed
node3  relayed  via node2       -       -     -            -        0 B     0 B       0 B      none
"
    );
    let mut report = examples::report();
    report.tunnel = None;
    let text = section(&report, Section::Tunnel, Style::Plain);
    assert!(text.starts_with("no tunnel"), "{text}");
}

#[test]
fn the_plugin_is_shown_with_its_sockets() {
    assert_eq!(
        shown(Section::Plugin),
        "\
networks are of local scope: this engine is not part of a swarm (WEAVE_SCOPE is auto)

SOCKET                          STATE
/run/docker/plugins/weave.sock  served
"
    );
}

#[test]
fn settings_are_shown_without_the_password() {
    let text = shown(Section::Settings);
    assert!(text.contains("WEAVE_PASSWORD          "), "{text}");
    assert!(text.contains("NOT OBEYED  WAS SET TO  WHY\n"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn colour_is_for_terminals_and_names_cannot_steer_them() {
    let mut report = examples::report();
    report.endpoints[0].host = "\u{1b}[2Jhost".to_owned();
    report.endpoints[0].container = Some("a\nb".to_owned());
    let plain = section(&report, Section::Endpoints, Style::Plain);
    assert!(!plain.contains('\u{1b}'), "{plain}");
    assert_eq!(plain.lines().count(), 2);
    let coloured = overview(&report, Style::Coloured);
    assert!(coloured.contains("\u{1b}["), "{coloured}");
}

#[test]
fn empty_sections_say_so() {
    let report = Report::of_settings(vec![], vec![]);
    for section in Section::ALL {
        assert!(!self::section(&report, section, Style::Plain).is_empty());
    }
    assert!(overview(&report, Style::Plain).contains("not started"));
}

#[test]
fn durations_are_readable() {
    for (micros, text) in [
        (0, "0s"),
        (1, "1 µs"),
        (1_500, "1.5 ms"),
        (59_000_000, "59s"),
        (61_000_000, "1m 1s"),
        (3_660_000_000, "1h 1m"),
        (90_000_000_000, "1d 1h"),
    ] {
        assert_eq!(duration(Duration::from_micros(micros)), text);
    }
}

#[test]
fn bytes_are_readable() {
    for (number, text) in [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_500_000_000, "1.5 GB"),
        (u64::MAX, "18446.7 PB"),
    ] {
        assert_eq!(bytes(number), text);
    }
}
