// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! `docs/fidelity.md` (U21): every control call of libibverbs, and the class, method and attributes that say the same. The
//! table is walked against the dispatch tables: what it names must be there.
//!
//! The calls are those of libibverbs 1.14 (rdma-core 56), `infiniband/verbs.h`, and what newer headers have beside them. [`VERBS`] is the
//! header's own list, so that none is forgotten.

use crate::bench::Bench;
use crate::reference;
use rdma_uapi::table::Table;
use rdma_uapi::Driver;
use std::collections::BTreeSet;
use std::fmt::Write;
use verbena_core::node::System;
use verbena_core::Verbena;

/// How a call of libibverbs is said.
enum Said {
    /// By this class, method and attributes, and a remark.
    By(&'static str, &'static str, &'static str, &'static str),
    /// By this, when the device and its driver can do it: the class, method or an attribute is not there yet.
    Later(&'static str, &'static str, &'static str, &'static str),
    /// By no call: the program's own affair, or the data path's.
    NoCall(&'static str),
    /// Not at all, and why.
    Never(&'static str),
}
use Said::{By, Later, Never, NoCall};

const QP_MODIFY: &str = "state current_state port pkey_index access path dest_qpn sq_psn rq_psn path_mtu timeout \
    retry_cnt rnr_retry min_rnr_timer max_rd_atomic max_dest_rd_atomic sqd_notify alt_path alt_port alt_pkey_index \
    alt_timeout path_mig_state rate_limit";

#[rustfmt::skip]
const CALLS: &[(&str, Said)] = &[
    ("ibv_get_device_list", By("device_list", "query", "devices", "on the system-wide node")),
    ("ibv_free_device_list", NoCall("frees the list")),
    ("ibv_get_device_name", By("device_list", "query", "devices", "or device query, name")),
    ("ibv_get_device_guid", By("device_list", "query", "devices", "")),
    ("ibv_get_device_index", By("device_list", "query", "devices", "the arrival number is never used again")),
    ("ibv_open_device", NoCall("open(2) of the device's node")),
    ("ibv_close_device", NoCall("close(2)")),
    ("ibv_import_device", NoCall("the descriptor is passed on")),
    ("ibv_import_pd, ibv_import_mr, ibv_import_dm", By("interface", "query", "objects", "an id is valid for whoever has the descriptor; the list says what there is")),
    ("ibv_unimport_pd, ibv_unimport_mr, ibv_unimport_dm", NoCall("forgets the id")),
    ("ibv_get_async_event", By("event_queue", "read_events", "events pending", "or read(2); the queue is created with create_fd and associated with modify")),
    ("ibv_ack_async_event", By("qp_rc", "destroy", "async_events", "DESTROY never waits: it answers how many were given, the library waits for so many")),
    ("ibv_query_device, ibv_query_device_ex", By("device", "query", "attrs driver_id driver_name name", "")),
    ("ibv_query_rt_values_ex", By("device", "query", "clock", "the clock's frequency is in attrs")),
    ("ibv_query_port", By("port", "query", "attrs", "")),
    ("ibv_query_gid, ibv_query_gid_ex, ibv_query_gid_table", By("port", "query", "gids", "the whole table in one call")),
    ("ibv_query_pkey, ibv_get_pkey_index", By("port", "query", "pkeys", "")),
    ("ibv_alloc_pd", By("pd", "create", "pdn", "")),
    ("ibv_dealloc_pd", By("pd", "destroy", "", "")),
    ("ibv_alloc_td, ibv_dealloc_td, ibv_alloc_parent_domain", NoCall("a promise between program and library about locks")),
    ("ibv_reg_mr, ibv_reg_mr_iova, ibv_reg_mr_iova2", By("mr", "create", "pd addr length iova access lkey rkey", "")),
    ("ibv_dereg_mr", By("mr", "destroy", "", "")),
    ("ibv_rereg_mr", By("mr", "modify", "pd addr length iova access lkey rkey", "if it fails, the region is what it was")),
    ("ibv_alloc_dmah, ibv_dealloc_dmah", Never("hints to a processor's cache that go with PCIe transactions; the device makes none that carry them")),
    ("ibv_reg_mr_ex", By("mr", "create", "pd addr length iova access lkey rkey", "its dma-buf and its hints: as ibv_reg_dmabuf_mr and ibv_alloc_dmah")),
    ("ibv_reg_dmabuf_mr", Never("the device has no peer memory: guest memory alone is mapped for it")),
    ("ibv_alloc_null_mr", By("mr", "create", "pd null lkey", "ibv_rereg_mr and ibv_bind_mw of it are refused, as there")),
    ("ibv_advise_mr", Never("pages are pinned, there is nothing to prefetch")),
    ("ibv_alloc_dm, ibv_free_dm, ibv_memcpy_to_dm, ibv_memcpy_from_dm, ibv_reg_dm_mr", Never("the device has no memory of its own")),
    ("ibv_alloc_mw", Later("mw", "create", "pd type rkey", "")),
    ("ibv_dealloc_mw", Later("mw", "destroy", "", "")),
    ("ibv_bind_mw, ibv_inc_rkey", NoCall("a work request; arithmetic")),
    ("ibv_create_comp_channel", By("event_queue", "create_fd", "capacity id", "any queue is one")),
    ("ibv_destroy_comp_channel", NoCall("close(2) of the queue's descriptor")),
    ("ibv_create_cq, ibv_create_cq_ex", By("cq", "create", "cqe comp_vector cqn event_queue cookie", "the channel is the event queue, cq_context the cookie; Verbena's ring: verbena_cq_ring")),
    ("ibv_resize_cq, ibv_modify_cq", By("cq", "modify", "cqe moderation_count moderation_period", "Verbena's new ring: verbena_cq_ring")),
    ("ibv_destroy_cq", By("cq", "destroy", "completion_events async_events", "answers what comp_events_reported and async_events_reported are")),
    ("ibv_get_cq_event", By("event_queue", "read_events", "events pending", "or read(2)")),
    ("ibv_ack_cq_events", By("cq", "destroy", "completion_events", "as ibv_ack_async_event")),
    ("ibv_req_notify_cq, ibv_poll_cq, ibv_start_poll, ibv_next_poll, ibv_end_poll", NoCall("the data path: mapped memory")),
    ("ibv_create_srq, ibv_create_srq_ex", By("srq", "create", "pd max_wr max_sge limit srqn xrcd cq event_queue cookie", "xrcd and cq: XRC; Verbena's ring: verbena_srq_ring")),
    ("ibv_modify_srq", By("srq", "modify", "max_wr limit", "")),
    ("ibv_query_srq, ibv_get_srq_num", By("srq", "query", "pd max_wr max_sge limit srqn xrcd cq", "create answers srqn, too")),
    ("ibv_destroy_srq", By("srq", "destroy", "async_events", "")),
    ("ibv_create_qp, ibv_create_qp_ex: RC", By("qp_rc", "create", "pd send_cq recv_cq srq caps flags qpn event_queue cookie", "and what modify takes; Verbena's rings: verbena_qp_rings, verbena_doorbell")),
    ("ibv_create_qp: UC", Later("qp_uc", "create", "pd send_cq recv_cq caps flags qpn", "")),
    ("ibv_create_qp, ibv_modify_qp: UD", By("qp_ud", "create", "pd send_cq recv_cq srq caps flags qpn state port pkey_index qkey sq_psn", "modify takes the same")),
    ("ibv_create_qp, ibv_modify_qp: XRC initiator", By("qp_xrc_ini", "create", "pd send_cq caps flags qpn state port pkey_index access path dest_qpn sq_psn rq_psn path_mtu timeout retry_cnt rnr_retry max_rd_atomic event_queue cookie", "modify takes the same")),
    ("ibv_create_qp_ex, ibv_modify_qp: XRC target", By("qp_xrc_tgt", "create", "xrcd qpn state port pkey_index access path dest_qpn sq_psn rq_psn path_mtu timeout min_rnr_timer max_dest_rd_atomic event_queue cookie", "modify takes the same")),
    ("ibv_create_qp, ibv_modify_qp: raw packet", By("qp_raw", "create", "pd send_cq recv_cq srq caps flags qpn state port sqd_notify", "modify takes the same")),
    ("ibv_open_qp", By("qp_xrc_tgt", "create", "xrcd open event_queue cookie", "by its number; the target goes with the last object of it, in whatever process")),
    ("ibv_modify_qp: RC", By("qp_rc", "modify", QP_MODIFY, "create takes the same")),
    ("ibv_modify_qp_rate_limit", By("qp_rc", "modify", "rate_limit max_burst typical_packet", "every type that sends takes it; the device's packet_pacing_caps are its qp_rate_limit_min and qp_rate_limit_max")),
    ("ibv_query_qp", By("qp_rc", "query", "pd send_cq recv_cq srq caps flags qpn state port pkey_index access path dest_qpn sq_psn rq_psn path_mtu timeout retry_cnt rnr_retry min_rnr_timer max_rd_atomic max_dest_rd_atomic sq_draining alt_path alt_port alt_pkey_index alt_timeout path_mig_state rate_limit max_burst typical_packet", "")),
    ("ibv_query_qp_data_in_order", NoCall("a constant of the device, known to the library")),
    ("ibv_destroy_qp", By("qp_rc", "destroy", "async_events", "answers what events_reported is")),
    ("ibv_set_ece, ibv_query_ece", Never("vendors' connection options; Verbena has none")),
    ("ibv_create_wq, ibv_modify_wq, ibv_destroy_wq, ibv_create_rwq_ind_table, ibv_destroy_rwq_ind_table", Never("receive side scaling of raw packet queues; the device has none")),
    ("ibv_open_xrcd", By("xrcd", "create", "file flags xrcdn", "the file is named by its descriptor, as there")),
    ("ibv_close_xrcd", By("xrcd", "destroy", "", "the domain goes with the last object of it, in whatever process")),
    ("ibv_create_ah", By("ah", "create", "pd path port", "the fast way makes no call (U19)")),
    ("ibv_init_ah_from_wc, ibv_create_ah_from_wc, ibv_resolve_eth_l2_from_gid", NoCall("made from a completion, in the program")),
    ("ibv_destroy_ah", By("ah", "destroy", "", "")),
    ("ibv_attach_mcast", Later("mcast", "create", "qp gid", "")),
    ("ibv_detach_mcast", Later("mcast", "destroy", "", "")),
    ("ibv_create_flow", By("flow", "create", "qp port type priority flags tag match mask", "the list of specifications is match and mask; drop is a flag. What Verbena lacks: tunnels, MPLS, ESP, egress rules")),
    ("ibv_destroy_flow", By("flow", "destroy", "", "")),
    ("ibv_create_flow_action_esp, ibv_modify_flow_action_esp, ibv_destroy_flow_action", Never("the device has no IPsec")),
    ("ibv_create_counters, ibv_destroy_counters, ibv_attach_counters_point_flow", NoCall("every rule counts; which counts of which rules are one number is the program's affair")),
    ("ibv_read_counters", By("flow", "query", "frames bytes", "of each rule; the port's are port query, counters")),
    ("ibv_post_send, ibv_post_recv, ibv_post_srq_recv, ibv_wr_start, ibv_wr_complete, ibv_wr_abort", NoCall("the data path: mapped memory")),
    ("ibv_post_srq_ops", Never("tag matching; the device has none")),
    ("ibv_qp_to_qp_ex, ibv_cq_ex_to_cq", NoCall("another view of the same object")),
    ("ibv_fork_init, ibv_is_fork_initialized", NoCall("pinned pages are copied at fork by the kernel")),
    ("ibv_node_type_str, ibv_port_state_str, ibv_event_type_str, ibv_wc_status_str", NoCall("texts")),
    ("ibv_rate_to_mult, mult_to_ibv_rate, ibv_rate_to_mbps, mbps_to_ibv_rate", NoCall("arithmetic")),
    ("rdma_create_event_channel", Later("cm_id", "create", "event_queue cookie", "librdmacm, for completeness (U18)")),
];

/// The same for management datagrams: libibumad 3 (rdma-core 56), `infiniband/umad.h`.
#[rustfmt::skip]
const MANAGEMENT: &[(&str, Said)] = &[
    ("umad_init, umad_done, umad_open_port, umad_close_port", NoCall("open(2) and close(2) of the device's node")),
    ("umad_get_cas_names, umad_get_ca_device_list", By("device_list", "query", "devices", "")),
    ("umad_get_ca, umad_get_ca_portguids, umad_release_ca", By("device", "query", "attrs name", "")),
    ("umad_get_port, umad_get_issm_path, umad_release_port, umad_get_pkey", By("port", "query", "attrs gids pkeys", "an Ethernet port has no subnet manager")),
    ("umad_register, umad_register2", By("mad", "create", "mgmt_class class_version methods oui capacity tid_high event_queue cookie", "an agent is an object; a method that is served is EBUSY, where umad says EINVAL")),
    ("umad_register_oui", By("mad", "create", "mgmt_class methods oui", "")),
    ("umad_unregister", By("mad", "destroy", "", "")),
    ("umad_send", By("mad", "send", "ah path qpn qkey timeout retries datagram tid", "")),
    ("umad_recv", By("mad", "receive", "received lost pending", "many at once; a request that nobody answered comes back, as there")),
    ("umad_get_fd, umad_poll", By("event_queue", "read_events", "events pending", "the agent reports to the queue that its CREATE names")),
    ("umad_set_addr, umad_set_addr_net, umad_set_grh, umad_set_grh_net, umad_get_mad_addr, umad_set_pkey", NoCall("the attributes of send; the default partition is the only one")),
    ("umad_status, umad_size, umad_alloc, umad_free, umad_dump, umad_debug, umad_class_str and other texts", NoCall("")),
    ("rmpp_version of umad_register", Never("transfers of many segments are the subnet administration's, which Ethernet has none of; a client may do them itself")),
];

/// What of a class, method and attributes (by name) is not there.
fn missing<D: Driver>(table: &Table<D>, class: &str, method: &str, attrs: &str) -> Option<String> {
    let Some(found) = table.classes().find(|c| c.schema().name == class) else {
        return Some(format!("class {class}"));
    };
    let Some(found) = found.methods().find(|m| m.schema().name == method) else {
        return Some(format!("{class} {method}"));
    };
    let lacking = |name: &&str| !found.attrs().any(|attr| attr.spec.name == *name);
    let lacking: Vec<_> = attrs.split_whitespace().filter(lacking).collect();
    (!lacking.is_empty()).then(|| format!("{class} {method}: {}", lacking.join(" ")))
}

#[test]
fn u21_every_control_call_of_libibverbs_is_mapped() {
    let (device, node) = (
        reference::table::<Verbena<Bench>>(),
        reference::table::<System<Bench>>(),
    );
    let lacks = |class: &str, method: &str, attrs: &str| {
        let on_device = missing(&device, class, method, attrs)?;
        missing(&node, class, method, attrs).map(|_| on_device)
    };
    let mut out = String::from(
        "# Fidelity: libibverbs' control calls, and libibumad's\n\nGenerated by a test that looks each of these up in the dispatch tables \
         (`core/tests/driver/fidelity.rs`); do not edit. The calls are those of `infiniband/verbs.h`, libibverbs 1.14.\n\n",
    );
    let (mut said, mut not_yet) = (0, 0);
    const HEAD: &str = "| call | class, method | attributes | |\n|---|---|---|---|\n";
    const BETWEEN: &str = "\nManagement datagrams, by `infiniband/umad.h` of libibumad 3:\n\n";
    out.push_str(HEAD);
    for (n, (call, how)) in CALLS.iter().chain(MANAGEMENT).enumerate() {
        if n == CALLS.len() {
            out.push_str(BETWEEN);
            out.push_str(HEAD);
        }
        let row = match how {
            By(class, method, attrs, remark) => {
                assert_eq!(
                    lacks(class, method, attrs),
                    None,
                    "{call}: the table names what is not there"
                );
                said += 1;
                (
                    format!("[{class}](reference.md#{class}) {method}"),
                    (*attrs).to_owned(),
                    (*remark).to_owned(),
                )
            }
            Later(class, method, attrs, remark) => match lacks(class, method, attrs) {
                None => {
                    said += 1;
                    (
                        format!("[{class}](reference.md#{class}) {method}"),
                        (*attrs).to_owned(),
                        (*remark).to_owned(),
                    )
                }
                Some(lacking) => {
                    not_yet += 1;
                    let remark = if remark.is_empty() {
                        String::new()
                    } else {
                        format!("; {remark}")
                    };
                    (
                        format!("{class} {method}"),
                        String::new(),
                        format!("not yet: {lacking} is not there{remark}"),
                    )
                }
            },
            NoCall(why) => ("no call".to_owned(), String::new(), (*why).to_owned()),
            Never(why) => ("not possible".to_owned(), String::new(), (*why).to_owned()),
        };
        writeln!(out, "| {call} | {} | {} | {} |", row.0, row.1, row.2).unwrap();
    }
    writeln!(out, "\n{said} rows can be said, {not_yet} not yet.").unwrap();
    reference::check("fidelity.md", &out);
}

/// What `infiniband/verbs.h` declares for applications (rdma-core 56; the last line: newer ones), by the objects that it is about. Not here: the
/// accessors of extended completions (`ibv_wc_read_*`) and the builders of work requests (`ibv_wr_*` between start and complete),
/// which are the data path.
#[rustfmt::skip]
const VERBS: &str = "
    ibv_get_device_list ibv_free_device_list ibv_get_device_name ibv_get_device_guid ibv_get_device_index ibv_open_device
    ibv_close_device ibv_import_device ibv_get_async_event ibv_ack_async_event ibv_query_device ibv_query_device_ex
    ibv_query_rt_values_ex ibv_query_port ibv_query_gid ibv_query_gid_ex ibv_query_gid_table ibv_query_pkey ibv_get_pkey_index
    ibv_alloc_pd ibv_dealloc_pd ibv_import_pd ibv_unimport_pd ibv_alloc_td ibv_dealloc_td ibv_alloc_parent_domain
    ibv_reg_mr ibv_reg_mr_iova ibv_reg_mr_iova2 ibv_rereg_mr ibv_dereg_mr ibv_reg_dmabuf_mr ibv_alloc_null_mr ibv_advise_mr
    ibv_import_mr ibv_unimport_mr ibv_alloc_dm ibv_free_dm ibv_memcpy_to_dm ibv_memcpy_from_dm ibv_reg_dm_mr ibv_import_dm
    ibv_unimport_dm ibv_alloc_mw ibv_dealloc_mw ibv_inc_rkey ibv_bind_mw
    ibv_create_comp_channel ibv_destroy_comp_channel ibv_create_cq ibv_create_cq_ex ibv_cq_ex_to_cq ibv_resize_cq ibv_modify_cq
    ibv_destroy_cq ibv_get_cq_event ibv_ack_cq_events ibv_req_notify_cq ibv_poll_cq ibv_start_poll ibv_next_poll ibv_end_poll
    ibv_create_srq ibv_create_srq_ex ibv_modify_srq ibv_query_srq ibv_get_srq_num ibv_destroy_srq ibv_post_srq_recv ibv_post_srq_ops
    ibv_create_qp ibv_create_qp_ex ibv_qp_to_qp_ex ibv_open_qp ibv_modify_qp ibv_modify_qp_rate_limit ibv_query_qp
    ibv_query_qp_data_in_order ibv_destroy_qp ibv_set_ece ibv_query_ece ibv_post_send ibv_post_recv ibv_wr_start ibv_wr_complete
    ibv_wr_abort ibv_create_wq ibv_modify_wq ibv_destroy_wq ibv_create_rwq_ind_table ibv_destroy_rwq_ind_table
    ibv_open_xrcd ibv_close_xrcd ibv_create_ah ibv_init_ah_from_wc ibv_create_ah_from_wc ibv_destroy_ah ibv_resolve_eth_l2_from_gid
    ibv_attach_mcast ibv_detach_mcast ibv_create_flow ibv_destroy_flow ibv_create_flow_action_esp ibv_modify_flow_action_esp
    ibv_destroy_flow_action ibv_create_counters ibv_destroy_counters ibv_attach_counters_point_flow ibv_read_counters
    ibv_fork_init ibv_is_fork_initialized ibv_node_type_str ibv_port_state_str ibv_event_type_str ibv_wc_status_str
    ibv_rate_to_mult mult_to_ibv_rate ibv_rate_to_mbps mbps_to_ibv_rate
    ibv_alloc_dmah ibv_dealloc_dmah ibv_reg_mr_ex
";

/// The header's list and the table have the same calls.
#[test]
fn u21_no_call_of_the_header_is_without_a_row() {
    let declared: BTreeSet<&str> = VERBS.split_whitespace().collect();
    let rows: BTreeSet<&str> = CALLS
        .iter()
        .flat_map(|(calls, _)| calls.split(':').next().unwrap_or_default().split(", "))
        .filter(|call| !call.starts_with("rdma_"))
        .collect();
    assert_eq!(
        declared.difference(&rows).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "calls without a row"
    );
    assert_eq!(
        rows.difference(&declared).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "rows of no call"
    );
}

#[test]
fn u21_the_walk_notices_what_is_not_there() {
    let device = reference::table::<Verbena<Bench>>();
    assert_eq!(missing(&device, "pd", "create", "pdn"), None);
    assert_eq!(missing(&device, "mw2", "create", ""), Some("class mw2".into()));
    assert_eq!(missing(&device, "pd", "modify", ""), Some("pd modify".into()));
    assert_eq!(
        missing(&device, "pd", "create", "pdn lkey"),
        Some("pd create: lkey".into())
    );
}

#[test]
fn u20_queues_are_made_and_changed_by_calls_and_worked_by_none() {
    let device = reference::table::<Verbena<Bench>>();
    let queues = [
        "cq",
        "srq",
        "qp_rc",
        "qp_uc",
        "qp_ud",
        "qp_raw",
        "qp_xrc_ini",
        "qp_xrc_tgt",
    ];
    let generic = ["create", "query", "modify", "destroy"];
    for class in device.classes() {
        let name = class.schema().name;
        // Management datagrams are control: the queues of QP 1 are the driver's, and no program's.
        if name == "mad" {
            continue;
        }
        for method in class.methods().map(|method| method.schema()) {
            let words = ["post", "poll", "arm", "notify", "send", "receive"];
            assert!(
                !words.iter().any(|word| method.name.contains(word)),
                "{name} {}: the fast path makes no call",
                method.name
            );
            assert!(
                !queues.contains(&name) || generic.contains(&method.name),
                "{name} {}: a queue has no method of its own",
                method.name
            );
        }
    }
    for name in queues {
        assert_eq!(
            missing(&device, name, "create", ""),
            None,
            "{name} is there to be looked at"
        );
    }
}
