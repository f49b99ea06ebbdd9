-- Howdah's own objects in a node's database. Runs at every start of a sidecar, in a session with
-- session_replication_role = replica (so that nothing here is captured) and synchronous_commit = local.
-- The schema is local to the node: it is never captured, dumped or applied.
--
-- The bodies of functions are parsed in the session that calls them, which may have standard_conforming_strings off: a literal with a backslash
-- is written E'\\' in them.

CREATE SCHEMA IF NOT EXISTS howdah;
GRANT USAGE ON SCHEMA howdah TO PUBLIC;

-- Which life of which data directory this is. One row.
CREATE TABLE IF NOT EXISTS howdah.node (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    cluster text NOT NULL,
    node bigint NOT NULL,
    instance bigint NOT NULL
);

-- How far the log is applied here, and what that prefix decided. Written in the same transaction as the rows. One row.
CREATE TABLE IF NOT EXISTS howdah.progress (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    applied_index bigint NOT NULL,
    state jsonb NOT NULL
);

-- Up to which LSN of this server a repair has taken back what tables without a key were given. At most one row.
CREATE TABLE IF NOT EXISTS howdah.repair (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    undone bigint NOT NULL
);

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'howdah') THEN
        PERFORM pg_replication_origin_create('howdah');
    END IF;
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'howdah') THEN
        CREATE PUBLICATION howdah FOR ALL TABLES;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'howdah_proxy') THEN
        CREATE ROLE howdah_proxy LOGIN;
    END IF;
END $$;

-- Tables that are older than the event trigger (of an attached server) need an identity as later ones do, or UPDATE and DELETE would fail.
DO $$ DECLARE name text; BEGIN
    FOR name IN
        SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident = 'd'
          AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'howdah')
          AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', name);
    END LOOP;
END $$;

-- A message in the log is executed on every follower: nobody else may write one. Large objects are not decoded.
REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text), pg_logical_emit_message(boolean, text, bytea),
    lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea), lo_import(text), lo_import(text, oid), lo_open(oid, integer),
    lo_put(oid, bigint, bytea), lo_truncate(integer, integer), lo_truncate64(integer, bigint), lo_unlink(oid), lowrite(integer, bytea)
    FROM PUBLIC;

-- The end of a COMMIT's wait at the gate shows what the group has not decided.
REVOKE EXECUTE ON FUNCTION pg_cancel_backend(integer), pg_terminate_backend(integer, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pg_cancel_backend(integer), pg_terminate_backend(integer, bigint) TO pg_signal_backend;

-- The epoch of the node's present opening: an advisory lock that the sidecar's session holds, so that a crash of Postgres, or the
-- death of the sidecar, takes it away by itself. NULL where the node is not open.
CREATE OR REPLACE FUNCTION howdah.serving_epoch() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT ((l.classid::bigint & 65535) << 32) | l.objid::bigint
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.classid::bigint >> 16 = 18500
      AND a.application_name = 'howdah-epoch' AND a.usename = current_user
    LIMIT 1
$$;

-- The password verifier of a role, for the proxy to check a login against.
CREATE OR REPLACE FUNCTION howdah.user_lookup(role_name text, OUT verifier text, OUT can_login boolean) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT rolpassword, rolcanlogin AND (rolvaliduntil IS NULL OR rolvaliduntil > now())
    FROM pg_authid WHERE rolname = role_name AND NOT rolname LIKE 'howdah%'
$$;
REVOKE ALL ON FUNCTION howdah.user_lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION howdah.user_lookup(text) TO howdah_proxy;

-- Every role and membership of the cluster as JSON: what a follower makes its own roles equal to.
CREATE OR REPLACE FUNCTION howdah.roles_state() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH ours AS (
        SELECT * FROM pg_authid WHERE NOT starts_with(rolname, 'pg_') AND NOT starts_with(rolname, 'howdah') AND oid <> 10
    )
    SELECT jsonb_build_object(
        'kind', 'roles',
        'roles', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', r.rolname, 'superuser', r.rolsuper, 'createdb', r.rolcreatedb, 'createrole', r.rolcreaterole,
            'inherit', r.rolinherit, 'login', r.rolcanlogin, 'replication', r.rolreplication, 'bypassrls', r.rolbypassrls,
            'connlimit', r.rolconnlimit, 'verifier', r.rolpassword, 'valid_until', r.rolvaliduntil,
            'config', (SELECT setconfig FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0)
            ) ORDER BY r.rolname), '[]') FROM ours r),
        'members', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'role', g.rolname, 'member', m.rolname, 'admin', a.admin_option, 'grantor', o.rolname)
            ORDER BY g.rolname, m.rolname), '[]')
            FROM pg_auth_members a JOIN pg_authid g ON g.oid = a.roleid JOIN ours m ON m.oid = a.member
            LEFT JOIN pg_authid o ON o.oid = a.grantor),
        'db_settings', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'database', d.datname, 'role', r.rolname, 'config', s.setconfig) ORDER BY d.datname, r.rolname), '[]')
            FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN ours r ON r.oid = s.setrole
            WHERE s.setrole = 0 OR r.oid IS NOT NULL))
