//! Raw Ethernet frames (packet(7)).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::netns::NetNs;

/// A socket that sends whole frames out of the devices of one namespace. Unless told to listen it
/// receives nothing, and so costs nothing.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket in this namespace that only sends.
    pub fn open(namespace: &NetNs) -> io::Result<Self> {
        namespace.run(|| {
            // SAFETY: the call takes no pointers.
            let fd =
                unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            let fd = Errno::result(fd)?;
            // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Ok(Self { fd })
        })?
    }

    /// Receives from now on every frame that passes the device of this number.
    pub fn listen(&self, interface: u32) -> io::Result<()> {
        self.bind(interface, libc::ETH_P_ALL as u16)
    }

    fn bind(&self, interface: u32, protocol: u16) -> io::Result<()> {
        let address = address(interface, protocol);
        // SAFETY: the pointer and the length describe `address`, which outlives the call; the
        // kernel only reads it.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        Errno::result(result)?;
        Ok(())
    }

    /// Receives from now on the frames of one protocol (EtherType) that come in by any device.
    pub fn listen_for(&self, protocol: u16) -> io::Result<()> {
        self.bind(0, protocol)
    }

    /// Reads one frame, waiting up to this many milliseconds; returns its length and the number of
    /// the device by which it came.
    ///
    /// # Errors
    /// `WouldBlock` when none came in time.
    pub fn receive(&self, buffer: &mut [u8], patience: u16) -> io::Result<(usize, u32)> {
        let mut ready = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(patience))? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut from = address(0, 0);
        let mut length = size_of_val(&from) as libc::socklen_t;
        // SAFETY: the pointers come with the lengths of what they point to, which outlives the
        // call; the kernel writes no more than that.
        let result = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut from).cast(),
                &raw mut length,
            )
        };
        let received = Errno::result(result)?;
        Ok((received.cast_unsigned(), from.sll_ifindex.cast_unsigned()))
    }

    /// Sends one frame, beginning with its Ethernet header, out of the device of this number.
    pub fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        let address = address(interface, 0);
        // SAFETY: both pointers come with the lengths of what they point to, which outlives the
        // call; the kernel only reads it.
        let result = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        Errno::result(result)?;
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn address(interface: u32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: interface as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    }
}
