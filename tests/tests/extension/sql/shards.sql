-- Shards of a table, from definition to removal.
CREATE EXTENSION foreshard;
CREATE TABLE cart (id int PRIMARY KEY, customer_id int NOT NULL, status text, total numeric);
SELECT foreshard.create_shard('carts', 'cart');
SELECT foreshard.create_shard('open', 'cart', $$ status='open' and total>0 $$, '{customer_id}', '{id,customer_id,total}');
SELECT name, source, predicate, key, columns, defect FROM foreshard.shards ORDER BY name;
-- The same again is nothing new; another definition is.
SELECT generation AS before FROM foreshard.shards WHERE name = 'open' \gset
SELECT foreshard.create_shard('open', 'cart', $$ (status = 'open') AND total > 0 $$, '{customer_id}', '{id,customer_id,total}', or_replace => true);
SELECT generation = :before AS same FROM foreshard.shards WHERE name = 'open';
SELECT foreshard.create_shard('open', 'cart', $$status = 'open'$$, '{customer_id}', or_replace => true);
SELECT generation = :before AS same FROM foreshard.shards WHERE name = 'open';
SELECT foreshard.create_shard('open', 'cart', if_not_exists => true);
SELECT foreshard.create_shard('open', 'cart');
-- Renaming is followed.
ALTER TABLE cart RENAME COLUMN customer_id TO buyer;
ALTER TABLE cart RENAME TO basket;
SELECT name, source, predicate, key, columns, defect FROM foreshard.shards ORDER BY name;
ALTER TABLE basket DROP COLUMN buyer;
SELECT name, defect FROM foreshard.shards ORDER BY name;
-- Functions.
SELECT foreshard.map_function('checkout', '{carts,open}');
SELECT * FROM foreshard.function_shards ORDER BY ordinal;
SELECT foreshard.map_function('checkout', '{nope}');
SELECT foreshard.drop_shard('open');
SELECT * FROM foreshard.function_shards ORDER BY ordinal;
SELECT foreshard.unmap_function('checkout');
SELECT foreshard.unmap_function('checkout');
SELECT foreshard.unmap_function('checkout', if_exists => true);
SELECT foreshard.drop_shard('carts'), foreshard.drop_shard('carts', if_exists => true);
SELECT count(*) FROM foreshard.shards;
DROP EXTENSION foreshard;
SELECT count(*) FROM pg_namespace WHERE nspname = 'foreshard';
