//! Edits a line of text that a person types: a filter, or a time.

/// The text, and the cursor.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Input {
    text: String,
    /// Index of the cursor in bytes, never within a letter.
    at: usize,
}

/// The most letters that can be typed into a line.
const LIMIT: usize = 200;

impl Input {
    /// A line with this text, which is not checked or cut, and the cursor at its end.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), at: text.len() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text before the cursor.
    pub fn before(&self) -> &str {
        self.text.get(..self.at).unwrap_or_default()
    }

    /// Adds a letter at the cursor, unless the line has 200 letters or the letter is a control or invisible character.
    pub fn insert(&mut self, letter: char) {
        if self.text.chars().count() < LIMIT && !crate::format::text::is_harmful(letter) {
            self.text.insert(self.at, letter);
            self.at += letter.len_utf8();
        }
    }

    /// Removes the letter before the cursor. Returns false if the cursor is at the beginning.
    pub fn backspace(&mut self) -> bool {
        let Some(letter) = self.before().chars().next_back() else { return false };
        self.at -= letter.len_utf8();
        self.text.remove(self.at);
        true
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Moves the cursor to before the letter on its left, if there is one.
    pub fn left(&mut self) {
        self.at -= self.before().chars().next_back().map_or(0, char::len_utf8);
    }

    /// Moves the cursor to after the letter on its right, if there is one.
    pub fn right(&mut self) {
        let after = self.text.get(self.at..).unwrap_or_default();
        self.at += after.chars().next().map_or(0, char::len_utf8);
    }

    pub fn home(&mut self) {
        self.at = 0;
    }

    pub fn end(&mut self) {
        self.at = self.text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_any_width_go_in_and_out_at_the_cursor() {
        let mut input = Input::new("dst:ü");
        input.left();
        input.insert('日');
        assert_eq!((input.text(), input.before()), ("dst:日ü", "dst:日"));
        assert!(input.backspace());
        input.right();
        input.right();
        assert!(input.backspace());
        assert_eq!(input.text(), "dst:");
        input.home();
        assert!(!input.backspace());
        input.insert('\u{1b}');
        input.insert('!');
        input.end();
        input.left();
        assert_eq!((input.text(), input.before()), ("!dst:", "!dst"));
    }
}
