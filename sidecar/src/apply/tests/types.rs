//! Every kind of value survives the trip: NULLs and odd values, inserted, updated, and found again without a key.

use super::fixture::Pair;

const DEFINITIONS: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'o"k', 'happy, or not');
    CREATE TYPE "Pair Of" AS (x int, "Y z" text, at timestamptz);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN few AS int[] CHECK (cardinality(VALUE) < 5);
    CREATE DOMAIN pair_domain AS "Pair Of";
    CREATE TYPE textrange AS RANGE (subtype = text);
"#;

/// Type and values. Each type becomes a table with and one without a key.
const TYPES: &[(&str, &[&str])] = &[
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "0"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("numeric", &["NaN", "Infinity", "-Infinity", "1.0", "1.00", "123456789012345678901234567890.123456789", "0"]),
    ("numeric(10,2)", &["1.50", "-99999999.99"]),
    ("real", &["NaN", "Infinity", "-0", "1.1754944e-38", "3.4028235e38", "0.1"]),
    ("double precision", &["NaN", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.1"]),
    ("boolean", &["t", "f"]),
    ("text", &["", "NULL", "null", "a\\b\"c'd{e},f", "läöü 象 🐘", " \t\r\n ", "\\N"]),
    ("varchar(10)", &["0123456789", "  x  ", ""]),
    ("char(6)", &["ab", "", "'\"\\"]),
    ("\"char\"", &["", "x", "\"", "\\"]),
    ("name", &["n", "with \"quote\""]),
    ("bytea", &["\\x", "\\x00ff5c27220a"]),
    ("date", &["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"]),
    ("time", &["00:00:00", "24:00:00", "12:34:56.789012"]),
    ("timetz", &["12:34:56.789012+14:59", "00:00:00-15:59"]),
    ("timestamp", &["infinity", "-infinity", "0001-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"]),
    ("timestamptz", &["infinity", "0044-03-15 12:00:00.000001+00 BC", "2024-02-29 23:59:59.999999+14"]),
    ("timestamp(0)", &["2024-01-01 00:00:01"]),
    ("interval", &["1 day", "24:00:00", "-1 year -2 mons +3 days -04:05:06.789", "178000000 years", "0"]),
    ("interval day to second(3)", &["3 days 04:05:06.789"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("inet", &["192.168.1.1", "192.168.1.1/24", "::1/128", "fe80::1"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(5)", &["10101", "00000"]),
    ("bit varying(8)", &["", "1", "01010101"]),
    ("money", &["$1,234,567.89", "-$0.01"]),
    ("json", &["{\"b\": 1, \"a\":  [null, \"x\\\"y\"], \"b\": 2}", "null", "\"\\u0041\""]),
    ("jsonb", &["{\"a\": [1.0, 1.00, true, null], \"\": \"\"}", "[]"]),
    ("jsonpath", &["$.\"a\"[*]?(@ > 1)"]),
    ("xml", &["<a b=\"c\">&lt;d/></a>", "text only"]),
    ("tsvector", &["'a':1A,2B 'it''s':3 'b\\\\c'"]),
    ("tsquery", &["'a' & ( 'b' | !'c' )"]),
    ("point", &["(1.5,-2)", "(NaN,Infinity)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(2,2),(1,1)"]),
    ("path", &["((0,0),(1,1),(2,0))", "[(0,0),(1,1)]"]),
    ("polygon", &["((0,0),(1,1),(2,0))"]),
    ("circle", &["<(1,2),3>"]),
    ("oid", &["4294967295"]),
    ("regclass", &["pg_class"]),
    ("pg_lsn", &["16/B374D848"]),
    ("int4range", &["empty", "[1,10)", "(,)"]),
    ("numrange", &["[1.0,1.00]"]),
    ("tstzrange", &["[\"2024-01-01 00:00:00+00\",)"]),
    ("textrange", &["[\"a,b\",\"c\\\"d\")"]),
    ("int4multirange", &["{}", "{[1,3),[5,7)}"]),
    ("textmultirange", &["{[a,b),[c,d)}"]),
    ("int[]", &["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:2]={1,2,3}"]),
    ("text[]", &["{NULL,\"NULL\",\"\",\"a\\\"b\\\\c\",\"d,e\"}"]),
    ("box[]", &["{(2,2),(1,1);(4,4),(3,3)}"]),
    ("mood", &["sad", "o\"k", "happy, or not"]),
    ("mood[]", &["{sad,\"happy, or not\"}"]),
    ("\"Pair Of\"", &["(1,\"a,b\",\"2024-01-01 00:00:00+00\")", "(,,)", "(,\"\",)"]),
    ("\"Pair Of\"[]", &["{\"(1,\\\"a,b\\\",)\",NULL}"]),
    ("positive", &["7"]),
    ("positive[]", &["{1,2}"]),
    ("few", &["{1,2}", "{}"]),
    ("pair_domain", &["(1,x,)"]),
];

fn literal(value: &str) -> String {
    format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn tables() -> (String, Vec<String>, Vec<String>) {
    let mut definitions = DEFINITIONS.to_owned();
    let (mut inserts, mut changes) = (Vec::new(), Vec::new());
    for (at, (type_name, values)) in TYPES.iter().enumerate() {
        definitions += &format!("CREATE TABLE keyed_{at} (id int PRIMARY KEY, v {type_name});");
        definitions += &format!("CREATE TABLE free_{at} (v {type_name}, n int); ALTER TABLE free_{at} REPLICA IDENTITY FULL;");
        for (id, value) in values.iter().map(|value| literal(value)).chain(["NULL".to_owned()]).enumerate() {
            inserts.push(format!("INSERT INTO keyed_{at} VALUES ({id}, {value}); INSERT INTO free_{at} VALUES ({value}, {id})"));
        }
        // Values move to other rows, so that each is also set by an update, to NULL and from NULL.
        changes.push(format!("UPDATE keyed_{at} k SET v = (SELECT v FROM keyed_{at} o WHERE o.id = (k.id + 1) % {})", values.len() + 1));
        changes.push(format!("UPDATE free_{at} SET n = n + 100 WHERE n % 2 = 0; DELETE FROM free_{at} WHERE n % 2 = 1"));
    }
    (definitions, inserts, changes)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_survives_unchanged() {
    let mut pair = Pair::new().await;
    let (definitions, inserts, changes) = tables();
    pair.both(&definitions).await;
    pair.on_source(&inserts.join(";")).await;
    pair.same().await;
    pair.on_source(&changes.join(";")).await;
    pair.same().await;
    assert_eq!(pair.applied().rows_missing, 0);
    assert_eq!(pair.applied().fallbacks, 0);
    let rows: i64 = pair.target.query_one("SELECT count(*) FROM free_8", &[]).await.unwrap().get(0);
    assert_eq!(rows, 4, "deletes by value arrived");
}

/// Text that is a key, found again by type-specific operators.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_indexable_type() {
    let mut pair = Pair::new().await;
    const NO_ORDER: &[&str] = &["json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "box[]", "jsonpath"];
    let (mut definitions, mut inserts, mut changes) = (DEFINITIONS.to_owned(), String::new(), String::new());
    for (at, (type_name, values)) in TYPES.iter().enumerate().filter(|(_, (name, _))| !NO_ORDER.contains(name)) {
        definitions += &format!("CREATE TABLE k_{at} (k {type_name}, part int, n int, PRIMARY KEY (k, part));");
        for (id, value) in values.iter().map(|value| literal(value)).enumerate() {
            inserts += &format!("INSERT INTO k_{at} VALUES ({value}, {id}, 0);");
        }
        changes +=
            &format!("UPDATE k_{at} SET n = 1; UPDATE k_{at} SET part = part + 10 WHERE part = 0; DELETE FROM k_{at} WHERE part = 1;");
    }
    pair.both(&definitions).await;
    pair.on_source(&inserts).await;
    pair.same().await;
    pair.on_source(&changes).await;
    pair.same().await;
    assert_eq!(pair.applied().rows_missing, 0);
    assert_eq!(pair.applied().fallbacks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_toasted_value_that_did_not_change_is_not_touched() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY, big text, n int); ALTER TABLE t ALTER big SET STORAGE EXTERNAL").await;
    pair.both("CREATE TABLE f (big text, n int); ALTER TABLE f REPLICA IDENTITY FULL; ALTER TABLE f ALTER big SET STORAGE EXTERNAL").await;
    pair.on_source("INSERT INTO t SELECT i, repeat(i || 'x', 5000), 0 FROM generate_series(1, 5) i").await;
    pair.on_source("INSERT INTO f SELECT big, id FROM t").await;
    pair.same().await;
    pair.on_source("UPDATE t SET n = 1; UPDATE t SET id = id + 100 WHERE id <= 2; UPDATE t SET big = 'small' WHERE id = 3").await;
    pair.on_source("UPDATE f SET n = n + 10").await;
    let changes = pair.captured().await;
    let unchanged =
        changes.iter().flat_map(|transaction| &transaction.messages).filter(|message| message[0] == b'U' && message.contains(&b'u'));
    assert!(unchanged.count() >= 5, "the source left values out");
    let entry = pair.framer.batch(&changes);
    pair.log.append(Some(&entry));
    pair.caught_up().await;
    pair.compare().await;
    assert_eq!(pair.applied().rows_missing, 0);
}
