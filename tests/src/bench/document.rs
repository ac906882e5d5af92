// SPDX-License-Identifier: MIT OR Apache-2.0
//! Documents that carry figures: between two marks stands what a command writes.

use crate::stage::Stage;
use anyhow::{Context, Result};

/// What stands around the figures.
const BEGIN: &str = "<!-- cargo xtask bench";
const BEGIN_END: &str = "-->\n";
const END: &str = "<!-- end -->\n";

/// What stands before the figures, in their place, and behind it.
///
/// # Errors
///
/// There is no such place.
pub fn split(document: &str) -> Result<(&str, &str, &str)> {
    let mark = document
        .find(BEGIN)
        .context("there is no mark where the figures begin")?;
    let end_of_mark = document[mark..].find(BEGIN_END).context("the mark does not end")?;
    let begin = mark + end_of_mark + BEGIN_END.len();
    let end = document[begin..]
        .find(END)
        .context("there is no mark where the figures end")?;
    Ok((
        &document[..begin],
        &document[begin..begin + end],
        &document[begin + end..],
    ))
}

/// The figures in the document at `path` of the checkout.
///
/// # Errors
///
/// The document is not there, or has no place for them.
pub fn read(stage: &Stage, path: &str) -> Result<String> {
    let document = std::fs::read_to_string(stage.checkout().root().join(path));
    let document = document.with_context(|| format!("cannot read {path}"))?;
    Ok(split(&document).with_context(|| path.to_owned())?.1.to_owned())
}

/// Writes the figures into the document at `path` of the checkout.
///
/// # Errors
///
/// The document is not there, has no place for them, or cannot be written.
pub fn write(stage: &Stage, path: &str, figures: &str) -> Result<()> {
    let file = stage.checkout().root().join(path);
    let document = std::fs::read_to_string(&file).with_context(|| format!("cannot read {path}"))?;
    let (before, _, after) = split(&document).with_context(|| path.to_owned())?;
    std::fs::write(&file, format!("{before}{figures}{after}")).with_context(|| format!("cannot write {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_their_document() {
        let document = "head\n<!-- cargo xtask bench uapi --docs -->\nold\n<!-- end -->\ntail\n";
        let (before, figures, after) = split(document).unwrap();
        assert_eq!(figures, "old\n");
        assert_eq!(format!("{before}{figures}{after}"), document);
        assert!(split("no marks").is_err());
        assert!(split("<!-- cargo xtask bench -->\nno end").is_err());
    }
}
