//! [`OutputErrors`]: the messages about an output that refuses lines: when that begins, when it ends, and at the end of the
//! program.

use crate::export::sink::Account;

/// Whether the output refuses lines now, and why it refused some last.
#[derive(Debug, Default)]
pub(super) struct OutputErrors {
    refusing: bool,
    /// The output's name, and the system's reason for the newest refusal; `None`: nothing was refused yet.
    refused: Option<(String, String)>,
}

impl OutputErrors {
    /// The message after a write, if the output begins to refuse lines, or takes them again; `None`: neither. `account`: the
    /// lines that this write wrote and dropped. `dropped`: lines that could not be written since the start. `refused`: the
    /// output's name, and the reason of its newest refusal, also if that was in an earlier write; `None`: nothing was refused
    /// yet.
    pub(super) fn message(
        &mut self,
        account: Account,
        dropped: u64,
        refused: Option<(String, String)>,
    ) -> Option<String> {
        self.refused = refused.or(self.refused.take());
        let (name, why) = self.refused.as_ref()?;
        if account.dropped > 0 && !self.refusing {
            self.refusing = true;
            return Some(format!(
                "cannot write to {name}: {why}; lines are dropped and counted until it takes them again"
            ));
        }
        if account.written > 0 && account.dropped == 0 && self.refusing {
            self.refusing = false;
            return Some(format!(
                "{name} takes lines again; {dropped} could not be written so far"
            ));
        }
        None
    }

    /// The error at the end of the program. `dropped`: how many lines could not be written, of `lines` in all. `None`: none
    /// was dropped, or the output never refused a write (lines were lost only when they were compressed).
    pub(super) fn failure(&self, dropped: u64, lines: u64) -> Option<String> {
        let (name, why) = self.refused.as_ref()?;
        (dropped > 0).then(|| {
            format!(
                "{dropped} of {lines} lines could not be written to {name}: {why}; make room. What \
                 is missing is a gap in `seq`"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> (String, String) {
        ("/var/log/x".into(), "no space left on device".into())
    }

    #[test]
    fn there_is_one_message_when_refusals_begin_and_one_when_they_end() {
        let mut errors = OutputErrors::default();
        let account = |written, dropped| Account { written, dropped };
        assert_eq!(errors.message(account(5, 0), 0, None), None);
        assert_eq!(errors.failure(0, 5), None);
        let text = errors.message(account(1, 3), 3, Some(full())).unwrap();
        assert!(text.contains("/var/log/x: no space left on device;"), "{text}");
        assert_eq!(errors.message(account(0, 4), 7, Some(full())), None);
        assert_eq!(errors.message(account(0, 0), 7, Some(full())), None);
        let text = errors.message(account(2, 0), 7, Some(full())).unwrap();
        assert!(text.contains("takes lines again; 7 could not"), "{text}");
        assert_eq!(errors.message(account(2, 0), 7, Some(full())), None);
        assert!(errors.message(account(0, 1), 8, Some(full())).is_some());
        let text = errors.failure(8, 20).unwrap();
        assert!(text.starts_with("8 of 20 lines could not be written to /var/log/x:"), "{text}");
    }
}
