//! UDP sockets: many datagrams per system call, in both directions.
//!
//! `UDP_SEGMENT` sends up to 64 datagrams of one size as one (linux/udp.h), `UDP_GRO` receives
//! them as one. Where the kernel or a device refuses, datagrams go one by one.

#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams that one `UDP_SEGMENT` send may hold (`UDP_MAX_SEGMENTS`, linux/udp.h; 128 since
/// Linux 6.9).
pub const MAX_SEGMENTS: usize = 64;
/// Bytes that one send may hold: the largest UDP payload over IPv4.
pub const MAX_SEND: usize = 65_507;
/// Sends that go down in one system call.
const SEND_BATCH: usize = 32;
/// Bytes of one receive buffer where the kernel aggregates: an aggregate has at most 65,535.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Receive buffers when the kernel aggregates: 1 MiB, which stays in a core's second-level cache.
const RECEIVE_FEW: usize = 16;
/// Receive buffers when it does not, and so the most that one call takes.
const RECEIVE_MANY: usize = 32;
/// Bytes asked for the socket's buffers in the kernel, each way: 10 ms at 12 Gb/s.
const SOCKET_BUFFER: usize = 16 << 20;
/// Room for one control message with an `int`.
const CONTROL: usize = 32;

/// One send: datagrams of one size to one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Which part of the buffer.
    pub range: Range<usize>,
    /// Bytes of each datagram; the last may be shorter.
    pub segment: usize,
    /// The caller's name for it in reports.
    pub tag: usize,
}

impl Transmit {
    /// How many datagrams it is.
    pub fn datagrams(&self) -> usize {
        self.range.len().div_ceil(self.segment.max(1))
    }

    fn is_group(&self) -> bool {
        self.range.len() > self.segment
    }
}

/// What could not be sent.
#[derive(Debug)]
pub struct SendFailure {
    /// The [`Transmit`]'s.
    pub tag: usize,
    /// How many of its datagrams.
    pub datagrams: usize,
    /// What the kernel said.
    pub error: io::Error,
}

/// One receive: datagrams of one size from one address.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Where from.
    pub from: SocketAddr,
    /// Bytes in all.
    pub len: usize,
    /// Bytes of each datagram; the last may be shorter.
    pub segment: usize,
}

/// A UDP socket: one for IPv4 and IPv6 that never fragments, or one that was made elsewhere.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    dual: bool,
    segmentation: AtomicBool,
    aggregation: bool,
}

impl UdpSocket {
    /// Listens on a port, of all addresses or of one.
    ///
    /// # Errors
    /// When the port is taken or the address is not this host's.
    pub fn bind(address: Option<IpAddr>, port: u16) -> io::Result<Self> {
        match address {
            Some(address) => Self::bind_to(SocketAddr::new(address, port)),
            // A host without IPv6 refuses the family or the address.
            None => Self::bind_to(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
                .or_else(|_| Self::bind_to(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))),
        }
    }

    /// A bound socket of one family as it is: datagrams come and go one by one.
    pub const fn of(socket: Socket) -> Self {
        Self {
            socket,
            dual: false,
            segmentation: AtomicBool::new(false),
            aggregation: false,
        }
    }

    fn bind_to(address: SocketAddr) -> io::Result<Self> {
        let dual = address.is_ipv6();
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.cloexec(),
            Some(Protocol::UDP),
        )?;
        if dual {
            socket.set_only_v6(false)?;
            set_option(
                &socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_PROBE,
            )?;
        }
        // Do not fragment, and do not believe ICMP either: probes find what gets through.
        set_option(
            &socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        )?;
        enlarge_buffers(&socket);
        let aggregation = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let segmentation = set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        socket.bind(&address.into())?;
        Ok(Self {
            socket,
            dual,
            segmentation: AtomicBool::new(segmentation),
            aggregation,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("expected an IP address"))
    }

    /// Whether datagrams of one size are sent as one.
    pub fn segmentation(&self) -> bool {
        self.segmentation.load(Ordering::Relaxed)
    }

    /// Whether datagrams of one size are received as one.
    pub fn aggregation(&self) -> bool {
        self.aggregation
    }

    /// Stops or resumes the use of `UDP_SEGMENT`.
    pub fn set_segmentation(&self, on: bool) {
        self.segmentation.store(on, Ordering::Relaxed);
    }

