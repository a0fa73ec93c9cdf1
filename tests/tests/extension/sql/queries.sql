-- Shards that are a query.
CREATE EXTENSION foreshard;
CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE "Order" (id bigint PRIMARY KEY, customer_id int, status text);
SELECT foreshard.create_query_shard('account', $$
    SELECT c.name, count(o.id) AS orders FROM customer c LEFT JOIN "Order" o ON o.customer_id = c.id AND o.status <> 'void'
    WHERE c.id = $1 GROUP BY c.name $$, '{customer}');
SELECT name, source, key, query, jsonb_pretty(depends_on) AS depends_on, defect FROM foreshard.shards;
SELECT generation AS before FROM foreshard.shards \gset
SELECT foreshard.create_query_shard('account', (SELECT query FROM foreshard.shards), '{customer}', or_replace => true);
SELECT generation = :before AS same FROM foreshard.shards;
ALTER TABLE "Order" RENAME COLUMN customer_id TO buyer;
SELECT depends_on FROM foreshard.shards;
SELECT foreshard.create_query_shard('account', 'SELECT now() FROM customer', or_replace => true);
SELECT foreshard.create_query_shard('account', 'SELECT id FROM customer WHERE id = $1', or_replace => true);
SELECT foreshard.create_query_shard('account', 'SELECT id FROM customer', if_not_exists => true);
-- A table's shard may become a query and the other way round.
SELECT foreshard.create_shard('account', 'customer', key => '{id}', or_replace => true);
SELECT name, source, key, query, depends_on FROM foreshard.shards;
SELECT foreshard.create_query_shard('account', 'SELECT id FROM customer', or_replace => true);
SELECT name, source, key, query, depends_on FROM foreshard.shards;
DROP TABLE customer;
SELECT name, defect FROM foreshard.shards;
SELECT foreshard.drop_shard('account');
SELECT count(*) FROM foreshard.shard_source;
