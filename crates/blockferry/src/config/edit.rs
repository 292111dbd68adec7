//! Edit: a schedule's rules and default are changed in the text of a configuration file, and nothing
//! else is.
//!
//! Pure: text in, text out. Every comment is kept, in its order, also those of rules that go; rules that
//! stay are not touched, rules that change keep their place and their comments. Rules may be tables of
//! their own (`[[schedules.x.rule]]`) or a list (`rule = [{ ... }]`), the section may be written in any
//! way that TOML has. Whether the result means what was wanted the caller checks, with the parser that
//! reads the file.

use blockferry_node::rate::calendar::{Clock, Days, Rate, Rule, When};
use toml_edit::{
    Array, ArrayOfTables, Decor, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value,
};

/// Where a table stands among the headers of a file.
type Position = isize;

/// What becomes of the rules, in the order of the new list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The old rule with this number stays as it is.
    Keep(usize),
    /// An old rule becomes a new one.
    Change(usize, usize),
    /// An old rule goes.
    Drop(usize),
    /// A new rule comes.
    Add(usize),
}

/// What is changed in a schedule.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) name: &'a str,
    /// A new default; `None`: as it is.
    pub(super) default: Option<Rate>,
    /// The rules as the text has them.
    pub(super) old: &'a [Rule],
    pub(super) new: &'a [Rule],
}

/// The text with the change made; an error says in words why this can't be done.
pub(super) fn rewritten(text: &str, change: &Change<'_>) -> Result<String, String> {
    // Lines end as they did: what is written here ends them with a line feed only.
    let dos = text.contains("\r\n");
    let (mark, body) = text.strip_prefix('\u{feff}').map_or(("", text), |rest| ("\u{feff}", rest));
    let body = if dos { body.replace("\r\n", "\n") } else { body.to_owned() };
    let mut document: DocumentMut = body.parse().map_err(|error| format!("{error}"))?;
    let (section, inline) = section(&mut document, change.name)?;
    if let Some(rate) = change.default {
        set(section, "default", &rate.to_string());
    }
    let steps = steps(change.old, change.new);
    let left = match section.get_mut("rule") {
        None => add_all((section, inline), &steps, change).map(|()| Vec::new())?,
        Some(Item::ArrayOfTables(tables)) => in_tables(tables, &steps, change)?,
        Some(Item::Value(Value::Array(list))) => {
            in_list(list, &steps, change)?;
            Vec::new()
        }
        Some(_) => return Err(format!("schedules.{}.rule is no list of tables", change.name)),
    };
    // From the last to the first, so that they come to stand in their order.
    for (position, comments) in left.into_iter().rev() {
        place(&mut document, position, &comments);
    }
    let text = document.to_string();
    let text = if dos { text.replace('\n', "\r\n") } else { text };
    Ok(format!("{mark}{text}"))
}

/// A section, and whether it is written in braces, where no table of its own can follow.
type Section<'a> = (&'a mut dyn TableLike, bool);

fn section<'a>(document: &'a mut DocumentMut, name: &str) -> Result<Section<'a>, String> {
    let absent = || format!("schedules.{name} is not written there");
    let all = document.get_mut("schedules").and_then(Item::as_table_like_mut);
    let found = all.and_then(|all| all.get_mut(name)).ok_or_else(absent)?;
    let inline = found.is_value();
    found.as_table_like_mut().map(|section| (section, inline)).ok_or_else(absent)
}

/// How the old list becomes the new one with few steps: the longest common part stays.
fn steps(old: &[Rule], new: &[Rule]) -> Vec<Step> {
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut steps, mut i, mut j) = (Vec::new(), 0, 0);
    while i < old.len() || j < new.len() {
        // From here to the next rule that stays.
        let (from, upto) = (i, j);
        while i < old.len() && j < new.len() && old[i] != new[j] {
            if common[i + 1][j] >= common[i][j + 1] { i += 1 } else { j += 1 }
        }
        if i >= old.len() || j >= new.len() {
            (i, j) = (old.len(), new.len());
        }
        gap(&mut steps, (old, from..i), (new, upto..j));
        if i < old.len() {
            steps.push(Step::Keep(i));
            (i, j) = (i + 1, j + 1);
        }
    }
    steps
}

