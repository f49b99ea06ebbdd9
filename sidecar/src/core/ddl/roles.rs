//! Roles have no event triggers, so the log carries their whole state, and a node makes its own equal to it.
//!
//! Never touched: the sidecar's own superuser, and names that begin with `pg_` or `howdah`.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolesState {
    #[serde(default)]
    pub roles: Vec<Role>,
    #[serde(default)]
    pub members: Vec<Member>,
    #[serde(default)]
    pub db_settings: Vec<DbSetting>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are PostgreSQL's role attributes")]
pub struct Role {
    pub name: String,
    pub superuser: bool,
    pub createdb: bool,
    pub createrole: bool,
    pub inherit: bool,
    pub login: bool,
    pub replication: bool,
    pub bypassrls: bool,
    pub connlimit: i32,
    /// What Postgres stores, never a password in clear.
    pub verifier: Option<String>,
    pub valid_until: Option<String>,
    /// `name=value`, in all databases.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub config: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    pub role: String,
    pub member: String,
    pub admin: bool,
}

/// Settings of a database, for one role or for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbSetting {
    pub database: String,
    pub role: Option<String>,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub config: Vec<String>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The statements that turn `now` into `wanted`. `own` is the sidecar's superuser; settings are only set in `databases`.
#[must_use]
pub fn changes(now: &RolesState, wanted: &RolesState, own: &str, databases: &[String]) -> Vec<String> {
    let ours = |name: &str| !(name.starts_with("pg_") || name.starts_with("howdah") || name == own);
    let by_name = |state: &RolesState| -> BTreeMap<String, Role> {
        state.roles.iter().filter(|role| ours(&role.name)).map(|role| (role.name.clone(), role.clone())).collect()
    };
    let (mut here, there) = (by_name(now), by_name(wanted));
    let mut out = renamed(&mut here, &there);
    let renames: BTreeMap<String, String> = out.iter().map(|(from, to)| (from.clone(), to.clone())).collect();
    let mut sql: Vec<String> = out.drain(..).map(|(from, to)| format!("ALTER ROLE {} RENAME TO {}", ident(&from), ident(&to))).collect();

    sql.extend(here.keys().filter(|name| !there.contains_key(*name)).map(|name| format!("DROP ROLE {}", ident(name))));
    for (name, role) in &there {
        let before = here.get(name);
        if before.is_none_or(|before| attributes(before) != attributes(role)) {
            let verb = if before.is_some() { "ALTER" } else { "CREATE" };
            sql.push(format!("{verb} ROLE {} WITH {}", ident(name), attributes(role)));
        }
        let old = before.map(|before| before.config.as_slice()).unwrap_or_default();
        sql.extend(settings(&format!("ALTER ROLE {}", ident(name)), old, &role.config));
    }
    sql.extend(memberships(now, wanted, &there, &renames));
    sql.extend(database_settings(now, wanted, &|name| ours(name), databases));
    sql
}

/// A role that is gone beside exactly one new one that is the same but for the name was renamed. It may own things, so it cannot be dropped.
fn renamed(here: &mut BTreeMap<String, Role>, there: &BTreeMap<String, Role>) -> Vec<(String, String)> {
    let gone: Vec<Role> = here.values().filter(|role| !there.contains_key(&role.name)).cloned().collect();
    let new: Vec<&Role> = there.values().filter(|role| !here.contains_key(&role.name)).collect();
    let same = |a: &Role, b: &Role| attributes(a) == attributes(b) && a.config == b.config;
    let mut renames = Vec::new();
    for old in &gone {
        let alike: Vec<&&Role> = new.iter().filter(|role| same(role, old)).collect();
        if let [role] = alike[..]
            && gone.iter().filter(|other| same(other, old)).count() == 1
        {
            here.remove(&old.name);
            here.insert(role.name.clone(), Role { name: role.name.clone(), ..old.clone() });
            renames.push((old.name.clone(), role.name.clone()));
        }
    }
    renames
}