    /// Sends all that can be sent; `failed` is told what could not.
    /// While the socket's buffer is full it waits or, if `wait` is false, drops.
    pub fn send(
        &self,
        buffer: &[u8],
        transmits: &[Transmit],
        wait: bool,
        mut failed: impl FnMut(SendFailure),
    ) {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        let mut rest = transmits;
        while let Some(first) = rest.first() {
            if !self.segmentation() && first.is_group() {
                self.send_singly(buffer, first, flags, &mut failed);
                rest = &rest[1..];
                continue;
            }
            let singles = if self.segmentation() {
                rest.len()
            } else {
                rest.iter().take_while(|one| !one.is_group()).count()
            };
            let batch = &rest[..singles.min(SEND_BATCH)];
            match self.send_batch(buffer, batch, flags) {
                Ok(sent) => rest = &rest[sent.max(1)..],
                Err(error) => {
                    rest = &rest[1..];
                    self.recover(buffer, first, flags, error, &mut failed);
                }
            }
        }
    }

    /// Sends one datagram, without waiting.
    ///
    /// # Errors
    /// What the kernel says; `EMSGSIZE` when it is larger than the device takes.
    pub fn send_one(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.send_single(to, datagram, libc::MSG_DONTWAIT)
    }

    fn send_single(&self, to: SocketAddr, datagram: &[u8], flags: libc::c_int) -> io::Result<()> {
        self.socket
            .send_to_with_flags(datagram, &self.mapped(to).into(), flags)
            .map(drop)
    }

    fn recover(
        &self,
        buffer: &[u8],
        transmit: &Transmit,
        flags: libc::c_int,
        error: io::Error,
        failed: &mut impl FnMut(SendFailure),
    ) {
        let grouped = transmit.is_group();
        match error.raw_os_error() {
            Some(libc::EINTR) => self.send_singly(buffer, transmit, flags, failed),
            // The device cannot complete checksums, which segmentation needs (udp_send_skb).
            Some(libc::EIO) if grouped => {
                self.set_segmentation(false);
                self.send_singly(buffer, transmit, flags, failed);
            }
            // A group that the kernel finds wrong may still pass one by one.
            Some(libc::EINVAL | libc::EMSGSIZE) if grouped => {
                self.send_singly(buffer, transmit, flags, failed);
            }
            _ => failed(SendFailure {
                tag: transmit.tag,
                datagrams: transmit.datagrams(),
                error,
            }),
        }
    }

    fn send_singly(
        &self,
        buffer: &[u8],
        transmit: &Transmit,
        flags: libc::c_int,
        failed: &mut impl FnMut(SendFailure),
    ) {
        for start in transmit.range.clone().step_by(transmit.segment.max(1)) {
            let end = transmit.range.end.min(start + transmit.segment);
            if let Err(error) = self.send_single(transmit.to, &buffer[start..end], flags) {
                failed(SendFailure {
                    tag: transmit.tag,
                    datagrams: 1,
                    error,
                });
            }
        }
    }

