//! Words that came back most often where a standard word says it better: none of them in code, comments, texts or documents.

/// What is refused, and what to write. Spelled in halves, or this file would find itself.
const REFUSED: [(&str, &str); 4] = [
    (concat!("ou", "rs"), "name whose it is: tracer's, the rule's, the spreader's"),
    (concat!("to", "ld"), "say who reports or prints it, and to whom"),
    (concat!("be", "side"), "next to, while … runs, in addition to"),
    (concat!("as with", "out us"), "with spreading off, or without tracer"),
];

/// Findings in one file, as `line: what`.
pub(crate) fn check(text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for (refused, instead) in REFUSED {
            if has(&line, refused) {
                findings.push(format!("{}: \"{refused}\": {instead}", index + 1));
            }
        }
    }
    findings
}

/// Whether these words stand in the line as a whole: a part of an identifier is none.
fn has(line: &str, words: &str) -> bool {
    let of_a_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(words).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + words.len()..].chars().next();
        !before.is_some_and(of_a_word) && !after.is_some_and(of_a_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_words_are_found_as_whole_words_only() {
        let [ours, told, beside, without] = REFUSED.map(|(word, _)| word);
        let text = format!(
            "the hours of {told}_us\nOne of {ours}.\nwhat is {told} {beside} it\nas {without}, {without}"
        );
        let lines: Vec<_> = check(&text).iter().filter_map(|it| it.chars().next()).collect();
        assert_eq!(lines, ['2', '3', '3', '4']);
    }
}
