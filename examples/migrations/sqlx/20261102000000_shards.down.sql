-- Drops the edge's replication slot too. The extension stays: other schemas may use it.
SELECT foreshard.drop_edge('paris', if_exists => true);
SELECT foreshard.unmap_function('home', if_exists => true);
SELECT foreshard.unmap_function('checkout', if_exists => true);
SELECT foreshard.drop_shard('cart', if_exists => true);
SELECT foreshard.drop_shard('offers', if_exists => true);
SELECT foreshard.drop_shard('products', if_exists => true);
