//! Texts that are meant to break the classifier: too long, too deep, mutilated.

use super::*;

/// Small and seeded, so that every failure can be played again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const SEEDS: [&str; 16] = [
    "SELECT a, count(*) FROM t WHERE b = $1 AND lower(c) LIKE 'x%' GROUP BY a",
    "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d",
    "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY; SELECT 1; COMMIT",
    "SET LOCAL search_path = \"$user\", public",
    "SELECT set_config('a.b', 'c', true), pg_advisory_lock(1)",
    "CREATE TEMP TABLE t AS SELECT E'\\xe9\\u00e9', U&'\\0061', $q$x$q$, B'01', X'ff'",
    "COPY (SELECT 1) TO STDOUT WITH (FORMAT csv)",
    "EXPLAIN (ANALYZE, VERBOSE off) UPDATE t SET (a, b) = (SELECT 1, 2) WHERE CURRENT OF c",
    "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
    "SELECT * FROM json_table('[]', '$' COLUMNS (a int PATH '$.a', NESTED PATH '$.b[*]' COLUMNS (c text)))",
    "SELECT json_object('a': 1), json_arrayagg(x), xmlforest(a AS b), JSON_QUERY(x, '$' WITH WRAPPER) FROM t TABLESAMPLE system (1)",
    "ALTER TABLE t ADD COLUMN x int DEFAULT 1 CHECK (x > 0), DETACH PARTITION p CONCURRENTLY",
    "GRANT SELECT (a), EXECUTE ON ALL TABLES IN SCHEMA s TO PUBLIC, bob WITH GRANT OPTION",
    "CREATE FUNCTION f(a int = 1, VARIADIC b text[]) RETURNS TABLE (c int) LANGUAGE sql BEGIN ATOMIC SELECT 1; END",
    "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1 FOR UPDATE OF t SKIP LOCKED; FETCH BACKWARD 5 FROM c; MOVE ALL c",
    "/* howdah: eventual */ SELECT 'ö', \"ü\", 1e10, -.5, a[1:2], (b).c.*, :x",
];

const PIECES: [&str; 40] = [
    " ",
    ";",
    "(",
    ")",
    ",",
    "'",
    "\"",
    "$$",
    "/*",
    "*/",
    "--",
    "\n",
    "\0",
    "\\",
    "ö",
    "\u{1f418}",
    "SELECT ",
    " FROM ",
    "NULL",
    "1",
    "::",
    ".",
    "*",
    "$1",
    "E'\\",
    "U&\"",
    " FOR UPDATE",
    " INTO x ",
    "nextval('s')",
    "INSERT INTO t ",
    "BEGIN;",
    " UNION ",
    "WITH x AS (",
    "CASE WHEN ",
    "SET x TO ",
    "CREATE ",
    "TEMP ",
    "pg_catalog.",
    "[",
    "-",
];

fn mutate(random: &mut Random, text: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(6) {
        let at = random.below(chars.len() + 1);
        match random.below(4) {
            0 => drop(chars.splice(at..at, random.pick(&PIECES).chars())),
            1 => {
                let end = (at + random.below(12)).min(chars.len());
                chars.drain(at..end);
            }
            2 => {
                let end = (at + random.below(30)).min(chars.len());
                let copy = chars[at..end].to_vec();
                let to = random.below(chars.len() + 1);
                chars.splice(to..to, copy);
            }
            _ => {
                if let Some(one) = chars.get_mut(at) {
                    *one = char::from_u32(u32::try_from(random.below(0x250)).unwrap()).unwrap_or(' ');
                }
            }
        }
    }
    chars.into_iter().collect()
}

