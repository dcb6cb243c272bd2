//! Calls of Docker's API through bollard, and what comes of each, without what differs from one time to
//! the next: a line for each call, to compare two ways to the same engine. Takes the engine's socket.

mod archive;
mod containers;
mod images;
mod rest;
mod streams;

use std::fmt::Debug;
use std::future::Future;

use bollard::Docker;
use bollard::errors::Error;
use futures_util::{Stream, StreamExt};

/// How long a call may take, in seconds.
const PATIENCE: u64 = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let socket = std::env::args().nth(1).unwrap_or_default();
    let docker = Docker::connect_with_unix(&socket, PATIENCE, bollard::API_DEFAULT_VERSION)?;
    let docker = docker.negotiate_version().await?;
    rest::system(&docker).await;
    images::calls(&docker).await;
    streams::calls(&docker).await;
    containers::calls(&docker).await;
    rest::volumes_and_networks(&docker).await;
    images::builds(&docker).await;
    Ok(())
}

/// Makes a call and prints what came of it.
async fn told<T: Debug>(name: &str, call: impl Future<Output = Result<T, Error>>) {
    let text = match call.await {
        Ok(result) => format!("{result:?}"),
        Err(error) => error.to_string(),
    };
    println!("{name}: {}", without_ids(&text));
}

/// All that a stream has to say, or its first error.
async fn all<T>(stream: impl Stream<Item = Result<T, Error>>) -> Result<Vec<T>, Error> {
    let items: Vec<_> = stream.collect().await;
    items.into_iter().collect()
}

/// Identifiers of containers, images and such are 12 or 64 hexadecimal digits.
fn without_ids(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric();
    let mut rest = text;
    let mut plain = String::new();
    while let Some(first) = rest.chars().next() {
        let word = match rest.find(|c: char| !is_part(c)) {
            Some(0) => first.len_utf8(),
            Some(end) => end,
            None => rest.len(),
        };
        let (head, tail) = rest.split_at(word);
        let is_id = [12, 64].contains(&word) && head.chars().all(|c| c.is_ascii_hexdigit());
        plain += if is_id { "ID" } else { head };
        rest = tail;
    }
    plain
}
