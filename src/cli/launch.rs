//! The daemon as a container that the command makes out of itself: launched, replaced, stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::client::{Client, ClientError};
use super::{parts, terminal};
use crate::config::{
    DockerSocket, HOST_ROOT_VARIABLE, HostAddress, Paths, ProxyAddress, Settings, TlsFiles,
    TlsSource,
};
use crate::control::socket::SwitchPart;
use crate::control::{Part, Switch, Targets};
use crate::docker::daemon_tls;
use crate::docker::engine::{Engine, EngineError, OwnContainer};
use crate::store::{Store, StoreError};

/// What the container and its image are called.
pub(super) const NAME: &str = "weave";

/// What the container is called until the former one is gone.
const NEXT: &str = "weave-next";

/// Labels of the image and the container: which program is inside.
const VERSION_LABEL: &str = "works.weave.version";
const DIGEST_LABEL: &str = "works.weave.digest";

/// Where the program is inside.
const PROGRAM: &str = "weave";

/// How long the daemon has to end by itself.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// How long the daemon has until it answers.
const READY: Duration = Duration::from_secs(60);

/// How often it is asked.
const ASK: Duration = Duration::from_millis(100);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why the daemon was not launched, or not stopped.
#[derive(Debug, Error)]
pub(super) enum LaunchError {
    /// Docker's API did not do it.
    #[error("{0}{hint}", hint = hint(.0))]
    Engine(#[from] EngineError),
    /// The daemon did not do it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was remembered could not be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It would do harm, or cannot work.
    #[error("{0}")]
    Refused(String),
    /// This process cannot go on.
    #[error("{0}")]
    Local(#[from] io::Error),
}

fn hint(error: &EngineError) -> &'static str {
    match error {
        EngineError::Unreachable { .. } => {
            "\nis Docker running, and are you root? if it is elsewhere, DOCKER_HOST=unix:///... tells \
             where"
        }
        _ => "",
    }
}

#[derive(Debug, Args)]
pub(super) struct Launch {
    /// Settings as flags, and peers: see below. Also --no-restart: not after a crash nor with the
    /// engine; --plugin=false and --proxy=false: without these parts; --resume: with the peers that
    /// `weave connect` and `weave forget` left, although others are named
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "SETTINGS"
    )]
    words: Vec<String>,
}

/// The words of the command line, sorted out.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    /// What the daemon is told.
    of_daemon: Vec<String>,
    restart: bool,
    resume: bool,
    /// Whether the parts are served; as the command says where nothing is said of them.
    plugin: Option<bool>,
    proxy: Option<bool>,
}

impl Words {
    fn new(words: Vec<String>) -> Self {
        let (mut no_restart, mut resume, mut plugin, mut proxy) = (None, None, None, None);
        let mut ours = |word: &String| {
            let Some((flag, on)) = switch(word) else {
                return false;
            };
            let meant = match flag {
                "no-restart" => &mut no_restart,
                "resume" => &mut resume,
                "plugin" => &mut plugin,
                "proxy" => &mut proxy,
                _ => return false,
            };
            *meant = Some(on);
            true
        };
        Self {
            of_daemon: words.into_iter().filter(|word| !ours(word)).collect(),
            restart: no_restart != Some(true),
            resume: resume == Some(true),
            plugin,
            proxy,
        }
    }
}

/// A flag that is a switch, and whether it is on.
fn switch(word: &str) -> Option<(&str, bool)> {
    let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    match flag.split_once('=') {
        None => Some((flag, true)),
        Some((flag, "true" | "1")) => Some((flag, true)),
        Some((flag, "false" | "0")) => Some((flag, false)),
        Some(_) => None,
    }
}

