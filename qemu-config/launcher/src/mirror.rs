// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Debian mirror to use: the one that this machine already uses.

use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};

/// A mirror of the Debian archive and what signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Without a slash at its end.
    pub uri: String,
    /// The path of a keyring.
    pub keyring: String,
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirror named by `VERBENA_MIRROR`, or else the first one in the apt configuration below `etc_apt` that carries
/// `codename`, the release that this machine runs.
///
/// # Errors
///
/// If there is none, or no keyring to check it with.
pub fn find(etc_apt: &Path, codename: &str) -> Result<Mirror> {
    let mirror = match std::env::var("VERBENA_MIRROR") {
        Ok(uri) => Some(Mirror {
            uri: uri.trim_end_matches('/').to_owned(),
            keyring: KEYRING.to_owned(),
        }),
        Err(_) => configured(etc_apt, codename)?,
    };
    let Some(mirror) = mirror else {
        bail!(
            "no Debian mirror for {codename} in {}: set VERBENA_MIRROR to the address of one (the guest and its tools \
             come from there)",
            etc_apt.display()
        );
    };
    if !Path::new(&mirror.keyring).exists() {
        bail!(
            "the keyring {} is missing: apt-get install debian-archive-keyring",
            mirror.keyring
        );
    }
    Ok(mirror)
}

fn configured(etc_apt: &Path, codename: &str) -> Result<Option<Mirror>> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.extend(more);
    }
    for file in files.iter().filter(|file| file.exists()) {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => in_lines(&text, codename),
            Some("sources") => in_stanzas(&text, codename),
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The one-line format: `deb [signed-by=K ...] URI SUITE COMPONENT...`.
fn in_lines(text: &str, codename: &str) -> Option<Mirror> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let keyring = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="));
        (suite == codename && words.any(|component| component == "main")).then(|| mirror(uri, keyring))
    })
}

/// The deb822 format: stanzas of `Field: value`, continued by lines that begin with a blank.
fn in_stanzas(text: &str, codename: &str) -> Option<Mirror> {
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            let mut lines = stanza.lines();
            let begins = |line: &&str| line.len() > name.len() && line.as_bytes()[name.len()] == b':';
            let is_it = |line: &&str| begins(line) && line[..name.len()].eq_ignore_ascii_case(name);
            let first = lines.find(is_it)?[name.len() + 1..].to_owned();
            let more = lines.take_while(|line| line.starts_with([' ', '\t']));
            Some(more.fold(first, |value, line| value + line))
        };
        let has =
            |name: &str, word: &str| field(name).is_some_and(|value| value.split_whitespace().any(|it| it == word));
        let enabled = !field("Enabled").is_some_and(|value| value.trim().eq_ignore_ascii_case("no"));
        if !(enabled && has("Types", "deb") && has("Suites", codename) && has("Components", "main")) {
            return None;
        }
        let keyring = field("Signed-By").map(|value| value.trim().to_owned());
        Some(mirror(field("URIs")?.split_whitespace().next()?, keyring.as_deref()))
    })
}

fn mirror(uri: &str, keyring: Option<&str>) -> Mirror {
    // A key may also stand in the stanza itself, or be named by fingerprint; then the distribution's will do.
    let keyring = keyring.filter(|keyring| keyring.starts_with('/')).unwrap_or(KEYRING);
    Mirror {
        uri: uri.trim_end_matches('/').to_owned(),
        keyring: keyring.to_owned(),
    }
}

/// The code name of the Debian release that this machine runs.
///
/// # Errors
///
/// If it runs none.
pub fn host_codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name
        .context("/etc/os-release has no VERSION_CODENAME")?
        .trim_matches('"')
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(uri: &str, keyring: &str) -> Option<Mirror> {
        Some(Mirror {
            uri: uri.to_owned(),
            keyring: keyring.to_owned(),
        })
    }

    #[test]
    fn one_line_format() {
        let text = "# deb http://old/debian bookworm main\n\
            deb http://sec/debian-security bookworm-security main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian/ bookworm contrib main\n";
        assert_eq!(in_lines(text, "bookworm"), expect("http://mirror/debian", "/k.gpg"));
        assert_eq!(in_lines(text, "trixie"), None);
    }

    #[test]
    fn stanzas() {
        let text = "Types: deb\nURIs: http://sec/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off/debian\nSuites: bookworm\nComponents: main\n\n\
            Types: deb deb-src\n# a comment\nuris: http://mirror/debian\nSuites: bookworm\n bookworm-updates\n\
            Components: main\nSigned-By: /k.gpg\n";
        assert_eq!(in_stanzas(text, "bookworm"), expect("http://mirror/debian", "/k.gpg"));
        assert_eq!(
            in_stanzas(text, "bookworm-updates"),
            expect("http://mirror/debian", "/k.gpg")
        );
        assert_eq!(in_stanzas(text, "sid"), None);
    }

    #[test]
    fn a_key_in_the_stanza_means_the_distributions_keyring() {
        let text = "Types: deb\nURIs: http://m/d\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP\n";
        assert_eq!(in_stanzas(text, "bookworm"), expect("http://m/d", KEYRING));
    }
}
