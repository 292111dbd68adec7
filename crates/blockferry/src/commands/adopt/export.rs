//! Reads what PowerShell wrote about DFS-R: the text of `Format-List`, or `Export-Clixml`'s XML. Both
//! become records of names with values; what nobody asks for is carried along. Bad input is an error
//! with what is wrong, never a panic, and nothing is allocated by a number in it.

use std::collections::BTreeMap;

/// Longest file that is read, in bytes.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most records of one file.
const RECORDS_MAX: usize = 4096;

/// One object: its properties, each with one value or more.
pub(super) type Record = BTreeMap<String, Vec<String>>;

/// Reads a file: UTF-8 or, as PowerShell's `>` writes it, UTF-16 with a mark.
pub(super) fn records(bytes: &[u8]) -> Result<Vec<Record>, String> {
    let text = text(bytes)?;
    let records =
        if text.trim_start().starts_with('<') { of_clixml(&text)? } else { of_list(&text)? };
    match records.is_empty() {
        true => Err("no objects: neither a list (Format-List) nor Export-Clixml's XML".to_owned()),
        false => Ok(records),
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    let wide = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, odd) = rest.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
        match String::from_utf16(&units) {
            Ok(text) if odd.is_empty() => Ok(text),
            _ => Err("not UTF-16, though it begins as such".to_owned()),
        }
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, |[high, low]| u16::from_le_bytes([low, high])),
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(rest),
        rest => utf8(rest),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "neither UTF-8 nor UTF-16".to_owned())
}

/// `Name : value`, lines that go on with the value, and blank lines between objects.
fn of_list(text: &str) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    let mut record = BTreeMap::<String, String>::new();
    let mut last = None;
    for line in text.lines().map(str::trim_end).chain([""]) {
        if line.trim().is_empty() {
            if !record.is_empty() {
                let done = std::mem::take(&mut record);
                records.push(done.into_iter().map(|(name, value)| (name, list(&value))).collect());
                if records.len() > RECORDS_MAX {
                    return Err(format!("more than {RECORDS_MAX} objects"));
                }
            }
            last = None;
            continue;
        }
        let named = line.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
        let plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match (named, &last) {
            (Some((name, value)), _) if plain(name) && !line.starts_with(' ') => {
                record.insert(name.to_owned(), value.to_owned());
                last = Some(name.to_owned());
            }
            // A long value goes on where the first line of it began.
            (_, Some(name)) => {
                let value = record.entry(name.clone()).or_default();
                value.push_str(line.trim());
            }
            (_, None) => {}
        }
    }
    Ok(records)
}

/// `{~*, *.bak, *.tmp}` is three values, everything else one; an empty one is none.
fn list(value: &str) -> Vec<String> {
    let inner = value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    match inner {
        Some(inner) => split(inner),
        None if value.is_empty() => Vec::new(),
        None => vec![value.to_owned()],
    }
}

/// At commas: a filter can't hold one.
pub(super) fn split(value: &str) -> Vec<String> {
    let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// Objects below `Objs`: what has a name (`N`) is a property, what has none inside one is one value
/// more of it.
fn of_clixml(text: &str) -> Result<Vec<Record>, String> {
    let mut records: Vec<Record> = Vec::new();
    // Of each open element the property that it is, or is inside of.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        let end = tag.find('>').ok_or("XML that ends inside a tag")?;
        let inner = tag.get(1..end).unwrap_or_default();
        rest = tag.get(end + 1..).unwrap_or_default();
        if inner.starts_with(['?', '!']) {
            continue;
        }
        if let Some(_closed) = inner.strip_prefix('/') {
            let property = open.pop().ok_or("XML that closes what it didn't open")?;
            if let (Some(property), Some(record)) = (property, records.last_mut())
                && !before.trim().is_empty()
            {
                record.entry(property).or_default().push(plain(before.trim()));
            }
            continue;
        }
        let name = inner.split([' ', '/', '\t', '\r', '\n']).next().unwrap_or_default();
        let property = attribute(inner, "N").or_else(|| open.last().cloned().flatten());
        if name == "Obj" && property.is_none() {
            records.push(Record::new());
        }
        if records.len() > RECORDS_MAX || open.len() > RECORDS_MAX {
            return Err(format!("more than {RECORDS_MAX} objects"));
        }
        // Names of types are no values.
        let property =
            if matches!(name, "T" | "TN" | "TNRef" | "ToString") { None } else { property };
        if !inner.ends_with('/') {
            open.push(property);
        }
    }
    match open.is_empty() {
        true => Ok(records.into_iter().filter(|record| !record.is_empty()).collect()),
        false => Err("XML that ends before its elements do".to_owned()),
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, next) = after.get(1..)?.split_once(quote)?;
        if before.split_whitespace().last() == Some(name) {
            return Some(plain(value));
        }
        rest = next;
    }
    None
}

