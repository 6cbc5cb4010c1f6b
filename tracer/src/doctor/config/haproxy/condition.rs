//! Conditional blocks of HAProxy's configuration (configuration.txt, 2.4): `.if`, `.elif`, `.else`, `.endif`.

use super::words::Word;

/// Whether lines count, by the conditions of the blocks that they are in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Counts {
    Yes,
    No,
    /// It depends on a condition that is not evaluated.
    Maybe,
}

impl Counts {
    /// Whether lines count for which both must hold.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }
}

/// How deep blocks are nested at most; HAProxy refuses more.
const DEEPEST: usize = 1_024;

/// One block.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Whether the lines of its current branch count, by its own conditions alone.
    branch: Counts,
    /// Whether the lines of the block itself count, by the conditions of the blocks around it.
    outer: Counts,
    /// Whether the lines of a branch before the current one count, by its own conditions alone.
    earlier: Counts,
}

/// The blocks that a line is in.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    open: Vec<Block>,
    /// How many blocks are open that are nested too deeply.
    deeper: usize,
}

impl Blocks {
    /// Whether the lines here count. Outside of all blocks they do; within blocks nested deeper than 1,024, [`Counts::Maybe`].
    pub(super) fn counts(&self) -> Counts {
        if self.deeper > 0 {
            return Counts::Maybe;
        }
        self.open.last().map_or(Counts::Yes, |block| block.outer.and(block.branch))
    }

    /// Whether a block has not ended.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes a line whose first word begins with a point: `.if`, `.elif`, `.else` and `.endif` begin or end a branch; all others
    /// change nothing, nor do `.elif`, `.else` and `.endif` outside of a block.
    pub(super) fn line(&mut self, words: &[Word<'_>]) {
        let Some((keyword, condition)) = words.split_first() else { return };
        match &*keyword.text {
            ".if" if self.open.len() < DEEPEST => {
                let (branch, outer) = (evaluate(condition), self.counts());
                self.open.push(Block { branch, outer, earlier: Counts::No });
            }
            ".if" => self.deeper += 1,
            ".endif" if self.deeper > 0 => self.deeper -= 1,
            ".endif" => drop(self.open.pop()),
            ".elif" if self.deeper == 0 => self.next(evaluate(condition)),
            ".else" if self.deeper == 0 => self.next(Counts::Yes),
            _ => {}
        }
    }

    /// Begins the next branch of the innermost block.
    fn next(&mut self, condition: Counts) {
        let Some(block) = self.open.last_mut() else { return };
        block.earlier = match (block.earlier, block.branch) {
            (Counts::Yes, _) | (_, Counts::Yes) => Counts::Yes,
            (Counts::No, Counts::No) => Counts::No,
            _ => Counts::Maybe,
        };
        block.branch = match (block.earlier, condition) {
            (Counts::Yes, _) | (_, Counts::No) => Counts::No,
            (Counts::No, condition) => condition,
            (Counts::Maybe, _) => Counts::Maybe,
        };
    }
}

/// Whether a condition holds: 0 and nothing do not, any other number does. The rest depends on the environment, or on what
/// HAProxy was built with, and is not evaluated.
fn evaluate(condition: &[Word<'_>]) -> Counts {
    let number = match condition {
        [] => Some(0),
        [word] if word.text.is_empty() && !word.variable => Some(0),
        [word] if !word.variable => word.text.parse::<i64>().ok(),
        _ => None,
    };
    match number {
        Some(0) => Counts::No,
        Some(_) => Counts::Yes,
        None => Counts::Maybe,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::words::words, *};

    /// What holds after each of these lines.
    fn after(lines: &[&str]) -> Vec<Counts> {
        let mut blocks = Blocks::default();
        let each = lines.iter().map(|line| {
            blocks.line(&words(line.as_bytes()).unwrap());
            blocks.counts()
        });
        each.collect()
    }

    use Counts::{Maybe, No, Yes};

    #[test]
    fn one_branch_of_a_block_counts() {
        assert_eq!(
            after(&[".if 0", ".elif 1", ".elif 1", ".else", ".endif"]),
            [No, Yes, No, No, Yes]
        );
        assert_eq!(after(&[".if", ".else", ".endif"]), [No, Yes, Yes]);
        assert_eq!(
            after(&[".if 1", ".if 0", ".endif", ".else", ".endif"]),
            [Yes, No, Yes, No, Yes]
        );
    }

    #[test]
    fn a_condition_that_is_not_evaluated_makes_all_branches_doubtful_but_those_that_cannot_count() {
        assert_eq!(after(&[".if defined(A)", ".elif 0", ".else"]), [Maybe, No, Maybe]);
        assert_eq!(after(&[".if 1", ".elif defined(A)", ".else"]), [Yes, No, No]);
        assert_eq!(after(&[".if 0", ".elif \"$A\"", ".else"]), [No, Maybe, Maybe]);
        assert_eq!(after(&[".if 0", ".if feature(X)", ".endif", ".endif"]), [No, No, No, Yes]);
    }

    #[test]
    fn blocks_that_are_not_open_and_too_many_do_no_harm() {
        assert_eq!(after(&[".endif", ".else", ".elif 1"]), [Yes, Yes, Yes]);
        let mut lines = vec![".if 1"; DEEPEST + 2];
        lines.extend([".else", ".endif"]);
        let after = after(&lines);
        assert_eq!(after[DEEPEST - 1..], [Yes, Maybe, Maybe, Maybe, Maybe]);
    }
}