$$;
REVOKE ALL ON FUNCTION howdah.roles_state() FROM PUBLIC;

-- What belongs to whom; no owner stands for the role that initdb made, whose name is each server's own. Its objects are not noted as such: they
-- are looked up where they are likely. A sequence of a column goes with its table, a member of an extension that belongs to that role with the extension.
CREATE OR REPLACE FUNCTION howdah.owners(OUT type text, OUT identity text, OUT owner text) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH owned(classid, objid, owner) AS (
        SELECT classid, objid, refobjid FROM pg_shdepend
            WHERE deptype = 'o' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION ALL SELECT o.classid, o.oid, 10 FROM (
            SELECT 'pg_class'::regclass AS classid, oid FROM pg_class WHERE relowner = 10 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE proowner = 10
            UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typowner = 10 AND typrelid = 0 AND typcategory <> 'A'
            UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspowner = 10
            UNION ALL SELECT 'pg_extension'::regclass, oid FROM pg_extension WHERE extowner = 10) o
        WHERE o.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e'))
    SELECT object.type, object.identity, CASE WHEN r.oid <> 10 THEN r.rolname END
    FROM owned JOIN pg_authid r ON r.oid = owned.owner, pg_identify_object(classid, objid, 0) object
    WHERE object.schema IS DISTINCT FROM 'howdah' AND NOT starts_with(object.identity, 'howdah')
      AND NOT starts_with(coalesce(object.schema, object.identity), 'pg_temp') AND NOT starts_with(coalesce(object.schema, object.identity), 'pg_toast')
      AND object.type IN ('table', 'view', 'materialized view', 'foreign table', 'sequence', 'type', 'schema', 'function', 'procedure', 'aggregate',
        'collation', 'conversion', 'operator', 'operator class', 'operator family', 'statistics object', 'text search configuration',
        'text search dictionary', 'foreign-data wrapper', 'server', 'language', 'publication', 'event trigger', 'extension')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = owned.classid AND d.objid = owned.objid AND d.refobjsubid > 0
        AND owned.classid = 'pg_class'::regclass AND d.refclassid = owned.classid AND d.deptype IN ('a', 'i'))
$$;
REVOKE ALL ON FUNCTION howdah.owners() FROM PUBLIC;

