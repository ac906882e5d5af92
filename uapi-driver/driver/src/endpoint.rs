// SPDX-License-Identifier: MIT OR Apache-2.0
//! What two sides must tell each other before their queue pairs can be connected.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use verbena_hw::id::{Gid, Psn, Qpn};

/// One side of a connection. As text it is one line of three words, to be sent over whatever the sides have: the GID
/// (as an IPv6 address), the queue pair's number, the first PSN that it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The port's GID.
    pub gid: Gid,
    /// The queue pair's number.
    pub qpn: Qpn,
    /// The first packet sequence number that it sends.
    pub psn: Psn,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#x} {:#x}", self.gid, self.qpn.get(), self.psn.get())
    }
}

/// A text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no endpoint: a GID, a queue pair number and a PSN are expected, as in `fe80::1 0x12 0x345678`")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let parse = || {
            let mut words = text.split_ascii_whitespace();
            let gid = Gid(words.next()?.parse::<Ipv6Addr>().ok()?.octets());
            let mut number = || {
                let word = words.next()?;
                match word.strip_prefix("0x") {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => word.parse().ok(),
                }
            };
            let (qpn, psn) = (Qpn::new(number()?)?, Psn::new(number()?)?);
            words.next().is_none().then_some(Self { gid, qpn, psn })
        };
        parse().ok_or_else(|| EndpointError(text.trim_end().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h04_an_endpoint_survives_its_text() {
        let endpoint = Endpoint {
            gid: Gid::link_local([2, 0x56, 0x42, 0, 0, 7]),
            qpn: Qpn::truncate(0x12),
            psn: Psn::truncate(0xff_ffff),
        };
        let line = format!("{endpoint}\n");
        assert_eq!(line, "fe80::56:42ff:fe00:7 0x12 0xffffff\n");
        assert_eq!(line.parse(), Ok(endpoint));
        assert_eq!("fe80::56:42ff:fe00:7 18 16777215".parse(), Ok(endpoint));
    }

    #[test]
    fn h04_a_text_that_is_no_endpoint_is_refused() {
        for text in [
            "",
            "fe80::1",
            "fe80::1 2",
            "fe80::1 2 0x1000000",
            "fe80::1 -2 3",
            "x 2 3",
            "fe80::1 2 3 4",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
    }
}
