// SPDX-License-Identifier: MIT OR Apache-2.0
//! The terminal: HCAs above, the rates of the chosen one over time, its queue pairs below.

use super::sample::{HcaInterval, Interval, Sample};
use super::text::{bytes, number};
use super::{keep, look, Options, TopError};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use ratatui::Frame;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Intervals that the picture of an HCA's rates remembers: as many as a wide terminal has columns.
const REMEMBERED: usize = 400;

const KEYS: &str = " q quit   up/down choose an HCA   p pause   +/- interval";

/// What is on the screen.
struct State {
    socket: String,
    interval: Duration,
    shown: Option<Interval>,
    /// By HCA: messages a second, sent and received, the newest last.
    past: BTreeMap<usize, VecDeque<u64>>,
    /// Which of the HCAs, by its place in the list.
    chosen: usize,
    paused: bool,
}

impl State {
    fn take(&mut self, interval: Interval) {
        for hca in &interval.hcas {
            let past = self.past.entry(hca.hca).or_default();
            let rate = hca.rates.map_or(0.0, |rates| rates.sent_msgs + rates.rcvd_msgs);
            past.push_back(rate.round() as u64);
            while past.len() > REMEMBERED {
                past.pop_front();
            }
        }
        self.chosen = self.chosen.min(interval.hcas.len().saturating_sub(1));
        self.shown = Some(interval);
    }

    /// Takes a key; false: the person has seen enough.
    fn key(&mut self, code: KeyCode, modifiers: KeyModifiers) -> bool {
        let hcas = self.shown.as_ref().map_or(0, |interval| interval.hcas.len());
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('+') => self.interval = (self.interval * 2).min(Duration::from_secs(60)),
            KeyCode::Char('-') => self.interval = (self.interval / 2).max(Duration::from_millis(100)),
            KeyCode::Down => self.chosen = (self.chosen + 1).min(hcas.saturating_sub(1)),
            KeyCode::Up => self.chosen = self.chosen.saturating_sub(1),
            _ => {}
        }
        true
    }
}

/// Shows it until the person has seen enough.
pub(super) fn run(options: &Options, history: &mut Vec<Interval>) -> Result<(), TopError> {
    // Before the terminal changes its face: a server that is not there is one line.
    let before = look(&options.socket, options.hca)?;
    let mut terminal = ratatui::try_init()?;
    let ended = follow(options, history, &mut terminal, before);
    ratatui::try_restore()?;
    ended
}

fn follow(
    options: &Options,
    history: &mut Vec<Interval>,
    terminal: &mut ratatui::DefaultTerminal,
    mut before: Sample,
) -> Result<(), TopError> {
    let mut state = State {
        socket: options.socket.display().to_string(),
        interval: options.interval,
        shown: None,
        past: BTreeMap::new(),
        chosen: 0,
        paused: false,
    };
    let mut taken = 0;
    let mut looked = Instant::now();
    loop {
        terminal.draw(|frame| draw(frame, &state))?;
        if options.count.is_some_and(|count| taken >= count) {
            return Ok(());
        }
        let left = state.interval.saturating_sub(looked.elapsed());
        if event::poll(left)? {
            match event::read()? {
                Event::Key(key) if key.is_press() && !state.key(key.code, key.modifiers) => return Ok(()),
                _ => {}
            }
            continue;
        }
        looked = Instant::now();
        if state.paused {
            continue;
        }
        let now = look(&options.socket, options.hca)?;
        let interval = Interval::between(&before, &now);
        keep(options, history, interval.clone());
        state.take(interval);
        before = now;
        taken += 1;
    }
}

fn draw(frame: &mut Frame<'_>, state: &State) {
    let Some(interval) = &state.shown else {
        let waiting = format!(" {}: the first interval is under way", state.socket);
        frame.render_widget(Paragraph::new(waiting), frame.area());
        return;
    };
    let rows = interval.hcas.len() as u16;
    let [title, hcas, past, qps, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length((rows + 3).min(frame.area().height / 3)),
        Constraint::Length(6),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let paused = if state.paused { ", paused" } else { "" };
    let seconds = interval.time_ns / 1_000_000_000;
    let text = format!(
        " verbena {}   up {seconds} s   every {:.1} s{paused}",
        state.socket,
        state.interval.as_secs_f64()
    );
    frame.render_widget(Line::from(text).bold(), title);
    frame.render_widget(hca_table(interval, state.chosen), hcas);
    if let Some(hca) = interval.hcas.get(state.chosen) {
        draw_past(frame, past, state, hca);
        frame.render_widget(qp_table(hca, usize::from(qps.height)), qps);
    }
    frame.render_widget(Line::from(KEYS).dim(), keys);
}

fn draw_past(frame: &mut Frame<'_>, area: Rect, state: &State, hca: &HcaInterval) {
    let width = usize::from(area.width.saturating_sub(2));
    let past: Vec<u64> = match state.past.get(&hca.hca) {
        Some(past) => past.iter().copied().skip(past.len().saturating_sub(width)).collect(),
        None => Vec::new(),
    };
    let most = past.iter().copied().max().unwrap_or(0);
    let title = format!(" HCA {}: messages a second, at most {} ", hca.hca, number(most as f64));
    let sparkline = Sparkline::default()
        .block(Block::bordered().title(title))
        .style(Style::new().fg(Color::Cyan))
        .data(&past);
    frame.render_widget(sparkline, area);
}

fn header(names: &'static [&'static str]) -> Row<'static> {
    Row::new(names.iter().copied()).style(Style::new().add_modifier(Modifier::REVERSED))
}