fn attributes(role: &Role) -> String {
    let flag = |on: bool, name: &str| format!("{}{name}", if on { "" } else { "NO" });
    let text = |value: Option<&String>| value.map_or("NULL".to_owned(), |value| literal(value));
    [
        flag(role.superuser, "SUPERUSER"),
        flag(role.createdb, "CREATEDB"),
        flag(role.createrole, "CREATEROLE"),
        flag(role.inherit, "INHERIT"),
        flag(role.login, "LOGIN"),
        flag(role.replication, "REPLICATION"),
        flag(role.bypassrls, "BYPASSRLS"),
        format!("CONNECTION LIMIT {}", role.connlimit),
        format!("PASSWORD {}", text(role.verifier.as_ref())),
        // NULL cannot be written; infinity means the same.
        format!("VALID UNTIL {}", literal(role.valid_until.as_deref().unwrap_or("infinity"))),
    ]
    .join(" ")
}

fn settings(prefix: &str, old: &[String], new: &[String]) -> Vec<String> {
    let split = |config: &[String]| -> BTreeMap<String, String> {
        config.iter().filter_map(|setting| setting.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (old, new) = (split(old), split(new));
    let name = |name: &str| name.split('.').map(ident).collect::<Vec<_>>().join(".");
    let reset = old.keys().filter(|setting| !new.contains_key(*setting)).map(|setting| format!("{prefix} RESET {}", name(setting)));
    let set = new.iter().filter(|(setting, value)| old.get(*setting) != Some(value));
    let set = set.map(|(setting, value)| format!("{prefix} SET {} TO {}", name(setting), setting_value(setting, value)));
    reset.chain(set).collect()
}

/// Settings that are lists of names are stored quoted and must be given name by name.
fn setting_value(setting: &str, value: &str) -> String {
    const LISTS: [&str; 5] =
        ["search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries", "shared_preload_libraries"];
    if !LISTS.contains(&setting) {
        return literal(value);
    }
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = value.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            ' ' if !quoted => {}
            other => name.push(other),
        }
    }
    names.push(name);
    names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ")
}

fn memberships(now: &RolesState, wanted: &RolesState, there: &BTreeMap<String, Role>, renames: &BTreeMap<String, String>) -> Vec<String> {
    let renamed = |name: &String| renames.get(name).unwrap_or(name).clone();
    // Members of predefined roles count where the member is one of those that are kept equal.
    let touched = |member: &&Member| there.contains_key(&member.member);
    let here: BTreeSet<Member> = now
        .members
        .iter()
        .map(|member| Member { role: renamed(&member.role), member: renamed(&member.member), admin: member.admin })
        .collect();
    let here: BTreeSet<&Member> = here.iter().filter(touched).filter(|member| is_kept(&member.role, there)).collect();
    let wanted: BTreeSet<&Member> = wanted.members.iter().filter(touched).collect();
    let revoke = here.difference(&wanted).map(|member| format!("REVOKE {} FROM {}", ident(&member.role), ident(&member.member)));
    let grant = wanted.difference(&here).map(|member| {
        let admin = if member.admin { " WITH ADMIN OPTION" } else { "" };
        format!("GRANT {} TO {}{admin}", ident(&member.role), ident(&member.member))
    });
    revoke.chain(grant).collect()
}

/// A dropped role took its memberships with it.
fn is_kept(role: &str, there: &BTreeMap<String, Role>) -> bool {
    there.contains_key(role) || role.starts_with("pg_")
}

