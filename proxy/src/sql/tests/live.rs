//! The classifier against what a real server says.

use super::server::Server;
use super::*;

const TRUST: &str = "local all all trust\n";
/// The release that the list of harmless functions was made from.
const LIST_VERSION: &str = "15";

/// A backslash command for every kind of object that psql can list, with the objects to look at.
const PSQL_COMMANDS: &str = r"\d \d+ \dS+ \d+_t \d+_v \d+_s \d+_p \d+_t_pkey \d+_c \da+ \dA+ \dAc+ \dAf+ \dAo+ \dAp+ \db+ \dc+ \dconfig+ \dC+ \dd \dD+
    \ddp \dE+ \des+ \det+ \deu+ \dew+ \df+ \df+_f \dF+ \dFd+ \dFp+ \dFt+ \dg+ \di+ \dl+ \dL+ \dm+ \dn+ \do+ \dO+ \dp \dP+ \drds \dRp+ \dRs+ \ds+ \dt+
    \dT+ \du+ \dv+ \dx+ \dX \dy+ \l+ \sf+_f \sv+_v \z";

#[test]
fn psql_and_the_catalog_agree_with_the_classifier() {
    let server = Server::start(TRUST);
    server.query(
        "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id); CREATE TABLE c PARTITION OF p FOR VALUES FROM (1) TO (9);
         CREATE TABLE t (id serial PRIMARY KEY, x text DEFAULT 'a' CHECK (x <> ''), g int GENERATED ALWAYS AS (id * 2) STORED);
         CREATE STATISTICS st ON id, x FROM t; CREATE POLICY po ON t USING (true); CREATE PUBLICATION pu FOR ALL TABLES;
         CREATE VIEW v AS SELECT * FROM t; CREATE SEQUENCE s; CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    );
    psql_commands_are_reads(&server);
    the_list_of_harmless_functions_is_what_the_catalog_gives(&server);
    settings_keep_their_value_when_they_are_set_again(&server);
}

fn psql_commands_are_reads(server: &Server) {
    let mut queries = 0;
    for command in PSQL_COMMANDS.split_whitespace() {
        let command = command.replacen('_', " ", 1);
        let output = server.psql().args(["-E", "-v", "ON_ERROR_STOP=1", "-c", &command]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        for query in echoed_queries(&String::from_utf8(output.stdout).unwrap()) {
            assert!(!classify(&query).parse_error, "{command}: {query}");
            assert_route(Route::Read, &[&query]);
            queries += 1;
        }
    }
    assert!(queries > 100, "psql showed {queries} queries only");
}

/// What `psql -E` prints between its two lines of asterisks.
fn echoed_queries(output: &str) -> Vec<String> {
    let mut queries = Vec::new();
    let mut current: Option<String> = None;
    for line in output.lines() {
        let asterisks = line.starts_with("***") || line.starts_with("/***");
        match &mut current {
            None if asterisks && line.contains("QUERY") => current = Some(String::new()),
            Some(_) if asterisks => queries.extend(current.take()),
            Some(query) => query.extend([line, "\n"]),
            None => {}
        }
    }
    queries
}

fn the_list_of_harmless_functions_is_what_the_catalog_gives(server: &Server) {
    let version = server.query("SHOW server_version_num");
    if !version.starts_with(LIST_VERSION) {
        println!("skipped: the list is of PostgreSQL {LIST_VERSION}, the server is {version}");
        return;
    }
    let names = server.query(include_str!("../harmless.sql"));
    let listed: Vec<_> = include_str!("../harmless.txt").lines().skip(1).collect();
    assert_eq!(names.lines().collect::<Vec<_>>(), listed);
}

/// SET, then set_config with the value that was taken from the SET: the same setting.
fn settings_keep_their_value_when_they_are_set_again(server: &Server) {
    for sql in [
        "SET search_path = \"$user\", Public, 'We\"ird'",
        "SET search_path = ''",
        "SET DateStyle = German, dmy",
        "SET TIME ZONE -8",
        "SET TIME ZONE 'Europe/Berlin'",
        "SET work_mem = 65536",
        "SET application_name = 'it''s'",
        "SET enable_seqscan = false",
        "SET my.own = 'a, b'",
    ] {
        let Kind::Set { name, value: SetValue::Text(value), .. } = kind(sql) else { panic!("{sql}") };
        let quoted = value.replace('\'', "''");
        let shown = server.query(&format!(
            "{sql}; SELECT current_setting('{name}'); RESET {name}; SELECT FROM set_config('{name}', '{quoted}', false); SELECT current_setting('{name}')"
        ));
        let shown: Vec<_> = shown.lines().filter(|line| !line.is_empty()).collect();
        assert!(shown.iter().all(|line| *line == shown[0]), "{sql}: {shown:?}");
    }
}