fn hca_table(interval: &Interval, chosen: usize) -> Table<'static> {
    let rows = interval.hcas.iter().enumerate().map(|(n, hca)| {
        let rates = hca.rates.unwrap_or_default();
        let port = if hca.attached {
            hca.port.clone()
        } else {
            "nobody".into()
        };
        let states: Vec<_> = hca
            .qp_states
            .iter()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        let errors = Cell::from(number(rates.errors));
        let row = Row::new([
            Cell::from(hca.hca.to_string()),
            Cell::from(port),
            Cell::from(number(rates.sent_msgs)),
            Cell::from(number(rates.rcvd_msgs)),
            Cell::from(bytes(rates.sent_bytes)),
            Cell::from(bytes(rates.rcvd_bytes)),
            Cell::from(number(rates.doorbells_trapped)),
            if rates.errors > 0.0 { errors.red() } else { errors },
            Cell::from(states.join(", ")),
        ]);
        if n == chosen {
            row.style(Style::new().add_modifier(Modifier::BOLD))
        } else {
            row
        }
    });
    let widths = [4, 7, 9, 9, 12, 12, 10, 9].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    Table::new(rows, widths)
        .block(Block::bordered().title(" HCAs "))
        .header(header(&[
            "hca",
            "port",
            "sent/s",
            "rcvd/s",
            "out",
            "in",
            "trapped/s",
            "errors/s",
            "queue pairs",
        ]))
}

fn qp_table(hca: &HcaInterval, room: usize) -> Table<'static> {
    let rows = hca.qps.iter().take(room).map(|qp| {
        let row = Row::new([
            format!("{:#x}", qp.qpn),
            qp.qp_type.clone(),
            qp.state.clone(),
            number(qp.sends),
            number(qp.receives),
            qp.waits.clone(),
            qp.retries_left.to_string(),
            qp.peer.clone(),
        ]);
        match qp.state.as_str() {
            "ERR" | "SQE" => row.red(),
            _ => row,
        }
    });
    let title = format!(" queue pairs of HCA {}, the busiest of {} ", hca.hca, hca.qps.len());
    let widths = [10, 8, 7, 9, 9, 14, 7].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    Table::new(rows, widths)
        .block(Block::bordered().title(title))
        .header(header(&[
            "QP",
            "type",
            "state",
            "sends/s",
            "recvs/s",
            "waits for",
            "retries",
            "peer",
        ]))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{QpInterval, Rates};
    use super::*;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;

    fn state() -> State {
        let qp = |qpn, state: &str| QpInterval {
            qpn,
            qp_type: "RC".into(),
            state: state.into(),
            peer: "0x7 at fe80::1".into(),
            sends: 1234.0,
            receives: 0.0,
            waits: "nothing".into(),
            retries_left: 7,
        };
        let hca = |hca| HcaInterval {
            hca,
            socket: "/tmp/hca".into(),
            attached: true,
            port: "ACTIVE".into(),
            rates: Some(Rates {
                seconds: 1.0,
                sent_msgs: 51_200.0,
                errors: 2.0,
                ..Rates::default()
            }),
            objects: BTreeMap::new(),
            qp_states: BTreeMap::from([("RTS".into(), 1), ("ERR".into(), 1)]),
            qps: vec![qp(0x2_0000, "RTS"), qp(0x2_0001, "ERR")],
        };
        let mut state = State {
            socket: "/tmp/hca.ctl".into(),
            interval: Duration::from_secs(1),
            shown: None,
            past: BTreeMap::new(),
            chosen: 0,
            paused: false,
        };
        state.take(Interval {
            time_ns: 9_000_000_000,
            hcas: vec![hca(0), hca(1)],
        });
        state
    }

    fn picture(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn h15_the_screen_has_the_hcas_their_past_and_the_queue_pairs() {
        let picture = picture(&state(), 120, 30);
        for text in [
            "/tmp/hca.ctl",
            "up 9 s",
            "51.2k",
            "1 ERR, 1 RTS",
            "0x20001",
            "0x7 at fe80::1",
            "q quit",
        ] {
            assert!(picture.contains(text), "{text} is missing:\n{picture}");
        }
    }

    #[test]
    fn h15_a_tiny_terminal_is_no_trap() {
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 5)] {
            picture(&state(), width, height);
        }
    }

    #[test]
    fn h15_keys_do_what_the_last_line_says() {
        let mut state = state();
        let none = KeyModifiers::NONE;
        assert!(state.key(KeyCode::Down, none) && state.chosen == 1);
        assert!(state.key(KeyCode::Down, none) && state.chosen == 1, "there are two");
        assert!(state.key(KeyCode::Up, none) && state.chosen == 0);
        assert!(state.key(KeyCode::Char('p'), none) && state.paused);
        assert!(state.key(KeyCode::Char('+'), none) && state.interval == Duration::from_secs(2));
        assert!(!state.key(KeyCode::Char('q'), none));
        assert!(!state.key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(state.key(KeyCode::Char('c'), none), "a c alone is no reason to leave");
    }
}