impl Launch {
    /// Launches all parts, or all but the plugin and the proxy.
    pub(super) async fn run(
        self,
        paths: &Paths,
        client: &Client,
        state: Switch,
    ) -> Result<(), LaunchError> {
        let mut words = Words::new(self.words);
        let (settings, rejected) = Settings::load(std::env::vars_os(), &words.of_daemon, paths);
        for rejected in &rejected {
            eprintln!("weave: setting {rejected}");
        }
        let docker_host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let local = ["unix://", "tcp://"];
        if docker_host.contains("://") && !local.iter().any(|s| docker_host.starts_with(s)) {
            eprintln!(
                "weave: launching on this host: DOCKER_HOST={docker_host} is for Docker's client"
            );
        }
        let of_client = parts::docker_socket(&settings, client).await;
        let docker_socket = settings.docker_socket.as_ref().or(of_client.as_ref());
        let paths = &paths.clone().with_docker_socket(docker_socket);
        let engine = Engine::new(paths.docker_socket());
        let running = engine.own_container(NAME).await?;
        // Without other wishes it goes on as before.
        let before = running
            .as_ref()
            .filter(|old| old.state.running && words.of_daemon.is_empty() && words.restart);
        if before.is_none() {
            // In front: what follows `--` are peers, and what the user says wins.
            let mut found = flags_of_docker(&settings, paths);
            found.extend(
                of_client
                    .iter()
                    .map(|socket| format!("--docker-socket={socket}")),
            );
            words.of_daemon.splice(0..0, found);
        }
        let program = Program::of_this_process()?;
        match &running {
            Some(container) if container.state.running => program.may_replace(container)?,
            _ => must_be_free(client, &settings).await?,
        }
        program.import(&engine).await?;
        // Docker mounts only what is there.
        let store = Store::open(paths.state())?;
        if !settings.peers.is_empty() && !words.resume {
            Targets::forget_all(&store)?;
        }
        let (told, variables) = match before {
            Some(old) => (&old.config.cmd, of_daemon(&old.config.env)),
            None => (&words.of_daemon, environment()),
        };
        let directories = directories(told, &variables, paths);
        if before.is_none()
            && let Some(socket) = docker_socket
        {
            must_be_seen(socket, &directories, paths)?;
        }
        let body = program.container(told, variables, words.restart, &directories);
        replace(&engine, running.as_ref(), &body).await?;
        wait_until_ready(&engine, client).await?;
        let state = |wanted: Option<bool>| match wanted {
            Some(true) => Switch::On,
            Some(false) => Switch::Off,
            None => state,
        };
        let (plugin, proxy) = (state(words.plugin), state(words.proxy));
        for (part, state) in [(Part::Plugin, plugin), (Part::Proxy, proxy)] {
            client.post("/parts", &SwitchPart { part, state }).await?;
        }
        Ok(terminal::print(&next_steps(&settings, plugin, proxy))?)
    }
}

/// The Engine of this host, for commands that have no settings of their own.
pub(super) async fn engine(paths: &Paths, client: &Client) -> Engine {
    let (settings, _) = Settings::load(std::env::vars_os(), &[], paths);
    let of_client = parts::docker_socket(&settings, client).await;
    let socket = settings.docker_socket.as_ref().or(of_client.as_ref());
    let paths = paths.clone().with_docker_socket(socket);
    Engine::new(paths.docker_socket())
}

/// Makes the image, and launches nothing.
pub(super) async fn setup(paths: &Paths, client: &Client) -> Result<(), LaunchError> {
    let engine = engine(paths, client).await;
    let program = Program::of_this_process()?;
    program.import(&engine).await?;
    Ok(terminal::print(&format!(
        "image {} is ready; next: weave launch [peers...]\n",
        program.image()
    ))?)
}

/// Stops the daemon; running containers keep talking.
pub(super) async fn stop(paths: &Paths, client: &Client) -> Result<(), LaunchError> {
    let engine = engine(paths, client).await;
    if engine.own_container(NAME).await?.is_some() {
        return Ok(engine.remove_container(NAME, GRACE).await?);
    }
    match client.get("/healthz").await {
        Ok(_) => Err(LaunchError::Refused(
            "the daemon that runs was not launched by `weave launch`\n\
             the plugin is stopped with: docker plugin disable weaveworks/net-plugin\n\
             a service is stopped with: systemctl stop weave"
                .to_owned(),
        )),
        Err(_) => Ok(terminal::print("weave is not running\n")?),
    }
}