#[test]
fn mutilated_texts_are_answered_and_what_does_not_parse_is_a_write() {
    const ROUNDS: usize = 20_000;
    let seed = std::env::var("HOWDAH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_240_917);
    println!("seed {seed}; replay with HOWDAH_SEED={seed}");
    let mut random = Random(seed);
    let (mut parsed, mut unparsed) = (0, 0);
    for _ in 0..ROUNDS {
        let seed = *random.pick(&SEEDS);
        let text = mutate(&mut random, seed);
        let classified = classify(&text);
        if classified.parse_error {
            unparsed += 1;
            assert_eq!(classified.route(), Route::Write, "{text}");
        } else {
            parsed += 1;
            for statement in &classified.statements {
                assert!(text.get(statement.range.clone()).is_some(), "range {:?} of {text}", statement.range);
            }
        }
        assert_eq!(classify(&text), classified, "{text}");
    }
    assert!(parsed > ROUNDS / 50 && unparsed > ROUNDS / 50, "{parsed} parsed, {unparsed} did not: the generator is one-sided");
}

#[test]
fn a_write_stays_one_whatever_is_around_it() {
    let mut random = Random(7);
    let wrappers: [(&str, &str); 10] = [
        ("SELECT (", ")"),
        ("SELECT * FROM (SELECT ", ") x"),
        ("SELECT 1 WHERE 1 = (", ")"),
        ("SELECT coalesce(", ", 1)"),
        ("VALUES (1, ", ")"),
        ("WITH x AS (SELECT ", ") SELECT * FROM x"),
        ("SELECT CASE WHEN true THEN ", " END"),
        ("SELECT ARRAY[", "]::text[]"),
        ("SELECT 1 ORDER BY ", ""),
        ("SELECT sum(1) FILTER (WHERE 1 = ", ")"),
    ];
    for _ in 0..2000 {
        let mut text = "nextval('s')".to_owned();
        for _ in 0..=random.below(6) {
            let (before, after) = random.pick(&wrappers);
            text = format!("({before}{text}{after})");
        }
        let text = format!("SELECT {text}");
        let read = text.replace("nextval", "length");
        assert!(!classify(&text).parse_error, "{text}");
        assert_eq!(classify(&text).route(), Route::Write, "{text}");
        assert_eq!(classify(&read).route(), Route::Read, "{read}");
    }
}

/// Every place of the grammar where an expression can stand in a query. `?` is the expression.
const PLACES: [&str; 62] = [
    "SELECT ?",
    "SELECT DISTINCT ON (?) 1",
    "SELECT 1 WHERE ? IS NOT NULL",
    "SELECT 1 GROUP BY ?",
    "SELECT 1 GROUP BY GROUPING SETS ((?), ())",
    "SELECT 1 GROUP BY CUBE (1, ?)",
    "SELECT 1 HAVING ? > 0",
    "SELECT 1 ORDER BY 1, ? DESC NULLS LAST",
    "SELECT 1 ORDER BY ? USING <",
    "SELECT 1 LIMIT ?",
    "SELECT 1 OFFSET ?",
    "SELECT 1 FETCH FIRST (?) ROWS ONLY",
    "SELECT count(?)",
    "SELECT count(DISTINCT ?)",
    "SELECT count(*) FILTER (WHERE ? > 0)",
    "SELECT sum(1 ORDER BY ?)",
    "SELECT mode() WITHIN GROUP (ORDER BY ?)",
    "SELECT percentile_cont(?) WITHIN GROUP (ORDER BY 1)",
    "SELECT sum(1) OVER (PARTITION BY ?)",
    "SELECT sum(1) OVER (ORDER BY ?)",
    "SELECT sum(1) OVER (ROWS BETWEEN ? PRECEDING AND 1 FOLLOWING)",
    "SELECT sum(1) OVER (ROWS BETWEEN 1 PRECEDING AND ? FOLLOWING)",
    "SELECT sum(1) OVER w WINDOW w AS (ORDER BY ?)",
    "SELECT make_interval(days => ?)",
    "SELECT concat(VARIADIC ARRAY[?])",
    "SELECT (1, ?)",
    "SELECT ROW(?)",
    "SELECT ARRAY[[1], [?]]",
    "SELECT ARRAY(SELECT ?)",
    "SELECT a[?] FROM t",
    "SELECT (a)[1:?].b FROM t",
    "SELECT (?)::text COLLATE \"C\"",
    "SELECT CAST(? AS numeric(10, 2))",
    "SELECT CASE ? WHEN 1 THEN 2 END",
    "SELECT CASE WHEN ? > 1 THEN 2 END",
    "SELECT CASE WHEN true THEN ? END",
    "SELECT CASE WHEN true THEN 1 ELSE ? END",
    "SELECT 1 BETWEEN ? AND 2",
    "SELECT 1 IN (1, ?)",
    "SELECT ? IN (SELECT 1)",
    "SELECT 1 = ANY (ARRAY[?])",
    "SELECT (1, ?) = (SELECT 1, 2)",
    "SELECT 'a' LIKE 'b' ESCAPE (?)::text",
    "SELECT NOT (? > 1) OR false",
    "SELECT (? > 1) IS TRUE",
    "SELECT ? IS DISTINCT FROM 1",
    "SELECT now() AT TIME ZONE (?)::text",
    "SELECT extract(day FROM now() + ? * interval '1 day')",
    "SELECT xmlelement(name a, xmlattributes(? AS b))",
    "SELECT xmlserialize(content (?)::text::xml AS text)",
    "SELECT xmlparse(document (?)::text) IS DOCUMENT",
    "SELECT JSON_VALUE('{}', '$.a' PASSING ? AS x)",
    "SELECT JSON_VALUE('{}', '$.a' DEFAULT ? ON EMPTY)",
    "SELECT JSON_OBJECT('a': ?), JSON_ARRAY(1)",
    "SELECT JSON_ARRAYAGG(? ORDER BY 1), JSON_SCALAR(1), JSON_SERIALIZE('1'), '1' IS JSON",
    "SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (a int PATH '$.a' DEFAULT ? ON ERROR)) x",
    "SELECT * FROM XMLTABLE('/a' PASSING '<a/>' COLUMNS b int PATH '@b' DEFAULT ?) x",
    "SELECT * FROM XMLTABLE(XMLNAMESPACES('x' AS y), ((?)::text) PASSING '<a/>' COLUMNS b int) x",
    "SELECT * FROM ROWS FROM (generate_series(1, ?)) WITH ORDINALITY",
    "SELECT * FROM t TABLESAMPLE system (?) REPEATABLE (1)",
    "SELECT * FROM t JOIN LATERAL (VALUES (?)) v (x) ON true",
    "WITH RECURSIVE r AS (SELECT 1 UNION SELECT ?) SEARCH DEPTH FIRST BY a SET o SELECT * FROM r",
];

#[test]
fn a_write_is_found_in_every_place_of_a_query() {
    for place in PLACES {
        for (expression, expected) in [("length('s')", Route::Read), ("nextval('s')", Route::Write), ("(SELECT f(1))", Route::Write)] {
            let text = place.replace('?', expression);
            let classified = classify(&text);
            assert!(!classified.parse_error, "does not parse: {text}");
            assert_eq!(classified.route(), expected, "{text}");
        }
    }
}

/// On a stack as small as a worker's could be, so that any recursion over the tree shows.
fn on_small_stack(check: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 * 1024).spawn(check).unwrap().join().unwrap();
}

