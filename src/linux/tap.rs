//! TAP devices: Ethernet frames, with the offload header of virtio, read and written by us.
//!
//! A device is persistent: when the daemon stops it stays in its bridge, without carrier, and is
//! the same when the daemon is back.

#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use thiserror::Error;

/// Where the kernel offers TUN and TAP devices (Documentation/networking/tuntap.rst).
const DEVICE: &str = "/dev/net/tun";
/// Major and minor number of [`DEVICE`] (Documentation/admin-guide/devices.txt).
const DEVICE_NUMBER: (u64, u64) = (10, 200);

/// Bytes of the header before every frame (`struct virtio_net_hdr`, linux/virtio_net.h).
pub const VNET_HEADER: usize = 10;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_ECN: u8 = 0x80;

/// How a super-frame is to be cut (`VIRTIO_NET_HDR_GSO_*`, linux/virtio_net.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// It is one frame.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of equal size, the last may be shorter.
    Udp,
}

/// The offload header of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// Where the transport header begins, when its checksum covers only the pseudo header yet;
    /// zero when the checksum is complete.
    pub csum_start: u16,
    /// Where the checksum is, counted from `csum_start`.
    pub csum_offset: u16,
    /// Whether the frame is to be cut, and how.
    pub gso: Gso,
    /// Whether the TCP segments carry CWR, which only the first may keep.
    pub ecn: bool,
    /// Bytes of payload in each segment.
    pub gso_size: u16,
    /// Bytes before the payload.
    pub header_len: u16,
}

impl VnetHeader {
    /// Reads the header; `None` for a kind of offload that was never asked for.
    pub fn decode(bytes: &[u8; VNET_HEADER]) -> Option<Self> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            0 => Gso::None,
            1 => Gso::Tcp4,
            4 => Gso::Tcp6,
            5 => Gso::Udp,
            _ => return None,
        };
        let partial = bytes[0] & FLAG_NEEDS_CSUM != 0;
        Some(Self {
            csum_start: if partial { word(6) } else { 0 },
            csum_offset: if partial { word(8) } else { 0 },
            gso,
            ecn: bytes[1] & GSO_ECN != 0,
            gso_size: word(4),
            header_len: word(2),
        })
    }

    /// The header as the kernel takes it.
    pub fn encode(&self) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        if self.csum_start != 0 {
            bytes[0] = FLAG_NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        }
        bytes[1] = match self.gso {
            Gso::None => return bytes,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        };
        if self.ecn {
            bytes[1] |= GSO_ECN;
        }
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes
    }
}

