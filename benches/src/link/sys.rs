//! The two requests to the kernel that have no safe wrapper: making a TUN device, and asking for
//! a real-time thread. All unsafe code of the links is here.

#![expect(unsafe_code, reason = "ioctl and sched_setscheduler by libc")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Makes a TUN device called `name` in the network namespace of the calling thread. It carries IP
/// packets without anything before them, and is gone when the descriptor is closed.
pub(crate) fn open_tun(name: &str) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain data, for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0: the kernel reads a string.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is too long"));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open and the request is an `ifreq` that outlives the call, which
    // is what TUNSETIFF takes.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(file.into()) }
}

/// Puts the calling thread before all ordinary ones, so that a busy machine doesn't delay packets.
pub(crate) fn go_real_time() -> io::Result<()> {
    // SAFETY: `sched_param` is plain data, for which all zeroes are a valid value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = 1;
    // SAFETY: the parameters outlive the call; 0 is the calling thread.
    let answer = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