    fn send_batch(
        &self,
        buffer: &[u8],
        batch: &[Transmit],
        flags: libc::c_int,
    ) -> io::Result<usize> {
        let mut addresses = [const { MaybeUninit::<RawAddress>::uninit() }; SEND_BATCH];
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; SEND_BATCH];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; SEND_BATCH];
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; SEND_BATCH];
        let count = batch.len().min(SEND_BATCH);
        for (at, transmit) in batch.iter().take(count).enumerate() {
            let data = &buffer[transmit.range.clone()];
            let (address, address_len) = RawAddress::new(self.mapped(transmit.to));
            let address = addresses[at].write(address);
            let piece = pieces[at].write(libc::iovec {
                iov_base: data.as_ptr().cast_mut().cast(),
                iov_len: data.len(),
            });
            // SAFETY: `msghdr` is plain data for which all zeroes is a valid value.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            header.msg_name = ptr::from_mut(address).cast();
            header.msg_namelen = address_len;
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            if transmit.is_group() {
                let control = controls[at].write(Control::new());
                header.msg_control = control.0.as_mut_ptr().cast();
                #[expect(clippy::cast_possible_truncation, reason = "below 64 KiB")]
                {
                    header.msg_controllen = control.put_segment(transmit.segment as u16);
                }
            }
            messages[at].write(libc::mmsghdr {
                msg_hdr: header,
                msg_len: 0,
            });
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most SEND_BATCH")]
        // SAFETY: the first `count` messages are initialised, and all that they point to lives
        // in this frame or in `buffer` until the call returns; the kernel only reads it.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                count as libc::c_uint,
                flags as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Takes what has come, without waiting; returns how many entries of `buffers` hold
    /// something.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has come; else what the kernel says.
    pub fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        self.receive_with(buffers, libc::MSG_DONTWAIT)
    }

    /// The same, but waits until something has come, or until [`wake`](Self::wake).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        self.receive_with(buffers, libc::MSG_WAITFORONE)
    }

    /// Ends all waiting on this socket, for ever: what comes from now on is as good as lost.
    pub fn wake(&self) {
        // It says that the socket is not connected, and wakes who waits all the same (inet_shutdown).
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn receive_with(&self, buffers: &mut ReceiveBuffers, flags: libc::c_int) -> io::Result<usize> {
        let wanted = if buffers.aggregated {
            RECEIVE_FEW
        } else {
            RECEIVE_MANY
        };
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; RECEIVE_MANY];
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; RECEIVE_MANY];
        let slots = buffers.data.chunks_exact_mut(buffers.each);
        for (at, data) in slots.take(wanted).enumerate() {
            let piece = pieces[at].write(libc::iovec {
                iov_base: data.as_mut_ptr().cast(),
                iov_len: data.len(),
            });
            // SAFETY: `msghdr` is plain data for which all zeroes is a valid value.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            header.msg_name = (&raw mut buffers.addresses[at]).cast();
            header.msg_namelen = SIZE_OF_STORAGE;
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            header.msg_control = buffers.controls[at].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
            messages[at].write(libc::mmsghdr {
                msg_hdr: header,
                msg_len: 0,
            });
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most RECEIVE_MANY")]
        // SAFETY: the first `wanted` messages are initialised; the buffers, addresses and control
        // areas they point to are borrowed mutably, and live until the call returns.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                wanted as libc::c_uint,
                flags as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        buffers.aggregated = false;
        for (at, message) in messages.iter().take(count).enumerate() {
            // SAFETY: the first `wanted` messages were initialised above, `count` is no more.
            let message = unsafe { message.assume_init_ref() };
            let len = (message.msg_len as usize).min(buffers.each);
            let segment = buffers.controls[at].segment(message.msg_hdr.msg_controllen);
            let segment = segment.unwrap_or(len).clamp(1, len.max(1));
            buffers.aggregated |= segment < len;
            buffers.received[at] = Received {
                from: parse_address(&buffers.addresses[at]),
                len,
                segment,
            };
        }
        Ok(count)
    }

    fn mapped(&self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V4(v4) if self.dual => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            _ => address,
        }
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where datagrams are received; made once.
pub struct ReceiveBuffers {
    data: Vec<u8>,
    each: usize,
    addresses: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    received: Vec<Received>,
    aggregated: bool,
}

impl ReceiveBuffers {
    /// Room for one receive call. Memory is taken by the kernel only as it is used.
    pub fn new() -> Self {
        Self::of(RECEIVE_BUFFER)
    }

    /// The same for datagrams of at most this many bytes; of larger ones the rest is cut off.
    pub fn of(each: usize) -> Self {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Self {
            data: vec![0; each * RECEIVE_MANY],
            each,
            // SAFETY: `sockaddr_storage` is plain data for which all zeroes is a valid value.
            addresses: vec![unsafe { mem::zeroed() }; RECEIVE_MANY],
            controls: vec![Control::new(); RECEIVE_MANY],
            received: vec![
                Received {
                    from: nowhere,
                    len: 0,
                    segment: 1
                };
                RECEIVE_MANY
            ],
            aggregated: false,
        }
    }

    /// What came in this entry, and its bytes.
    pub fn entry(&mut self, at: usize) -> (Received, &mut [u8]) {
        let received = self.received[at];
        let start = self.offset(at);
        (received, &mut self.data[start..start + received.len])
    }

    /// All bytes, of which entry `at` begins at [`offset`](Self::offset).
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Where an entry's bytes begin.
    pub const fn offset(&self, at: usize) -> usize {
        at * self.each
    }
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self::new()
    }
}

/// Room for control messages, aligned as they must be (cmsg(3)).
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL]);

impl Control {
    const fn new() -> Self {
        Self([0; CONTROL])
    }

