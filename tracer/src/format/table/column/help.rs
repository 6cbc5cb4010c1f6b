//! Says what each column means.

use super::Column;

impl Column {
    /// What the column shows, as a line of help.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Source => "source address; *: several",
            Self::Destination => "destination and its port",
            Self::Netns => "network namespace; shown while rows differ in nothing else",
            Self::Ports => "source ports in use, TIME_WAIT included",
            Self::TimeWait => {
                "of those, in TIME_WAIT; r: connect() can take some over (tcp_tw_reuse)"
            }
            Self::Reusable => {
                "of those in TIME_WAIT, how many connect() can take over now (tcp_tw_reuse); -: it never can"
            }
            Self::State => {
                "the state that most of them are in, and their share; no answer: the SYN was sent again"
            }
            Self::Connecting => "of those, in SYN_SENT",
            Self::Unanswered => "of those in SYN_SENT, the SYN was sent again: no answer",
            Self::Established => "of those, established",
            Self::CloseWait => "of those, closed by the peer and not by the process (CLOSE_WAIT)",
            Self::Closing => "of those, in FIN_WAIT1, FIN_WAIT2, CLOSING or LAST_ACK",
            Self::Saturation => {
                "share of the ports that are in use; ~ from 45 % (connect() is slow), ! 80 %, !! 95 %"
            }
            Self::Opened => "ports taken per second",
            Self::Failed => "failed connect() calls per second",
            Self::Error => "error of the newest failure",
            Self::Search => {
                "99 of 100 port searches took less; ≥: some took longer than can be measured"
            }
            Self::Eta => "time until no port is left at this rate",
            Self::Comm => "process that connected last; ?: only its thread's name is known",
            Self::Container => "container of that process, or else its systemd unit",
            Self::Pid => "process",
            Self::Tuples => "tuples that the row stands for",
            Self::Requests => {
                "segments with data in each connection that ended: its requests, if each is one segment"
            }
            Self::SynsAgain => "SYNs that were sent again, so far",
            Self::Pool => "spreading rule that the address belongs to",
        }
    }
}
