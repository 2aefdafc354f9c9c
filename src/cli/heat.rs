//! A text on a terminal, each token marked by how probable it was.

use unicode_width::UnicodeWidthChar;

/// Below each of these probabilities a token is marked more strongly.
const LEVELS: [(f64, &str); 4] = [(0.5, "50 %"), (0.1, "10 %"), (0.01, "1 %"), (0.001, "0.1 %")];

/// Background and foreground of each level among the 256 colours: one hue, which darkens, so that it is told apart by
/// whoever sees no colours.
const COLORS: [(u8, u8); 4] = [(189, 16), (147, 16), (63, 231), (18, 231)];

/// The end of a colour.
const RESET: &str = "\x1b[0m";

/// A heat map, as it comes. In colours a token has a background; without them, digits stand below the lines.
pub(super) struct Heat {
    width: usize,
    color: bool,
    /// Bytes of a character that is not complete yet, and the sum of the log-probabilities of their tokens.
    pending: (Vec<u8>, Option<f64>),
    column: usize,
    line: String,
    marks: String,
    out: String,
}

impl Heat {
    /// A map for lines of `width` columns.
    pub(super) fn new(width: usize, color: bool) -> Heat {
        let (pending, line, marks, out) = Default::default();
        Heat { width: width.max(2), color, pending, column: 0, line, marks, out }
    }

    /// Adds a token. Tokens that only together are a character are marked as one.
    pub(super) fn push(&mut self, bytes: &[u8], logprob: Option<f64>) {
        self.pending.0.extend_from_slice(bytes);
        if let Some(logprob) = logprob {
            *self.pending.1.get_or_insert(0.0) += logprob;
        }
        let incomplete = std::str::from_utf8(&self.pending.0).is_err_and(|error| error.error_len().is_none());
        if !incomplete {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (bytes, logprob) = std::mem::take(&mut self.pending);
        let level = level(logprob);
        for (i, c) in String::from_utf8_lossy(&bytes).chars().enumerate() {
            self.draw(c, level, i == 0);
        }
    }

    fn draw(&mut self, c: char, level: usize, is_first: bool) {
        // What a terminal would obey, or what changes the direction of what follows, is not printed.
        let shown = match c {
            '\n' => '↵',
            '\t' => '→',
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        let wide = shown.width().unwrap_or(0);
        if self.column + wide > self.width {
            self.end_line();
        }
        if self.color && level > 0 {
            let (back, fore) = COLORS[level - 1];
            self.line += &format!("\x1b[48;5;{back};38;5;{fore}m{shown}{RESET}");
        } else {
            self.line.push(shown);
        }
        if wide > 0 {
            self.marks.push(if level > 0 && is_first { char::from(b'0' + level as u8) } else { ' ' });
            self.marks.extend(std::iter::repeat_n(' ', wide - 1));
        }
        self.column += wide;
        if c == '\n' {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let (line, marks) = (std::mem::take(&mut self.line), std::mem::take(&mut self.marks));
        self.out += &(line + "\n");
        if !self.color && !marks.trim().is_empty() {
            self.out += &(marks.trim_end().to_owned() + "\n");
        }
        self.column = 0;
    }

    /// The lines that are complete.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

    /// The rest.
    pub(super) fn finish(&mut self) -> String {
        self.flush();
        if self.column > 0 || !self.line.is_empty() {
            self.end_line();
        }
        self.take()
    }

    /// What the marks mean, in numbers.
    pub(super) fn legend(&self) -> String {
        let one = |(level, (_, below)): (usize, &(f64, &str))| {
            let (back, fore) = COLORS[level];
            match self.color {
                true => format!("\x1b[48;5;{back};38;5;{fore}m below {below} {RESET}"),
                false => format!("{} = below {below}", level + 1),
            }
        };
        let levels: Vec<_> = LEVELS.iter().enumerate().map(one).collect();
        format!("probability: {}", levels.join(if self.color { " " } else { ", " }))
    }
}

/// How strongly a token is marked.
fn level(logprob: Option<f64>) -> usize {
    logprob.map_or(0, |logprob| LEVELS.iter().take_while(|(below, _)| logprob.exp() < *below).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(width: usize, color: bool, tokens: &[(&[u8], f64)]) -> String {
        let mut heat = Heat::new(width, color);
        tokens.iter().for_each(|(bytes, p)| heat.push(bytes, (*p > 0.0).then(|| p.ln())));
        heat.finish()
    }

    #[test]
    fn without_colours_digits_stand_below_the_first_character_of_a_token() {
        let tokens: [(&[u8], f64); 5] =
            [(b"The", 0.0), (b" bird", 0.3), (b" sings", 0.6), (b" no", 1e-4), (b"w\n", 0.05)];
        assert_eq!(drawn(80, false, &tokens), "The bird sings now↵\n   1          4  2\n");
        assert_eq!(drawn(8, false, &tokens), "The bird\n   1\n sings n\n      4\now↵\n 2\n");
        assert_eq!(drawn(80, false, &[(b"sure\n", 0.9)]), "sure↵\n");
    }

    #[test]
    fn colours_end_where_the_token_does() {
        let tokens: [(&[u8], f64); 2] = [(b"a", 0.9), (b"b", 0.005)];
        assert_eq!(drawn(80, true, &tokens), "a\x1b[48;5;63;38;5;231mb\x1b[0m\n");
        let legend = Heat::new(80, true).legend();
        assert!(legend.contains("below 50 %") && legend.contains("below 0.1 %") && legend.ends_with(RESET));
        assert!(!Heat::new(80, false).legend().contains('\x1b'));
    }

    #[test]
    fn a_character_of_several_tokens_is_one_and_what_is_none_is_replaced() {
        let bird = "🐦".as_bytes();
        let tokens: [(&[u8], f64); 4] = [(&bird[..2], 0.5), (&bird[2..3], 0.5), (&bird[3..], 0.3), (b"!", 0.9)];
        assert_eq!(drawn(80, false, &tokens), "🐦!\n2\n", "0.075");
        assert_eq!(
            drawn(80, false, &[(b"\xff", 0.9), (b"\x1b[2J", 0.9), (b"\xe2\x80\xae", 0.9)]),
            "\u{fffd}\u{fffd}[2J\u{fffd}\n"
        );
        assert_eq!(drawn(80, false, &[(b"a", 0.9), (&bird[..2], 0.9)]), "a\u{fffd}\n", "cut off");
        assert_eq!(drawn(2, false, &[("日本".as_bytes(), 0.2)]), "日\n1\n本\n", "wide characters");
    }

    #[test]
    fn levels_are_below_their_probabilities() {
        assert_eq!([1.0f64, 0.51, 0.49, 0.09, 0.009, 1e-9].map(|p| level(Some(p.ln()))), [0, 0, 1, 2, 3, 4]);
        assert_eq!(level(None), 0);
    }
}
