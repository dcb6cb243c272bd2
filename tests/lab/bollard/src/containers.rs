//! Containers: made, looked at, changed, copied to and from, ended.

use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, ExecConfig, HostConfig, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder,
    DownloadFromContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
    ResizeContainerTTYOptionsBuilder, RestartContainerOptionsBuilder, StopContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bollard::{Docker, body_full};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::{all, archive, told};

pub(crate) async fn calls(docker: &Docker) {
    let id = started(docker, Some("calls"), "none").await;
    told("create twice", async {
        Ok(docker
            .create_container(name("calls"), config("lab", &[], false))
            .await?
            .id)
    })
    .await;
    told("create of no image", async {
        Ok(docker
            .create_container(None, config("nobody", &[], false))
            .await?
            .id)
    })
    .await;
    told("list", async {
        let filters = [("name", vec!["calls"])].into();
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let containers = docker.list_containers(Some(options)).await?;
        Ok(containers
            .into_iter()
            .map(|c| (c.names, c.image, c.state))
            .collect::<Vec<_>>())
    })
    .await;
    told("inspect", async {
        Ok(docker.inspect_container("calls", None).await?.name)
    })
    .await;
    told("nobody", async {
        Ok(docker.inspect_container("nobody", None).await?.name)
    })
    .await;
    told("top", async {
        Ok(docker.top_processes(&id, None).await?.titles)
    })
    .await;

    let big = archive::of_file("big", &vec![b'y'; 20_000_000]);
    let to = UploadToContainerOptionsBuilder::new().path("/tmp").build();
    told(
        "put",
        docker.upload_to_container(&id, Some(to), body_full(big.into())),
    )
    .await;
    told(
        "sum",
        exec(docker, &id, &["md5sum", "/tmp/big"], b"", false),
    )
    .await;
    let get = async |path: &str| {
        let options = DownloadFromContainerOptionsBuilder::new()
            .path(path)
            .build();
        let pieces = all(docker.download_from_container(&id, Some(options))).await?;
        Ok(pieces.iter().map(|piece| piece.len()).sum::<usize>())
    };
    told("get", get("/tmp/big")).await;
    told("get nothing", get("/nonsense")).await;
    told("stat", async {
        let options = ContainerArchiveInfoOptionsBuilder::new()
            .path("/tmp/big")
            .build();
        let stat = docker
            .get_container_archive_info(&id, Some(options))
            .await?;
        Ok((stat.name, stat.size))
    })
    .await;
    told("changes", docker.container_changes(&id)).await;
    told("export", async {
        let pieces = all(docker.export_container(&id)).await?;
        Ok(pieces.iter().map(|piece| piece.len()).sum::<usize>() > 20_000_000)
    })
    .await;

    told("pause", docker.pause_container(&id)).await;
    told("paused", state(docker, &id)).await;
    told("unpause", docker.unpause_container(&id)).await;
    told(
        "rename",
        docker.rename_container(
            &id,
            RenameContainerOptionsBuilder::new().name("calls2").build(),
        ),
    )
    .await;
    told(
        "resize",
        docker.resize_container_tty(
            &id,
            ResizeContainerTTYOptionsBuilder::new().h(20).w(30).build(),
        ),
    )
    .await;
    let limits = ContainerUpdateBody {
        memory: Some(64 << 20),
        memory_swap: Some(128 << 20),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::ON_FAILURE),
            maximum_retry_count: Some(2),
        }),
        ..Default::default()
    };
    told("update", docker.update_container(&id, limits)).await;
    told("restart policy", async {
        let host = docker.inspect_container(&id, None).await?.host_config;
        Ok(host.map(|host| (host.restart_policy, host.memory)))
    })
    .await;
    told(
        "restart",
        docker.restart_container(
            &id,
            Some(RestartContainerOptionsBuilder::new().t(0).build()),
        ),
    )
    .await;
    told(
        "stop",
        docker.stop_container(&id, Some(StopContainerOptionsBuilder::new().t(0).build())),
    )
    .await;
    told("stop again", docker.stop_container(&id, None)).await;
    told("stopped", state(docker, &id)).await;
    told("exec stopped", exec(docker, &id, &["true"], b"", false)).await;
    told("start", docker.start_container(&id, None)).await;
    told("start again", docker.start_container(&id, None)).await;
    told(
        "kill",
        docker.kill_container(
            &id,
            Some(KillContainerOptionsBuilder::new().signal("KILL").build()),
        ),
    )
    .await;
    told("wait", async { Ok(waited(docker, &id).await) }).await;
    told("remove", async {
        docker
            .remove_container(
                &id,
                Some(RemoveContainerOptionsBuilder::new().force(true).build()),
            )
            .await
    })
    .await;
    told("remove again", docker.remove_container(&id, None)).await;

    let policy = RestartPolicy {
        name: Some(RestartPolicyNameEnum::ON_FAILURE),
        maximum_retry_count: Some(1),
    };
    let mut again = config("lab", &["sh", "-c", "echo again; exit 5"], false);
    again.host_config.get_or_insert_default().restart_policy = Some(policy);
    told("restarts", async {
        let id = docker.create_container(None, again).await?.id;
        docker.start_container(&id, None).await?;
        let code = waited(docker, &id).await;
        let restarted = docker.inspect_container(&id, None).await?.restart_count;
        removed(docker, &id).await;
        Ok((code, restarted))
    })
    .await;
}

