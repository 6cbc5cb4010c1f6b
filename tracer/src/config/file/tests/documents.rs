//! The example, the man page and the page in `tracer/doc` have every setting.

use super::{
    super::settings::{SECTIONS, Value},
    *,
};

#[test]
fn the_example_reads_well() {
    insta::assert_snapshot!(example());
}

#[test]
fn the_example_works_as_it_is() {
    let config = parse(&example()).unwrap();
    assert_eq!(config.metrics.listen, Some(Listen::Tcp(([127, 0, 0, 1], 28232).into())));
    let mut expected = parse("[[output]]\npath = \"/var/log/tracer/events.jsonl\"").unwrap();
    expected.metrics.listen.clone_from(&config.metrics.listen);
    assert_eq!(config, expected);
}

#[test]
fn each_line_of_the_example_that_is_a_setting_works_without_its_comment_sign() {
    let example = example();
    for section in SECTIONS {
        for setting in section.settings {
            let line = setting.line();
            assert!(
                example.contains(&format!("\n{line}\n"))
                    || example.contains(&format!("\n# {line}\n"))
            );
            // keep is refused without rotate.
            let with = if setting.name == "keep" { "rotate = \"100M\"\n" } else { "" };
            let text = example
                .split_inclusive(&format!("{}\n", section.header()))
                .map(|part| {
                    let here = part.ends_with(&format!("{}\n", section.header()));
                    if here {
                        format!("{part}{with}")
                    } else {
                        part.replacen(&format!("# {line}\n"), &format!("{line}\n"), 1)
                    }
                })
                .collect::<String>();
            assert!(text.contains(&format!("\n{line}\n")), "{line}");
            assert!(parse(&text).is_ok(), "{line}: {:?}", parse(&text));
        }
    }
    let text = example.replace("# deployment.", "deployment.").replace("# service.", "service.");
    assert_eq!(parse(&text).unwrap().fields.len(), 2);
}

#[test]
fn defaults_in_the_example_are_the_defaults() {
    let mut text = example();
    for section in SECTIONS {
        for setting in section.settings {
            if matches!(setting.value, Value::Default(_)) && setting.name != "keep" {
                let line = setting.line();
                text = text.replace(&format!("\n# {line}\n"), &format!("\n{line}\n"));
            }
        }
    }
    assert_ne!(text, example());
    let (written, absent) = (parse(&text).unwrap(), parse(&example()).unwrap());
    assert_eq!(written.outputs, absent.outputs);
    assert_eq!(written, absent);
}

#[test]
fn the_man_page_has_every_setting() {
    let (name, page) = man_page();
    assert_eq!(name, "tracer.toml.5");
    for setting in SECTIONS.iter().flat_map(|section| section.settings) {
        assert!(page.contains(&format!("\\fB{} = ", setting.name)), "{}", setting.name);
    }
    insta::assert_snapshot!(page);
}

/// The table of settings in `tracer/doc/agent.md`.
fn table() -> String {
    let mut table = vec!["| setting | default | |".to_owned(), "|---|---|---|".to_owned()];
    for section in SECTIONS {
        table.push(format!("| **`{}`** | | {} |", section.header(), section.about));
        table.extend(section.settings.iter().map(|setting| {
            let default = match setting.value {
                Value::Default(texts) => format!("`{}`", setting.toml(texts)),
                Value::Unset { absent, .. } => absent.to_owned(),
                Value::Required { .. } => "required".to_owned(),
            };
            format!("| `{}` | {default} | {} |", setting.name, setting.help)
        }));
    }
    table.join("\n")
}

#[test]
fn the_page_about_the_agent_has_the_table_of_settings() {
    let page = include_str!("../../../../doc/agent.md");
    let toml = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(parse(toml).is_ok(), "{:?}", parse(toml));
    assert!(page.contains(&table()), "tracer/doc/agent.md must have this table:\n{}", table());
}
