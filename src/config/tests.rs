use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn load(environment: &[(&str, &str)], arguments: &[&str]) -> (Settings, Vec<Rejected>) {
    let environment = environment.iter().map(|(n, v)| (n.into(), v.into()));
    let arguments: Vec<_> = arguments.iter().map(|a| (*a).to_owned()).collect();
    Settings::load(environment, &arguments, &Paths::of_host())
}

fn value(settings: &Settings, name: &str) -> String {
    let mut all = settings.in_force().into_iter();
    all.find(|s| s.setting == name).unwrap().value
}

#[test]
fn nothing_said_means_defaults() {
    let (settings, rejected) = load(&[], &[]);
    assert_eq!((settings, rejected), (Settings::default(), vec![]));
}

#[test]
fn good_values_are_obeyed_from_every_source() {
    for (name, flag, text, shown) in [
        (
            "WEAVE_PEERS",
            "--peers",
            "h1, h2:7000 [fd00::1]:1",
            "h1 h2:7000 [fd00::1]:1",
        ),
        (
            "WEAVE_TRUSTED_SUBNETS",
            "--trusted-subnets",
            "10.0.0.0/8,fd00::/8",
            "10.0.0.0/8 fd00::/8",
        ),
        ("WEAVE_SCOPE", "--scope", "global", "global"),
        ("WEAVE_MTU", "--mtu", " 1400 ", "1400"),
        ("WEAVE_MULTICAST", "--multicast", "anything", "on"),
        ("WEAVE_PORT", "--port", "7000", "7000"),
        ("WEAVE_HOST", "--host", "192.0.2.1", "192.0.2.1"),
        ("WEAVE_NICKNAME", "--nickname", "one two", "one two"),
        (
            "WEAVE_STATUS_ADDR",
            "--status-addr",
            "0.0.0.0:6782",
            "0.0.0.0:6782",
        ),
        ("WEAVE_STATUS_ADDR", "--status-addr", "", "off"),
        ("WEAVE_NO_DISCOVERY", "--no-discovery", "true", "on"),
        ("WEAVE_CONN_LIMIT", "--conn-limit", "0", "no limit"),
        (
            "IPALLOC_TAKEOVER_AFTER",
            "--ipalloc-takeover-after",
            "90m",
            "1h 30m",
        ),
        ("WEAVE_DEFAULT_NETWORK", "--default-network", "true", "on"),
        (
            "IPALLOC_RANGE",
            "--ipalloc-range",
            "10.2.0.0/16",
            "10.2.0.0/16",
        ),
        (
            "WEAVE_LEGACY_SOCKETS",
            "--legacy-sockets",
            "true",
            "weave,weavemesh",
        ),
        (
            "WEAVE_DOCKER_SOCKET",
            "--docker-api",
            "unix:///srv/d.sock",
            "unix:///srv/d.sock",
        ),
        ("LOG_LEVEL", "--log-level", "debug", "debug"),
        ("WEAVE_PASSWORD", "--password", "hunter2", "set"),
    ] {
        let flag = format!("{flag}={text}");
        let extra = format!("'{flag}'");
        for (settings, rejected) in [
            load(&[(name, text)], &[]),
            load(&[("EXTRA_ARGS", &extra)], &[]),
            load(&[], &[&flag]),
        ] {
            assert_eq!(value(&settings, name), shown, "{name}");
            assert_eq!(rejected, vec![], "{name}");
        }
    }
}

