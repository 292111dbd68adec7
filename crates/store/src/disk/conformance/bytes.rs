//! The checks about content: bytes, holes, clones, copies and the catalog's storage.

use std::io::{self, ErrorKind};

use redb::{Database, StorageBackend, TableDefinition};

use super::{get, kind_of, pattern, put};
use crate::disk::{AlignedBuf, Disk, Open, probe_clone};

pub(super) fn reads_what_was_written(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    let file = put(disk, "rw", b"hello")?;
    let before = file.stat()?;
    file.write_at(b"J", 0)?;
    file.write_at(b"far", 10_000)?;
    let mut buf = [9; 8];
    assert_eq!(file.read_at(&mut buf, 10_000)?, 3);
    assert_eq!(file.read_at(&mut buf, 10_003)?, 0);
    assert_eq!(file.read_at(&mut buf, u64::from(u32::MAX))?, 0);
    assert_eq!(kind_of(file.read_exact_at(&mut buf, 9_999)), ErrorKind::UnexpectedEof);
    file.read_exact_at(&mut buf, 0)?;
    assert_eq!(&buf, b"Jello\0\0\0");
    file.sync()?;
    let after = file.stat()?;
    assert_eq!((after.inode, after.device), (before.inode, before.device));
    assert!(after.ctime_ns >= before.ctime_ns && after.mtime_ns >= before.mtime_ns);
    file.set_len(3)?;
    file.set_len(6)?;
    assert_eq!(get(disk, "rw")?, b"Jel\0\0\0");
    file.write_at(&[], 99)?;
    assert_eq!(file.stat()?.size_bytes, 6);
    file.sync()
}

pub(super) fn bulk_is_the_same_bytes(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    let content = pattern(3 * (1 << 20) + 777, 1);
    let file = disk.open("bulk", Open::CreateNew)?;
    for (i, part) in content.chunks(1 << 20).enumerate() {
        file.write_bulk_at(part, (i as u64) << 20)?;
    }
    file.sync()?;
    let reader = disk.open("bulk", Open::Read)?;
    let mut buf = AlignedBuf::with_capacity(1 << 20);
    // Twice: cold or warm, the bytes and lengths are the same.
    for _ in 0..2 {
        for (offset, bytes) in
            [(0, 1 << 20), (4096, 5000), (7, 9000), (3 << 20, 1 << 20), (0, 0), (2 << 20, 1)]
        {
            let expected = &content[offset..(offset + bytes).min(content.len())];
            let done = reader.read_bulk_at(&mut buf, offset as u64, bytes)?;
            assert_eq!(done, expected.len(), "length at {offset}");
            assert!(&buf[..] == expected, "bytes at {offset}");
        }
        assert_eq!(reader.read_bulk_at(&mut buf, 9 << 20, 4096)?, 0);
        assert!(buf.is_empty());
    }
    let too_many = reader.read_bulk_at(&mut buf, 0, (1 << 20) + 1);
    assert_eq!(kind_of(too_many), ErrorKind::InvalidInput);
    // What was written through another handle is seen at once.
    file.write_at(b"fresh", 4096)?;
    reader.read_bulk_at(&mut buf, 4096, 8192)?;
    assert_eq!(&buf[..5], b"fresh");
    Ok(())
}

pub(super) fn holes_are_made_and_found(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    const STEP: u64 = 256 << 10;
    let file = disk.open("holes", Open::CreateNew)?;
    file.set_len(8 * STEP)?;
    assert_eq!(file.next_data(0)?, None);
    assert_eq!(file.stat()?.allocated_bytes, 0);
    file.write_at(&pattern(STEP as usize, 2), 2 * STEP)?;
    file.write_at(&pattern(STEP as usize, 3), 5 * STEP)?;
    file.sync()?;
    assert_eq!(file.next_data(0)?, Some((2 * STEP, 3 * STEP)));
    assert_eq!(file.next_data(2 * STEP + 4096)?, Some((2 * STEP + 4096, 3 * STEP)));
    assert_eq!(file.next_data(3 * STEP)?, Some((5 * STEP, 6 * STEP)));
    assert_eq!(file.next_data(6 * STEP)?, None);
    assert_eq!(file.next_data(99 * STEP)?, None);
    let before = file.stat()?.allocated_bytes;
    assert!((2 * STEP..3 * STEP).contains(&before), "{before} bytes for two steps");
    file.punch(2 * STEP, STEP)?;
    file.sync()?;
    assert_eq!(file.next_data(0)?, Some((5 * STEP, 6 * STEP)));
    assert!(file.stat()?.allocated_bytes < before);
    // Ragged ends are zeroed, the length stays.
    file.punch(5 * STEP + 100, 50)?;
    file.punch(7 * STEP, 9 * STEP)?;
    file.punch(0, 0)?;
    let mut expected = pattern(STEP as usize, 3);
    expected[100..150].fill(0);
    let mut found = vec![1; STEP as usize];
    file.read_exact_at(&mut found, 5 * STEP)?;
    assert!(found == expected);
    assert_eq!(file.stat()?.size_bytes, 8 * STEP);
    // The data ends inside a page and at the end of the file.
    file.set_len(5 * STEP + 10)?;
    assert_eq!(file.next_data(0)?, Some((5 * STEP, 5 * STEP + 10)));
    Ok(())
}

