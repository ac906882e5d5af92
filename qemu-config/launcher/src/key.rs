// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cache keys: what a thing is made of, in a name.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Names one state of everything that something is made of. Two keys are equal if the ingredients are, in order.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Starts a key. `recipe` is the name and version of how the ingredients are put together.
    pub fn of(recipe: &str) -> Ingredients {
        Ingredients(Sha256::new()).text(recipe)
    }

    /// The key as it stands in a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key in the making.
pub struct Ingredients(Sha256);

impl Ingredients {
    /// Adds bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        // With its length, so that "ab","c" is not "a","bc".
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds text.
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds the key of something that this is made from.
    pub fn key(self, key: &Key) -> Self {
        self.text(&key.0)
    }

    /// Adds everything below a folder: names and contents, whatever order the file system lists them in. Dot files
    /// and `target` folders are not part of it.
    ///
    /// # Errors
    ///
    /// If something cannot be read.
    pub fn folder(mut self, folder: &Path) -> Result<Self> {
        let named = || format!("cannot read {}", folder.display());
        let mut entries = fs::read_dir(folder)
            .with_context(named)?
            .collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            self = self.text(&name);
            let path = entry.path();
            self = if path.is_dir() {
                self.text("(").folder(&path)?.text(")")
            } else {
                self.bytes(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?)
            };
        }
        Ok(self)
    }

    /// The key. Twelve hexadecimal digits: enough to tell apart what one person builds in a lifetime.
    pub fn finish(self) -> Key {
        Key(self
            .0
            .finalize()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::TempDir;

    #[test]
    fn ingredients_do_not_run_into_each_other() {
        let one = Key::of("r").text("ab").text("c").finish();
        let two = Key::of("r").text("a").text("bc").finish();
        assert_ne!(one, two);
        assert_eq!(one, Key::of("r").text("ab").text("c").finish());
        assert_ne!(one, Key::of("r2").text("ab").text("c").finish());
        assert_eq!(one.as_str().len(), 12);
    }

    #[test]
    fn a_folder_is_its_names_and_contents() {
        let folder = TempDir::new("key-test").unwrap();
        let key = || Key::of("r").folder(folder.path()).unwrap().finish();
        fs::create_dir(folder.path().join("src")).unwrap();
        fs::write(folder.path().join("src/a"), "1").unwrap();
        let first = key();
        fs::write(folder.path().join(".hidden"), "1").unwrap();
        assert_eq!(
            key(),
            first,
            "what an editor or the kernel's build leaves behind is no ingredient"
        );
        fs::write(folder.path().join("src/a"), "2").unwrap();
        let changed = key();
        assert_ne!(changed, first);
        fs::rename(folder.path().join("src/a"), folder.path().join("a")).unwrap();
        assert_ne!(key(), changed, "where a file lies matters");
    }
}
