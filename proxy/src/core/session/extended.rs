//! The extended protocol: names are translated, statements are prepared where they are missing.

use super::simple::CAPTURE_ROLES;
use super::translate::{Flow, Target, asks_token};
use super::{Expect, Session, Violation};
use crate::core::commands;
use crate::core::statements::Statement;
use crate::sql::{Classified, Kind};
use crate::wire::build::{self, Report};
use crate::wire::read;
use std::sync::Arc;

const DUPLICATE_STATEMENT: &str = "42P05";
const UNDEFINED_STATEMENT: &str = "26000";
/// A portal of the proxy's own.
const OWN_PORTAL: &str = "_howdah_own";

impl Session {
    pub(super) fn extended(&mut self, kind: u8, body: &[u8], whole: &[u8], target: &mut Target<'_>) -> Result<Flow, Violation> {
        if self.skipping && kind != b'S' {
            return Ok(Flow::Done);
        }
        if kind == b'E' && self.positions.is_open() && self.shows_token(body) {
            return Ok(Flow::Token);
        }
        match kind {
            b'P' => self.on_parse(body, target)?,
            b'B' => self.on_bind(body, target)?,
            b'D' => self.on_describe(body, whole, target)?,
            b'E' => self.on_execute(body, whole, target)?,
            b'C' => self.on_close(body, whole, target)?,
            b'H' => {
                self.unit.held = false;
                if target.server.is_some() {
                    target.out.extend_from_slice(whole);
                }
            }
            _ => self.on_sync(whole, target),
        }
        Ok(Flow::Done)
    }

    fn shows_token(&self, execute: &[u8]) -> bool {
        let portal = read::cstr(execute).and_then(|(name, _)| self.portals.get(name));
        portal.is_some_and(|statement| asks_token(&statement.class))
    }

    fn on_sync(&mut self, whole: &[u8], target: &mut Target<'_>) {
        self.unit.ended = true;
        if target.server.is_none() {
            return self.finish_local();
        }
        self.ask_before_sync(target);
        target.out.extend_from_slice(whole);
        self.queue.push_back(Expect::Sync);
    }

    fn on_parse(&mut self, body: &[u8], target: &mut Target<'_>) -> Result<(), Violation> {
        let bad = Violation::Format('P');
        let (name, said) = read::cstr(body).ok_or(bad.clone())?;
        let (text, types) = read::cstr(said).ok_or(bad.clone())?;
        let [high, low, types @ ..] = types else { return Err(bad) };
        if types.len() != usize::from(u16::from_be_bytes([*high, *low])) * 4 {
            return Err(bad);
        }
        if !name.is_empty() && self.statements.get(name).is_some() {
            let name = String::from_utf8_lossy(name);
            self.fail(&Report::new(DUPLICATE_STATEMENT, format!("prepared statement \"{name}\" already exists")), target);
            return Ok(());
        }
        if self.statements.is_full() {
            return Err(Violation::TooMany("prepared statements"));
        }
        let known = self.statements.get(name).filter(|known| *known.body == *said).cloned();
        let class = known.as_ref().map_or_else(|| target.tools.classify(text), |known| Arc::clone(&known.class));
        if let Some(report) = self.unpreparable(&class) {
            self.fail(&report, target);
            return Ok(());
        }
        let on_follower = target.server.as_deref().is_some_and(|server| server.read_only);
        if let Some(report) = self.refused(&class).or_else(|| super::simple::write_mode(&class, on_follower)) {
            self.fail(&report, target);
            return Ok(());
        }
        let own = self.is_own(&class) || self.lost.is_some();
        let statement = match known {
            Some(known) => known,
            None if name.is_empty() || own => target.tools.interner().unnamed(said, class),
            None => target.tools.interner().named(said, || class),
        };
        self.statements.add(name, Arc::clone(&statement));
        if own {
            self.reply(b'1');
        } else if target.server.is_none() {
            self.refuse_without_server(target);
        } else {
            self.note(&statement.class);
            self.send_parse(statement, target);
        }
        Ok(())
    }

