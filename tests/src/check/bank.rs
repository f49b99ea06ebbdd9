//! Bank: transfers move money between accounts and never make or lose any, so every read of all accounts has the same sum.
//!
//! It is the promise of a snapshot: a follower that shows half a transaction, or a read that mixes two positions, has another sum. It holds in
//! every consistency mode, since each of them reads some prefix of the log.

use super::{Findings, Kind};
use crate::history::Operation;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Transfer { from: i32, to: i32, amount: i64 },
    ReadAll,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Transferred,
    Balances(BTreeMap<i32, i64>),
}

/// `accounts` times `balance` is what there was at the start.
#[must_use]
pub fn check(history: &[Operation<Call, Answer>], accounts: usize, balance: i64) -> Findings {
    let total = i64::try_from(accounts).expect("accounts are few") * balance;
    let mut findings = Findings::default();
    for operation in history {
        let Some(Answer::Balances(seen)) = operation.answer() else { continue };
        findings.checked += 1;
        let sum: i64 = seen.values().sum();
        if sum != total || seen.len() != accounts {
            findings.add(Kind::WrongSum, || {
                format!("{:?} read {sum} in {} accounts instead of {total} in {accounts}: {seen:?}", operation.process, seen.len())
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::simulate::{self, Seeds};
    use rand::Rng;

    const ACCOUNTS: usize = 5;
    const BALANCE: i64 = 10;

    fn valid(seed: u64) -> Vec<Operation<Call, Answer>> {
        let mut balances: BTreeMap<i32, i64> = (0..ACCOUNTS).map(|nth| (i32::try_from(nth).expect("few"), BALANCE)).collect();
        simulate::run(seed, 200, |random| {
            if random.random_bool(0.5) {
                return (Call::ReadAll, Answer::Balances(balances.clone()));
            }
            let (from, to, amount) = (random.random_range(0..5), random.random_range(0..5), random.random_range(1..9));
            *balances.get_mut(&from).expect("an account") -= amount;
            *balances.get_mut(&to).expect("an account") += amount;
            (Call::Transfer { from, to, amount }, Answer::Transferred)
        })
    }

    #[test]
    fn serial_executions_are_accepted_and_torn_reads_are_not() {
        for seed in Seeds::default() {
            let mut history = valid(seed);
            let findings = check(&history, ACCOUNTS, BALANCE);
            assert!(findings.is_clean() && findings.checked > 20, "seed {seed}: {findings:?}");
            let torn = simulate::spoil(seed, &mut history, |answer, random| match answer {
                Answer::Balances(seen) => {
                    *seen.get_mut(&random.random_range(0..5)).expect("an account") += random.random_range(1..5);
                    true
                }
                Answer::Transferred => false,
            });
            assert!(torn && check(&history, ACCOUNTS, BALANCE).has(Kind::WrongSum), "seed {seed}");
        }
    }

    #[test]
    fn an_account_that_is_missing_is_noticed_even_where_the_sum_is_right() {
        let seen = BTreeMap::from([(0, 20), (1, 10), (2, 10), (3, 10)]);
        let history = simulate::serial([(0, Call::ReadAll, Answer::Balances(seen))]);
        assert!(check(&history, ACCOUNTS, BALANCE).has(Kind::WrongSum));
    }
}