-- An object as ALTER and DROP want it named, with `clause` in front of the name.
CREATE OR REPLACE FUNCTION howdah.named(type text, clause text, identity text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
    SELECT replace(CASE type WHEN 'statistics object' THEN 'statistics' ELSE type END, '-', ' ') || clause
        || CASE type WHEN 'aggregate' THEN replace(identity, '()', '(*)') ELSE identity END
$$;

-- On a follower: what is here and belongs to another role than on the leader goes to that one. What came into being or went away beside the
-- transaction that tells it is left alone.
CREATE OR REPLACE FUNCTION howdah.take_owners(theirs jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    object record;
    extension oid;
BEGIN
    FOR object IN
        SELECT type, identity, coalesce(t.owner, (SELECT rolname FROM pg_authid WHERE oid = 10)) AS owner FROM jsonb_to_recordset(theirs) AS t(type text, identity text, owner text) JOIN howdah.owners() o USING (type, identity)
        WHERE t.owner IS DISTINCT FROM o.owner
    LOOP
        IF object.type <> 'extension' THEN
            EXECUTE format('ALTER %s OWNER TO %I', howdah.named(object.type, ' ', object.identity), object.owner);
            CONTINUE;
        END IF;
        -- PostgreSQL has no statement for it but REASSIGN OWNED, which knows no single objects.
        UPDATE pg_extension SET extowner = quote_ident(object.owner)::regrole WHERE quote_ident(extname) = object.identity RETURNING oid INTO extension;
        DELETE FROM pg_shdepend s USING pg_database d WHERE d.datname = current_database() AND s.dbid = d.oid
            AND s.classid = 'pg_extension'::regclass AND s.objid = extension AND s.deptype = 'o';
        INSERT INTO pg_shdepend SELECT d.oid, 'pg_extension'::regclass, extension, 0, 'pg_authid'::regclass, r.oid, 'o'
            FROM pg_database d, pg_authid r WHERE d.datname = current_database() AND r.rolname = object.owner AND r.oid <> 10;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION howdah.take_owners(jsonb) FROM PUBLIC;

-- On a follower: drops what DROP OWNED has dropped on the leader.
CREATE OR REPLACE FUNCTION howdah.drop_objects(objects jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE object record;
BEGIN
    FOR object IN SELECT * FROM jsonb_to_recordset(objects) AS o(type text, identity text) LOOP
        EXECUTE 'DROP ' || howdah.named(object.type, ' IF EXISTS ', object.identity) || ' CASCADE';
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION howdah.drop_objects(jsonb) FROM PUBLIC;

-- Puts the roles into the log, in the caller's transaction: there is no event trigger for them, nor for REASSIGN OWNED.
CREATE OR REPLACE FUNCTION howdah.capture_roles() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    mine constant integer := age(pg_current_xact_id()::xid);
BEGIN
    -- Two that change roles at once would each tell a state without the other's change.
    PERFORM pg_advisory_xact_lock(18501, 0);
    PERFORM pg_logical_emit_message(true, 'howdah', howdah.roles_state()::text);
    -- This transaction, or a later one, gave something to somebody.
    IF EXISTS (SELECT FROM pg_shdepend WHERE deptype = 'o' AND age(xmin) <= mine)
        OR EXISTS (SELECT FROM pg_class WHERE relowner = 10 AND oid >= 16384 AND age(xmin) <= mine)
        OR EXISTS (SELECT FROM pg_proc WHERE proowner = 10 AND oid >= 16384 AND age(xmin) <= mine)
        OR EXISTS (SELECT FROM pg_type WHERE typowner = 10 AND oid >= 16384 AND age(xmin) <= mine)
        OR EXISTS (SELECT FROM pg_namespace WHERE nspowner = 10 AND oid >= 16384 AND age(xmin) <= mine)
    THEN
        PERFORM howdah.emit_owners();
    END IF;
END $$;

-- DDL. on_ddl runs as the user and only passes on the user's search_path and role; log_ddl does the work as Howdah and takes nobody
-- else's word: it looks at the call stack.
CREATE OR REPLACE FUNCTION howdah.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM howdah.log_ddl(TG_TAG, pg_catalog.current_setting('search_path'), current_user::pg_catalog.text);
END $$;

-- Of the message that the client has sent, whatever its statements set.
CREATE OR REPLACE FUNCTION howdah.message_id() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$ SELECT extract(epoch FROM statement_timestamp())::text $$;

-- Counts how deep in extensions' scripts the session is: these may say ALTER EXTENSION themselves.
CREATE OR REPLACE FUNCTION howdah.on_ddl_start() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TAG IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM howdah.extension_depth(1);
    END IF;
END $$;

-- The depth after this step, in the statement that the client has sent.
CREATE OR REPLACE FUNCTION howdah.extension_depth(step integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    stored text[] := string_to_array(current_setting('howdah.extension', true), '#');
    depth integer := step + CASE WHEN stored[1] = howdah.message_id() THEN stored[2]::integer ELSE 0 END;
BEGIN
    PERFORM set_config('howdah.extension', howdah.message_id() || '#' || depth, true);
    RETURN depth;
END $$;

CREATE OR REPLACE FUNCTION howdah.emit_ddl(tag text, sql text, nth integer, path text, role_name text, missing jsonb, creates jsonb)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT pg_logical_emit_message(true, 'howdah', (jsonb_build_object('kind', 'ddl', 'tag', tag, 'sql', sql, 'nth', nth,
        'search_path', path, 'role', role_name, 'missing', coalesce(missing, '[]'),
        -- What the meaning of a literal depends on.
        'settings', (SELECT jsonb_object_agg(name, current_setting(name)) FROM unnest(ARRAY['DateStyle', 'IntervalStyle', 'TimeZone',
            'standard_conforming_strings', 'backslash_quote', 'transform_null_equals', 'array_nulls', 'xmloption', 'xmlbinary', 'extra_float_digits', 'bytea_output']) name))
        || CASE WHEN creates IS NULL THEN '{}' ELSE jsonb_build_object('creates', creates) END)::text)
$$;
REVOKE ALL ON FUNCTION howdah.emit_ddl(text, text, integer, text, text, jsonb, jsonb) FROM PUBLIC;

CREATE OR REPLACE FUNCTION howdah.emit_owners() RETURNS void
LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT howdah.emit_ddl('REASSIGN OWNED', format('SELECT howdah.take_owners(%L)', (SELECT coalesce(jsonb_agg(o), '[]') FROM howdah.owners() o)),
        0, 'pg_catalog', current_user, NULL, NULL)
$$;
REVOKE ALL ON FUNCTION howdah.emit_owners() FROM PUBLIC;

-- Before DROP OWNED: on a follower something else may belong to the role, so what the leader has dropped is named. It can be called at the end
-- of a command that drops only, and says nothing but what that command has done.
CREATE OR REPLACE FUNCTION howdah.log_drop_owned() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    objects jsonb;
    unknown text;
BEGIN
    -- What it takes from others (default privileges) is said by the statement itself.
    SELECT jsonb_agg(jsonb_build_object('type', object_type, 'identity', object_identity)),
           min(object_type) FILTER (WHERE object_type IN ('publication', 'subscription', 'event trigger', 'large object', 'user mapping'))
        INTO objects, unknown FROM pg_event_trigger_dropped_objects()
        WHERE original AND NOT is_temporary AND object_type <> 'default acl';
    IF unknown IS NOT NULL THEN
        RAISE feature_not_supported USING MESSAGE = format('DROP OWNED of a %s cannot be replicated', unknown), HINT = 'Drop it by its name first.';
    END IF;
    IF objects IS NOT NULL THEN
        PERFORM howdah.emit_ddl('DROP OWNED', format('SELECT howdah.drop_objects(%L)', objects), 0, 'pg_catalog', current_user, NULL, NULL);
    END IF;
END $$;

-- Relations and everything that inherits from them or is a partition of them.
CREATE OR REPLACE FUNCTION howdah.with_children(roots oid[]) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    WITH RECURSIVE tree(relation) AS (
        SELECT unnest(roots) UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.relation
    ) SELECT relation FROM tree
$$;

-- What defaults that are not constant, such as now(), came to for the rows that were there; as text that every node reads alike.
CREATE OR REPLACE FUNCTION howdah.missing(relations oid[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET timezone = 'UTC'
SET extra_float_digits = 3 SET bytea_output = 'hex' SET lc_monetary = 'C' AS $$
    SELECT jsonb_agg(jsonb_build_object('schema', n.nspname, 'table', c.relname, 'column', a.attname,
        'value', (a.attmissingval::text::text[])[1]))
    FROM howdah.with_children(relations) r JOIN pg_class c ON c.oid = r JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.atthasmissing AND NOT a.attisdropped
$$;
REVOKE ALL ON FUNCTION howdah.missing(oid[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION howdah.log_ddl(tag text, path text, role_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog SET session_replication_role = replica SET lc_messages = 'C' AS $$
DECLARE
    -- The statement below comes back in the stack of every call; what follows it is where the DDL came from.
    caller constant text := E'^PL/pgSQL function howdah\\.log_ddl\\(text,text,text\\) line \\d+ at GET DIAGNOSTICS\n'
        'SQL statement "[^"]*"\nPL/pgSQL function howdah\\.on_ddl\\(\\) line \\d+ at PERFORM(\n|$)';
    stack text;
    query text := current_query();
    nth integer := 0;
    counted text[];
    relations oid[];
    commands integer;
    elsewhere integer;
    depth integer;
    bare text;
    temporary integer;
    creates jsonb;
BEGIN
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF stack !~ caller THEN
        RAISE insufficient_privilege USING MESSAGE = 'howdah.log_ddl is called by Howdah''s event trigger only',
            HINT = 'If this was a DDL statement: take the schema howdah out of search_path.';
    END IF;
    SELECT array_agg(objid) FILTER (WHERE classid = 'pg_class'::regclass AND objid <> 0), count(*),
           count(*) FILTER (WHERE in_extension), count(*) FILTER (WHERE schema_name = 'pg_temp')
        INTO relations, commands, elsewhere, temporary FROM pg_event_trigger_ddl_commands();
    -- An extension's script runs again with CREATE EXTENSION. Of what it drops Postgres does not say that it is part of it.
    depth := howdah.extension_depth(CASE WHEN tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN -1 ELSE 0 END);
    IF depth > 0 OR elsewhere > 0 THEN
        PERFORM set_config('howdah.dropped', '', true);
        RETURN;
    END IF;
    stack := regexp_replace(stack, caller, '');
    IF stack = '' THEN
        -- Sent by the client: which of the message's statements it is, is told by counting.
        counted := string_to_array(current_setting('howdah.ddl', true), '#');
        IF counted[1] = howdah.message_id() THEN
            nth := counted[2]::integer + 1;
        END IF;
        -- Not local: a message may commit in between. What it rolls back is not counted.
        PERFORM set_config('howdah.ddl', howdah.message_id() || '#' || nth, false);
        -- Once per message, for it may be long.
        IF nth = 0 AND query ~* 'rollback|abort' THEN
            bare := regexp_replace(regexp_replace(query, E'\\$(\\w*)\\$.*?\\$\\1\\$', '', 'g'), E'\'[^\']*\'', '', 'g');
            IF bare ~* E'(^|;)\\s*(rollback|abort)\\M' AND bare ~ E';\\s*\\S' THEN
                RAISE feature_not_supported USING MESSAGE = format('%s in one message with a ROLLBACK cannot be replicated', tag),
                    HINT = 'Send the statements one by one.';
            END IF;
        END IF;
        IF current_setting('standard_conforming_strings') = 'off' AND strpos(query, E'\\\'') > 0 AND query ~ E';\\s*\\S' THEN
            RAISE feature_not_supported USING MESSAGE = format('%s in one message with others, and a backslash before a quote, cannot be replicated', tag),
                HINT = 'Send the statements one by one, or set standard_conforming_strings.';
        END IF;
    ELSIF stack LIKE 'SQL statement "%' THEN
        -- Run by PL/pgSQL: the stack has the very statement.
        query := substring(stack FROM E'^SQL statement "(.*?)"\nPL/pgSQL function ');
    ELSE
        query := NULL;
    END IF;
    -- Temporary objects are the session's own. Of those that REFRESH MATERIALIZED VIEW CONCURRENTLY makes for itself nothing is told.
    IF commands > 0 AND temporary = commands
        OR commands = 0 AND stack ~ E'^SQL statement "(CREATE TEMP|ALTER) TABLE pg_temp_\\d+\\.pg_temp_\\d+_2 '
    THEN
        RETURN;
    END IF;
    IF tag <> 'DROP OWNED' AND current_setting('howdah.dropped', true) = howdah.message_id() || ' temporary' THEN
        PERFORM set_config('howdah.dropped', '', true);
        RETURN;
    END IF;
    IF query ~* E'enable\\s+(always|replica)\\s+(trigger|rule)' THEN
        RAISE feature_not_supported USING MESSAGE = 'triggers and rules that fire on replicas are not replicated',
            HINT = 'They would fire again on every follower. An ordinary trigger fires once, on the leader, and its effects are replicated.';
    END IF;
    IF query IS NULL THEN
        RAISE feature_not_supported USING MESSAGE = format('%s inside a function that is not PL/pgSQL cannot be replicated', tag),
            HINT = 'Run the statement by itself, or from PL/pgSQL (DO).';
    END IF;

    IF tag IN ('CREATE TABLE AS', 'SELECT INTO') THEN
        -- The structure travels as DDL, the rows as rows.
        SELECT format('CREATE %sTABLE %s (%s)', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, c.oid::regclass,
                string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)
                    || CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END),
                    ', ' ORDER BY a.attnum)), 0, jsonb_build_object('schema', (SELECT nspname FROM pg_namespace n WHERE n.oid = c.relnamespace), 'table', c.relname)
            INTO query, nth, creates
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                JOIN pg_type t ON t.oid = a.atttypid
            WHERE c.oid = relations[1] GROUP BY c.oid, c.relpersistence;
        tag := 'CREATE TABLE';
        -- IF NOT EXISTS over a table that is there.
        IF query IS NULL THEN
            RETURN;
        END IF;
        path := 'pg_catalog';
    END IF;

    IF tag = 'DROP OWNED' THEN
        PERFORM howdah.emit_owners();
    END IF;
    PERFORM howdah.emit_ddl(tag, query, nth, path, role_name, CASE WHEN tag = 'ALTER TABLE' THEN howdah.missing(relations) END, creates);
    IF tag IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA') THEN
        PERFORM howdah.follow_up(relations, query ~* E'primary\\s+key|using\\s+index');
    END IF;
END $$;

-- After CREATE or ALTER TABLE: rows need an identity, and rewritten rows the leader's values.
CREATE OR REPLACE FUNCTION howdah.follow_up(relations oid[], key_changed boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    relation record;
    sql text;
    rewritten text[] := coalesce(string_to_array(current_setting('howdah.rewritten', true), ','), '{}');
    filled boolean;
BEGIN
    FOR relation IN
        SELECT c.oid, c.oid::regclass::text AS name, c.relreplident, c.relpersistence,
            (SELECT i.indkey::int2[] FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS key
        FROM howdah.with_children(relations) r JOIN pg_class c ON c.oid = r WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    LOOP
        sql := NULL;
        IF relation.relpersistence = 'u' THEN
            RAISE WARNING 'table % is unlogged: its rows stay on this node and are gone after a failover', relation.name;
            CONTINUE;
        ELSIF relation.key IS NULL AND relation.relreplident = 'd' THEN
            sql := format('ALTER TABLE %s REPLICA IDENTITY FULL', relation.name);
        ELSIF relation.key IS NOT NULL AND relation.relreplident = 'f' AND key_changed THEN
            sql := format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', relation.name);
        END IF;
        IF sql IS NOT NULL THEN
            EXECUTE sql;
            PERFORM howdah.emit_ddl('ALTER TABLE', sql, 0, 'pg_catalog', current_user, NULL, NULL);
        END IF;

        CONTINUE WHEN NOT relation.oid::text = ANY (rewritten);
        EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s)', relation.name) INTO filled;
        CONTINUE WHEN NOT filled;
        -- The followers evaluate the rewrite by themselves, which may come to other values; writing each row once more makes the
        -- leader's values travel. That needs a key which is not itself among the values that were made up.
        IF relation.key IS NULL OR EXISTS (
            SELECT FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = relation.oid AND a.attnum = ANY (relation.key) AND a.attnum =
                (SELECT max(attnum) FROM pg_attribute WHERE attrelid = relation.oid))
        THEN
            RAISE feature_not_supported USING
                MESSAGE = format('this ALTER TABLE rewrites %s with values that followers cannot reproduce', relation.name),
                HINT = 'Give the table a primary key first; or add the column without a default, UPDATE it, then SET DEFAULT.';
        END IF;
        SELECT format('UPDATE ONLY %s SET %I = %I', relation.name, attname, attname) INTO sql
            FROM pg_attribute WHERE attrelid = relation.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity <> 'a'
            ORDER BY attnum = ANY (relation.key), attnum LIMIT 1;
        EXECUTE sql;
    END LOOP;
    PERFORM set_config('howdah.rewritten', '', true);
END $$;
REVOKE ALL ON FUNCTION howdah.follow_up(oid[], boolean) FROM PUBLIC;

CREATE OR REPLACE FUNCTION howdah.on_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TAG = 'DROP OWNED' THEN
        PERFORM howdah.log_drop_owned();
    END IF;
    PERFORM pg_catalog.set_config('howdah.dropped', pg_catalog.concat(howdah.message_id(), CASE
        WHEN (SELECT pg_catalog.bool_and(is_temporary) FROM pg_catalog.pg_event_trigger_dropped_objects() WHERE original)
        THEN ' temporary' ELSE '' END), true);
END $$;

CREATE OR REPLACE FUNCTION howdah.on_rewrite() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    relation constant pg_catalog.regclass := pg_catalog.pg_event_trigger_table_rewrite_oid();
BEGIN
    -- The first bit is a change of persistence. The table is still what it was.
    IF pg_catalog.pg_event_trigger_table_rewrite_reason() % 2 = 1
        AND (SELECT c.relpersistence = 'u' FROM pg_catalog.pg_class c WHERE c.oid = relation)
    THEN
        RAISE feature_not_supported USING MESSAGE = pg_catalog.format('unlogged table %s cannot be made logged: its rows are on this node only', relation),
            HINT = 'CREATE TABLE another one LIKE it, INSERT INTO that one SELECT from this one, DROP this one, and rename the other.';
    END IF;
    PERFORM pg_catalog.set_config('howdah.rewritten', pg_catalog.concat_ws(',',
        nullif(pg_catalog.current_setting('howdah.rewritten', true), ''),
        pg_catalog.pg_event_trigger_table_rewrite_oid()::pg_catalog.text), true);
END $$;

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'howdah_ddl') THEN
        CREATE EVENT TRIGGER howdah_ddl ON ddl_command_end EXECUTE FUNCTION howdah.on_ddl();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'howdah_ddl_start') THEN
        CREATE EVENT TRIGGER howdah_ddl_start ON ddl_command_start EXECUTE FUNCTION howdah.on_ddl_start();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'howdah_drop') THEN
        CREATE EVENT TRIGGER howdah_drop ON sql_drop EXECUTE FUNCTION howdah.on_drop();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'howdah_rewrite') THEN
        CREATE EVENT TRIGGER howdah_rewrite ON table_rewrite EXECUTE FUNCTION howdah.on_rewrite();
    END IF;
END $$;