pub(super) fn clones_truly_or_not_at_all(
    disk: &dyn Disk,
    skipped: &mut Vec<String>,
) -> io::Result<()> {
    disk.make_dir("c")?;
    let content = pattern(300_000, 4);
    let source = put(disk, "c/source", &content)?;
    source.sync()?;
    put(disk, "c/empty", b"")?;
    assert!(!disk.clone_file("c/empty", "c/copy")?, "an empty clone proves nothing");
    assert_eq!(disk.stat("c/copy")?, None);
    assert_eq!(kind_of(disk.clone_file("c/none", "c/copy")), ErrorKind::NotFound);
    assert_eq!(kind_of(disk.clone_file("c/source", "c/empty")), ErrorKind::AlreadyExists);
    let works = probe_clone(disk, "c")?;
    assert_eq!(disk.list("c")?.len(), 2, "a probe leaves nothing");
    assert_eq!(disk.clone_file("c/source", "c/copy")?, works);
    if !works {
        assert_eq!(disk.stat("c/copy")?, None);
        skipped.push("clones: this filesystem has none".to_owned());
        return Ok(());
    }
    assert!(get(disk, "c/copy")? == content);
    disk.open("c/copy", Open::ReadWrite)?.write_at(b"changed", 5000)?;
    assert!(get(disk, "c/source")? == content, "a clone is independent");
    source.write_at(b"CHANGED", 200_000)?;
    let mut expected = content;
    expected[5000..5007].copy_from_slice(b"changed");
    assert!(get(disk, "c/copy")? == expected);
    Ok(())
}

pub(super) fn copies_extents(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    let content = pattern(2_000_000, 5);
    put(disk, "from", &content)?.sync()?;
    let target = put(disk, "to", &[7; 100])?;
    target.set_len(2_000_000)?;
    disk.copy_extents("from", "to", &[(4096, 70_000), (1_500_000, 500_000), (10, 5), (9, 0)])?;
    let mut expected = vec![0; 2_000_000];
    expected[..100].fill(7);
    for range in [4096..74_096, 1_500_000..2_000_000, 10..15] {
        expected[range.clone()].copy_from_slice(&content[range]);
    }
    assert!(get(disk, "to")? == expected);
    let beyond = disk.copy_extents("from", "to", &[(1_999_999, 2)]);
    assert_eq!(kind_of(beyond), ErrorKind::UnexpectedEof);
    let overflow = disk.copy_extents("from", "to", &[(u64::MAX, 2)]);
    assert_eq!(kind_of(overflow), ErrorKind::InvalidInput);
    assert_eq!(kind_of(disk.copy_extents("from", "none", &[])), ErrorKind::NotFound);
    Ok(())
}

pub(super) fn holds_a_catalog(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("t");
    let open = || -> io::Result<Database> {
        Database::builder().create_with_backend(disk.backend("redb")?).map_err(io::Error::other)
    };
    let write = |db: &Database, key: u64| -> Result<(), redb::Error> {
        let txn = db.begin_write()?;
        txn.open_table(TABLE)?.insert(key, [key as u8; 900].as_slice())?;
        Ok(txn.commit()?)
    };
    let count = |db: &Database| -> Result<u64, redb::Error> {
        use redb::{ReadableDatabase, ReadableTableMetadata};
        Ok(db.begin_read()?.open_table(TABLE)?.len()?)
    };
    let db = open()?;
    assert_eq!(kind_of(disk.backend("redb")), ErrorKind::WouldBlock);
    for key in 0..20 {
        write(&db, key).map_err(io::Error::other)?;
    }
    drop(db);
    let db = open()?;
    assert_eq!(count(&db).map_err(io::Error::other)?, 20);
    drop(db);
    // Locked while the backend lives, whether or not redb has it.
    let backend = disk.backend("redb")?;
    assert_eq!(kind_of(disk.backend("redb")), ErrorKind::WouldBlock);
    assert!(backend.len()? > 0);
    drop(backend);
    disk.backend("redb").map(drop)
}