type Part<'a> = (&'a [Rule], std::ops::Range<usize>);

fn gap(steps: &mut Vec<Step>, (old, mut goes): Part<'_>, (new, mut comes): Part<'_>) {
    loop {
        match (goes.next(), comes.next()) {
            (Some(i), Some(j)) if may_become(&old[i], &new[j]) => steps.push(Step::Change(i, j)),
            (Some(i), Some(j)) => steps.extend([Step::Drop(i), Step::Add(j)]),
            (Some(i), None) => steps.push(Step::Drop(i)),
            (None, Some(j)) => steps.push(Step::Add(j)),
            (None, None) => return,
        }
    }
}

/// Whether one becomes the other by other values, without a key that goes.
fn may_become(old: &Rule, new: &Rule) -> bool {
    let same = match (&old.when, &new.when) {
        (When::Often { dates: one, .. }, When::Often { dates: other, .. }) => one == other,
        (When::Once(one), When::Once(other)) => one == other,
        _ => false,
    };
    same && old.polite == new.polite
}

/// Days, from and to as they are always right, and the rate.
fn texts(rule: &Rule) -> Vec<(&'static str, String)> {
    let mut texts = Vec::new();
    if let When::Often { days, from, to, .. } = &rule.when {
        let to = if *to == Clock::MIDNIGHT { "24:00".to_owned() } else { to.to_string() };
        texts.extend([("days", days.to_string()), ("from", from.to_string()), ("to", to)]);
    }
    texts.push(("rate", rule.rate.to_string()));
    texts
}

/// Gives a rule that is written somewhere other values.
fn adjust(table: &mut dyn TableLike, old: &Rule, new: &Rule) {
    for ((key, before), (_, after)) in texts(old).into_iter().zip(texts(new)) {
        if before != after {
            set(table, key, &after);
        }
    }
}

/// A value, with what is written around the one before.
fn set(table: &mut dyn TableLike, key: &str, text: &str) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(value) => {
            let decor = value.decor().clone();
            *value = Value::from(text);
            *value.decor_mut() = decor;
        }
        None => drop(table.insert(key, toml_edit::value(text))),
    }
}