#[test]
fn bad_values_leave_the_default_and_are_told() {
    for (name, text) in [
        ("WEAVE_SCOPE", "everywhere"),
        ("WEAVE_MTU", "100"),
        ("WEAVE_PORT", "65535"),
        ("WEAVE_HOST", "0.0.0.0"),
        ("WEAVE_NICKNAME", "a\u{7}"),
        ("WEAVE_STATUS_ADDR", "6782"),
        ("WEAVE_NO_DISCOVERY", "perhaps"),
        ("WEAVE_CONN_LIMIT", "-3"),
        ("IPALLOC_RANGE", "10.32.0.0"),
        ("WEAVE_LEGACY_SOCKETS", "docker"),
        ("IPALLOC_TAKEOVER_AFTER", "soon"),
        ("WEAVE_DOCKER_SOCKET", "tcp://127.0.0.1:2375"),
        ("LOG_LEVEL", "loud"),
    ] {
        let (settings, rejected) = load(&[(name, text)], &[]);
        let default = value(&Settings::default(), name);
        assert_eq!(settings, Settings::default(), "{name}");
        let [rejected] = rejected.as_slice() else {
            panic!("{name}: {rejected:?}");
        };
        assert_eq!(rejected.setting, name);
        assert_eq!(rejected.kept, Some(default));
        assert!(rejected.reason.starts_with("expected "), "{rejected}");
    }
}

#[test]
fn a_bad_entry_of_a_list_spoils_no_other() {
    let (settings, rejected) = load(
        &[
            ("WEAVE_PEERS", "h1,h:x h2 300.1.1.1"),
            ("WEAVE_TRUSTED_SUBNETS", "10.0.0.0/8 x"),
        ],
        &[],
    );
    assert_eq!(value(&settings, "WEAVE_PEERS"), "h1 h2");
    assert_eq!(value(&settings, "WEAVE_TRUSTED_SUBNETS"), "10.0.0.0/8");
    let values: Vec<_> = rejected.iter().map(|r| r.value.as_deref()).collect();
    assert_eq!(values, [Some("h:x"), Some("300.1.1.1"), Some("x")]);
}

#[test]
fn flags_win_over_extra_args_and_those_over_variables() {
    let environment = [
        ("WEAVE_MTU", "1000"),
        ("WEAVE_PORT", "1000"),
        ("WEAVE_CONN_LIMIT", "1000"),
        ("WEAVE_PEERS", "a b"),
        ("EXTRA_ARGS", "--mtu=2000 --port 2000 c a"),
    ];
    let (settings, rejected) = load(&environment, &["--mtu", "3000", "d"]);
    assert_eq!(rejected, vec![]);
    assert_eq!(value(&settings, "WEAVE_MTU"), "3000");
    assert_eq!(value(&settings, "WEAVE_PORT"), "2000");
    assert_eq!(value(&settings, "WEAVE_CONN_LIMIT"), "1000");
    assert_eq!(value(&settings, "WEAVE_PEERS"), "a b c d");
    let sources = settings.in_force().into_iter();
    let sources: BTreeMap<_, _> = sources.map(|s| (s.setting, s.source)).collect();
    assert_eq!(sources["WEAVE_MTU"], Source::CommandLine);
    assert_eq!(sources["WEAVE_PORT"], Source::ExtraArgs);
    assert_eq!(sources["WEAVE_CONN_LIMIT"], Source::Environment);
    assert_eq!(sources["WEAVE_SCOPE"], Source::Default);
}

#[test]
fn a_bad_value_gives_way_to_a_good_one_of_lesser_rank() {
    let (settings, rejected) = load(&[("WEAVE_MTU", "1400"), ("EXTRA_ARGS", "--mtu=x")], &[]);
    assert_eq!(value(&settings, "WEAVE_MTU"), "1400");
    assert_eq!(rejected[0].kept.as_deref(), Some("1400"));
}

#[test]
fn flags_of_the_old_plugin_work_or_say_what_replaced_them() {
    let extra = "--no-fastdp -conn-limit 30 --name 02:00:00:00:00:01 --no-discovery h1 \
                 --resume --ipalloc-init=seed=a,b --ipalloc-default-subnet 10.32.1.0/24 \
                 --plugin=false --http-addr= -H unix:///x -- h2";
    let (settings, rejected) = load(&[("EXTRA_ARGS", extra)], &[]);
    assert_eq!(settings.conn_limit.get(), Some(30));
    assert_eq!(settings.no_discovery, Switch(true));
    assert_eq!(value(&settings, "WEAVE_PEERS"), "h1 h2");
    assert_eq!(value(&settings, "--ipalloc-init"), "seed=a,b");
    assert_eq!(value(&settings, "-H"), "unix:///x");
    assert_eq!(value(&settings, "--ipalloc-default-subnet"), "10.32.1.0/24");
    let names: Vec<_> = rejected.iter().map(|r| r.setting.as_str()).collect();
    let old = [
        "--no-fastdp",
        "--name",
        "--resume",
        "--plugin",
        "--http-addr",
    ];
    assert_eq!(names, old);
    assert!(
        rejected
            .iter()
            .all(|r| r.reason.starts_with("it has no meaning here: "))
    );
}

