-- Names of built-in functions that a follower may run: every overload is immutable or stable, or volatile but harmless (named below),
-- and none of them writes, takes a lock that outlives the statement, uses a sequence, or speaks of this server's transactions.
-- PostgreSQL 15:  psql -AtX -f harmless.sql  gives the lines of harmless.txt.
WITH harmless_volatile(name) AS (VALUES
  ('clock_timestamp'), ('current_query'), ('gen_random_uuid'), ('pg_blocking_pids'), ('pg_collation_actual_version'),
  ('pg_current_wal_flush_lsn'), ('pg_current_wal_insert_lsn'), ('pg_current_wal_lsn'), ('pg_database_collation_actual_version'),
  ('pg_database_size'), ('pg_indexes_size'), ('pg_is_in_recovery'), ('pg_is_wal_replay_paused'), ('pg_jit_available'),
  ('pg_last_wal_receive_lsn'), ('pg_last_wal_replay_lsn'), ('pg_last_xact_replay_timestamp'), ('pg_lock_status'),
  ('pg_notification_queue_usage'), ('pg_partition_ancestors'), ('pg_partition_tree'), ('pg_prepared_xact'), ('pg_relation_size'),
  ('pg_safe_snapshot_blocking_pids'), ('pg_show_replication_origin_status'), ('pg_sleep'), ('pg_sleep_for'), ('pg_sleep_until'),
  ('pg_stat_get_recovery_prefetch'), ('pg_stat_get_xact_blocks_fetched'), ('pg_stat_get_xact_blocks_hit'),
  ('pg_stat_get_xact_function_calls'), ('pg_stat_get_xact_function_self_time'), ('pg_stat_get_xact_function_total_time'),
  ('pg_stat_get_xact_numscans'), ('pg_stat_get_xact_tuples_deleted'), ('pg_stat_get_xact_tuples_fetched'),
  ('pg_stat_get_xact_tuples_hot_updated'), ('pg_stat_get_xact_tuples_inserted'), ('pg_stat_get_xact_tuples_returned'),
  ('pg_stat_get_xact_tuples_updated'), ('pg_stat_have_stats'), ('pg_table_size'), ('pg_tablespace_size'), ('pg_total_relation_size'),
  ('random'), ('timeofday')),
names AS (
  SELECT proname AS name FROM pg_proc
  WHERE pronamespace = 'pg_catalog'::regnamespace AND pronargs >= 0
    AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype, 'index_am_handler'::regtype,
      'table_am_handler'::regtype, 'tsm_handler'::regtype, 'fdw_handler'::regtype, 'language_handler'::regtype)
    AND NOT 'internal'::regtype = ANY (proargtypes)
  GROUP BY proname
  HAVING bool_and(provolatile <> 'v' OR EXISTS (SELECT FROM harmless_volatile v WHERE v.name = proname))
  UNION ALL
  SELECT 'information_schema.' || proname FROM pg_proc
  WHERE pronamespace = 'information_schema'::regnamespace
  GROUP BY proname HAVING bool_and(provolatile <> 'v'))
SELECT name FROM names
WHERE name !~ '^(txid_current|pg_current_xact_id|pg_current_snapshot|pg_event_trigger|pg_logical_|pg_replication_|pg_advisory|lo_|binary_upgrade|pg_ls_|dblink)'
  AND name NOT IN ('txid_status', 'pg_xact_status', 'currval', 'lastval', 'nextval', 'setval', 'set_config', 'setseed')
ORDER BY name COLLATE "C"
