//! Where a block of Lua ends in nginx's configuration.

use memchr::{memchr, memmem};

/// Length in bytes of the Lua at the beginning of a text (what follows the `{` of its block), with the `}` that ends the block;
/// `None`: it does not end. Braces in strings and comments do not count.
pub(super) fn end(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut depth = 1_usize;
    loop {
        let rest = text.get(at..)?;
        at += match rest {
            [] => return None,
            [b'-', b'-', comment @ ..] => 2 + length_of_comment(comment)?,
            [b'[', ..] => length_in_brackets(rest)?.unwrap_or(1),
            [quote @ (b'"' | b'\''), string @ ..] => 1 + length_of_string(*quote, string)?,
            [b'{', ..] => {
                depth += 1;
                1
            }
            [b'}', ..] => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
                1
            }
            _ => 1,
        };
    }
}

/// Length of what follows the `--` of a comment.
fn length_of_comment(comment: &[u8]) -> Option<usize> {
    match length_in_brackets(comment)? {
        Some(length) => Some(length),
        None => Some(memchr(b'\n', comment).unwrap_or(comment.len())),
    }
}

/// Length of a string in long brackets, `[[ ]]` or `[==[ ]==]`, at the beginning of the text; inner `None`: there is none.
#[expect(clippy::option_option, reason = "no string, or one that does not end")]
fn length_in_brackets(text: &[u8]) -> Option<Option<usize>> {
    let Some(text) = text.strip_prefix(b"[") else { return Some(None) };
    let level = text.iter().take_while(|byte| **byte == b'=').count();
    if text.get(level) != Some(&b'[') {
        return Some(None);
    }
    let close: Vec<u8> = [b"]".as_slice(), &vec![b'='; level], b"]"].concat();
    let inner = text.get(level + 1..)?;
    let length = memmem::find(inner, &close)?;
    Some(Some(1 + level + 1 + length + close.len()))
}

/// Length of a string after its first quote. Without a backslash before it, the end of the line ends it, too: Lua refuses the
/// rest.
fn length_of_string(quote: u8, string: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr3(quote, b'\\', b'\n', string.get(at..)?)?;
        if string.get(at) != Some(&b'\\') {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_in_strings_and_comments_do_not_count() {
        for lua in [
            " local s = \"}\" ",
            " local s = '}' ",
            " local s = \"\\\"}\" ",
            " -- it's }\n local t = { {}, {} } ",
            " --[[ } \n } ]] ",
            " local s = [[ } ' ]] ",
            " local s = [==[ ]] } ]=] ]==] ",
            " local t = a[b[1]] ",
            " local x = a - -1 ",
            " local s = 'a\\\n}' ",
            "",
        ] {
            let text = format!("{lua}}} }} rest");
            assert_eq!(end(text.as_bytes()), Some(lua.len() + 1), "{lua}");
        }
    }

    #[test]
    fn lua_that_does_not_end_is_refused() {
        for lua in ["", "{ }", "'", "'}", "[[ }", "--[==[ } ]=]", "'\\", "-- }", "[", "--"] {
            assert_eq!(end(lua.as_bytes()), None, "{lua}");
        }
    }

    #[test]
    fn long_runs_take_linear_time() {
        for part in ["[", "[=", "=", "-", "--", "'", "\"\\", "{", "--[\n"] {
            let began = std::time::Instant::now();
            assert_eq!(end(part.repeat(1 << 20).as_bytes()), None, "{part}");
            assert!(began.elapsed().as_secs() < 5, "{part}");
        }
    }
}
