// SPDX-License-Identifier: MIT OR Apache-2.0
//! H4: every transition of every type of queue pair, with the attributes that it needs and those that it may have, against a
//! table of this test's own: IBA vol. 1, table 91, for what the device offers (no alternate path, no rate limit).

use verbena_engine::testing::{Failed, Guest, QpShape, SendWr, World};
use verbena_hw::admin::Status;
use verbena_hw::cmd::CreateQpReq;
use verbena_hw::id::Qpn;
use verbena_hw::qp::attr::*;
use verbena_hw::qp::{access, Path, QpAttrs, QpState, QpType, GSI_QKEY};
use verbena_hw::wqe::{Sge, UdArgs};
use zerocopy::FromZeros;

use QpState as S;
use QpType as T;

const TYPES: [QpType; 7] = [T::RC, T::UC, T::UD, T::GSI, T::RAW, T::XRC_INI, T::XRC_TGT];
const STATES: [QpState; 7] = [S::RESET, S::INIT, S::RTR, S::RTS, S::SQD, S::SQE, S::ERR];

/// From, to, and for each of [`TYPES`] what is required and what is optional. `None`: the type has no such transition. RESET and
/// ERR are reached from anywhere without attributes.
type Row = (QpState, QpState, [Option<(u32, u32)>; 7]);

const CONNECT: u32 = AV | PATH_MTU | DEST_QPN | RQ_PSN;
const RETRIES: u32 = TIMEOUT | RETRY_CNT | RNR_RETRY | MAX_QP_RD_ATOMIC;
const ANSWERS: u32 = MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER;
const PLACE: u32 = PKEY_INDEX | PORT | ACCESS_FLAGS;
const DRAINED: u32 = PKEY_INDEX | ACCESS_FLAGS | AV;

const TABLE: [Row; 9] = [
    (
        S::RESET,
        S::INIT,
        [
            Some((PLACE, 0)),
            Some((PLACE, 0)),
            Some((PKEY_INDEX | PORT | QKEY, 0)),
            Some((PKEY_INDEX | QKEY, 0)),
            Some((PORT, 0)),
            Some((PLACE, 0)),
            Some((PLACE, 0)),
        ],
    ),
    (
        S::INIT,
        S::INIT,
        [
            Some((0, PLACE)),
            Some((0, PLACE)),
            Some((0, PKEY_INDEX | PORT | QKEY)),
            Some((0, PKEY_INDEX | QKEY)),
            Some((0, 0)),
            Some((0, PLACE)),
            Some((0, PLACE)),
        ],
    ),
    (
        S::INIT,
        S::RTR,
        [
            Some((CONNECT | ANSWERS, ACCESS_FLAGS | PKEY_INDEX)),
            Some((CONNECT, ACCESS_FLAGS | PKEY_INDEX)),
            Some((0, PKEY_INDEX | QKEY)),
            Some((0, PKEY_INDEX | QKEY)),
            Some((0, 0)),
            Some((CONNECT, ACCESS_FLAGS | PKEY_INDEX)),
            Some((CONNECT | ANSWERS, ACCESS_FLAGS | PKEY_INDEX)),
        ],
    ),
    (
        S::RTR,
        S::RTS,
        [
            Some((SQ_PSN | RETRIES, ACCESS_FLAGS | MIN_RNR_TIMER | RATE_LIMIT)),
            Some((SQ_PSN, ACCESS_FLAGS | RATE_LIMIT)),
            Some((SQ_PSN, QKEY | RATE_LIMIT)),
            Some((SQ_PSN, QKEY)),
            Some((0, RATE_LIMIT)),
            Some((SQ_PSN | RETRIES, ACCESS_FLAGS | RATE_LIMIT)),
            Some((SQ_PSN | TIMEOUT, ACCESS_FLAGS | MIN_RNR_TIMER)),
        ],
    ),
    (
        S::RTS,
        S::RTS,
        [
            Some((0, ACCESS_FLAGS | MIN_RNR_TIMER | RATE_LIMIT)),
            Some((0, ACCESS_FLAGS | RATE_LIMIT)),
            Some((0, QKEY | RATE_LIMIT)),
            Some((0, QKEY)),
            Some((0, RATE_LIMIT)),
            Some((0, ACCESS_FLAGS | RATE_LIMIT)),
            Some((0, ACCESS_FLAGS | MIN_RNR_TIMER)),
        ],
    ),
    (S::RTS, S::SQD, [Some((0, EN_SQD_ASYNC_NOTIFY)); 7]),
    (
        S::SQD,
        S::RTS,
        [
            Some((0, ACCESS_FLAGS | MIN_RNR_TIMER | RATE_LIMIT)),
            Some((0, ACCESS_FLAGS | RATE_LIMIT)),
            Some((0, QKEY | RATE_LIMIT)),
            Some((0, QKEY)),
            Some((0, RATE_LIMIT)),
            Some((0, ACCESS_FLAGS | RATE_LIMIT)),
            Some((0, ACCESS_FLAGS | MIN_RNR_TIMER)),
        ],
    ),
    (
        S::SQD,
        S::SQD,
        [
            Some((0, DRAINED | PORT | RETRIES | ANSWERS)),
            Some((0, DRAINED)),
            Some((0, PKEY_INDEX | QKEY)),
            Some((0, PKEY_INDEX | QKEY)),
            Some((0, 0)),
            Some((0, DRAINED | PORT | RETRIES)),
            Some((0, DRAINED | PORT | TIMEOUT | ANSWERS)),
        ],
    ),
    (
        S::SQE,
        S::RTS,
        [
            None,
            Some((0, ACCESS_FLAGS | RATE_LIMIT)),
            Some((0, QKEY | RATE_LIMIT)),
            Some((0, QKEY)),
            Some((0, RATE_LIMIT)),
            None,
            None,
        ],
    ),
];

