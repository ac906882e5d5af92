// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `-readconfig` profiles in `qemu-config/`, and which of them make a scenario.
//!
//! The launcher hands them to QEMU as they are. What it adds on the command line is what that format cannot express
//! (the HCA's structured `socket` property, the link between two guests) and what is about this machine (the
//! accelerator).

/// A profile: its file's name and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The file's name, as in `qemu-config/`.
    pub name: &'static str,
    /// What is in it.
    pub text: &'static str,
}

macro_rules! profile {
    ($name:literal) => {
        Profile {
            name: $name,
            text: include_str!(concat!("../../", $name)),
        }
    };
}

const GUEST: Profile = profile!("guest.cfg");
const MEMORY_SHARED: Profile = profile!("memory-shared.cfg");
const MEMORY_PRIVATE: Profile = profile!("memory-private.cfg");
const CONSOLE_FILE: Profile = profile!("console-file.cfg");
const CONSOLE_TERMINAL: Profile = profile!("console-terminal.cfg");
const SINGLE: Profile = profile!("single.cfg");
const SHELL: Profile = profile!("shell.cfg");
const PAIR_1: Profile = profile!("pair-1.cfg");
const PAIR_2: Profile = profile!("pair-2.cfg");

/// What a guest is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scenario {
    /// One guest, driven through the agent.
    #[default]
    Single,
    /// The same, with memory that the device cannot map.
    SingleUnshared,
    /// The first of two that reach each other, 192.168.77.1.
    PairFirst,
    /// The second of two, 192.168.77.2.
    PairSecond,
    /// One guest with a shell on this terminal.
    Shell,
}

impl Scenario {
    /// Its profiles, in the order in which QEMU gets them.
    pub fn profiles(self) -> [Profile; 4] {
        match self {
            Scenario::Single => [MEMORY_SHARED, GUEST, CONSOLE_FILE, SINGLE],
            Scenario::SingleUnshared => [MEMORY_PRIVATE, GUEST, CONSOLE_FILE, SINGLE],
            Scenario::PairFirst => [MEMORY_SHARED, GUEST, CONSOLE_FILE, PAIR_1],
            Scenario::PairSecond => [MEMORY_SHARED, GUEST, CONSOLE_FILE, PAIR_2],
            Scenario::Shell => [MEMORY_SHARED, GUEST, CONSOLE_TERMINAL, SHELL],
        }
    }

    /// The kernel's command line in its profiles.
    pub fn kernel_words(self) -> &'static str {
        let profiles = self.profiles();
        profiles
            .iter()
            .find_map(|profile| profile.value("machine", "append"))
            .expect("every scenario has one")
    }

    /// QEMU's options for the link to the peer, given the folder in which both guests' ends of it are.
    pub fn link_options(self, folder: &std::path::Path) -> Vec<String> {
        let (ours, theirs) = match self {
            Scenario::PairFirst => ("link-1", "link-2"),
            Scenario::PairSecond => ("link-2", "link-1"),
            _ => return Vec::new(),
        };
        let end = |name: &str| serde_json::json!({"type": "unix", "path": folder.join(name)});
        let link = serde_json::json!({"type": "dgram", "id": "link", "local": end(ours), "remote": end(theirs)});
        vec!["-netdev".to_owned(), link.to_string()]
    }
}

/// QEMU's option for an HCA behind a vfio-user socket. JSON, because `socket` is structured.
pub fn hca_options(socket: &std::path::Path) -> Vec<String> {
    let socket = serde_json::json!({"type": "unix", "path": socket});
    let device = serde_json::json!({"driver": "vfio-user-pci", "id": "hca", "addr": "0x5", "socket": socket});
    vec!["-device".to_owned(), device.to_string()]
}

impl Profile {
    /// The value of a key in a section, without its quotes.
    pub fn value(&self, section: &str, key: &str) -> Option<&'static str> {
        let header = format!("[{section}]");
        let lines = self
            .text
            .lines()
            .map(str::trim)
            .skip_while(|line| *line != header)
            .skip(1);
        let mut settings = lines
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| line.split_once('='));
        let (_, value) = settings.find(|(name, _)| name.trim() == key)?;
        Some(value.trim().trim_matches('"'))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ALL: [Scenario; 5] = [
        Scenario::Single,
        Scenario::SingleUnshared,
        Scenario::PairFirst,
        Scenario::PairSecond,
        Scenario::Shell,
    ];

    #[test]
    fn every_scenario_has_one_of_everything() {
        for scenario in ALL {
            let text: String = scenario.profiles().iter().map(|profile| profile.text).collect();
            for section in [
                "[object \"memory\"]",
                "[chardev \"console\"]",
                "append = ",
                "[chardev \"agent\"]",
            ] {
                assert_eq!(text.matches(section).count(), 1, "{section} in {scenario:?}");
            }
            assert!(scenario.kernel_words().contains("console=ttyS0"));
        }
    }

    #[test]
    fn only_one_scenario_leaves_memory_private() {
        for scenario in ALL {
            let text: String = scenario.profiles().iter().map(|profile| profile.text).collect();
            assert_eq!(
                text.contains("share = \"off\""),
                scenario == Scenario::SingleUnshared,
                "{scenario:?}"
            );
        }
    }

    #[test]
    fn comments_begin_where_qemu_sees_them() {
        for profile in ALL.iter().flat_map(|scenario| scenario.profiles()) {
            let hidden = profile
                .text
                .lines()
                .find(|line| line.trim_start().starts_with('#') && !line.starts_with('#'));
            assert_eq!(hidden, None, "{}", profile.name);
        }
    }

    #[test]
    fn the_agents_port_has_the_agents_name() {
        assert!(GUEST
            .text
            .contains(&format!("name = \"{}\"", verbena_agent::protocol::PORT)));
    }

    #[test]
    fn the_ends_of_the_link_meet() {
        let folder = Path::new("/run/x");
        let parse = |scenario: Scenario| -> serde_json::Value {
            serde_json::from_str(&scenario.link_options(folder)[1]).unwrap()
        };
        let (first, second) = (parse(Scenario::PairFirst), parse(Scenario::PairSecond));
        assert_eq!(first["local"], second["remote"]);
        assert_eq!(first["remote"], second["local"]);
        assert_ne!(first["local"], first["remote"]);
        assert!(Scenario::Single.link_options(folder).is_empty());
    }

    #[test]
    fn the_hca_option_survives_any_path() {
        let options = hca_options(Path::new("/a \"b\",c"));
        let value: serde_json::Value = serde_json::from_str(&options[1]).unwrap();
        assert_eq!(value["socket"]["path"], "/a \"b\",c");
    }

    #[test]
    fn values_are_found_in_their_section() {
        let profile = Profile {
            name: "x",
            text: "[a]\n k = \"1\"\n[b]\n k = \"2 3\"\n",
        };
        assert_eq!(profile.value("b", "k"), Some("2 3"));
        assert_eq!(profile.value("a", "k"), Some("1"));
        assert_eq!(profile.value("a", "x"), None);
    }
}
