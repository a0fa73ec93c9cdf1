"""Shards of the shop, the functions that read them, and an edge."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS foreshard")
    # or_replace: one that is there already becomes this one; one that is the same stays, with every edge's copies.
    op.execute("SELECT foreshard.create_shard('products', 'shop.product', or_replace => true)")
    op.execute(
        "SELECT foreshard.create_shard('offers', 'shop.product', predicate => 'discount > 0', or_replace => true)"
    )
    op.execute("SELECT foreshard.create_shard('cart', 'shop.cart_line', key => '{customer_id}', or_replace => true)")
    op.execute("SELECT foreshard.map_function('checkout', '{products,cart}')")
    op.execute("SELECT foreshard.map_function('home', '{offers}')")
    # Roles belong to the cluster and have passwords: they are made outside of migrations.
    op.execute(
        "SELECT foreshard.create_edge('paris', 48.86, 2.35, role => 'edge_paris', if_not_exists => true)"
    )


def downgrade() -> None:
    # Drops the edge's replication slot too. The extension stays: other schemas may use it.
    op.execute("SELECT foreshard.drop_edge('paris', if_exists => true)")
    for function in ("home", "checkout"):
        op.execute(f"SELECT foreshard.unmap_function('{function}', if_exists => true)")
    for shard in ("cart", "offers", "products"):
        op.execute(f"SELECT foreshard.drop_shard('{shard}', if_exists => true)")
