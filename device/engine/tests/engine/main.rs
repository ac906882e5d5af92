// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conversations with the engine: a driver, its guest's memory, and a clock that only the test advances.

mod admin_queue;
mod completion_queues;
mod datagrams;
mod dump;
mod errors;
mod event_queues;
mod hostile;
mod inspect;
mod isolation;
mod memory;
mod multicast;
mod operations;
mod registers;
mod scale;
mod shared_receives;
mod sleep;
mod state_machine;
mod unreliable;
mod windows;
