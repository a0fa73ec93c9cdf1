CREATE SCHEMA shop;
CREATE TABLE shop.product (id bigint PRIMARY KEY, name text NOT NULL, price numeric(10, 2) NOT NULL, discount int NOT NULL DEFAULT 0);
CREATE TABLE shop.cart_line (
    customer_id bigint NOT NULL,
    product_id  bigint NOT NULL REFERENCES shop.product,
    quantity    int NOT NULL,
    PRIMARY KEY (customer_id, product_id)
);
