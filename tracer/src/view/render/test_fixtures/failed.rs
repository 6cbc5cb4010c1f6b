//! Failed calls of the last seconds.

use tracer_common::{Cause, TupleKey};

use super::{NETNS, SECOND, WALL_NS, comm, key};
use crate::view::{
    failures::FailureGroup,
    model::Model,
    reading::{Call, Failure},
};

/// Adds them to the model's list of failures, and has its answers remember them.
pub(super) fn add(model: &mut Model) {
    let failure = |second: u64, call, number, cause, errno, name: &str| Failure {
        count: 1,
        wall_ns: WALL_NS - second * SECOND,
        call,
        key: key(number),
        local_port: 0,
        cause,
        errno,
        pid: 812,
        comm: comm(name),
        container: Some("3f1c8a90b7d2e45f0123".into()),
        holder: None,
    };
    let mut bind = failure(9, Call::Bind, 7, Cause::BindExhausted, 98, "old-proxy");
    bind.key = TupleKey { netns: NETNS, ..TupleKey::default() };
    bind.container = None;
    let all = [
        (bind, 1),
        (failure(3, Call::Connect, 7, Cause::Refused, 111, "nginx"), 12),
        (failure(2, Call::Connect, 9, Cause::TimedOut, 0, "名前名前名前"), 1),
        (failure(0, Call::Connect, 9, Cause::PortsExhausted, 99, "nginx"), 3_120),
    ];
    let newest: Vec<Failure> = all.iter().map(|(failure, _)| failure.clone()).collect();
    model.answers.remember(&newest, model.history.now_ms());
    let group = |(newest, count)| FailureGroup { newest, count, answer: None };
    model.failures.extend(all.map(group));
}
