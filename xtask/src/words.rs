//! Refuses unclear words that were often written in code, comments, texts and documents, and that a standard word replaces.

/// The refused words, and what to write instead. Each is written in two parts, so that this file passes the check.
const REFUSED: [(&str, &str); 4] = [
    (concat!("ou", "rs"), "name the owner: tracer's, the rule's, the spreader's"),
    (concat!("to", "ld"), "name what reports or prints it, and to whom"),
    (concat!("be", "side"), "next to, while … runs, in addition to"),
    (concat!("as with", "out us"), "with spreading off, or without tracer"),
];

/// Findings in the text of one file, as `LINE: "WORD": INSTEAD`, with lines from 1; upper and lower case are the same. One for
/// each refused word of a line, however often the line has it; empty if there is none.
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

/// Whether the line, which must be in lower case, has these words, and not only as a part of an identifier or of a longer
/// word.
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
        let [a, b, c, d] = REFUSED.map(|(word, _)| word);
        let text = format!("the h{a} of {b}_us\nOne of {a}.\nwhat is {b} {c} it\n{d}, {d}");
        let lines: Vec<_> = check(&text).iter().filter_map(|it| it.chars().next()).collect();
        assert_eq!(lines, ['2', '3', '3', '4']);
    }
}
