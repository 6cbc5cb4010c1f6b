//! The lines `server`, `server-template`, `default-server` and `source` of HAProxy's configuration.

use super::{
    Server, ServerSettings, Shown, Source, Target,
    address::{Host, Ports, address},
    words::Word,
};
use crate::doctor::config::{At, Setting};

/// Parameters of a server that have one argument (configuration.txt, 5.2; those of HAProxy 3.2 included). All others that are not
/// read here have none. In the order of the alphabet.
const WITH_ARGUMENT: &[&str] = &[
    "addr",
    "agent-addr",
    "agent-inter",
    "agent-port",
    "agent-send",
    "alpn",
    "ca-file",
    "check-alpn",
    "check-pool-conn-name",
    "check-proto",
    "check-sni",
    "ciphers",
    "ciphersuites",
    "client-sigalgs",
    "cookie",
    "crl-file",
    "crt",
    "curves",
    "downinter",
    "error-limit",
    "fall",
    "fastinter",
    "guid",
    "hash-key",
    "id",
    "idle-ping",
    "init-addr",
    "init-state",
    "inter",
    "log-bufsize",
    "log-proto",
    "max-reuse",
    "maxqueue",
    "minconn",
    "npn",
    "observe",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "pool-conn-name",
    "pool-low-conn",
    "port",
    "proto",
    "proxy-v2-options",
    "redir",
    "renegotiate",
    "resolve-net",
    "resolve-opts",
    "resolve-prefer",
    "resolvers",
    "rise",
    "set-proxy-v2-tlv-fmt",
    "shard",
    "sigalgs",
    "slowstart",
    "sni",
    "socks4",
    "ssl-max-ver",
    "ssl-min-ver",
    "tcp-md5sig",
    "tcp-ut",
    "track",
    "verify",
    "verifyhost",
    "weight",
    "ws",
];