    fn send_parse(&mut self, statement: Arc<Statement>, target: &mut Target<'_>) {
        let named = !statement.name.is_empty();
        if named && target.server.as_deref().is_some_and(|server| server.has(statement.id)) {
            return self.reply(b'1');
        }
        self.push_parse(statement, true, target);
    }

    /// Makes sure that the server knows the statement.
    fn ensure_prepared(&mut self, statement: &Arc<Statement>, target: &mut Target<'_>) {
        let Some(server) = target.server.as_deref() else { return };
        let known = if statement.name.is_empty() { server.unnamed == Some(statement.id) } else { server.has(statement.id) };
        if !known {
            self.push_parse(Arc::clone(statement), false, target);
        }
    }

    fn push_parse(&mut self, statement: Arc<Statement>, shown: bool, target: &mut Target<'_>) {
        let Some(server) = target.server.as_deref_mut() else { return };
        if statement.name.is_empty() {
            server.unnamed = Some(statement.id);
        } else if let Some(evicted) = server.prepare(statement.id) {
            build::close(target.out, b'S', &format!("{}{evicted}", crate::core::statements::NAME_PREFIX));
            self.queue.push_back(Expect::Close { shown: false });
        }
        statement.write_parse(target.out);
        self.queue.push_back(Expect::Parse { statement, shown });
    }

    fn on_bind(&mut self, body: &[u8], target: &mut Target<'_>) -> Result<(), Violation> {
        let (portal, rest) = read::cstr(body).ok_or(Violation::Format('B'))?;
        let (name, values) = read::cstr(rest).ok_or(Violation::Format('B'))?;
        let Some(statement) = self.find(name, target) else { return Ok(()) };
        self.portals.set(portal, Arc::clone(&statement))?;
        if self.is_own(&statement.class) || self.lost.is_some() {
            self.reply(b'2');
            return Ok(());
        }
        if target.server.is_none() {
            self.refuse_without_server(target);
            return Ok(());
        }
        let on_follower = target.server.as_deref().is_some_and(|server| server.read_only);
        if let Some(report) = super::simple::write_mode(&statement.class, on_follower) {
            self.fail(&report, target);
            return Ok(());
        }
        self.note(&statement.class);
        self.ensure_prepared(&statement, target);
        build::message(target.out, b'B', |out| {
            out.extend_from_slice(portal);
            out.push(0);
            out.extend_from_slice(statement.name.as_bytes());
            out.push(0);
            out.extend_from_slice(values);
        });
        self.queue.push_back(Expect::Bind { shown: true });
        Ok(())
    }