#[test]
fn unknown_names_are_told_with_what_was_probably_meant() {
    let (settings, rejected) = load(
        &[
            ("WEAVE_PEER", "h1"),
            ("HOME", "/"),
            ("WEAVE_HOST_ROOT", "/host"),
        ],
        &["--conlimit=3", "--xyzzy", "1", "h2"],
    );
    assert_eq!(value(&settings, "WEAVE_PEERS"), "h2");
    let told: Vec<_> = rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "WEAVE_PEER is not obeyed: there is no such setting; did you mean WEAVE_PEERS?",
            "--conlimit is not obeyed: there is no such setting; did you mean --conn-limit?",
            "--xyzzy is not obeyed: there is no such setting; `weave daemon --help` lists all",
        ]
    );
}

#[test]
fn a_default_subnet_outside_the_range_is_refused() {
    let (settings, rejected) = load(&[], &["--ipalloc-default-subnet=10.1.0.0/16"]);
    assert_eq!(settings, Settings::default());
    assert_eq!(
        rejected[0].reason,
        "expected a part of the range 10.32.0.0/12"
    );
}

#[test]
fn the_password_file_wins_and_loses_its_newline() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, " of the file \n").unwrap();
    let (settings, rejected) = load(
        &[
            ("WEAVE_PASSWORD", "other"),
            ("WEAVE_PASSWORD_FILE", file.to_str().unwrap()),
        ],
        &[],
    );
    assert_eq!(rejected, vec![]);
    assert_eq!(
        settings.password.as_ref().unwrap().reveal(),
        " of the file "
    );
    assert_eq!(settings.password_state, PasswordState::FromFile);
}

#[test]
fn a_wanted_password_that_is_not_known_closes_the_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("empty"), "\n").unwrap();
    std::fs::write(path("binary"), [0xff]).unwrap();
    std::fs::write(path("large"), vec![b'x'; 5000]).unwrap();
    nix::unistd::mkfifo(path("pipe").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for file in ["absent", "empty", "binary", "large", "pipe", "."] {
        let file = path(file);
        closed(
            load(
                &[("WEAVE_PASSWORD", "x"), ("WEAVE_PASSWORD_FILE", &file)],
                &[],
            ),
            &file,
        );
    }
    closed(load(&[("WEAVE_PASWORD", "x")], &[]), "variable");
    closed(load(&[], &["--password"]), "no value");
    closed(load(&[], &["--password="]), "empty value");
    closed(load(&[], &["--pasword", "hunter2"]), "flag");
    closed(load(&[], &["--password:hunter2"]), "separator");
    let flood: Vec<_> = (0..200).map(|_| "--nonsense=1").collect();
    closed(load(&[("WEAVE_PASWORD", "x")], &flood), "flood before");
    closed(
        load(&[], &[&flood[..], &["--password"]].concat()),
        "flood after",
    );
    let elsewhere = [("WEAVE_PASSWORD_FILE".into(), "/etc/weave".into())];
    closed(
        Settings::load(elsewhere, &[], &Paths::below(dir.path())),
        "not mounted",
    );
    for name in ["WEAVE_PASSWORD", "EXTRA_ARGS"] {
        let not_utf8 = [(name.into(), OsString::from_vec(vec![0xff]))];
        closed(Settings::load(not_utf8, &[], &Paths::of_host()), name);
    }
}

