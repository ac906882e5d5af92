// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long tests wait.

use std::time::Duration;

/// Longer than anything takes on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds. Counts looks, not time: a machine that stands still for a while spends nobody's patience.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    const LOOK: Duration = Duration::from_millis(1);
    for _ in 0..PATIENCE.as_millis() {
        if condition() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("{what}: it did not happen");
}