    /// Asks for segments of this size; returns the bytes used.
    fn put_segment(&mut self, size: u16) -> usize {
        // SAFETY: CMSG_LEN and CMSG_SPACE only compute.
        let (len, space) = unsafe { (libc::CMSG_LEN(2) as usize, libc::CMSG_SPACE(2) as usize) };
        let header = mem::offset_of!(libc::cmsghdr, cmsg_len);
        self.0[header..header + size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        let level = mem::offset_of!(libc::cmsghdr, cmsg_level);
        self.0[level..level + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        let kind = mem::offset_of!(libc::cmsghdr, cmsg_type);
        self.0[kind..kind + 4].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        let data = len - 2;
        self.0[data..data + 2].copy_from_slice(&size.to_ne_bytes());
        space
    }

    /// The size of the segments of an aggregate, if the kernel said so in `used` bytes.
    fn segment(&self, used: usize) -> Option<usize> {
        // SAFETY: CMSG_LEN only computes.
        let data = unsafe { libc::CMSG_LEN(0) as usize };
        if used < data + 4 {
            return None;
        }
        let int = |at: usize| -> Option<i32> {
            Some(i32::from_ne_bytes(self.0.get(at..at + 4)?.try_into().ok()?))
        };
        let level = int(mem::offset_of!(libc::cmsghdr, cmsg_level))?;
        let kind = int(mem::offset_of!(libc::cmsghdr, cmsg_type))?;
        if (level, kind) != (libc::SOL_UDP, libc::UDP_GRO) {
            return None;
        }
        usize::try_from(int(data)?).ok().filter(|&size| size > 0)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "128 bytes")]
const SIZE_OF_STORAGE: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

/// A socket address as the kernel takes it, without the padding of `sockaddr_storage`.
#[repr(C)]
union RawAddress {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    #[expect(clippy::cast_possible_truncation, reason = "both are tens of bytes")]
    fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        match address {
            SocketAddr::V4(v4) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (Self { v4 }, size_of::<libc::sockaddr_in>() as u32)
            }
            SocketAddr::V6(v6) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                (Self { v6 }, size_of::<libc::sockaddr_in6>() as u32)
            }
        }
    }
}

/// The address in the form that people know: IPv4 as such even on a socket for both.
fn parse_address(storage: &libc::sockaddr_storage) -> SocketAddr {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a `sockaddr_in`, which is smaller
            // and no stricter in its alignment.
            let v4 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into()
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with `sockaddr_in6`.
            let v6 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddrV4::new(v4, port).into(),
                None => SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into(),
            }
        }
        _ => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
    }
}

fn enlarge_buffers(socket: &Socket) {
    #[expect(clippy::cast_possible_wrap, reason = "16 MiB")]
    #[expect(clippy::cast_possible_truncation, reason = "16 MiB")]
    let size = SOCKET_BUFFER as libc::c_int;
    // Forcing passes the system's limit and needs CAP_NET_ADMIN; without it, as much as allowed.
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "4 bytes")]
    // SAFETY: the option's value is an int that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket, SocketAddr) {
        let one = UdpSocket::bind(None, 0).unwrap();
        let two = UdpSocket::bind(None, 0).unwrap();
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), two.local_addr().unwrap().port());
        (one, two, to)
    }

    fn receive_all(socket: &UdpSocket, total: usize) -> Vec<Vec<u8>> {
        let mut buffers = ReceiveBuffers::new();
        let (mut datagrams, mut bytes) = (Vec::new(), 0);
        while bytes < total {
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(2000u16)), Ok(1));
            for at in 0..socket.receive(&mut buffers).unwrap() {
                let (received, data) = buffers.entry(at);
                assert!(received.from.is_ipv4());
                bytes += received.len;
                datagrams.extend(data.chunks(received.segment).map(<[u8]>::to_vec));
            }
        }
        datagrams
    }

    fn sends_arrive(segmentation: bool) {
        let (one, two, to) = pair();
        one.set_segmentation(segmentation);
        let buffer: Vec<u8> = (0..10_500u32).map(|i| (i / 1000) as u8).collect();
        let transmits = [0..4000, 4000..10_500].map(|range| Transmit {
            to,
            range,
            segment: 1000,
            tag: 7,
        });
        one.send(&buffer, &transmits, true, |failure| panic!("{failure:?}"));
        let datagrams = receive_all(&two, buffer.len());
        assert_eq!(datagrams.len(), 11);
        assert_eq!(datagrams.concat(), buffer);
    }

    #[test]
    fn groups_arrive_as_the_datagrams_they_hold() {
        sends_arrive(true);
    }

    #[test]
    fn groups_arrive_without_segmentation_too() {
        sends_arrive(false);
    }

    #[test]
    fn what_cannot_be_sent_is_reported_and_the_rest_goes_on() {
        let (one, two, to) = pair();
        // Not allowed to sockets that did not ask for it.
        let nowhere = SocketAddr::new(Ipv4Addr::BROADCAST.into(), to.port());
        let transmits = [(nowhere, 1), (to, 2)].map(|(to, tag)| Transmit {
            to,
            range: 0..100,
            segment: 40 * tag,
            tag,
        });
        let mut failures = Vec::new();
        let failed = |failure: SendFailure| failures.push((failure.tag, failure.datagrams));
        one.send(&[0; 100], &transmits, true, failed);
        assert_eq!(failures, [(1, 3)]);
        assert_eq!(receive_all(&two, 100).len(), 2);
    }
}