/// The program that runs now, as what will be in the image.
struct Program {
    bytes: Vec<u8>,
    digest: String,
}

impl Program {
    fn of_this_process() -> Result<Self, LaunchError> {
        let bytes = fs::read("/proc/self/exe")?;
        let digest = Sha256::digest(&bytes);
        let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { bytes, digest })
    }

    fn image(&self) -> String {
        format!("{NAME}:{VERSION}")
    }

    /// Refuses to replace the same or a later version.
    fn may_replace(&self, running: &OwnContainer) -> Result<(), LaunchError> {
        let label = |name: &str| running.config.labels.get(name).map_or("", String::as_str);
        let version = label(VERSION_LABEL);
        if label(DIGEST_LABEL) == self.digest {
            return Err(LaunchError::Refused(format!(
                "weave is running already, version {version}, in container `{NAME}`\n\
                 change its peers with `weave connect` and `weave forget`; to launch it with other \
                 settings, run `weave stop` first"
            )));
        }
        if numbers(version) > numbers(VERSION) {
            return Err(LaunchError::Refused(format!(
                "version {version} is running, and this is {VERSION}: to go back, run `weave stop` \
                 first"
            )));
        }
        Ok(())
    }

    /// Stores the image, unless the engine has it.
    async fn import(&self, engine: &Engine) -> Result<(), LaunchError> {
        let known = match engine.image(&self.image()).await {
            Err(error) if error.is_not_found() => None,
            result => Some(result?),
        };
        let digest = known
            .as_ref()
            .and_then(|image| image.config.labels.get(DIGEST_LABEL));
        if digest == Some(&self.digest) {
            return Ok(());
        }
        terminal::progress("making the image");
        let changes = [
            format!("ENTRYPOINT [\"/{PROGRAM}\", \"daemon\"]"),
            format!("LABEL {VERSION_LABEL}={VERSION}"),
            format!("LABEL {DIGEST_LABEL}={}", self.digest),
        ];
        let archive = archive(PROGRAM, &self.bytes);
        Ok(engine
            .import_image(NAME, VERSION, &changes, archive.into())
            .await?)
    }

    /// The container, which sees these directories of the host as well.
    fn container(
        &self,
        words: &[String],
        mut environment: Vec<String>,
        restart: bool,
        directories: &BTreeSet<PathBuf>,
    ) -> Value {
        environment.push(format!("{HOST_ROOT_VARIABLE}=/host"));
        let policy = if restart { "always" } else { "no" };
        let bind = |source: &str, options: Value| {
            json!({
                "Type": "bind",
                "Source": source,
                "Target": format!("/host{source}"),
                "BindOptions": options,
            })
        };
        let mounts = [
            bind("/run", json!({"Propagation": "rshared"})),
            bind("/var/lib/weave", json!({"Propagation": "rslave"})),
        ];
        // A directory that is gone some day is made, where one of `Mounts` would keep the container
        // from starting.
        let binds = directories.iter().map(|directory| directory.display());
        let binds: Vec<_> = binds.map(|path| format!("{path}:/host{path}:ro")).collect();
        json!({
            "Image": self.image(),
            "Cmd": words,
            "Env": environment,
            "Labels": {VERSION_LABEL: VERSION, DIGEST_LABEL: self.digest},
            "HostConfig": {
                "NetworkMode": "host",
                "RestartPolicy": {"Name": policy},
                "CapAdd": ["NET_ADMIN", "SYS_ADMIN"],
                // Their usual profiles forbid mounting a namespace and entering others.
                "SecurityOpt": ["apparmor=unconfined", "label=disable"],
                // /dev/net/tun, for the tunnel.
                "DeviceCgroupRules": ["c 10:200 rwm"],
                "Mounts": mounts,
                "Binds": binds,
            },
        })
    }
}

