//! Draws a terminal's screen as SVG: text as text, bars as shapes, because some fonts would leave gaps between them.

use std::fmt::Write;

use vt100::{Cell, Color, Screen};

/// Width of a cell, px.
const WIDTH: f64 = 8.4;
/// Height of a cell, px.
const HEIGHT: f64 = 18.0;
/// Size of the letters, px.
const FONT: f64 = 14.0;
/// From the top of a cell to the baseline of its text, px.
const BASE: f64 = 13.5;
/// Between the window's edge and the cells, px.
const MARGIN: f64 = 16.0;
/// Height of the window's title bar, px.
const TITLE: f64 = 34.0;

const BACKGROUND: &str = "#0d1117";
const FOREGROUND: &str = "#d0d7de";
/// The first 16 colours of a terminal: those that SGR 30 to 37 and 90 to 97 select.
const PALETTE: [&str; 16] = [
    "#484f58", "#c9302c", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4",
    "#7d8590", "#ff7b72", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff",
];

/// Colours and attributes of a cell.
#[derive(Clone, Debug, PartialEq)]
struct Style {
    ink: String,
    paper: String,
    bold: bool,
    underlined: bool,
}

impl Style {
    fn of(cell: &Cell) -> Self {
        let ink = colour(cell.fgcolor(), FOREGROUND);
        let paper = colour(cell.bgcolor(), BACKGROUND);
        let (ink, paper) = if cell.inverse() { (paper, ink) } else { (ink, paper) };
        Self { ink, paper, bold: cell.bold(), underlined: cell.underline() }
    }
}

/// Draws the screen in a window with this title, and returns the SVG, of 8.4 × 18 px for each cell. `about` is the text for
/// people who cannot see the picture.
pub(super) fn draw(screen: &Screen, title: &str, about: &str) -> String {
    let (rows, columns) = screen.size();
    let width = f64::from(columns) * WIDTH + 2.0 * MARGIN;
    let height = f64::from(rows) * HEIGHT + TITLE + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{about}\">\n\
         <title>{about}</title>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"9\" fill=\"{BACKGROUND}\" \
         stroke=\"#30363d\"/>\n",
        width - 1.0,
        height - 1.0,
        about = escaped(about),
    );
    for (at, fill) in [(20, "#ff5f57"), (40, "#febc2e"), (60, "#28c840")] {
        put(&mut svg, format_args!("<circle cx=\"{at}\" cy=\"17\" r=\"6\" fill=\"{fill}\"/>\n"));
    }
    put(
        &mut svg,
        format_args!(
            "<g font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',\
             'Liberation Mono',monospace\" font-size=\"{FONT}\">\n\
             <text x=\"{:.0}\" y=\"22\" text-anchor=\"middle\" fill=\"#7d8590\">{}</text>\n",
            width / 2.0,
            escaped(title)
        ),
    );
    for row in 0..rows {
        line(&mut svg, screen, row, columns);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// Draws one row: runs of cells with the same style.
fn line(svg: &mut String, screen: &Screen, row: u16, columns: u16) {
    let cell = |column| screen.cell(row, column);
    let mut begin = 0;
    while begin < columns {
        let Some(style) = cell(begin).map(Style::of) else { return };
        let same = |column: &u16| cell(*column).is_some_and(|cell| Style::of(cell) == style);
        let end = (begin..columns).take_while(same).last().map_or(columns, |last| last + 1);
        let letters: Vec<&str> = (begin..end).filter_map(cell).map(Cell::contents).collect();
        run(svg, &style, (row, begin), &letters);
        begin = end;
    }
}

fn run(svg: &mut String, style: &Style, (row, column): (u16, u16), letters: &[&str]) {
    let x = |column: usize| MARGIN + WIDTH * number(column);
    let column = usize::from(column);
    let y = TITLE + HEIGHT * f64::from(row);
    let Style { ink, paper, .. } = style;
    let width = WIDTH * number(letters.len());
    let mut rect = |top: f64, height: f64, fill: &str| {
        put(
            svg,
            format_args!(
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>\n",
                x(column)
            ),
        );
    };
    if paper != BACKGROUND {
        rect(y, HEIGHT, paper);
    }
    if style.underlined {
        rect(y + BASE + 2.5, 1.0, ink);
    }
    let mut bars = String::new();
    for (at, letter) in letters.iter().enumerate() {
        if let Some(eighths) = bar(letter) {
            let height = HEIGHT * f64::from(eighths) / 8.0;
            let (left, top) = (x(column + at), y + HEIGHT - height);
            put(&mut bars, format_args!("M{left:.1} {top:.2}h{WIDTH}v{height:.2}h-{WIDTH}z"));
        }
    }
    if !bars.is_empty() {
        put(svg, format_args!("<path fill=\"{ink}\" d=\"{bars}\"/>\n"));
    }
    // Each word is placed separately, so that a font of another width shifts nothing.
    let is_letter = |letter: &&str| !letter.trim().is_empty() && bar(letter).is_none();
    let mut at = 0;
    while at < letters.len() {
        let word = letters[at..].iter().take_while(|letter| is_letter(letter)).count();
        if word > 0 {
            let bold = if style.bold { " font-weight=\"bold\"" } else { "" };
            put(
                svg,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" textLength=\"{:.1}\" fill=\"{ink}\"{bold}>{}</text>\n",
                    x(column + at),
                    y + BASE,
                    WIDTH * number(word),
                    escaped(&letters[at..at + word].concat())
                ),
            );
        }
        at += word.max(1);
    }
}

