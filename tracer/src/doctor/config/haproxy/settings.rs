//! The lines of a section of HAProxy's configuration that [`Settings`] has: `mode`, `http-reuse`, `source`, `default-server`,
//! `disabled`, `enabled`, and the options that say what becomes of a connection after a request.

use super::{Connection, Mode, Reuse, ServerSettings, Settings, server, words::Word};
use crate::doctor::config::{At, Setting};

/// Applies a line of a section. `words`: its keyword first. `sure`: whether it counts for certain; if not, what it sets is not
/// known, except that `disabled` and `enabled` change nothing then. Returns whether it was applied; false: it is another line
/// than those that are read here, or empty.
pub(super) fn apply(settings: &mut Settings, words: &[Word<'_>], at: &At, sure: bool) -> bool {
    let Some((keyword, rest)) = words.split_first() else { return false };
    let first = rest.first().filter(|word| sure && !word.variable).map(|word| &*word.text);
    match &*keyword.text {
        "mode" => settings.mode = known(first.and_then(mode), at),
        "http-reuse" => settings.reuse = known(first.and_then(reuse), at),
        "source" if sure => settings.source = server::source(rest, at).0,
        "source" => settings.source = Setting::Unread(at.clone()),
        "default-server" if sure => server::apply(rest, at, &mut settings.server),
        "default-server" => settings.server = ServerSettings::unread(at),
        // A section in doubt is as good as switched on: nothing is said about it then that was not read.
        "disabled" if sure => settings.disabled = true,
        "enabled" if sure => settings.disabled = false,
        "option" => return option(settings, rest, at, sure, true),
        "no" if rest.first().is_some_and(|word| word.text == "option") => {
            return option(settings, rest.get(1..).unwrap_or_default(), at, sure, false);
        }
        _ => return false,
    }
    true
}

fn known<T>(value: Option<T>, at: &At) -> Setting<T> {
    value.map_or_else(|| Setting::Unread(at.clone()), |value| Setting::Is(value, at.clone()))
}

fn mode(text: &str) -> Option<Mode> {
    Some(match text {
        "tcp" => Mode::Tcp,
        "http" => Mode::Http,
        "health" | "log" | "spop" | "syslog" | "haterm" => Mode::Other,
        _ => return None,
    })
}

fn reuse(text: &str) -> Option<Reuse> {
    let all = [Reuse::Never, Reuse::Safe, Reuse::Aggressive, Reuse::Always];
    all.into_iter().find(|reuse| reuse.name() == text)
}

/// Of the options for connections, each replaces the others, and is switched off only if it holds.
fn option(settings: &mut Settings, words: &[Word<'_>], at: &At, sure: bool, on: bool) -> bool {
    let Some(name) = words.first() else { return false };
    let connection = match &*name.text {
        _ if name.variable => {
            settings.connection = Setting::Unread(at.clone());
            return true;
        }
        "http-keep-alive" => Connection::KeepAlive,
        "http-server-close" => Connection::ServerClose,
        "httpclose" | "forceclose" => Connection::Close,
        _ => return false,
    };
    let held = settings.connection.value().copied();
    settings.connection = match (sure, on) {
        (false, _) => Setting::Unread(at.clone()),
        (true, true) => Setting::Is(connection, at.clone()),
        (true, false) if held == Some(connection) => Setting::Unset,
        (true, false) => return true,
    };
    true
}

impl Settings {
    /// Settings of which none is known, because of this line; the section counts as switched on.
    pub(super) fn unread(at: &At) -> Self {
        Self {
            mode: Setting::Unread(at.clone()),
            reuse: Setting::Unread(at.clone()),
            connection: Setting::Unread(at.clone()),
            source: Setting::Unread(at.clone()),
            disabled: false,
            server: ServerSettings::unread(at),
        }
    }
}