/// Refuses where another daemon runs, or something else has the mesh's port.
async fn must_be_free(client: &Client, settings: &Settings) -> Result<(), LaunchError> {
    if client.get("/healthz").await.is_ok() {
        return Err(LaunchError::Refused(
            "a daemon is running on this host that `weave launch` did not start: the managed \
             plugin, or `weave daemon`; there can be only one\n\
             all commands work with it, see: weave status\n\
             to launch anyhow, first run: docker plugin disable weaveworks/net-plugin"
                .to_owned(),
        ));
    }
    let port = settings.port.control();
    let address = settings
        .host
        .map_or(Ipv6Addr::UNSPECIFIED.into(), HostAddress::get);
    match TcpListener::bind(SocketAddr::new(address, port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(LaunchError::Refused(format!(
                "another program has TCP port {port}, which the mesh needs: see `ss -ltnp`, or \
                 choose another with --port"
            )))
        }
        // A host without IPv6, for one: the daemon will tell what is really wrong.
        _ => Ok(()),
    }
}

/// Puts the new container in place of the old one, which serves until then.
async fn replace(
    engine: &Engine,
    old: Option<&OwnContainer>,
    body: &Value,
) -> Result<(), LaunchError> {
    // What an interrupted launch left.
    if engine.own_container(NEXT).await?.is_some() {
        engine.remove_container(NEXT, Duration::ZERO).await?;
    }
    engine.create_container(NEXT, body).await?;
    if let Some(old) = old {
        if old.state.running {
            terminal::progress("replacing the daemon that runs");
        }
        engine.remove_container(&old.id, GRACE).await?;
    }
    engine.rename_container(NEXT, NAME).await?;
    if let Err(error) = engine.start_container(NAME).await {
        let _ = engine.remove_container(NAME, Duration::ZERO).await;
        let text = error.to_string();
        if text.contains("shared mount") {
            return Err(LaunchError::Refused(format!(
                "{text}\n/run must be a shared mount, as systemd makes it, for containers to keep \
                 talking while weave restarts: mount --make-shared /run"
            )));
        }
        return Err(error.into());
    }
    if let Some(old) = old {
        // It may be the image of the new one as well, or have other names.
        let _ = engine.remove_image(&old.image).await;
    }
    Ok(())
}

async fn wait_until_ready(engine: &Engine, client: &Client) -> Result<(), LaunchError> {
    terminal::progress("waiting until it is ready");
    let deadline = Instant::now() + READY;
    loop {
        let Err(error) = client.get("/healthz").await else {
            return Ok(());
        };
        let state = engine.own_container(NAME).await?.map(|c| c.state);
        let ended = state.is_none_or(|state| !state.running || state.restarting);
        if ended || Instant::now() > deadline {
            let log = engine.container_log(NAME, 20).await.unwrap_or_default();
            return Err(LaunchError::Refused(format!(
                "the daemon does not get ready: {error}\nits log, as `docker logs {NAME}` shows \
                 it, ends with:\n{log}"
            )));
        }
        sleep(ASK).await;
    }
}

fn next_steps(settings: &Settings, plugin: Switch, proxy: Switch) -> String {
    let mut text = format!("weave {VERSION} is running.\n");
    if settings.peers.is_empty() {
        text += "  weave connect HOST              connect to another host that runs weave\n";
    }
    text += match plugin {
        Switch::On => "  docker run --net=weave ...      run containers on the network `weave`\n",
        Switch::Off => "  weave launch-plugin             serve Docker's networks as well\n",
    };
    if proxy == Switch::On {
        text += "  eval $(weave env)               and those that name no network\n";
    }
    text + "  weave status                    see what goes on\n"
}