/// Why there is no TAP device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TapError {
    /// The name is empty or does not fit.
    #[error("expected an interface name of 1 to 15 bytes, got {0:?}")]
    Name(String),
    /// The kernel's device file cannot be used.
    #[error("cannot open {DEVICE}: {0}; load the tun module, give the container the device")]
    Device(#[source] io::Error),
    /// A step of making the device failed; nothing was left behind.
    #[error("cannot {step} of TAP device {name}: {source}")]
    Step {
        /// Which step.
        step: &'static str,
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Which offloads the kernel gave a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TapOffloads {
    /// Partial checksums are handed to us.
    pub checksum: bool,
    /// TCP super-frames are handed to us.
    pub tcp: bool,
    /// UDP super-frames are handed to us, and taken from us (since Linux 6.2).
    pub udp: bool,
}

/// An open TAP device; usable from any thread whatever namespace the device is in.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    offloads: TapOffloads,
}

impl Tap {
    /// Opens the device with this name in a network namespace (the caller's without one), made
    /// if it is not there yet. Reads and writes never wait.
    ///
    /// # Errors
    /// When the kernel has no TAP, the caller may not, or the device is open elsewhere.
    pub fn open(name: &str, netns: Option<BorrowedFd<'_>>) -> Result<Self, TapError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0', ' ']) {
            return Err(TapError::Name(name.to_owned()));
        }
        let Some(netns) = netns else {
            return Self::open_here(name);
        };
        // The device is made in the namespace of the thread that opens the file: a thread of its
        // own, as a thread that has moved must not serve anything else.
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(netns, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| step("enter the namespace", name, errno.into()))?;
                Self::open_here(name)
            });
            inside.join().unwrap_or_else(|_| {
                Err(step(
                    "open the device",
                    name,
                    io::Error::other("thread died"),
                ))
            })
        })
    }

    fn open_here(name: &str) -> Result<Self, TapError> {
        ensure_device_file().map_err(TapError::Device)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)
            .map_err(TapError::Device)?;
        attach(&file, name).map_err(|e| step("attach to the queue", name, e))?;
        let offloads = probe_offloads(&file).map_err(|e| step("set the offloads", name, e))?;
        // SAFETY: TUNSETPERSIST takes an integer, no pointer.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1) })
            .map_err(|e| step("keep the queue", name, e))?;
        Ok(Self {
            file,
            name: name.to_owned(),
            offloads,
        })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its file, which is no other's while it is open.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Which offloads the kernel gave.
    pub fn offloads(&self) -> TapOffloads {
        self.offloads
    }

    /// Whether the device is still there: anybody with the right to may delete it, and its file
    /// stays open all the same.
    pub fn is_attached(&self) -> bool {
        let mut request = empty_request();
        // SAFETY: TUNGETIFF writes one `ifreq`, which outlives the call.
        let got = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
        check(got).is_ok()
    }

    /// Reads one frame with its header before it; returns the bytes of both.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; anything else when the device is gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one frame in pieces, the first of which begins with its header.
    ///
    /// # Errors
    /// What the kernel says; the frame is lost then (`EIO` while the device is down).
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(pieces)
    }

    /// Lets the device vanish when it is closed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget(&self) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes an integer, no pointer.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETPERSIST, 0) })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn step(step: &'static str, name: &str, source: io::Error) -> TapError {
    TapError::Step {
        step,
        name: name.to_owned(),
        source,
    }
}

fn ensure_device_file() -> io::Result<()> {
    let path = Path::new(DEVICE);
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all("/dev/net")?;
    let (major, minor) = DEVICE_NUMBER;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    match mknod(path, SFlag::S_IFCHR, mode, makedev(major, minor)) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn attach(file: &File, name: &str) -> io::Result<()> {
    let mut request = empty_request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the flags are 16 bits wide"
    )]
    {
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
    }
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

fn empty_request() -> libc::ifreq {
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    unsafe { std::mem::zeroed() }
}

fn probe_offloads(file: &File) -> io::Result<TapOffloads> {
    let checksum = libc::TUN_F_CSUM;
    let tcp = checksum | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    for flags in [udp, tcp, checksum, 0] {
        // SAFETY: TUNSETOFFLOAD takes an integer, no pointer.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, flags) };
        match check(set) {
            Ok(()) => {
                return Ok(TapOffloads {
                    checksum: flags & checksum == checksum,
                    tcp: flags & tcp == tcp,
                    udp: flags & udp == udp,
                });
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(TapOffloads::default())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_the_kernel_would_cut_are_refused() {
        assert!(matches!(Tap::open("", None), Err(TapError::Name(_))));
        assert!(matches!(
            Tap::open("a234567890123456", None),
            Err(TapError::Name(_))
        ));
    }

    proptest! {
        #[test]
        fn headers_survive_the_kernels_form(
            csum_start in 1u16.., csum_offset: u16, kind in 1u8..4, ecn: bool,
            gso_size: u16, header_len: u16,
        ) {
            let gso = [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][usize::from(kind)];
            let header = VnetHeader { csum_start, csum_offset, gso, ecn, gso_size, header_len };
            prop_assert_eq!(VnetHeader::decode(&header.encode()), Some(header));
        }

        #[test]
        fn no_header_makes_the_decoder_panic(bytes: [u8; VNET_HEADER]) {
            let _ = VnetHeader::decode(&bytes);
        }
    }
}