fn database_settings(now: &RolesState, wanted: &RolesState, ours: &dyn Fn(&str) -> bool, databases: &[String]) -> Vec<String> {
    type Key = (String, Option<String>);
    let by_key = |state: &RolesState| -> BTreeMap<Key, Vec<String>> {
        let kept = state.db_settings.iter().filter(|setting| setting.role.as_deref().is_none_or(ours));
        kept.filter(|setting| databases.contains(&setting.database))
            .map(|setting| ((setting.database.clone(), setting.role.clone()), setting.config.clone()))
            .collect()
    };
    let (here, there) = (by_key(now), by_key(wanted));
    let exists = |role: &Option<String>| role.as_ref().is_none_or(|role| wanted.roles.iter().any(|other| other.name == *role));
    let keys: BTreeSet<&Key> = here.keys().chain(there.keys()).filter(|(_, role)| exists(role)).collect();
    let none = Vec::new();
    keys.into_iter()
        .flat_map(|key @ (database, role)| {
            let prefix = match role {
                Some(role) => format!("ALTER ROLE {} IN DATABASE {}", ident(role), ident(database)),
                None => format!("ALTER DATABASE {}", ident(database)),
            };
            settings(&prefix, here.get(key).unwrap_or(&none), there.get(key).unwrap_or(&none))
        })
        .collect()
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// With standard_conforming_strings off a backslash would escape; the E form is read the same either way.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> Role {
        Role {
            name: name.into(),
            superuser: false,
            createdb: false,
            createrole: false,
            inherit: true,
            login: true,
            replication: false,
            bypassrls: false,
            connlimit: -1,
            verifier: Some(format!("SCRAM-SHA-256$of${name}")),
            valid_until: None,
            config: vec![],
        }
    }

    fn state(roles: Vec<Role>) -> RolesState {
        RolesState { roles, ..RolesState::default() }
    }

    #[test]
    fn equal_states_need_nothing() {
        let state = state(vec![role("a"), role("postgres"), role("pg_x"), role("howdah_proxy")]);
        assert!(changes(&state, &state, "postgres", &[]).is_empty());
    }

    #[test]
    fn protected_roles_are_left_alone() {
        let now = state(vec![role("boss"), role("howdah_proxy"), role("pg_monitor")]);
        assert!(changes(&now, &RolesState::default(), "boss", &[]).is_empty());
    }

    #[test]
    fn roles_come_change_and_go() {
        let mut b = role("b");
        b.createdb = true;
        b.config = vec!["search_path=\"$user\", \"a,b\", public".into(), "work_mem=4MB".into()];
        let sql = changes(&state(vec![role("a"), role("b")]), &state(vec![b, role("c\"")]), "postgres", &[]);
        assert_eq!(sql[0], "DROP ROLE \"a\"");
        assert!(sql[1].starts_with("ALTER ROLE \"b\" WITH NOSUPERUSER CREATEDB"), "{sql:?}");
        assert_eq!(sql[2], "ALTER ROLE \"b\" SET \"search_path\" TO '$user', 'a,b', 'public'");
        assert_eq!(sql[3], "ALTER ROLE \"b\" SET \"work_mem\" TO '4MB'");
        assert!(sql[4].starts_with("CREATE ROLE \"c\"\"\" WITH"), "{sql:?}");
    }

    #[test]
    fn a_rename_is_recognised() {
        let mut new = role("a");
        new.name = "z".into();
        assert_eq!(changes(&state(vec![role("a")]), &state(vec![new]), "postgres", &[]), ["ALTER ROLE \"a\" RENAME TO \"z\""]);
    }

    #[test]
    fn memberships_and_database_settings() {
        let member = |role: &str, admin| Member { role: role.into(), member: "b".into(), admin };
        let setting = |database: &str, config: &[&str]| DbSetting {
            database: database.into(),
            role: None,
            config: config.iter().map(|text| (*text).to_owned()).collect(),
        };
        let roles = vec![role("a"), role("b")];
        let now = RolesState { roles: roles.clone(), members: vec![member("a", false)], db_settings: vec![setting("d", &["x.y=1"])] };
        let there = vec![setting("d", &["jit=off"]), setting("elsewhere", &["jit=off"])];
        let wanted = RolesState { roles, members: vec![member("a", true), member("pg_monitor", false)], db_settings: there };
        let expected = [
            "REVOKE \"a\" FROM \"b\"",
            "GRANT \"a\" TO \"b\" WITH ADMIN OPTION",
            "GRANT \"pg_monitor\" TO \"b\"",
            "ALTER DATABASE \"d\" RESET \"x\".\"y\"",
            "ALTER DATABASE \"d\" SET \"jit\" TO 'off'",
        ];
        assert_eq!(changes(&now, &wanted, "postgres", &["d".to_owned()]), expected);
    }
}