fn expected(kind: usize, from: QpState, to: QpState) -> Option<(u32, u32)> {
    if matches!(to, S::RESET | S::ERR) {
        return Some((0, 0));
    }
    TABLE
        .iter()
        .find(|row| (row.0, row.1) == (from, to))
        .and_then(|row| row.2[kind])
}

/// A queue pair of a type, with every attribute at a good value.
struct Subject {
    w: World,
    guest: Guest,
    kind: usize,
    qp: verbena_engine::testing::Qp,
    attrs: QpAttrs,
}

impl Subject {
    fn new(kind: usize) -> Self {
        let mut w = World::new(1);
        let mut guest = Guest::start(&mut w, 4 << 20);
        let cq = guest.cq(&mut w, 4);
        let shape = QpShape::default();
        let req = match TYPES[kind] {
            T::XRC_INI => guest.initiator_request(&mut w, &cq, shape),
            T::XRC_TGT => {
                let xrcdn = guest.xrcd(&mut w);
                guest.target_request(xrcdn)
            }
            qp_type => CreateQpReq {
                qp_type,
                ..guest.qp_request(&mut w, &cq, &cq, shape)
            },
        };
        let qp = guest.create_qp(&mut w, &req).expect("a queue pair");
        let attrs = QpAttrs {
            access: access::QP_ALL,
            qkey: GSI_QKEY,
            path_mtu: 3,
            timeout: 14,
            retry_cnt: 7,
            rnr_retry: 7,
            min_rnr_timer: 12,
            max_rd_atomic: 1,
            max_dest_rd_atomic: 1,
            dest_qpn: qp.qpn,
            path: Path {
                dgid: guest.gid(),
                port: 1,
                ..Path::default()
            },
            ..QpAttrs::default()
        };
        Self {
            w,
            guest,
            kind,
            qp,
            attrs,
        }
    }

    fn go(&mut self, from: QpState, to: QpState, mask: u32) -> Result<(), Failed> {
        let attrs = QpAttrs {
            state: to.0,
            cur_state: from.0,
            ..self.attrs
        };
        self.guest.modify(&mut self.w, self.qp.qpn, mask | STATE, attrs)
    }

