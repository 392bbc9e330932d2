//! In which order agents start: each after those that it waits for, else as the file has them.

use std::collections::BTreeMap;

use super::file::AgentFile;

/// Indexes of the agents, or those of a circle. What waits for an agent that is not there, waits for
/// nothing here.
pub(super) fn start_order(agents: &[AgentFile]) -> Result<Vec<usize>, Vec<usize>> {
    let indexes: BTreeMap<&str, usize> = agents
        .iter()
        .enumerate()
        .map(|(index, agent)| (agent.name.value.as_str(), index))
        .collect();
    let waits: Vec<Vec<usize>> = agents
        .iter()
        .map(|agent| {
            let names = agent.after.iter().map(|after| after.value.agent.as_str());
            names.filter_map(|name| indexes.get(name).copied()).collect()
        })
        .collect();
    sorted(&waits)
}

/// At most as many rounds as there are agents, each of which starts the first that can.
fn sorted(waits: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut order: Vec<usize> = Vec::with_capacity(waits.len());
    while order.len() < waits.len() {
        let ready = waits.iter().enumerate().find(|(index, waits)| {
            !order.contains(index) && waits.iter().all(|wait| order.contains(wait))
        });
        match ready {
            Some((index, _)) => order.push(index),
            None => return Err(circle(waits, &order)),
        }
    }
    Ok(order)
}

/// A circle among those that can't start: each waits for another of them, so going on ends where one
/// has been already.
fn circle(waits: &[Vec<usize>], started: &[usize]) -> Vec<usize> {
    let stuck = |index: &usize| !started.contains(index);
    let mut path: Vec<usize> = Vec::new();
    let mut next = (0..waits.len()).find(stuck);
    while let Some(index) = next {
        if let Some(at) = path.iter().position(|other| *other == index) {
            return path.split_off(at);
        }
        path.push(index);
        next = waits.get(index).and_then(|waits| waits.iter().copied().find(stuck));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_s_order_where_nothing_waits() {
        assert_eq!(sorted(&[vec![], vec![], vec![]]), Ok(vec![0, 1, 2]));
        assert_eq!(sorted(&[vec![2], vec![], vec![1]]), Ok(vec![1, 2, 0]));
        assert_eq!(sorted(&[]), Ok(vec![]));
    }

    #[test]
    fn circles_are_found() {
        assert_eq!(sorted(&[vec![0]]), Err(vec![0]));
        assert_eq!(sorted(&[vec![1], vec![2], vec![1]]), Err(vec![1, 2]));
        assert_eq!(sorted(&[vec![], vec![0, 2], vec![1]]), Err(vec![1, 2]));
    }
}
