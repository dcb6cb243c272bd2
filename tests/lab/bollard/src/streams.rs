//! What goes on: input and output of containers and commands, logs, statistics.

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, LogsOptionsBuilder, StatsOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::{all, containers, told};

pub(crate) async fn calls(docker: &Docker) {
    let much = vec![b'x'; 300_000];
    told("attach", attached(docker, &["md5sum"], &much, false)).await;
    told(
        "attach counts",
        attached(docker, &["wc", "-c"], &much, false),
    )
    .await;
    told(
        "attach tty",
        attached(docker, &["head", "-n", "1"], b"hello\n", true),
    )
    .await;
    told("run", async {
        Ok(containers::output(docker, "lab", &["echo", "hi"]).await)
    })
    .await;

    let id = containers::started(docker, None, "none").await;
    let exec = async |words: &[&str], data: &[u8], tty| {
        containers::exec(docker, &id, words, data, tty).await
    };
    told(
        "exec",
        exec(&["sh", "-c", "echo out; echo err >&2; exit 3"], b"", false),
    )
    .await;
    told("exec tty", exec(&["sh", "-c", "tty; exit 4"], b"", true)).await;
    told("exec input", exec(&["md5sum"], &much, false)).await;
    told(
        "exec input late",
        exec(&["sh", "-c", "sleep 0.3; wc -c"], &much, false),
    )
    .await;
    told(
        "exec input tty",
        exec(&["head", "-n", "1"], b"hello\n", true),
    )
    .await;
    told("exec output", async {
        Ok(exec(&["seq", "200000"], b"", false).await?.1.len())
    })
    .await;
    told("exec nothing", exec(&["/nonsense"], b"", false)).await;
    told(
        "exec detached",
        containers::detached(docker, &id, &["true"]),
    )
    .await;
    told("stats", async {
        let once = StatsOptionsBuilder::new().stream(false).build();
        Ok(all(docker.stats(&id, Some(once)))
            .await?
            .into_iter()
            .map(|s| s.memory_stats.is_some())
            .collect::<Vec<_>>())
    })
    .await;
    told("stats stream", async {
        let stats = all(docker.stats(&id, None).take(2)).await?;
        Ok(stats
            .into_iter()
            .map(|s| s.pids_stats.is_some())
            .collect::<Vec<_>>())
    })
    .await;
    containers::removed(docker, &id).await;

    let script = "for i in 1 2 3; do echo $i; echo error $i >&2; sleep 0.1; done";
    let id = containers::created(docker, None, "lab", &["sh", "-c", script], false).await;
    let logs = async |follow, tail| {
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(tail)
            .build();
        let mut lines = all(docker.logs(&id, Some(options))).await?;
        // The engine reads the two apart.
        lines.sort_by_key(|line| line.to_string());
        Ok(lines)
    };
    told("start", docker.start_container(&id, None)).await;
    told("logs follow", logs(true, "all")).await;
    told("logs", logs(false, "all")).await;
    told("logs tail", async { Ok(logs(false, "1").await?.len()) }).await;
    told("logs of nobody", async {
        Ok(all(docker.logs("nobody", None)).await?.len())
    })
    .await;
    containers::removed(docker, &id).await;
}

/// What a container answers to input that ends, and its code.
async fn attached(
    docker: &Docker,
    words: &[&str],
    data: &[u8],
    tty: bool,
) -> Result<(String, i64), Error> {
    let config = ContainerCreateBody {
        open_stdin: Some(true),
        stdin_once: Some(true),
        attach_stdin: Some(true),
        ..containers::config("lab", words, tty)
    };
    let id = docker.create_container(None, config).await?.id;
    let options = AttachContainerOptionsBuilder::new()
        .stream(true)
        .stdin(true)
        .stdout(true)
        .stderr(true)
        .build();
    let mut container = docker.attach_container(&id, Some(options)).await?;
    docker.start_container(&id, None).await?;
    container.input.write_all(data).await?;
    if !tty {
        container.input.shutdown().await?;
    }
    let output = all(container.output)
        .await?
        .iter()
        .map(ToString::to_string)
        .collect();
    let code = containers::waited(docker, &id).await;
    containers::removed(docker, &id).await;
    Ok((output, code))
}