    fn state(&mut self) -> QpState {
        self.guest.state(&mut self.w, self.qp.qpn)
    }

    /// Takes it to a state by the table. `false`: its type has no way there.
    fn bring(&mut self, state: QpState) -> bool {
        let path: &[QpState] = match state {
            S::RESET => &[],
            S::INIT => &[S::INIT],
            S::RTR => &[S::INIT, S::RTR],
            S::RTS | S::SQE => &[S::INIT, S::RTR, S::RTS],
            S::SQD => &[S::INIT, S::RTR, S::RTS, S::SQD],
            _ => &[S::ERR],
        };
        self.go(S::RESET, S::RESET, 0).expect("every state resets");
        if self.qp.rq != 0 {
            self.qp.rewind(&self.w);
        }
        let mut from = S::RESET;
        for &to in path {
            let (required, _) = expected(self.kind, from, to).expect("a path");
            self.go(from, to, required).expect("a transition");
            from = to;
        }
        if state == S::SQE {
            if matches!(TYPES[self.kind], T::RC | T::XRC_INI | T::XRC_TGT) {
                return false;
            }
            // A send from memory that it may not read: the message is lost, its connection, if there is one, is not.
            let sge = Sge {
                addr: 0x1000,
                len: 64,
                lkey: verbena_hw::id::Key(0x55),
            };
            let mut wr = SendWr::send(1, &[sge]);
            if matches!(TYPES[self.kind], T::UD | T::GSI) {
                wr = wr.to(UdArgs {
                    path: self.attrs.path,
                    dest_qpn: Qpn::truncate(self.qp.qpn.get()),
                    qkey: GSI_QKEY,
                    ..UdArgs::new_zeroed()
                });
            }
            self.qp.post(&self.w, wr);
            self.w.run();
        }
        assert_eq!(self.state(), state, "{}", TYPES[self.kind]);
        true
    }
}

#[test]
fn h04_every_transition_of_every_type_takes_what_the_specification_says() {
    let mut seen = 0;
    for (kind, name) in TYPES.iter().enumerate() {
        let mut subject = Subject::new(kind);
        for from in STATES {
            for to in STATES {
                if !subject.bring(from) {
                    continue;
                }
                let what = format!("{name}: {from} to {to}");
                let Some((required, optional)) = expected(kind, from, to) else {
                    let detail = u32::from(from.0) | u32::from(to.0) << 8;
                    let status = Status::BAD_TRANSITION;
                    assert_eq!(subject.go(from, to, 0), Err(Failed { status, detail }), "{what}");
                    assert_eq!(subject.state(), from, "{what}");
                    continue;
                };
                seen += 1;
                for bit in (0..32).map(|n| 1 << n) {
                    if bit == STATE || bit == CUR_STATE || optional & bit != 0 {
                        continue;
                    }
                    let (mask, status) = if required & bit != 0 {
                        (required & !bit, Status::MISSING_ATTRIBUTE)
                    } else {
                        (required | bit, Status::FORBIDDEN_ATTRIBUTE)
                    };
                    let refused = subject.go(from, to, mask);
                    assert_eq!(refused, Err(Failed { status, detail: bit }), "{what}");
                    assert_eq!(subject.state(), from, "{what}: a failure changes nothing");
                }
                // Each that is optional alone, then all of them; and without any.
                let each = (0..32).map(|n| optional & 1 << n).filter(|&bit| bit != 0);
                for extra in each.chain([optional | CUR_STATE, 0]) {
                    assert!(subject.bring(from));
                    assert_eq!(subject.go(from, to, required | extra), Ok(()), "{what} with {extra:#x}");
                    assert_eq!(subject.state(), to, "{what}");
                }
            }
        }
    }
    // Of each type: 8 along the way and SQE's of those that have it, and RESET and ERR from each of their states.
    assert_eq!(seen, 7 * 8 + 4 + 4 * 14 + 3 * 12);
}