fn closed((settings, rejected): (Settings, Vec<Rejected>), case: &str) {
    assert_eq!(settings.password_state, PasswordState::Lost, "{case}");
    let password = settings.password.unwrap();
    assert_eq!(password.reveal().len(), 64, "{case}");
    assert_ne!(password, load(&[], &["--password"]).0.password.unwrap());
    let kept = rejected.first().unwrap().kept.clone().unwrap();
    assert!(kept.contains("nobody knows"), "{case}: {kept}");
    assert!(!format!("{rejected:?}").contains("hunter2"), "{case}");
}

#[test]
fn lists_are_bounded() {
    let many: Vec<_> = (0..1000).map(|n| format!("h{n}")).collect();
    let (settings, rejected) = load(&[("WEAVE_PEERS", &many.join(","))], &[]);
    assert_eq!(settings.peers.len(), 256);
    assert_eq!(rejected[0].value.as_deref(), Some("h256"));
    let (_, rejected) = load(&[("WEAVE_PEERS", &many.join(":,"))], &[]);
    assert_eq!(rejected.len(), 100);
}

#[test]
fn every_setting_is_shown_once_and_described() {
    let shown = Settings::default().in_force();
    assert_eq!(shown.len(), catalogue::SETTINGS.len());
    assert!(
        shown
            .iter()
            .all(|s| !s.help.is_empty() && !s.value.is_empty())
    );
    assert_eq!(flags_help().lines().count(), shown.len());
}

#[test]
fn the_manifest_of_the_plugin_has_exactly_these_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.json");
    let Ok(text) = std::fs::read(path) else {
        return;
    };
    let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let field = |entry: &serde_json::Value, name: &str| {
        let lower = name.to_lowercase();
        entry
            .get(name)
            .or_else(|| entry.get(lower))
            .cloned()
            .unwrap_or_default()
    };
    let entries = field(&manifest, "Env");
    let mut named = BTreeSet::new();
    for entry in entries.as_array().unwrap() {
        let name = field(entry, "Name").as_str().unwrap().to_owned();
        if name == HOST_ROOT_VARIABLE {
            continue;
        }
        assert_eq!(
            field(entry, "Settable"),
            serde_json::json!(["value"]),
            "{name}"
        );
        let text = field(entry, "Value")
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert_eq!(load(&[(&name, &text)], &[]).1, vec![], "{name}={text}");
        named.insert(name);
    }
    let known = catalogue::SETTINGS.iter().filter_map(|s| s.variable);
    let known = known.chain([catalogue::EXTRA_ARGS]).map(str::to_owned);
    assert_eq!(named, known.collect());
}

proptest! {
    #[test]
    fn no_input_panics_or_shows_the_password(
        secret in "[a-z]{12}",
        values in prop::collection::vec(
            (0..catalogue::SETTINGS.len(), ".{0,20}"), 0..6),
        extra in "(--[a-z-]{0,12}(=| )?[ -~]{0,8} ?){0,5}",
        words in prop::collection::vec("-{0,2}[a-z=.:-]{0,12}", 0..6),
        by_variable: bool,
    ) {
        let quoted = format!("{extra} --password='{secret}'");
        let flag = format!("--password '{secret}' {extra}");
        let mut environment: Vec<(String, String)> = values
            .iter()
            .filter_map(|(n, text)| Some((catalogue::SETTINGS[*n].variable?.to_owned(), text.clone())))
            .collect();
        environment.extend(match by_variable {
            true => [("WEAVE_PASSWORD".into(), secret.clone()), ("EXTRA_ARGS".into(), extra)],
            false => [("EXTRA_ARGS".into(), flag), ("WEAVE_NOTHING".into(), quoted)],
        });
        let environment = environment.into_iter().map(|(n, v)| (n.into(), v.into()));
        let (settings, rejected) = Settings::load(environment, &words, &Paths::of_host());
        prop_assert!(settings.password.is_some());
        prop_assert_ne!(settings.password_state, PasswordState::NotSet);
        let told = format!("{settings:?} {rejected:?} {:?}", settings.in_force());
        prop_assert!(!told.contains(&secret), "{}", told);
    }
}
