//! An output that takes no lines: what to say when it begins, when it has passed, and at the end.

use crate::export::sink::Account;

/// Whether lines are refused at the moment, where, and why they were the last time.
#[derive(Debug, Default)]
pub(super) struct OutputErrors {
    refusing: bool,
    /// The output's name and the system's reason.
    refused: Option<(String, String)>,
}

impl OutputErrors {
    /// What to say after `account`. `dropped`: lines that could not be written since the start.
    /// `refused`: the output's name, and why it took no more, the last time that it did not.
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

    /// What the program ends with. `lines`: all that there were. `None`: everything was written.
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
    fn it_is_said_once_when_it_begins_and_once_when_it_has_passed() {
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