/// The keys of a new rule: what is as without it is left out.
fn keys(rule: &Rule) -> Vec<(&'static str, Value)> {
    let list = |texts: Vec<String>| Value::Array(texts.into_iter().collect());
    let mut keys: Vec<(&'static str, Value)> = Vec::new();
    match &rule.when {
        When::Often { days, dates, from, to } => {
            if *days != Days::ALL {
                keys.push(("days", days.to_string().into()));
            }
            if !dates.is_empty() {
                keys.push(("dates", list(dates.iter().map(ToString::to_string).collect())));
            }
            let midnight = |clock: &Clock| clock.seconds() % 86_400 == 0;
            if !midnight(from) || !midnight(to) {
                keys.push(("from", from.to_string().into()));
                let to = if midnight(to) { "24:00".to_owned() } else { to.to_string() };
                keys.push(("to", to.into()));
            }
        }
        When::Once(windows) => {
            keys.push(("once", list(windows.iter().map(ToString::to_string).collect())));
        }
    }
    keys.push(("rate", rule.rate.to_string().into()));
    keys.extend(rule.polite.map(|polite| ("polite", polite.into())));
    keys
}

fn new_table(rule: &Rule) -> Table {
    let mut table = Table::new();
    for (key, value) in keys(rule) {
        table.insert(key, Item::Value(value));
    }
    table
}

fn new_inline(rule: &Rule) -> InlineTable {
    let mut table = InlineTable::new();
    for (key, value) in keys(rule) {
        table.insert(key, value);
    }
    table
}

/// The rules of a section that has none.
fn add_all(
    (section, inline): Section<'_>,
    steps: &[Step],
    change: &Change<'_>,
) -> Result<(), String> {
    if !change.old.is_empty() {
        return Err(format!("the rules of schedules.{} are not written there", change.name));
    }
    let added = || {
        steps.iter().filter_map(|step| match step {
            Step::Add(j) => Some(&change.new[*j]),
            _ => None,
        })
    };
    if added().next().is_none() {
        return Ok(());
    }
    let rules = match inline {
        true => Item::Value(Value::Array(added().map(new_inline).collect())),
        false => Item::ArrayOfTables(added().map(new_table).collect::<ArrayOfTables>()),
    };
    section.insert("rule", rules);
    Ok(())
}

/// Comments that must find a place, and after which table they stood.
type Left = Vec<(Option<Position>, Vec<String>)>;

/// Rules that are tables of their own.
fn in_tables(
    tables: &mut ArrayOfTables,
    steps: &[Step],
    change: &Change<'_>,
) -> Result<Left, String> {
    let old: Vec<Table> = tables.iter().cloned().collect();
    counted(old.len(), change)?;
    let (mut new, mut left) = (ArrayOfTables::new(), Left::new());
    for step in steps {
        match *step {
            Step::Keep(i) => new.push(old[i].clone()),
            Step::Change(i, j) => {
                let mut table = old[i].clone();
                adjust(&mut table, &change.old[i], &change.new[j]);
                new.push(table);
            }
            Step::Add(j) => new.push(new_table(&change.new[j])),
            Step::Drop(i) => {
                let mut comments = Vec::new();
                of_decor(old[i].decor(), &mut comments);
                of_keys(&old[i], &mut comments);
                if !comments.is_empty() {
                    left.push((old[i].position(), comments));
                }
            }
        }
    }
    *tables = new;
    Ok(left)
}

/// Rules in a list.
fn in_list(list: &mut Array, steps: &[Step], change: &Change<'_>) -> Result<(), String> {
    counted(list.len(), change)?;
    let old: Vec<Value> = list.iter().cloned().collect();
    let many = old.iter().find_map(|value| {
        let prefix = text_of(value.decor().prefix());
        prefix.contains('\n').then(|| prefix.rsplit('\n').next().unwrap_or_default().to_owned())
    });
    let mut waiting: Vec<String> = Vec::new();
    let mut new = Vec::new();
    for step in steps {
        let mut value = match *step {
            Step::Keep(i) => old[i].clone(),
            Step::Change(i, j) => {
                let mut value = old[i].clone();
                let table = value.as_inline_table_mut();
                let table = table.ok_or_else(|| "a rule that is no table".to_owned())?;
                adjust(table, &change.old[i], &change.new[j]);
                value
            }
            Step::Add(j) => {
                let mut value = Value::InlineTable(new_inline(&change.new[j]));
                let prefix = match &many {
                    Some(indent) => format!("\n{indent}"),
                    None if new.is_empty() => String::new(),
                    None => " ".to_owned(),
                };
                *value.decor_mut() = Decor::new(prefix, "");
                value
            }
            Step::Drop(i) => {
                of_value(&old[i], &mut waiting);
                continue;
            }
        };
        if !waiting.is_empty() {
            let prefix = lines_before(&waiting, &text_of(value.decor().prefix()));
            value.decor_mut().set_prefix(prefix);
            waiting.clear();
        }
        new.push(value);
    }
    if !waiting.is_empty() {
        let trailing = lines_before(&waiting, list.trailing().as_str().unwrap_or_default());
        list.set_trailing(trailing);
    }
    list.clear();
    new.into_iter().for_each(|value| list.push_formatted(value));
    Ok(())
}

/// The text that the rules were read from is the one that is edited.
fn counted(there: usize, change: &Change<'_>) -> Result<(), String> {
    if there == change.old.len() {
        return Ok(());
    }
    Err(format!("schedules.{} has {there} rules there, not {}", change.name, change.old.len()))
}

fn text_of(raw: Option<&RawString>) -> String {
    raw.and_then(RawString::as_str).unwrap_or_default().to_owned()
}

/// Comments on lines of their own, and then what was there.
fn lines_before(comments: &[String], then: &str) -> String {
    let lines: String = comments.iter().map(|comment| format!("\n    {comment}")).collect();
    if then.starts_with('\n') { format!("{lines}{then}") } else { format!("{lines}\n{then}") }
}

/// The comments around something. What else is there is white space.
fn of_decor(decor: &Decor, comments: &mut Vec<String>) {
    of_raw(&text_of(decor.prefix()), comments);
    of_raw(&text_of(decor.suffix()), comments);
}

fn of_raw(raw: &str, comments: &mut Vec<String>) {
    let lines = raw.lines().map(str::trim).filter(|line| line.starts_with('#'));
    comments.extend(lines.map(str::to_owned));
}

fn of_value(value: &Value, comments: &mut Vec<String>) {
    of_raw(&text_of(value.decor().prefix()), comments);
    match value {
        Value::Array(list) => {
            list.iter().for_each(|value| of_value(value, comments));
            of_raw(list.trailing().as_str().unwrap_or_default(), comments);
        }
        Value::InlineTable(table) => {
            of_keys(table, comments);
            of_raw(table.trailing().as_str().unwrap_or_default(), comments);
        }
        _ => {}
    }
    of_raw(&text_of(value.decor().suffix()), comments);
}

fn of_keys(table: &dyn TableLike, comments: &mut Vec<String>) {
    for (name, item) in table.iter() {
        if let Some(key) = table.key(name) {
            of_decor(key.leaf_decor(), comments);
        }
        if let Some(value) = item.as_value() {
            of_value(value, comments);
        }
    }
}

/// Puts comments before the first table after a position, else at the end.
fn place(document: &mut DocumentMut, after: Option<Position>, comments: &[String]) {
    let lines = format!("\n{}\n", comments.join("\n"));
    let mut next = None;
    if let Some(after) = after {
        first_after(document.as_table(), after, &mut next);
    }
    let table = next.and_then(|position| table_at(document.as_table_mut(), position));
    if let Some(table) = table {
        let prefix = format!("{lines}{}", text_of(table.decor().prefix()));
        table.decor_mut().set_prefix(prefix);
    } else {
        let trailing = format!("{lines}{}", document.trailing().as_str().unwrap_or_default());
        document.set_trailing(trailing);
    }
}

/// The tables directly below one.
fn children(table: &Table) -> Vec<&Table> {
    let below = |item: &'_ Item| -> bool { item.is_table() || item.is_array_of_tables() };
    let items = table.iter().map(|(_, item)| item).filter(|item| below(item));
    items
        .flat_map(|item| match item {
            Item::Table(table) => vec![table],
            Item::ArrayOfTables(tables) => tables.iter().collect(),
            _ => Vec::new(),
        })
        .collect()
}

fn first_after(table: &Table, after: Position, next: &mut Option<Position>) {
    let shown = !table.is_dotted() && !table.is_implicit();
    if let Some(position) = table.position().filter(|position| shown && *position > after)
        && next.is_none_or(|next| position < next)
    {
        *next = Some(position);
    }
    children(table).into_iter().for_each(|table| first_after(table, after, next));
}

fn table_at(table: &mut Table, position: Position) -> Option<&mut Table> {
    if table.position() == Some(position) && !table.is_dotted() && !table.is_implicit() {
        return Some(table);
    }
    for (_, item) in table.iter_mut() {
        let found = match item {
            Item::Table(table) => table_at(table, position),
            Item::ArrayOfTables(tables) => {
                tables.iter_mut().find_map(|table| table_at(table, position))
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests;
