//! The cluster in one line, for those who watch.

use howdah_ctl::cluster::Observed;

/// Who leads and what the others do; changes only when something changes.
#[must_use]
pub(crate) fn summary(observed: &Observed) -> String {
    let node = |view: &howdah_ctl::cluster::NodeView| match &view.status {
        Ok(status) if status.open => format!("node {} {}", status.id, status.role),
        Ok(status) => format!("node {} {} (closed)", status.id, status.role),
        Err(_) => format!("node {} unreachable", view.address.id),
    };
    let nodes: Vec<String> = observed.nodes.iter().map(node).collect();
    match observed.leader() {
        Some(leader) => format!("term {}: {}", leader.term, nodes.join(", ")),
        None => format!("no open leader: {}", nodes.join(", ")),
    }
}