#[test]
fn deep_trees_need_no_stack() {
    on_small_stack(|| {
        const DEPTH: usize = 100_000;
        let sum = format!("SELECT 1{}", "+1".repeat(DEPTH));
        assert_eq!(classify(&sum).route(), Route::Read);
        let written = format!("SELECT nextval('s'){}", "+1".repeat(DEPTH));
        assert_eq!(classify(&written).route(), Route::Write);
        let union = format!("SELECT 1{}", " UNION SELECT 1".repeat(DEPTH / 2));
        assert_eq!(classify(&union).route(), Route::Read);
        let into = format!("SELECT 1 INTO TEMP t{}", " UNION SELECT 1".repeat(DEPTH / 2));
        assert_eq!(classify(&into).pins, PinReasons::TEMP_TABLE);
        let casts = format!("SELECT 1{}", "::int".repeat(DEPTH));
        assert_eq!(classify(&casts).route(), Route::Read);
        let joins = format!("SELECT 1 FROM t{}", " NATURAL JOIN t".repeat(DEPTH / 2));
        assert_eq!(classify(&joins).route(), Route::Read);
    });
}

#[test]
fn nesting_that_the_grammar_cannot_hold_is_a_write() {
    on_small_stack(|| {
        for (open, close) in
            [("(", ")"), ("(SELECT ", ")"), ("f(", ")"), ("NOT ", ""), ("- ", ""), ("ARRAY[", "]"), ("CASE WHEN ", " THEN 1 END")]
        {
            let text = format!("SELECT {}1{}", open.repeat(50_000), close.repeat(50_000));
            assert_eq!(classify(&text).route(), Route::Write, "{open}");
            // Unbalanced: the parser gives up in the middle.
            assert_eq!(classify(&format!("SELECT {}", open.repeat(50_000))).route(), Route::Write, "{open}");
        }
    });
}

#[test]
fn a_text_that_is_too_long_is_not_parsed_and_pins() {
    let long = format!("/* howdah: eventual */ SELECT '{}'", "x".repeat(TEXT_BYTES_MAX));
    let classified = classify(&long);
    assert!(classified.parse_error && classified.pins == PinReasons::UNPARSED);
    assert_eq!(classified.route(), Route::Write);
    assert!(classified.hint.is_some());
    let fits = format!("SELECT '{}'", "x".repeat(TEXT_BYTES_MAX - 9));
    assert_eq!((fits.len(), classify(&fits).route()), (TEXT_BYTES_MAX, Route::Read));
}

#[test]
fn names_and_strings_in_odd_encodings() {
    // Cut in the middle of a character by the limit of 63 bytes, were it cut by bytes.
    for width in 0..4 {
        let name = format!("{}{}", "x".repeat(width), "\u{1f418}".repeat(40));
        assert_eq!(kind(&format!("SAVEPOINT {name}")), kind(&format!("SAVEPOINT {}", &name[..60 + width.min(3)])), "{width}");
        assert_eq!(classify(&format!("SELECT \"{name}\"('{name}') FROM {name}")).route(), Route::Write);
    }
    for sql in [
        "SELECT E'\\xff'",
        "SET x = E'\\xff'",
        "SELECT set_config('a.b', E'\\xc3', false)",
        "SET x = U&'\\d83d'",
        "LISTEN U&\"\\d83d\\d83d\"",
    ] {
        assert_eq!(classify(sql).route(), Route::Write, "{sql}");
    }
    assert_eq!(classify_bytes(b"SELECT 1").route(), Route::Read);
    let latin1 = classify_bytes(b"SELECT '\xe9'");
    assert!(latin1.parse_error && latin1.route() == Route::Write && latin1.pins == PinReasons::UNPARSED);
}
