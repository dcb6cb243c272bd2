//! Images: listed, tagged, built, saved and loaded.

use bollard::models::ContainerConfig;
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CommitContainerOptionsBuilder, CreateImageOptionsBuilder,
    ImportImageOptionsBuilder, ListImagesOptions, RemoveImageOptions, TagImageOptionsBuilder,
};
use bollard::{Docker, body_full, body_stream};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{all, archive, containers, told};

pub(crate) async fn calls(docker: &Docker) {
    told("images", async {
        let images = docker.list_images(None::<ListImagesOptions>).await?;
        let mut tags: Vec<_> = images
            .into_iter()
            .flat_map(|image| image.repo_tags)
            .collect();
        tags.sort();
        Ok(tags)
    })
    .await;
    told("image", async { Ok(docker.inspect_image("lab").await?.os) }).await;
    told("no image", docker.inspect_image("nobody")).await;
    told("history", async {
        let history = docker.image_history("lab").await?;
        Ok(history
            .into_iter()
            .map(|layer| layer.created_by)
            .collect::<Vec<_>>())
    })
    .await;
    let other = TagImageOptionsBuilder::new()
        .repo("lab")
        .tag("other")
        .build();
    told("tag", docker.tag_image("lab", Some(other))).await;
    told("untag", async {
        Ok(docker
            .remove_image("lab:other", None::<RemoveImageOptions>, None)
            .await?
            .len())
    })
    .await;
    told(
        "no registry",
        docker.inspect_registry_image("127.0.0.1:1/x", None),
    )
    .await;
    let nowhere = CreateImageOptionsBuilder::new()
        .from_image("127.0.0.1:1/x")
        .build();
    told("pull fails", async {
        Ok(all(docker.create_image(Some(nowhere), None, None))
            .await?
            .len())
    })
    .await;
    told("prune images", async {
        let none = None::<bollard::query_parameters::PruneImagesOptions>;
        Ok(docker.prune_images(none).await?.space_reclaimed)
    })
    .await;
}

pub(crate) async fn builds(docker: &Docker) {
    let build = async |name: &str, dockerfile: &[u8]| {
        let options = BuildImageOptionsBuilder::new()
            .t(name)
            .rm(true)
            .forcerm(true)
            .nocache(true)
            .build();
        let context = archive::of_file("Dockerfile", dockerfile);
        let lines = all(docker.build_image(options, None, Some(body_full(context.into())))).await?;
        Ok(lines
            .into_iter()
            .filter_map(|line| line.stream)
            .collect::<String>())
    };
    told("build", build("built", b"FROM lab\nRUN echo made >/made\n")).await;
    told("build fails", build("broken", b"FROM lab\nRUN exit 3\n")).await;
    told("no dockerfile", build("broken", b"FROM\n")).await;
    told("built", async {
        Ok(containers::output(docker, "built", &["cat", "/made"]).await)
    })
    .await;

    // 200 MB, as layers that do not compress, out and in again by pieces.
    let id = containers::started(docker, None, "none").await;
    let script = "head -c 200000000 /dev/urandom >/big; md5sum </big >/sum";
    told(
        "fill",
        containers::exec(docker, &id, &["sh", "-c", script], b"", false),
    )
    .await;
    let options = CommitContainerOptionsBuilder::new()
        .container(&id)
        .repo("large")
        .tag("1")
        .build();
    told("commit", async {
        docker
            .commit_container(options, ContainerConfig::default())
            .await?;
        Ok(docker.inspect_image("large:1").await?.repo_tags)
    })
    .await;
    let sum = containers::output(docker, "large:1", &["cat", "/sum"]).await;
    containers::removed(docker, &id).await;
    let mut saved = Vec::new();
    told("save", async {
        saved = all(docker.export_image("large:1")).await?;
        Ok(saved.iter().map(Bytes::len).sum::<usize>() > 200_000_000)
    })
    .await;
    told("remove image", async {
        Ok(docker
            .remove_image("large:1", None::<RemoveImageOptions>, None)
            .await?
            .is_empty())
    })
    .await;
    told("load", async {
        let quiet = ImportImageOptionsBuilder::new().quiet(true).build();
        let lines = all(docker.import_image(quiet, body_stream(stream::iter(saved)), None)).await?;
        Ok(lines
            .into_iter()
            .filter_map(|line| line.stream)
            .collect::<Vec<_>>())
    })
    .await;
    let loaded =
        containers::output(docker, "large:1", &["sh", "-c", "md5sum </big; cat /sum"]).await;
    told("loaded", async { Ok(loaded == format!("{sum}{sum}")) }).await;
    told("save nothing", async {
        Ok(docker
            .export_image("nobody")
            .next()
            .await
            .is_some_and(|r| r.is_ok()))
    })
    .await;
    for image in ["large:1", "built"] {
        told("remove images", async {
            Ok(docker
                .remove_image(image, None::<RemoveImageOptions>, None)
                .await?
                .is_empty())
        })
        .await;
    }
}
