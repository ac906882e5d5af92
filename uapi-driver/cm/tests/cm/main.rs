// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The communication manager, in conversations between two of them over a link that loses, repeats and reorders, on a
//! clock that the test moves.

mod agreement;
mod conversation;
mod hostile;
mod sim;
