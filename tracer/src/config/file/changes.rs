//! Which differences between two configurations need a restart of the agent.

use super::{AgentConfig, MetricsConfig};

impl AgentConfig {
    /// The settings that differ from those of `running` and cannot change while an agent runs, as they are written in the file;
    /// empty: an agent that runs with `running` can take this configuration over.
    pub fn needs_restart(&self, running: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.kernel != running.kernel {
            found.push("[kernel]".to_owned());
        }
        found.extend(self.differing_outputs(running));
        let metrics = |it: &MetricsConfig| (it.listen.clone(), it.textfile.clone(), it.bpf_stats);
        let (here, there) = (metrics(&self.metrics), metrics(&running.metrics));
        let differs = [here.0 != there.0, here.1 != there.1, here.2 != there.2];
        let names = ["listen", "textfile", "bpf_stats"];
        let names = names.iter().zip(differs).filter(|(_, differs)| *differs);
        found.extend(names.map(|(name, _)| format!("{name} of [metrics]")));
        found
    }

    /// The outputs that are new, gone, moved or different.
    fn differing_outputs(&self, running: &Self) -> Vec<String> {
        let most = self.outputs.len().max(running.outputs.len());
        let pairs = (0..most).map(|at| (self.outputs.get(at), running.outputs.get(at)));
        let differing = pairs.filter(|(here, there)| here != there);
        let both = differing.flat_map(|(here, there)| [here, there]).flatten();
        let mut names: Vec<_> = both.map(|output| output.output.target.name()).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().map(|name| format!("[[output]] {name}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> AgentConfig {
        AgentConfig::parse(text.as_bytes(), Path::new("tracer.toml")).unwrap()
    }

    /// What needs a restart to get from one file to another.
    fn between(before: &str, after: &str) -> Vec<String> {
        config(after).needs_restart(&config(before))
    }

    #[test]
    fn fields_thresholds_and_which_metrics_there_are_can_change() {
        let before = "[metrics]\nlisten = \"127.0.0.1:20000\"\n";
        let after = "[metrics]\nlisten = \"127.0.0.1:20000\"\ntop = 5\ninterval = 1\n[fields]\nrack = \"b\"\n\
                     [thresholds]\nsaturation = [0.5]\n";
        assert_ne!(config(before), config(after));
        assert!(between(before, after).is_empty());
    }

    #[test]
    fn hooks_tables_and_whatever_is_open_need_a_restart() {
        let one = "[[output]]\npath = \"/a/one\"\n";
        let two = "[[output]]\npath = \"/a/one\"\ninterval = 1\n[[output]]\npath = \"/a/two\"\n";
        assert_eq!(between(one, two), ["[[output]] /a/one", "[[output]] /a/two"]);
        assert_eq!(between(two, one), ["[[output]] /a/one", "[[output]] /a/two"]);
        assert_eq!(between(one, &format!("{one}[kernel]\nmax_tuples = 4096\n")), ["[kernel]"]);
        let metrics = "[metrics]\nlisten = \"127.0.0.1:20000\"\nbpf_stats = true\n";
        let moved = "[metrics]\ntextfile = \"/a/tracer.prom\"\n";
        assert_eq!(
            between(&format!("{one}{metrics}"), &format!("{one}{moved}")),
            ["listen of [metrics]", "textfile of [metrics]", "bpf_stats of [metrics]"]
        );
    }
}
