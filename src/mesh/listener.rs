//! Where other peers reach this one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::connection::canonical;

/// Pending connections in the kernel.
const BACKLOG: i32 = 256;

const REBIND_DELAY: Duration = Duration::from_secs(2);

/// After an error that may last, such as too many open files.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// What the listener tells the shell.
#[derive(Debug)]
pub(super) enum Heard {
    /// Where it listens now, or why it does not.
    Listening(Result<SocketAddr, String>),
    /// Somebody dialled.
    Accepted(TcpStream, SocketAddr),
}

/// Binds the address, all addresses of both families when there is none.
///
/// # Errors
///
/// What the system says, with the address.
pub(super) fn bind(host: Option<IpAddr>, port: u16) -> Result<TcpListener, String> {
    let everywhere = [
        IpAddr::from(Ipv6Addr::UNSPECIFIED),
        Ipv4Addr::UNSPECIFIED.into(),
    ];
    let candidates = host.map_or(everywhere.to_vec(), |host| vec![host]);
    let mut failure = String::new();
    for host in candidates {
        let address = SocketAddr::new(host, port);
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = format!("cannot listen on TCP {address}: {error}"),
        }
    }
    Err(failure)
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A daemon that starts again must not wait for connections of the one before it.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections for ever; binds again and again while that fails.
pub(super) async fn run(
    mut listener: Option<TcpListener>,
    host: Option<IpAddr>,
    port: u16,
    heard: mpsc::Sender<Heard>,
) {
    loop {
        let news = match listener.take() {
            None => {
                tokio::time::sleep(REBIND_DELAY).await;
                let bound = bind(host, port);
                let address = bound.as_ref().map_err(Clone::clone).and_then(local_address);
                listener = bound.ok();
                Heard::Listening(address)
            }
            Some(bound) => {
                let accepted = bound.accept().await;
                listener = Some(bound);
                match accepted {
                    Ok((stream, remote)) => Heard::Accepted(stream, canonical(remote)),
                    Err(_) => {
                        tokio::time::sleep(ACCEPT_DELAY).await;
                        continue;
                    }
                }
            }
        };
        if heard.send(news).await.is_err() {
            return;
        }
    }
}

/// The address that a listener is bound to.
pub(super) fn local_address(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| error.to_string())
}

/// The addresses from which this host would talk to the world: those of its default routes.
pub(super) fn default_sources() -> Vec<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849): a UDP socket that is connected looks up
    // the route and sends nothing.
    let probes: [(IpAddr, IpAddr); 2] = [
        (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    ];
    let source = |(any, probe): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((probe, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    probes.into_iter().filter_map(source).collect()
}