/// Text without XML's entities and PowerShell's `_x000A_`.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['&', '_']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (replaced, bytes) = entity(from).unwrap_or((from.chars().next(), 1));
        out.extend(replaced);
        rest = from.get(bytes..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The character that is written here, and the bytes that it takes.
fn entity(from: &str) -> Option<(Option<char>, usize)> {
    if let Some(code) = from.strip_prefix("_x").and_then(|rest| rest.get(..4)) {
        let closed = from.as_bytes().get(6) == Some(&b'_');
        let value = u32::from_str_radix(code, 16).ok().filter(|_| closed)?;
        return Some((char::from_u32(value), 7));
    }
    let (name, _) = from.strip_prefix('&')?.split_once(';')?;
    let c = match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = name.strip_prefix('#')?;
            let value = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(value)?
        }
    };
    Some((Some(c), name.len() + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\r\nGroupName  : RG 24\r\nUseUTC     : False\r\n\
        BandwidthDetail : FFFF\r\n                  0000\r\n\r\n\
        FolderName : vDisks\r\nFileNameToExclude : {~*, *.bak, *.tmp}\r\n\
        DirectoryNameToExclude : {}\r\nContentPath : D:\\vDisks\r\n";

    #[test]
    fn lists_as_powershell_prints_them() {
        let utf16: Vec<u8> = [0xFF, 0xFE]
            .into_iter()
            .chain(LIST.encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        for bytes in [LIST.as_bytes().to_vec(), utf16] {
            let records = records(&bytes).unwrap();
            assert_eq!(records.len(), 2);
            assert_eq!(records[0]["GroupName"], ["RG 24"]);
            assert_eq!(records[0]["BandwidthDetail"], ["FFFF0000"]);
            assert_eq!(records[1]["FileNameToExclude"], ["~*", "*.bak", "*.tmp"]);
            assert_eq!(records[1]["DirectoryNameToExclude"], [""; 0]);
            assert_eq!(records[1]["ContentPath"], ["D:\\vDisks"]);
        }
    }

    #[test]
    fn clixml() {
        let xml = r#"<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">
            <Obj RefId="0"><TN RefId="0"><T>Microsoft.Dfsr</T></TN><ToString>x</ToString><Props>
              <S N="FolderName">v&amp;Disks_x0020_1</S><B N="ReadOnly">true</B>
              <Obj N="FileNameToExclude" RefId="1"><TNRef RefId="1" /><LST><S>~*</S><S>*.bak</S></LST></Obj>
              <Nil N="Description" />
            </Props></Obj></Objs>"#;
        let records = records(xml.as_bytes()).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["FolderName"], ["v&Disks 1"]);
        assert_eq!(records[0]["ReadOnly"], ["true"]);
        assert_eq!(records[0]["FileNameToExclude"], ["~*", "*.bak"]);
        assert!(!records[0].contains_key("Description"));
    }

    #[test]
    fn what_is_neither_is_refused_and_every_cut_is_survived() {
        for bad in
            [&b""[..], b"\n\n", b"\xff", b"\xff\xfe\x00", b"<", b"<a>", b"</a>", b"<Objs></Objs>"]
        {
            assert!(records(bad).is_err(), "{bad:?}");
        }
        let xml = "<Objs><Obj><S N=\"a\">b &#x41; &lt; _x0041_ _x00 &nope</S></Obj></Objs>";
        assert_eq!(records(xml.as_bytes()).unwrap()[0]["a"], ["b A < A _x00 &nope"]);
        for text in [LIST, xml] {
            for end in 0..text.len() {
                // Whatever comes of it, it comes.
                let _ = records(text.as_bytes().get(..end).unwrap_or_default());
            }
        }
        let deep = "<a>".repeat(10_000);
        assert!(records(deep.as_bytes()).is_err());
    }
}