/// Height of a bar (U+2581 to U+2588), in eighths of a cell; `None` if the letter is no bar.
fn bar(letter: &str) -> Option<u32> {
    let code = u32::from(letter.chars().next()?);
    (0x2581..=0x2588).contains(&code).then(|| code - 0x2580)
}

/// The colour as `#rrggbb`, by xterm's table of 256 colours; `default` if the program chose none.
fn colour(colour: Color, default: &str) -> String {
    match colour {
        Color::Default => default.to_owned(),
        Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
        Color::Idx(index @ 0..16) => PALETTE[usize::from(index)].to_owned(),
        Color::Idx(index @ 16..232) => {
            let part = |by| match (index - 16) / by % 6 {
                0 => 0,
                some => 55 + 40 * some,
            };
            format!("#{:02x}{:02x}{:02x}", part(36), part(6), part(1))
        }
        Color::Idx(index) => format!("#{0:02x}{0:02x}{0:02x}", 8 + 10 * (index - 232)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    _ = text.write_fmt(more);
}

#[expect(clippy::cast_precision_loss, reason = "columns of a terminal")]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(bytes: &[u8]) -> String {
        let mut parser = vt100::Parser::new(2, 20, 0);
        parser.process(bytes);
        draw(parser.screen(), "a", "b & c")
    }

    #[test]
    fn a_word_is_where_it_was_and_looks_as_it_did() {
        let svg = drawn(b"\x1b[1;31mone\x1b[0m  <&>");
        let word = "<text x=\"16.0\" y=\"47.5\" textLength=\"25.2\" fill=\"#c9302c\" font-weight=\"bold\">one</text>";
        assert!(svg.contains(word), "{svg}");
        assert!(svg.contains(
            "<text x=\"58.0\" y=\"47.5\" textLength=\"25.2\" fill=\"#d0d7de\">&lt;&amp;&gt;</text>"
        ));
        assert!(svg.contains("<title>b &amp; c</title>"), "{svg}");
    }

    #[test]
    fn what_is_reversed_has_its_colours_exchanged() {
        let svg = drawn(b"\x1b[7;4mx \x1b[0m");
        assert!(svg.contains("width=\"16.8\" height=\"18.0\" fill=\"#d0d7de\""), "{svg}");
        assert!(svg.contains("width=\"16.8\" height=\"1.0\" fill=\"#0d1117\""), "{svg}");
        assert!(svg.contains("fill=\"#0d1117\">x</text>"), "{svg}");
    }

    #[test]
    fn a_bar_is_a_shape_of_its_height() {
        let svg = drawn("\x1b[36ma▄█".as_bytes());
        assert!(svg.contains("<path fill=\"#39c5cf\" d=\"M24.4 43.00h8.4v9.00h-8.4zM32.8 34.00h8.4v18.00h-8.4z\"/>"), "{svg}");
        assert!(svg.contains(">a</text>"), "{svg}");
    }

    #[test]
    fn colours_are_those_of_xterm() {
        let shown = [
            Color::Idx(16),
            Color::Idx(196),
            Color::Idx(231),
            Color::Idx(255),
            Color::Rgb(1, 2, 3),
        ];
        let shown = shown.map(|one| colour(one, FOREGROUND));
        assert_eq!(shown, ["#000000", "#ff0000", "#ffffff", "#eeeeee", "#010203"]);
    }
}
