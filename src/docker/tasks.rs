//! The tasks of swarm services among this host's containers.

use std::collections::BTreeMap;

use super::containers::Running;
use super::engine::Container;
use crate::network::services::{Backend, ServiceId, TaskState};
use crate::types::EndpointId;

/// The label by which swarm marks a task's container with its service.
const SERVICE: &str = "com.docker.swarm.service.id";

/// All tasks that run, by each of their endpoints.
pub fn tasks(running: &Running) -> BTreeMap<EndpointId, Backend> {
    let tasks = running.containers.iter().flat_map(|container| {
        let service = container.labels.get(SERVICE);
        let state = state(container, running.stopping.contains(&container.id));
        let attachments = container.network_settings.networks.values();
        attachments.filter_map(move |attachment| {
            let backend = Backend {
                service: ServiceId(service?.clone()),
                network: attachment.network_id.parse().ok()?,
                address: attachment.ip_address.parse().ok()?,
                state,
            };
            Some((attachment.endpoint_id.parse().ok()?, backend))
        })
    });
    tasks.collect()
}

/// The result of a health check is told in the text for people alone (`daemon/container/state.go`
/// of the Engine).
fn state(container: &Container, stopping: bool) -> TaskState {
    if stopping {
        return TaskState::Stopping;
    }
    match container.status.as_str() {
        status if status.contains("(health: starting)") => TaskState::Starting,
        status if status.contains("(unhealthy)") => TaskState::Unhealthy,
        _ if container.state == "running" => TaskState::Ready,
        _ => TaskState::Unhealthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_told_with_their_state_on_each_network() {
        let container = |id: &str, label: &str, status: &str| {
            format!(
                r#"{{"Id":"{id}","State":"running","Status":"{status}","Labels":{{"{label}":"s1"}},
                "NetworkSettings":{{"Networks":{{
                "a":{{"NetworkID":"n1","EndpointID":"{id}1","IPAddress":"10.0.1.2"}},
                "b":{{"NetworkID":"n2","EndpointID":"{id}2","IPAddress":""}}}}}}}}"#
            )
        };
        let containers = [
            container("a", SERVICE, "Up 2 seconds"),
            container("b", SERVICE, "Up 2 seconds (healthy)"),
            container("c", SERVICE, "Up 2 seconds (health: starting)"),
            container("d", SERVICE, "Up 2 seconds (unhealthy)"),
            container("e", SERVICE, "Up 2 seconds"),
            container("f", "other", "Up 2 seconds"),
        ];
        let running = Running {
            containers: serde_json::from_str(&format!("[{}]", containers.join(","))).unwrap(),
            stopping: ["e".to_owned()].into(),
        };
        let states: Vec<_> = tasks(&running)
            .into_iter()
            .map(|(endpoint, task)| (endpoint.to_string(), task.state))
            .collect();
        let expected = [
            ("a1", TaskState::Ready),
            ("b1", TaskState::Ready),
            ("c1", TaskState::Starting),
            ("d1", TaskState::Unhealthy),
            ("e1", TaskState::Stopping),
        ];
        assert_eq!(states, expected.map(|(id, state)| (id.to_owned(), state)));
    }
}