/// What the daemon cannot find out inside: where this client reaches Docker, and how Docker speaks
/// TLS. What is said wins.
fn flags_of_docker(settings: &Settings, paths: &Paths) -> Vec<String> {
    let implied = parts::tcp_as_docker().filter(|_| settings.proxy_listen.is_empty());
    let mut listen = settings.proxy_addresses();
    listen.extend(implied.clone());
    let mut flags = Vec::new();
    let mut verifies = false;
    match settings.proxy_tls() {
        TlsSource::Given(Ok(files)) => verifies = files.authority.is_some(),
        TlsSource::Docker if listen.iter().any(ProxyAddress::is_tcp) => {
            match daemon_tls::detect(paths) {
                Ok(Some(files)) => {
                    verifies = files.authority.is_some();
                    flags.extend(flags_of(&files));
                }
                Ok(None) => flags.push("--no-detect-tls".to_owned()),
                Err(error) => {
                    // Rather no TCP listener than one in the clear.
                    eprintln!("weave: {error}");
                    flags.push("--tls".to_owned());
                }
            }
        }
        TlsSource::Given(Err(_)) | TlsSource::Docker | TlsSource::Off => {}
    }
    match implied {
        Some(address) if address.is_local() || verifies || settings.proxy_insecure.0 => {
            flags.extend(listen.iter().map(|address| format!("-H={address}")));
        }
        Some(address) => eprintln!(
            "weave: the proxy does not listen at {address}, as DOCKER_HOST has it for Docker: \
             without verified TLS whoever reaches it would be root; --proxy-insecure does all the \
             same"
        ),
        None => {}
    }
    flags
}

fn flags_of(files: &TlsFiles) -> Vec<String> {
    let switch = match &files.authority {
        Some(_) => "--tlsverify",
        None => "--tls",
    };
    let named = files.named();
    let files = named.map(|(flag, path)| format!("{flag}={}", path.display()));
    [switch.to_owned()].into_iter().chain(files).collect()
}

/// The directories of certificates, and of Docker's socket, that the daemon is to see: not the files,
/// which renewing and restarts replace.
fn directories(words: &[String], variables: &[String], paths: &Paths) -> BTreeSet<PathBuf> {
    let variables = variables.iter().filter_map(|text| text.split_once('='));
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let (settings, _) = Settings::load(variables, words, paths);
    let mut files = Vec::new();
    if let TlsSource::Given(Ok(of_tls)) = settings.proxy_tls() {
        files.extend(of_tls.named().map(|(_, path)| path.clone()));
    }
    files.extend(
        settings
            .docker_socket
            .map(|socket| socket.path().to_owned()),
    );
    // As the container will see them.
    let inside = Paths::below("/host");
    let chains = files.iter().flat_map(|path| paths.links(path));
    chains
        .filter(|path| path.is_absolute() && !path.starts_with(paths.state()))
        .filter(|path| inside.of_operator(path).is_none() || path.starts_with("/var/lib"))
        .filter_map(|path| path.parent().map(PathBuf::from))
        // Docker would make what is not there, and the whole host is not to be had; a path with a colon
        // cannot be told.
        .filter(|directory| directory.is_dir() && directory.parent().is_some())
        .filter(|directory| !directory.to_string_lossy().contains(':'))
        .collect()
}

/// Refuses where the container would not see Docker's socket, or a link that leads there.
fn must_be_seen(
    socket: &DockerSocket,
    directories: &BTreeSet<PathBuf>,
    paths: &Paths,
) -> Result<(), LaunchError> {
    let is_seen = |path: &PathBuf| {
        let is_mounted = path.parent().is_some_and(|dir| directories.contains(dir));
        is_mounted || path.starts_with(paths.run()) || path.starts_with(paths.state())
    };
    match paths.links(socket.path()).iter().all(is_seen) {
        true => Ok(()),
        false => Err(LaunchError::Refused(format!(
            "the daemon's container would not see Docker's socket {socket}: expected it in a \
             directory other than /, without a colon in its path"
        ))),
    }
}

/// The variables that the daemon is to have.
fn environment() -> Vec<String> {
    of_daemon(std::env::vars().map(|(name, value)| format!("{name}={value}")))
}

