//! The engine as a whole, volumes, networks, plugins.

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    EventsOptionsBuilder, ListVolumesOptions, PruneNetworksOptionsBuilder, PruneVolumesOptions,
    RemoveVolumeOptions,
};
use futures_util::StreamExt;

use crate::{containers, told};

pub(crate) async fn system(docker: &Docker) {
    told("ping", docker.ping()).await;
    told("version", async { Ok(docker.version().await?.api_version) }).await;
    told("info", async { Ok(docker.info().await?.name) }).await;
    told("df", async {
        // The form of what older engines answer is not the crate's.
        Ok(docker.df(None).await.is_ok())
    })
    .await;
    told("plugins", async {
        Ok(docker.list_plugins(None).await?.len())
    })
    .await;
    told("no plugin", docker.inspect_plugin("nobody")).await;
    told("enable no plugin", docker.enable_plugin("nobody", None)).await;
    told("remove no plugin", docker.remove_plugin("nobody", None)).await;
    told("no swarm", docker.inspect_swarm()).await;
    told("no services", docker.list_services(None)).await;
    told("no nodes", docker.list_nodes(None)).await;
    told("no secrets", docker.list_secrets(None)).await;
    told("leave no swarm", docker.leave_swarm(None)).await;
}

pub(crate) async fn volumes_and_networks(docker: &Docker) {
    let filters = [("type", vec!["volume"])].into();
    let mut events = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
    // The stream begins when it is first polled; the engine has answered by the time something came.
    let watch = async {
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            let event: bollard::models::EventMessage = event?;
            let action = event.action.unwrap_or_default();
            seen.push(action.clone());
            if action == "destroy"
                && event.actor.and_then(|actor| actor.id).as_deref() == Some("seen")
            {
                break;
            }
        }
        seen.dedup();
        Ok::<_, Error>(seen)
    };
    let act = async {
        for _ in 0..3 {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            volume(docker).await;
        }
    };
    let (seen, ()) = tokio::join!(watch, act);
    told("events", async { seen }).await;
    told("volume", async {
        Ok(docker.create_volume(named("calls")).await?.name)
    })
    .await;
    told("volumes", async {
        let all = docker
            .list_volumes(None::<ListVolumesOptions>)
            .await?
            .volumes
            .unwrap_or_default();
        Ok(all
            .into_iter()
            .map(|volume| volume.name)
            .collect::<Vec<_>>())
    })
    .await;
    told("inspect volume", async {
        Ok(docker.inspect_volume("calls").await?.driver)
    })
    .await;
    told(
        "remove volume",
        docker.remove_volume("calls", None::<RemoveVolumeOptions>),
    )
    .await;
    told("no volume", docker.inspect_volume("calls")).await;
    told("prune volumes", async {
        Ok(docker
            .prune_volumes(None::<PruneVolumesOptions>)
            .await?
            .volumes_deleted)
    })
    .await;

    let definition = NetworkCreateRequest {
        name: "calls".to_owned(),
        driver: Some("bridge".to_owned()),
        ..Default::default()
    };
    told("network", async {
        Ok(docker.create_network(definition).await?.warning)
    })
    .await;
    told("networks", async {
        let all = docker.list_networks(None).await?;
        let mut names: Vec<_> = all.into_iter().filter_map(|network| network.name).collect();
        names.sort();
        Ok(names)
    })
    .await;
    told("inspect network", async {
        Ok(docker.inspect_network("calls", None).await?.driver)
    })
    .await;
    let id = containers::started(docker, Some("member"), "calls").await;
    let container = || id.clone();
    told(
        "disconnect",
        docker.disconnect_network(
            "calls",
            NetworkDisconnectRequest {
                container: container(),
                force: None,
            },
        ),
    )
    .await;
    told(
        "connect",
        docker.connect_network(
            "calls",
            NetworkConnectRequest {
                container: container(),
                endpoint_config: None,
            },
        ),
    )
    .await;
    told("its networks", async {
        let settings = docker.inspect_container(&id, None).await?.network_settings;
        Ok(settings
            .and_then(|s| s.networks)
            .map(|n| n.into_keys().collect::<Vec<_>>()))
    })
    .await;
    told("network in use", docker.remove_network("calls")).await;
    containers::removed(docker, &id).await;
    told("remove network", docker.remove_network("calls")).await;
    // That of the lab is not to be among them.
    let labels = [("label", vec!["calls"])].into();
    let labelled = PruneNetworksOptionsBuilder::new().filters(&labels).build();
    told("prune networks", async {
        Ok(docker
            .prune_networks(Some(labelled))
            .await?
            .networks_deleted)
    })
    .await;
    told("prune containers", async {
        Ok(docker.prune_containers(None).await?.containers_deleted)
    })
    .await;
}

async fn volume(docker: &Docker) {
    let _ = docker.create_volume(named("seen")).await;
    let _ = docker
        .remove_volume("seen", None::<RemoveVolumeOptions>)
        .await;
}

fn named(name: &str) -> VolumeCreateRequest {
    VolumeCreateRequest {
        name: Some(name.to_owned()),
        ..Default::default()
    }
}
