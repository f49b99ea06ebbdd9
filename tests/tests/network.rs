//! The network of the partition tests does what it says.

use anyhow::{Result, ensure};
use howdah_tests::netns::{self, Network, Slowness};

#[test]
fn cuts_have_a_direction_and_heal() -> Result<()> {
    if let Some(why) = netns::why_not() {
        println!("skipped: {why}");
        return Ok(());
    }
    let mut network = Network::make(3)?;
    let all = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    let passing = |network: &Network| -> Result<Vec<(usize, usize)>> {
        let mut passing = Vec::new();
        for (from, to) in all {
            if network.probe(from, to).passes()? {
                passing.push((from, to));
            }
        }
        Ok(passing)
    };
    ensure!(passing(&network)? == all, "hosts do not reach each other");
    network.cut(0, 1)?;
    network.cut_both(1, 2)?;
    ensure!(passing(&network)? == [(1, 0), (0, 2), (2, 0)], "other lines are cut than should be: {:?}", passing(&network)?);
    network.heal()?;
    ensure!(passing(&network)? == all, "the network did not heal");
    network.slow_down(1, Slowness::Narrow)?;
    ensure!(network.probe(0, 1).passes()?, "a slow line is a line");
    network.heal()?;
    if let Err(error) = network.slow_down(1, Slowness::Lossy) {
        println!("delay and loss are skipped: {error:#}");
    }
    Ok(())
}