/// The server of a line `server`. `words`: those after this keyword; `defaults`: the settings of `default-server`, which its own
/// replace. `None`: name or address is missing. An address that is not understood is [`Target::Unread`].
pub(super) fn server(words: &[Word<'_>], defaults: &ServerSettings, at: &At) -> Option<Server> {
    let [name, place, parameters @ ..] = words else { return None };
    let mut settings = defaults.clone();
    apply(parameters, at, &mut settings);
    Some(Server {
        name: name.text.clone().into_owned(),
        at: at.clone(),
        target: target(place),
        settings,
    })
}

/// The servers of a line `server-template` as one, whose name is the prefix with the range, such as `app1-3`. `words`: those
/// after this keyword; `defaults`: the settings of `default-server`, which its own replace. `None`: prefix, range or address is
/// missing. An address that is not understood is [`Target::Unread`].
pub(super) fn template(words: &[Word<'_>], defaults: &ServerSettings, at: &At) -> Option<Server> {
    let [prefix, range, rest @ ..] = words else { return None };
    let name = format!("{}{}", prefix.text, range.text);
    let name = Word { text: name.into(), variable: prefix.variable || range.variable };
    let words: Vec<Word<'_>> = std::iter::once(name).chain(rest.iter().cloned()).collect();
    server(&words, defaults, at)
}

fn target(word: &Word<'_>) -> Target {
    if word.variable {
        return Target::Unread;
    }
    let Some((host, ports)) = address(&word.text) else { return Target::Unread };
    let port = match ports {
        Ports::One(port) => Some(port),
        Ports::None | Ports::Shifted => None,
        Ports::Range(..) => return Target::Unread,
    };
    match host {
        Host::Ip(ip) if ip.is_unspecified() => Target::Client,
        Host::Ip(ip) => Target::Ip(ip, port),
        Host::Name(name) => Target::Name(name, port),
        Host::Local => Target::Local,
    }
}

/// Adds parameters of a server, or of `default-server`, to its settings. A value that is missing, not understood, or an
/// environment variable is [`Setting::Unread`]. Instead of a keyword, a variable makes all settings unread. Keywords that are not
/// read here are skipped, those of [`WITH_ARGUMENT`] with their argument.
pub(super) fn apply(parameters: &[Word<'_>], at: &At, settings: &mut ServerSettings) {
    let mut rest = parameters;
    while let Some((keyword, after)) = rest.split_first() {
        rest = after;
        // A variable can be several words, any of them.
        if keyword.variable {
            *settings = ServerSettings::unread(at);
            continue;
        }
        match &*keyword.text {
            "check" => settings.check = Setting::Is(true, at.clone()),
            "no-check" => settings.check = Setting::Is(false, at.clone()),
            "source" => (settings.source, rest) = source(rest, at),
            "maxconn" => settings.maxconn = number(&mut rest, at),
            "pool-max-conn" => settings.pool_max_conn = number(&mut rest, at),
            "pool-purge-delay" => {
                let delay =
                    rest.first().filter(|word| !word.variable).and_then(|word| is_zero(&word.text));
                settings.purged = delay.map_or_else(
                    || Setting::Unread(at.clone()),
                    |zero| Setting::Is(zero, at.clone()),
                );
                rest = rest.get(1..).unwrap_or_default();
            }
            "namespace" => {
                settings.elsewhere = Setting::Is(true, at.clone());
                rest = rest.get(1..).unwrap_or_default();
            }
            other if WITH_ARGUMENT.binary_search(&other).is_ok() => {
                rest = rest.get(1..).unwrap_or_default();
            }
            _ => {}
        }
    }
}

/// Whether a time (`5s`, `500`) is 0; `None`: it is none.
fn is_zero(time: &str) -> Option<bool> {
    let digits = time.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.bytes().all(|byte| byte == b'0'))
}

/// The number that comes next, and what is after it.
fn number<T: std::str::FromStr>(rest: &mut &[Word<'_>], at: &At) -> Setting<T> {
    let Some((word, after)) = rest.split_first() else { return Setting::Unread(at.clone()) };
    *rest = after;
    match word.text.parse() {
        Ok(number) if !word.variable => Setting::Is(number, at.clone()),
        _ => Setting::Unread(at.clone()),
    }
}

/// The setting by the words after `source`, and the words that follow what belongs to it (the address, `usesrc` and `interface`
/// with their arguments). [`Setting::Unread`]: the address is missing, a name, no address of TCP, or has a relative port, or one
/// of the words is an environment variable.
pub(super) fn source<'a, 'b>(words: &'a [Word<'b>], at: &At) -> (Setting<Source>, &'a [Word<'b>]) {
    let unread = Setting::Unread(at.clone());
    let Some((place, mut rest)) = words.split_first() else { return (unread, words) };
    let mut shown = None;
    let mut known = !place.variable;
    while let [keyword, value, after @ ..] = rest {
        match &*keyword.text {
            "usesrc" if value.text == "client" => shown = Some(Shown::Client),
            "usesrc" if value.text == "clientip" || value.text.starts_with("hdr_ip") => {
                shown = Some(Shown::OfRequest);
            }
            "usesrc" => shown = Some(Shown::Fixed),
            "interface" => {}
            _ => break,
        }
        known &= !value.variable;
        rest = after;
    }
    let source = address(&place.text).filter(|_| known).and_then(|(host, ports)| {
        let Host::Ip(address) = host else { return None };
        let ports = match ports {
            Ports::None => None,
            Ports::One(port) => Some((port, port)),
            Ports::Range(low, high) => Some((low, high)),
            Ports::Shifted => return None,
        };
        Some(Source { address, ports, shown })
    });
    (source.map_or(unread, |source| Setting::Is(source, at.clone())), rest)
}

impl ServerSettings {
    /// Settings of which none is known, because of this line.
    pub(super) fn unread(at: &At) -> Self {
        Self {
            source: Setting::Unread(at.clone()),
            maxconn: Setting::Unread(at.clone()),
            pool_max_conn: Setting::Unread(at.clone()),
            purged: Setting::Unread(at.clone()),
            check: Setting::Unread(at.clone()),
            elsewhere: Setting::Unread(at.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::WITH_ARGUMENT;

    #[test]
    fn parameters_are_in_the_order_of_the_alphabet() {
        assert!(WITH_ARGUMENT.is_sorted());
    }
}
