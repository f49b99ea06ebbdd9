//! The comment before a statement that picks the consistency of this one text: `/* howdah: eventual */`.
//!
//! Only comments that stand before the first token count, so that a string or a later statement cannot pick a mode.

use super::statement::Hint;

const PREFIX: &str = "howdah:";
/// A longer word is no mode, and is not copied whole into the error.
const VALUE_CHARS_MAX: usize = 64;

/// The first hint among the comments that the text starts with.
pub(super) fn leading(sql: &str) -> Option<Hint> {
    let mut rest = sql.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("/*") {
            let (body, after) = comment.split_once("*/")?;
            if let Some(value) = body.trim().strip_prefix(PREFIX) {
                let value: String = value.trim().chars().take(VALUE_CHARS_MAX).collect();
                return Some(value.parse());
            }
            // Comments nest in PostgreSQL. A hint after a nested one is not worth the trouble.
            if body.contains("/*") {
                return None;
            }
            rest = after.trim_start();
        } else if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n')?.1.trim_start();
        } else {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use howdah_protocol::Consistency;

    #[test]
    fn a_leading_comment_picks_the_mode() {
        for text in [
            "/* howdah: eventual */ SELECT 1",
            "  /*howdah:eventual*/SELECT 1",
            "/* app=web */ /* howdah: EVENTUAL */ SELECT 1",
            "-- a line\n/* howdah: eventual */ SELECT 1",
        ] {
            assert_eq!(leading(text), Some(Ok(Consistency::Eventual)), "{text}");
        }
    }

    #[test]
    fn other_places_and_other_comments_do_not() {
        for text in [
            "",
            "SELECT 1",
            "SELECT /* howdah: eventual */ 1",
            "SELECT '/* howdah: eventual */'",
            "/* howdah: eventual",
            "/* howdy: eventual */ SELECT 1",
            "-- /* howdah: eventual */",
            "/* /* a */ /* howdah: eventual */ */ SELECT 1",
        ] {
            assert_eq!(leading(text), None, "{text}");
        }
    }

    #[test]
    fn an_unknown_mode_is_reported_not_ignored() {
        let bad = leading("/* howdah: strongish */ SELECT 1").expect("a hint").expect_err("unknown mode");
        assert_eq!(bad.value, "strongish");
        let long = format!("/* howdah: {} */", "x".repeat(10_000));
        assert!(leading(&long).expect("a hint").expect_err("unknown mode").value.len() <= VALUE_CHARS_MAX);
    }
}
