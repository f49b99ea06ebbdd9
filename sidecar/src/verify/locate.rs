//! Asks two sides what [`Bisect`] wants to know about one table.

use super::conversation::Remote;
use super::examiner::Examiner;
use super::{Answer, Error, Question, Shape};
use crate::core::bisect::{Ask, Bisect, Digest, Found, Limits, Side};

pub(super) enum Located {
    Found(Found),
    /// The table changed under way, on one side or the other.
    Unsettled(String),
}

/// `reference` and `other` are the digests of the whole table here and there.
pub(super) async fn locate(
    here: &Examiner,
    there: &mut Remote,
    table: &Shape,
    (reference, other): (&Digest, &Digest),
    limits: Limits,
) -> Result<Located, Error> {
    let mut bisect = Bisect::new(limits, reference, other);
    while let Some(ask) = bisect.ask() {
        let table = table.clone();
        match ask {
            Ask::Split { side, range, step } => {
                let question = Question::Split { table, range, step };
                let answer = if side == Side::Reference { here.answer(&question).await? } else { there.ask(&question).await? };
                match answer {
                    Answer::Keys(keys) => bisect.split(keys),
                    other => return unsettled(other),
                }
            }
            Ask::Digests { ranges } => match both(here, there, &Question::Digests { table, ranges }).await? {
                (Answer::Digests(reference), Answer::Digests(other)) if bisect.digests(&reference, &other) => {}
                (Answer::Digests(_), other) | (other, _) => return unsettled(other),
            },
            Ask::List { range } => match both(here, there, &Question::List { table, range }).await? {
                (Answer::Rows(Some(reference)), Answer::Rows(Some(other))) => bisect.rows(reference, other),
                (Answer::Rows(_), Answer::Rows(_)) => bisect.give_up(),
                (Answer::Rows(_), other) | (other, _) => return unsettled(other),
            },
        }
    }
    Ok(Located::Found(bisect.finish()))
}

async fn both(here: &Examiner, there: &mut Remote, question: &Question) -> Result<(Answer, Answer), Error> {
    futures::future::try_join(here.answer(question), there.ask(question)).await
}

fn unsettled(answer: Answer) -> Result<Located, Error> {
    match answer {
        Answer::Unsettled(why) | Answer::Unlike(why) => Ok(Located::Unsettled(why)),
        _ => Err(Error::Strange),
    }
}
