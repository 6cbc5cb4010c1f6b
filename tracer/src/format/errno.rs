//! Names Linux error numbers: by their own names, and by the `error.type` that the stream has.

use std::borrow::Cow;

/// `error.type` of an error number that has none of its own, as OpenTelemetry's semantic conventions want it.
pub const OTHER: &str = "_OTHER";

/// `error.type` of a positive error number; [`OTHER`] if it has none of its own, or is not in the table, as 0.
pub fn error_type(errno: u16) -> &'static str {
    find(errno).map_or(OTHER, |entry| entry.2)
}

/// The name of a positive error number (`errno.name`): `ECONNREFUSED`, or if it is not in the table, `E` and the number: `E512`.
pub fn name(errno: u16) -> Cow<'static, str> {
    find(errno).map_or_else(|| Cow::Owned(format!("E{errno}")), |entry| Cow::Borrowed(entry.1))
}

fn find(errno: u16) -> Option<&'static (i32, &'static str, &'static str)> {
    TABLE.iter().find(|entry| entry.0 == i32::from(errno))
}

macro_rules! table {
    ($($name:ident $error_type:expr,)*) => {
        /// Number, name, `error.type` ([`OTHER`]: none of its own). Errors of connect() and bind() come first, because the
        /// table is searched from its start.
        const TABLE: &[(i32, &str, &str)] =
            &[$((libc::$name, stringify!($name), $error_type),)*];
    };
}

table! {
    EADDRNOTAVAIL "address_not_available",
    ECONNREFUSED "connection_refused",
    ETIMEDOUT "timed_out",
    EADDRINUSE "address_already_in_use",
    EHOSTUNREACH "host_unreachable",
    ENETUNREACH "network_unreachable",
    ECONNRESET "connection_reset",
    EACCES "access_denied",
    EPERM "operation_not_permitted",
    EINTR "interrupted",
    EAGAIN "resource_unavailable",
    EINPROGRESS "operation_in_progress",
    EALREADY "connection_already_in_progress",
    EISCONN "already_connected",
    ENOTCONN "not_connected",
    ECONNABORTED "connection_aborted",
    ENETDOWN "network_down",
    ENETRESET "network_reset",
    EHOSTDOWN "host_down",
    EMFILE "too_many_files_open",
    ENFILE "too_many_files_open_in_system",
    ENOBUFS "no_buffer_space",
    ENOMEM "not_enough_memory",
    EINVAL "invalid_argument",
    EAFNOSUPPORT "address_family_not_supported",
    EPROTONOSUPPORT "protocol_not_supported",
    EPROTOTYPE "wrong_protocol_type",
    EPROTO "protocol_error",
    EOPNOTSUPP "operation_not_supported",
    ENOPROTOOPT "no_protocol_option",
    EMSGSIZE "message_size",
    EPIPE "broken_pipe",
    EBADF "bad_file_descriptor",
    ENOTSOCK "not_a_socket",
    EFAULT "bad_address",
    ENODEV "no_such_device",
    EIO "io_error",
    ECANCELED "operation_canceled",
    ESRCH OTHER,
    ENOENT OTHER,
    ENXIO OTHER,
    EBUSY OTHER,
    EEXIST OTHER,
    ENOSPC OTHER,
    EDESTADDRREQ OTHER,
    ESHUTDOWN OTHER,
    ESOCKTNOSUPPORT OTHER,
    EPFNOSUPPORT OTHER,
    ENONET OTHER,
    ENOLINK OTHER,
    ECOMM OTHER,
    EREMOTEIO OTHER,
    EKEYREJECTED OTHER,
    EOVERFLOW OTHER,
    ENOSYS OTHER,
    E2BIG OTHER,
    ERANGE OTHER,
    EDOM OTHER,
    ENOTUNIQ OTHER,
    EBADFD OTHER,
    EBADMSG OTHER,
    ENODATA OTHER,
    ENOKEY OTHER,
    EDQUOT OTHER,
    ESTALE OTHER,
    EUSERS OTHER,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_connect_have_their_names_and_types() {
        assert_eq!((&*name(99), error_type(99)), ("EADDRNOTAVAIL", "address_not_available"));
        assert_eq!((&*name(98), error_type(98)), ("EADDRINUSE", "address_already_in_use"));
        assert_eq!((&*name(110), error_type(110)), ("ETIMEDOUT", "timed_out"));
        assert_eq!((&*name(113), error_type(113)), ("EHOSTUNREACH", "host_unreachable"));
    }

    #[test]
    fn an_unknown_number_keeps_its_number() {
        assert_eq!((&*name(4095), error_type(4095)), ("E4095", "_OTHER"));
    }

    #[test]
    fn no_number_is_in_the_table_twice() {
        for (index, entry) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|earlier| earlier.0 != entry.0), "{}", entry.1);
        }
    }
}
