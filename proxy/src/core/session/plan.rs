//! Where a unit must run, from a look at the client's bytes that changes nothing.

use super::translate::asks_token;
use super::{Session, Tools, UNIT_PEEK_BYTES_MAX, Violation};
use crate::core::commands::{self, Change, Command};
use crate::sql::{Classified, Kind, Route};
use crate::wire::{frame, read};
use howdah_protocol::Consistency;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// More of the client's bytes are needed.
    Incomplete,
    Terminate,
    /// This many bytes mean nothing now.
    Ignore(usize),
    Unit(Demand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// None: the proxy answers by itself.
    pub(crate) server: Option<Need>,
    /// SHOW howdah.token: what the session wrote must be known.
    pub(crate) token: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Read(Consistency),
    Leader(&'static str),
}

/// What the messages seen so far need.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one unit")]
struct Tally {
    remote: bool,
    writes: bool,
    hint: Option<Consistency>,
    token: bool,
    refused: bool,
    bound: bool,
}

impl Session {
    /// Looks at the unit at the front of the client's bytes. Only while no server connection is attached.
    pub(crate) fn plan(&self, bytes: &[u8], tools: &Tools) -> Result<Plan, Violation> {
        let mut tally = Tally::default();
        let mut at = 0;
        let mut parsed: Vec<(&[u8], Route)> = Vec::new();
        loop {
            let rest = &bytes[at..];
            let Some((header, body)) = frame::message(rest, self.message_bytes_max)? else {
                return Ok(if at > UNIT_PEEK_BYTES_MAX { self.decide(&tally, false) } else { Plan::Incomplete });
            };
            match header.kind {
                b'Q' if at == 0 => {
                    let text = read::whole_cstr(body).ok_or(Violation::Format('Q'))?;
                    self.weigh(&tools.classify(text), &mut tally);
                    return Ok(self.decide(&tally, true));
                }
                b'X' if at == 0 => return Ok(Plan::Terminate),
                b'd' | b'c' | b'f' | b'H' if at == 0 => return Ok(Plan::Ignore(header.total)),
                b'F' => {
                    (tally.remote, tally.writes) = (true, true);
                    return Ok(self.decide(&tally, true));
                }
                b'S' => return Ok(self.decide(&tally, true)),
                // It ends the unit, and runs in the transaction of what came before: too much for a follower that may have to refuse it.
                b'Q' => {
                    let text = read::whole_cstr(body).ok_or(Violation::Format('Q'))?;
                    self.weigh(&tools.classify(text), &mut tally);
                    return Ok(self.decide(&tally, false));
                }
                b'X' | b'H' => return Ok(self.decide(&tally, false)),
                b'P' => {
                    let (name, rest) = read::cstr(body).ok_or(Violation::Format('P'))?;
                    let (text, _) = read::cstr(rest).ok_or(Violation::Format('P'))?;
                    let class = tools.classify(text);
                    self.weigh(&class, &mut tally);
                    parsed.push((name, class.route()));
                }
                b'B' => {
                    let (_, rest) = read::cstr(body).ok_or(Violation::Format('B'))?;
                    let (name, _) = read::cstr(rest).ok_or(Violation::Format('B'))?;
                    tally.bound = true;
                    self.weigh_use(name, &parsed, &mut tally);
                }
                b'D' => {
                    if let [b'S', rest @ ..] = body {
                        let name = read::whole_cstr(rest).ok_or(Violation::Format('D'))?;
                        self.weigh_use(name, &parsed, &mut tally);
                    }
                }
                // Of a portal that is not there: the server says so.
                b'E' if !tally.bound => tally.remote = true,
                b'E' | b'C' | b'd' | b'c' | b'f' => {}
                other => return Err(Violation::Kind(other)),
            }
            at += header.total;
        }
    }

    fn weigh_use(&self, name: &[u8], parsed: &[(&[u8], Route)], tally: &mut Tally) {
        if parsed.iter().any(|(known, _)| *known == name) {
            return;
        }
        if let Some(statement) = self.statements.get(name) {
            self.weigh(&statement.class, tally);
        }
    }

    fn weigh(&self, class: &Classified, tally: &mut Tally) {
        if let Some(Ok(hint)) = class.hint {
            tally.hint = Some(hint);
        }
        let commands: Vec<_> = class.statements.iter().map(|one| commands::command(&one.kind)).collect();
        tally.token |= asks_token(class);
        if commands.iter().any(|one| matches!(one, Some(Command::Refuse(_)))) || matches!(class.hint, Some(Err(_))) {
            tally.refused = true;
        }
        for command in commands.iter().map_while(Option::as_ref) {
            if let Command::Change { change: Change::Consistency(Some(mode)), .. } = command {
                // In force for what follows in the same text.
                tally.hint = tally.hint.or(Some(*mode));
            }
        }
        if !commands.is_empty() && commands.iter().all(Option::is_some) || self.is_local(class) {
            // Answered here.
        } else {
            tally.remote = true;
            // Without those that are answered here.
            let theirs = class.statements.iter().zip(&commands).filter(|(_, command)| command.is_none());
            tally.writes |= class.parse_error || theirs.map(|(one, _)| one.kind.route()).any(|route| route == Route::Write);
        }
    }

    /// DEALLOCATE of what only the proxy knows.
    pub(super) fn is_local(&self, class: &Classified) -> bool {
        match class.only().map(|one| &one.kind) {
            Some(Kind::Deallocate(Some(name))) => self.statements.get(name.as_bytes()).is_some(),
            Some(Kind::Deallocate(None)) => self.pins.is_empty(),
            _ => false,
        }
    }

    fn decide(&self, tally: &Tally, complete: bool) -> Plan {
        // A refused text is not run in part; what is left of a lost transaction is answered without a server.
        let local = !tally.remote || tally.refused || self.lost.is_some() || self.skipping;
        // How strings are read is a guess while this is off.
        let odd_strings = self.vars.get("standard_conforming_strings").is_some_and(|value| value != "on");
        let server = if local {
            None
        } else if tally.writes {
            Some(Need::Leader("leader: write"))
        } else {
            let mode = tally.hint.unwrap_or(self.vars.consistency());
            let known = complete && !odd_strings && !self.unit.active;
            // As a linearizable read it goes to the leader under a lease, whatever it turns out to be.
            Some(if known || mode == Consistency::Linearizable { Need::Read(mode) } else { Need::Leader("leader: unknown") })
        };
        Plan::Unit(Demand { server, token: tally.token })
    }
}