pub(crate) fn config(image: &str, words: &[&str], tty: bool) -> ContainerCreateBody {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: (!words.is_empty()).then_some(words),
        tty: Some(tty),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn name(name: &str) -> Option<bollard::query_parameters::CreateContainerOptions> {
    Some(CreateContainerOptionsBuilder::new().name(name).build())
}

pub(crate) async fn created(
    docker: &Docker,
    named: Option<&str>,
    image: &str,
    words: &[&str],
    tty: bool,
) -> String {
    let options = named.and_then(name);
    let created = docker
        .create_container(options, config(image, words, tty))
        .await;
    created.expect("the image is there").id
}

/// A container that stays, on a network.
pub(crate) async fn started(docker: &Docker, named: Option<&str>, network: &str) -> String {
    let mut config = config("lab", &[], false);
    config.host_config.get_or_insert_default().network_mode = Some(network.to_owned());
    let created = docker.create_container(named.and_then(name), config).await;
    let id = created.expect("the image is there").id;
    docker.start_container(&id, None).await.expect("it starts");
    id
}

pub(crate) async fn removed(docker: &Docker, id: &str) {
    let force = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    docker
        .remove_container(id, Some(force))
        .await
        .expect("it is there");
}

/// The code with which a container ended; bollard has an error for every other than zero.
pub(crate) async fn waited(docker: &Docker, id: &str) -> i64 {
    match docker.wait_container(id, None).next().await {
        Some(Ok(ended)) => ended.status_code,
        Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
        _ => -1,
    }
}

/// What a container says until it ends.
pub(crate) async fn output(docker: &Docker, image: &str, words: &[&str]) -> String {
    let id = created(docker, None, image, words, false).await;
    docker.start_container(&id, None).await.expect("it starts");
    waited(docker, &id).await;
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
    let lines = all(docker.logs(&id, Some(options)))
        .await
        .unwrap_or_default();
    removed(docker, &id).await;
    lines.iter().map(ToString::to_string).collect()
}

async fn state(
    docker: &Docker,
    id: &str,
) -> Result<Option<bollard::models::ContainerStateStatusEnum>, Error> {
    Ok(docker
        .inspect_container(id, None)
        .await?
        .state
        .and_then(|state| state.status))
}

/// Runs a command with input that ends: its code, and what it said.
pub(crate) async fn exec(
    docker: &Docker,
    id: &str,
    words: &[&str],
    data: &[u8],
    tty: bool,
) -> Result<(Option<i64>, String), Error> {
    let exec = prepared(docker, id, words, tty).await?;
    let options = StartExecOptions {
        tty,
        ..Default::default()
    };
    let started = docker.start_exec(&exec, Some(options)).await?;
    let StartExecResults::Attached { output, mut input } = started else {
        return Ok((None, String::new()));
    };
    let write = async {
        // A command that does not read may be gone by then.
        let _ = input.write_all(data).await;
        if !tty {
            let _ = input.shutdown().await;
        }
    };
    let (lines, ()) = tokio::join!(all(output), write);
    let mut lines: Vec<_> = lines?.iter().map(|line| format!("{line}")).collect();
    // The engine reads output and errors apart; a long output is one of them.
    if lines.len() < 4 {
        lines.sort();
    }
    Ok((docker.inspect_exec(&exec).await?.exit_code, lines.concat()))
}

pub(crate) async fn detached(docker: &Docker, id: &str, words: &[&str]) -> Result<(), Error> {
    let exec = prepared(docker, id, words, false).await?;
    let options = StartExecOptions {
        detach: true,
        ..Default::default()
    };
    docker.start_exec(&exec, Some(options)).await.map(drop)
}

async fn prepared(docker: &Docker, id: &str, words: &[&str], tty: bool) -> Result<String, Error> {
    let config = ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(tty),
        cmd: Some(words.iter().map(|&word| word.to_owned()).collect()),
        ..Default::default()
    };
    Ok(docker.create_exec(id, config).await?.id)
}