fn of_daemon(variables: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    const PREFIXES: [&str; 4] = ["WEAVE_", "IPALLOC_", "LOG_LEVEL=", "EXTRA_ARGS="];
    let variables = variables.into_iter();
    variables
        .filter(|variable| {
            let variable = variable.as_ref();
            let is_ours = PREFIXES.iter().any(|prefix| variable.starts_with(prefix));
            is_ours && !variable.starts_with(HOST_ROOT_VARIABLE)
        })
        .map(|variable| variable.as_ref().to_owned())
        .collect()
}

/// `3.10.1` as numbers, so that it is later than `3.9.0`.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(['.', '-', '+']);
    parts.map_while(|part| part.parse().ok()).collect()
}

/// A tar archive (POSIX.1-1988, ustar) of one program.
fn archive(name: &str, program: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut header = [0; BLOCK];
    let fields: BTreeMap<usize, Vec<u8>> = [
        (0, name.as_bytes().to_vec()),
        (100, b"0000755\0".to_vec()),
        (108, b"0000000\0".to_vec()),
        (116, b"0000000\0".to_vec()),
        (124, format!("{:011o}\0", program.len()).into_bytes()),
        (136, format!("{:011o}\0", 0).into_bytes()),
        // The sum of the header is made with blanks in its place.
        (148, b"        ".to_vec()),
        (156, b"0".to_vec()),
        (257, b"ustar\x0000".to_vec()),
    ]
    .into();
    for (at, field) in fields {
        header[at..at + field.len()].copy_from_slice(&field);
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(program);
    // Whole blocks, and two empty ones at the end.
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_archive_is_one_that_tar_understands() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image.tar");
        fs::write(&file, archive(PROGRAM, b"#!/bin/sh\n")).unwrap();
        let list = Command::new("tar").arg("-tvf").arg(&file).output().unwrap();
        assert!(list.status.success(), "{list:?}");
        let text = String::from_utf8(list.stdout).unwrap();
        assert!(text.starts_with("-rwxr-xr-x 0/0"), "{text}");
        assert!(
            text.contains(" 10 ") && text.trim_end().ends_with(" weave"),
            "{text}"
        );
    }

    #[test]
    fn the_commands_own_flags_are_kept_from_the_daemon() {
        let words = |line: &str| Words::new(line.split(' ').map(str::to_owned).collect());
        let expected = Words {
            of_daemon: vec!["--mtu".to_owned(), "1400".to_owned(), "h1".to_owned()],
            restart: false,
            resume: true,
            plugin: None,
            proxy: Some(false),
        };
        let line = "--no-restart --mtu 1400 --resume h1 --proxy=false";
        assert_eq!(words(line), expected);
        assert!(words("h1").restart && words("--no-restart=false").restart);
        assert_eq!(words("--plugin --mtu=1").plugin, Some(true));
    }

    #[test]
    fn only_settings_are_handed_on() {
        let variables = [
            "WEAVE_MTU=1",
            "PATH=/bin",
            "LOG_LEVEL=debug",
            "WEAVE_HOST_ROOT=/x",
        ];
        assert_eq!(of_daemon(variables), ["WEAVE_MTU=1", "LOG_LEVEL=debug"]);
    }

    #[test]
    fn the_same_program_and_later_versions_are_not_replaced() {
        let program = Program {
            bytes: Vec::new(),
            digest: "d1".to_owned(),
        };
        let running = |version: &str, digest: &str| {
            let mut container = OwnContainer::default();
            for (name, value) in [(VERSION_LABEL, version), (DIGEST_LABEL, digest)] {
                container
                    .config
                    .labels
                    .insert(name.to_owned(), value.to_owned());
            }
            container
        };
        assert!(program.may_replace(&running(VERSION, "d2")).is_ok());
        assert!(program.may_replace(&running("2.8.1", "d2")).is_ok());
        let same = program.may_replace(&running(VERSION, "d1")).unwrap_err();
        assert!(same.to_string().contains("running already"), "{same}");
        let later = program.may_replace(&running("99.0.0", "d2")).unwrap_err();
        assert!(later.to_string().contains("weave stop"), "{later}");
    }
}
