"""Tables of the shop."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE SCHEMA shop")
    op.execute(
        "CREATE TABLE shop.product (id bigint PRIMARY KEY, name text NOT NULL,"
        " price numeric(10, 2) NOT NULL, discount int NOT NULL DEFAULT 0)"
    )
    op.execute(
        "CREATE TABLE shop.cart_line (customer_id bigint NOT NULL, product_id bigint NOT NULL REFERENCES shop.product,"
        " quantity int NOT NULL, PRIMARY KEY (customer_id, product_id))"
    )


def downgrade() -> None:
    op.execute("DROP SCHEMA shop CASCADE")
