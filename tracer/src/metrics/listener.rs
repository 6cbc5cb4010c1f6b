//! Where the HTTP server listens.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

use crate::{
    error::{Error, reason},
    runtime::sandbox::User,
};

/// Mode of the socket: its owner and its group may connect.
const MODE: u32 = 0o660;

pub use crate::config::file::Listen;

impl fmt::Display for Listen {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(to, "{address}"),
            Self::Unix(path) => write!(to, "unix:{}", path.display()),
        }
    }
}

/// An open socket that listens, non-blocking.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens. A socket that is left over at the path is replaced.
    ///
    /// # Errors
    /// The address cannot be used: the text names it, and says what to do. At the path is something other than a socket, or one
    /// whose server answers.
    pub(super) fn open(listen: &Listen) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            let advice = advice(listen, &error);
            let reason = reason(&error);
            Error::Failure(format!("cannot listen on {listen} for metrics: {reason}{advice}"))
        };
        match listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Tcp(listener))
            }
            Listen::Unix(path) => {
                let listener = owner(path).and_then(|owner| owner.run(|| unix(path))?);
                let listener = listener.map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Unix(listener))
            }
        }
    }

    /// Where it listens; of TCP with the port that the kernel chose if it was asked for port 0. `None`: not known.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// The owner of the socket's folder: with this user's rights the socket is made and removed, so that whoever can change the folder
/// cannot have root do it elsewhere.
fn owner(path: &Path) -> io::Result<User> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    User::owner(openat(CWD, parent.unwrap_or(Path::new(".")), flags, Mode::empty())?)
}

fn unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path)? => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Whether a socket is at this path on which nobody listens any more.
fn is_left_over(path: &Path) -> io::Result<bool> {
    // A symbolic link is no socket, whatever it leads to.
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Whoever listens may not accept: if its queue is full, the answer is EAGAIN, at once.
    let connected = connect(&socket, &SocketAddrUnix::new(path)?);
    Ok(connected == Err(Errno::CONNREFUSED))
}

/// What to do about this error; empty if its reason says that.
fn advice(listen: &Listen, error: &io::Error) -> &'static str {
    match (listen, error.kind()) {
        (Listen::Tcp(_), io::ErrorKind::AddrInUse) => {
            "; end what listens there (ss -ltnp names it), or set another port"
        }
        (Listen::Tcp(_), io::ErrorKind::AddrNotAvailable) => "; this host has no such address",
        (Listen::Tcp(_), io::ErrorKind::PermissionDenied) => "; set a port above 1023",
        (Listen::Unix(_), io::ErrorKind::AddrInUse) => {
            "; end what listens there, or remove the file if it is no socket"
        }
        (Listen::Unix(_), io::ErrorKind::NotFound) => "; make its folder first",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_socket_that_is_left_over_is_replaced_and_one_that_answers_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(folder.path().join("metrics"));
        let first = Listener::open(&listen).unwrap();
        let mode = fs::metadata(folder.path().join("metrics")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = Listener::open(&listen).unwrap_err().to_string();
        assert!(error.contains("end what listens there"), "{error}");
        drop(first);
        Listener::open(&listen).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "kept").unwrap();
        drop(UnixListener::bind(folder.path().join("old")).unwrap());
        std::os::unix::fs::symlink("old", &link).unwrap();
        for path in [&file, &link] {
            let error = Listener::open(&Listen::Unix(path.clone())).unwrap_err().to_string();
            assert!(error.contains("address already in use"), "{error}");
            assert!(fs::symlink_metadata(path).is_ok());
        }
    }

    #[test]
    fn an_error_names_the_address_and_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = |listen| Listener::open(&listen).unwrap_err().to_string();
        assert_eq!(
            error(Listen::Tcp(address)),
            format!(
                "cannot listen on {address} for metrics: address already in use; end what listens there (ss -ltnp \
                 names it), or set another port"
            )
        );
        assert_eq!(
            error(Listen::Tcp("192.0.2.1:19000".parse().unwrap())),
            "cannot listen on 192.0.2.1:19000 for metrics: cannot assign requested address; this host has no such \
             address"
        );
        assert_eq!(
            error(Listen::Unix("/no/such/folder/socket".into())),
            "cannot listen on unix:/no/such/folder/socket for metrics: no such file or directory; make its folder first"
        );
    }
}
