//! `qemu-img info` as the oracle: for every kind and option of image that it makes, the header reads
//! the same. Skipped where there is no `qemu-img`.

use std::path::Path;
use std::process::Command;

use blockferry_delta::{Format, Header, Unclean, read_header};
use serde_json::Value;

use crate::disks::{Vhd, VhdKind, Vhdx};

fn run(dir: &Path, args: &[&str]) -> Result<String, String> {
    let command = Command::new("qemu-img").args(args).current_dir(dir).output();
    let output = command.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn is_there() -> bool {
    let there = run(Path::new("/"), &["--version"]).is_ok();
    if !there {
        eprintln!("skipped: there is no qemu-img");
    }
    there
}

fn info(dir: &Path, format: &str, name: &str) -> Value {
    let text = run(dir, &["info", "--output=json", "-f", format, name]);
    let text = text.unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&text).expect("JSON")
}

/// Reads the header of an image and compares it with what qemu-img says of it.
fn agree(dir: &Path, format: &str, name: &str) -> Header {
    let bytes = std::fs::read(dir.join(name)).expect("reads");
    let header = read_header(bytes.as_slice()).expect("a good header").expect("a known format");
    let said = info(dir, format, name);
    let known = match header.format {
        Format::Vhd => "vpc",
        Format::Vhdx => "vhdx",
        Format::Qcow2 => "qcow2",
    };
    assert_eq!(said["format"], known, "{name}");
    assert_eq!(said["virtual-size"], header.virtual_bytes, "{name}");
    let backing = header.parent.as_ref().map(|parent| parent.locators[0].path.as_str());
    assert_eq!(said["backing-filename"].as_str(), backing, "{name}");
    let as_format = header.parent.as_ref().and_then(|parent| parent.format.as_deref());
    assert_eq!(said["backing-filename-format"].as_str(), as_format, "{name}");
    let details = &said["format-specific"]["data"];
    assert_eq!(details["data-file"].as_str(), header.data_file.as_deref(), "{name}");
    let corrupt = details["corrupt"].as_bool().unwrap_or(false);
    assert_eq!(corrupt, header.unclean == Some(Unclean::Corrupt), "{name}");
    if header.format == Format::Qcow2 && !corrupt {
        let dirty = said["dirty-flag"].as_bool().unwrap_or(false);
        assert_eq!(dirty, header.unclean == Some(Unclean::Dirty), "{name}");
    }
    header
}

/// (format, options, size) of what is made.
fn kinds() -> Vec<(&'static str, String, &'static str)> {
    let mut kinds = Vec::new();
    for size in ["1M", "100M", "5G", "2040G"] {
        for more in ["", ",force_size=on"] {
            kinds.push(("vpc", format!("subformat=dynamic{more}"), size));
            kinds.push(("vhdx", "subformat=dynamic".to_owned(), size));
            kinds.push(("qcow2", "compat=0.10".to_owned(), size));
        }
    }
    for size in ["1M", "3333K"] {
        kinds.push(("vpc", "subformat=fixed".to_owned(), size));
        kinds.push(("vpc", "subformat=fixed,force_size=on".to_owned(), size));
        kinds.push(("vhdx", "subformat=fixed".to_owned(), size));
    }
    for options in
        ["block_size=1M", "block_size=256M", "log_size=1M", "log_size=8M", "block_state_zero=off"]
    {
        kinds.push(("vhdx", options.to_owned(), "1G"));
    }
    for options in [
        "compat=1.1",
        "lazy_refcounts=on",
        "cluster_size=512",
        "cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=64",
        "compression_type=zstd",
        "extended_l2=on",
        "preallocation=metadata",
        "compat=0.10,cluster_size=4096",
        "data_file=outside.data",
        "data_file=raw.data,data_file_raw=on",
    ] {
        kinds.push(("qcow2", options.to_owned(), "64M"));
    }
    kinds
}

#[test]
fn what_qemu_makes_reads_as_qemu_reads_it() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (mut agreed, mut refused) = (0, Vec::new());
    for (number, (format, options, size)) in kinds().into_iter().enumerate() {
        let name = format!("{number}.{format}");
        match run(dir.path(), &["create", "-q", "-f", format, "-o", &options, &name, size]) {
            Ok(_) => {
                let header = agree(dir.path(), format, &name);
                assert_eq!((header.parent, header.unclean), (None, None), "{name}");
                agreed += 1;
            }
            Err(error) => refused.push(format!("{format} {options} {size}: {}", error.trim())),
        }
        std::fs::remove_file(dir.path().join(&name)).ok();
    }
    eprintln!("qemu-img: {agreed} images agree; it refused to make {refused:?}");
    assert!(agreed >= 40, "only {agreed}: {refused:?}");
}

#[test]
fn chains_data_and_damage() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    let make = |args: &[&str]| run(at, args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    make(&["create", "-q", "-f", "raw", "base.raw", "9M"]);
    make(&["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "one.qcow2"]);
    let absolute = at.join("one.qcow2").display().to_string();
    let options = ["-b", &absolute, "-F", "qcow2", "two.qcow2"];
    make(&[&["create", "-q", "-f", "qcow2", "-o", "compat=0.10"], &options[..]].concat());
    for name in ["one.qcow2", "two.qcow2"] {
        assert!(agree(at, "qcow2", name).parent.is_some(), "{name}");
    }
    // With data in them, as a guest leaves them.
    std::fs::write(at.join("base.raw"), vec![7; 9 << 20]).expect("writes");
    for (format, options) in [
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed"),
        ("vhdx", "subformat=dynamic"),
        ("vhdx", "subformat=fixed"),
        ("qcow2", "compat=1.1"),
    ] {
        let name = format!("data-{}.{format}", options.len());
        make(&["convert", "-f", "raw", "-O", format, "-o", options, "base.raw", &name]);
        assert_eq!(agree(at, format, &name).unclean, None, "{name}");
    }
    // The bits that qemu sets while an image is open, or when it finds it broken.
    for (bit, unclean) in [(1, Unclean::Dirty), (2, Unclean::Corrupt)] {
        let mut bytes = std::fs::read(at.join("one.qcow2")).expect("reads");
        bytes[79] |= bit;
        std::fs::write(at.join("bit.qcow2"), bytes).expect("writes");
        assert_eq!(agree(at, "qcow2", "bit.qcow2").unclean, Some(unclean));
    }
}

/// qemu reads what our generator writes: so its differencing disks aren't only our own idea.
#[test]
fn qemu_reads_what_the_generator_writes() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: Vec<u8>| {
        std::fs::write(dir.path().join(name), bytes).expect("writes");
    };
    write("dynamic.vhd", Vhd::new(VhdKind::Dynamic, 1).bytes());
    write("fixed.vhd", Vhd::new(VhdKind::Fixed, 1).bytes());
    write("disk.vhdx", Vhdx::new(1).bytes());
    for (format, name) in [("vpc", "dynamic.vhd"), ("vpc", "fixed.vhd"), ("vhdx", "disk.vhdx")] {
        agree(dir.path(), format, name);
    }
}