    /// The client's statement of this name; fails the unit where there is none.
    fn find(&mut self, name: &[u8], target: &mut Target<'_>) -> Option<Arc<Statement>> {
        let found = self.statements.get(name).cloned();
        if found.is_none() {
            let text = match name {
                b"" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name)),
            };
            self.fail(&Report::new(UNDEFINED_STATEMENT, text), target);
        }
        found
    }

    fn on_describe(&mut self, body: &[u8], whole: &[u8], target: &mut Target<'_>) -> Result<(), Violation> {
        let [what @ (b'S' | b'P'), name @ ..] = body else { return Err(Violation::Format('D')) };
        let name = read::whole_cstr(name).ok_or(Violation::Format('D'))?;
        let statement = if *what == b'S' {
            let Some(statement) = self.find(name, target) else { return Ok(()) };
            Some(statement)
        } else {
            self.portals.get(name).cloned()
        };
        if let Some(report) = statement.as_ref().filter(|_| *what == b'S').and_then(|one| self.unpreparable(&one.class)) {
            self.fail(&report, target);
            return Ok(());
        }
        if let Some(statement) = statement.as_ref().filter(|one| self.is_own(&one.class) || self.lost.is_some()) {
            self.describe_own(&statement.class, *what == b'S');
            return Ok(());
        }
        if target.server.is_none() {
            self.refuse_without_server(target);
            return Ok(());
        }
        match statement.as_ref().filter(|_| *what == b'S') {
            Some(statement) => {
                self.ensure_prepared(statement, target);
                build::message(target.out, b'D', |out| {
                    out.push(b'S');
                    build::cstr(out, &statement.name);
                });
            }
            None => target.out.extend_from_slice(whole),
        }
        self.queue.push_back(Expect::Describe { what: *what, of: statement });
        Ok(())
    }

    fn on_execute(&mut self, body: &[u8], whole: &[u8], target: &mut Target<'_>) -> Result<(), Violation> {
        let (portal, rest) = read::cstr(body).ok_or(Violation::Format('E'))?;
        if rest.len() != 4 {
            return Err(Violation::Format('E'));
        }
        let statement = self.portals.get(portal).cloned();
        if let Some(statement) = &statement {
            if self.lost.is_some() {
                self.execute_lost(&statement.class);
                return Ok(());
            }
            if self.is_own(&statement.class) {
                self.execute_own(&statement.class, target);
                return Ok(());
            }
        }
        if target.server.is_none() {
            self.refuse_without_server(target);
            return Ok(());
        }
        if let Some(statement) = &statement {
            self.foresee(&statement.class, target);
        }
        target.out.extend_from_slice(whole);
        let capture = statement.as_ref().is_some_and(|one| one.class.statements.iter().any(|one| matches!(one.kind, Kind::GlobalDdl)));
        self.queue.push_back(Expect::Execute(statement));
        if capture {
            self.run_hidden(CAPTURE_ROLES, target);
        }
        Ok(())
    }

    /// Runs a statement of the proxy's own in the unit, before whatever ends the transaction.
    pub(super) fn run_hidden(&mut self, text: &str, target: &mut Target<'_>) {
        let body = [text.as_bytes(), &[0, 0, 0]].concat();
        let classify = || target.tools.classify(text.as_bytes());
        let statement = target.tools.interner().named(&body, classify);
        self.run_own(&statement, Expect::HiddenExecute, target);
    }

    pub(super) fn run_own(&mut self, statement: &Arc<Statement>, answer: Expect, target: &mut Target<'_>) {
        self.execute_own_portal(statement, answer, target);
        build::close(target.out, b'P', OWN_PORTAL);
        self.queue.push_back(Expect::Close { shown: false });
    }

    /// Leaves the portal to the end of the transaction.
    pub(super) fn execute_own_portal(&mut self, statement: &Arc<Statement>, answer: Expect, target: &mut Target<'_>) {
        self.ensure_prepared(statement, target);
        build::bind(target.out, OWN_PORTAL, &statement.name);
        build::execute(target.out, OWN_PORTAL);
        self.queue.push_back(Expect::Bind { shown: false });
        self.queue.push_back(answer);
    }

    fn on_close(&mut self, body: &[u8], whole: &[u8], target: &mut Target<'_>) -> Result<(), Violation> {
        let [what @ (b'S' | b'P'), name @ ..] = body else { return Err(Violation::Format('C')) };
        let name = read::whole_cstr(name).ok_or(Violation::Format('C'))?;
        if *what == b'S' {
            // Servers keep it: others may use it, and closing nothing is no error.
            self.statements.remove(name);
            self.reply(b'3');
            return Ok(());
        }
        let own = self.portals.remove(name).is_some_and(|statement| self.is_own(&statement.class));
        if own || target.server.is_none() {
            self.reply(b'3');
        } else {
            target.out.extend_from_slice(whole);
            self.queue.push_back(Expect::Close { shown: true });
        }
        Ok(())
    }

    /// The statement is answered by the proxy.
    fn is_own(&self, class: &Classified) -> bool {
        class.only().is_some_and(|one| commands::command(&one.kind).is_some() || self.is_local(class))
    }
}
