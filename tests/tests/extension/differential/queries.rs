//! Shards that are queries over the random tables.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::kinds::Kind;
use super::schema::World;

/// Values of every parameter.
const VALUES: [&str; 6] = ["NULL", "0", "2", "7", "14", "20"];

/// `{parent}` and so on stand for tables, `$1` and `$2` for parameters, `{more}` for a column of the first table. The result has
/// `columns`, and then that one as `more`.
struct Form {
    text: &'static str,
    columns: &'static [&'static str],
    params: &'static [&'static str],
}

const FORMS: [Form; 11] = [
    Form {
        text: "SELECT p.id AS i, c.id AS j, {more} AS more FROM {parent} p LEFT JOIN {child} c ON c.parent = p.id WHERE p.id = $1",
        columns: &["i", "j"],
        params: &["p"],
    },
    Form {
        text: "SELECT count(*) AS n, max(c.id) AS j FROM {child} c WHERE c.parent IS NOT DISTINCT FROM $1",
        columns: &["n", "j"],
        params: &["p"],
    },
    Form {
        text: "SELECT q.id AS i, a.s AS j FROM {parts} q JOIN {audit} a ON a.k = q.id WHERE q.id = $1 AND a.s <> 'DELETE'",
        columns: &["i", "j"],
        params: &["p"],
    },
    Form {
        text: "SELECT c.id AS i, q.id AS j FROM {child} c JOIN {parts} q ON q.id = c.id WHERE c.parent = $1 AND q.id = $2",
        columns: &["i", "j"],
        params: &["p", "id"],
    },
    Form {
        text: "SELECT p.id AS i, {more} AS more FROM {parent} p WHERE p.id = $1 AND EXISTS (SELECT FROM {audit} a WHERE a.k = $2)",
        columns: &["i"],
        params: &["p", "k"],
    },
    Form { text: "SELECT count(*) AS n, sum(a.k) AS t FROM {audit} a", columns: &["n", "t"], params: &[] },
    Form {
        text: "SELECT l.id AS i, count(*) AS n FROM {loose} l WHERE l.id % 3 = 1 GROUP BY l.id",
        columns: &["i", "n"],
        params: &[],
    },
    Form {
        text: "WITH w AS (SELECT c.parent, count(*) AS n FROM {child} c GROUP BY c.parent) SELECT p.id AS i, w.n, {more} AS more FROM {parent} p LEFT JOIN w ON w.parent = p.id WHERE p.id = $1",
        columns: &["i", "n"],
        params: &["p"],
    },
    Form {
        text: "SELECT q.id AS i FROM {parts} q WHERE q.id = $1 UNION ALL SELECT l.id FROM {loose} l WHERE l.id = $1",
        columns: &["i"],
        params: &["p"],
    },
    Form {
        text: "SELECT c.id AS i FROM {child} c WHERE c.id = $1 AND c.parent NOT IN (SELECT q.id FROM {parts} q WHERE q.id < 8)",
        columns: &["i"],
        params: &["p"],
    },
    Form {
        text: "SELECT u.id AS i, u.n FROM (SELECT q.id, row_number() OVER (ORDER BY q.id) AS n FROM {parts} q) u WHERE u.id = $1",
        columns: &["i", "n"],
        params: &["p"],
    },
];

/// A query shard.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) name: String,
    form: usize,
    /// A column of the first table.
    more: usize,
}

impl Query {
    pub(super) fn random(name: String, world: &World, rng: &mut StdRng) -> Query {
        let columns: Vec<usize> = (0..world.tables[0].columns.len())
            .filter(|number| world.tables[0].columns[*number].kind != Kind::Id)
            .collect();
        let form = rng.random_range(0..FORMS.len());
        Query { name, form, more: *columns.choose(rng).unwrap_or(&0) }
    }

    pub(super) fn params(&self) -> &'static [&'static str] {
        FORMS[self.form].params
    }

    fn text(&self, world: &World) -> String {
        let column = world.tables[0].columns[self.more].quoted();
        let table = |number: usize| world.tables[number].name.as_str();
        FORMS[self.form]
            .text
            .replace("{more}", &format!("p.{column}"))
            .replace("{parent}", table(0))
            .replace("{child}", table(1))
            .replace("{parts}", table(2))
            .replace("{loose}", table(3))
            .replace("{audit}", table(4))
    }

    /// The call that defines it.
    pub(super) fn define(&self, world: &World) -> String {
        format!(
            "SELECT foreshard.create_query_shard('{}', $q${}$q$, '{{{}}}');",
            self.name,
            self.text(world),
            self.params().join(",")
        )
    }

    /// Its name, and an expression for what it must give: a list of `[key, row]` for every combination of a few values of its parameters.
    pub(super) fn state(&self, world: &World) -> String {
        let form = &FORMS[self.form];
        let mut query = self.text(world);
        let mut from = Vec::new();
        let mut key = Vec::new();
        for number in 0..form.params.len() {
            query = query.replace(&format!("${}", number + 1), &format!("values_{number}.v"));
            let values: Vec<String> = VALUES.iter().map(|value| format!("({value}::int)")).collect();
            from.push(format!("(VALUES {}) values_{number}(v), ", values.join(", ")));
            key.push(format!("values_{number}.v::text"));
        }
        let mut row: Vec<String> =
            form.columns.iter().map(|column| format!("to_json(q.{column}) #>> '{{}}'")).collect();
        if form.text.contains("{more}") {
            row.push(world.tables[0].columns[self.more].kind.text("q.more"));
        }
        format!(
            "'{}', (SELECT json_agg(json_build_array(json_build_array({}), json_build_array({}))) FROM {} LATERAL ({query}) q)",
            self.name,
            key.join(", "),
            row.join(", "),
            from.concat()
        )
    }
}
