//! Telling a supervisor that the mount is live: the datagrams of sd_notify(3).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The socket of the supervisor that started this process.
#[derive(Debug)]
pub struct Supervisor(Option<SocketAddr>);

impl Supervisor {
    /// Finds it in `NOTIFY_SOCKET`; without one, telling does nothing.
    pub fn find() -> Supervisor {
        Supervisor(std::env::var_os("NOTIFY_SOCKET").and_then(|name| address(name.as_bytes())))
    }

    /// Nobody.
    pub fn none() -> Supervisor {
        Supervisor(None)
    }

    /// Sends `state`, for instance `READY=1`. A supervisor that cannot be reached is a matter for the log.
    pub fn tell(&self, state: &str) {
        let Some(address) = &self.0 else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(state.as_bytes(), address));
        if let Err(e) = sent {
            log::warn!("the supervisor could not be told {state}: {e}");
        }
    }
}

fn address(name: &[u8]) -> Option<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_hears_what_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        Supervisor(address(path.as_os_str().as_bytes())).tell("READY=1");
        let mut buf = [0; 64];
        let n = heard.recv(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"READY=1");
        Supervisor(None).tell("READY=1");
        assert!(address(b"relative").is_none());
        assert!(address(b"@abstract").is_some());
    }
}
