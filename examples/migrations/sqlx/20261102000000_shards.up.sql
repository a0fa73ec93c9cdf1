-- The server needs wal_level = logical and the plugin allowed before; see docs/operations.md.
CREATE EXTENSION IF NOT EXISTS foreshard;

-- or_replace: a definition that is there already becomes this one, and one that is the same stays, with every edge's copies.
SELECT foreshard.create_shard('products', 'shop.product', or_replace => true);
SELECT foreshard.create_shard('offers', 'shop.product', predicate => 'discount > 0', or_replace => true);
SELECT foreshard.create_shard('cart', 'shop.cart_line', key => '{customer_id}', or_replace => true);

SELECT foreshard.map_function('checkout', '{products,cart}');
SELECT foreshard.map_function('home', '{offers}');

-- Roles belong to the cluster and have passwords: they are made outside of migrations.
SELECT foreshard.create_edge('paris', 48.86, 2.35, role => 'edge_paris', if_not_exists => true);
