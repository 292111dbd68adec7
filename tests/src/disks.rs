//! Small disk images written from the specifications of VHD, VHDX and qcow2: what no tool here can
//! make above all, differencing disks with their parent locators. They hold headers and no data.
//!
//! Std only and self-contained: other packages' tests take this file by its path.

/// The kinds of VHD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VhdKind {
    /// The data and a footer.
    Fixed,
    /// A table of blocks.
    Dynamic,
    /// The same over a parent.
    Differencing,
}

/// A VHD to be written.
#[derive(Clone, Debug)]
pub struct Vhd {
    /// Its kind.
    pub kind: VhdKind,
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Unique id.
    pub id: [u8; 16],
    /// The parent's unique id.
    pub parent_id: [u8; 16],
    /// When the parent was modified, in seconds since 2000.
    pub parent_time: u32,
    /// The parent's name.
    pub parent_name: String,
    /// (platform code, path) of up to eight locators.
    pub locators: Vec<([u8; 4], String)>,
}

impl Vhd {
    /// A disk without a parent.
    pub fn new(kind: VhdKind, id: u8) -> Self {
        Self {
            kind,
            size_bytes: 1 << 20,
            id: [id; 16],
            parent_id: [0; 16],
            parent_time: 0,
            parent_name: String::new(),
            locators: Vec::new(),
        }
    }

    /// A child of the disk with `parent`'s id in a file of this name beside it, last modified then.
    pub fn child(id: u8, parent: &Vhd, name: &str, parent_time: u32) -> Self {
        Self {
            parent_id: parent.id,
            parent_time,
            parent_name: name.to_owned(),
            locators: vec![
                (*b"W2ru", format!(".\\{name}")),
                (*b"W2ku", format!("D:\\vdisks\\{name}")),
            ],
            size_bytes: parent.size_bytes,
            ..Self::new(VhdKind::Differencing, id)
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        if self.kind == VhdKind::Fixed {
            let mut out = vec![0; self.size_bytes as usize];
            out.extend(self.footer(u64::MAX));
            return out;
        }
        // Footer copy, sparse header, table of one sector, a sector for each 512 bytes of locators.
        let mut out = self.footer(512);
        let (table, mut next) = (1536_u64, 2048_u64);
        let mut sparse = vec![0; 1024];
        put(&mut sparse, 0, b"cxsparse");
        put(&mut sparse, 8, &be(u64::MAX, 8));
        put(&mut sparse, 16, &be(table, 8));
        put(&mut sparse, 24, &be(0x1_0000, 4));
        put(&mut sparse, 28, &be(self.size_bytes.div_ceil(2 << 20), 4));
        put(&mut sparse, 32, &be(2 << 20, 4));
        let mut texts = Vec::new();
        if self.kind == VhdKind::Differencing {
            put(&mut sparse, 40, &self.parent_id);
            put(&mut sparse, 56, &be(u64::from(self.parent_time), 4));
            let name = self.parent_name.encode_utf16().flat_map(|u| be(u64::from(u), 2));
            put(&mut sparse, 64, &name.collect::<Vec<u8>>());
            for (number, (code, path)) in self.locators.iter().enumerate() {
                let text = if code == b"MacX" { path.clone().into_bytes() } else { utf16(path) };
                let (room, at) = (text.len().div_ceil(512) * 512, 576 + 24 * number);
                put(&mut sparse, at, code);
                put(&mut sparse, at + 4, &be(room as u64 / 512, 4));
                put(&mut sparse, at + 8, &be(text.len() as u64, 4));
                put(&mut sparse, at + 16, &be(next, 8));
                next += room as u64;
                texts.extend_from_slice(&text);
                texts.resize(texts.len().div_ceil(512) * 512, 0);
            }
        }
        vhd_checksum(&mut sparse, 36);
        out.extend(sparse);
        out.extend([0xFF; 512]);
        out.extend(texts);
        out.extend(self.footer(512));
        out
    }

    fn footer(&self, data_offset: u64) -> Vec<u8> {
        let mut out = vec![0; 512];
        put(&mut out, 0, b"conectix");
        put(&mut out, 8, &be(2, 4));
        put(&mut out, 12, &be(0x1_0000, 4));
        put(&mut out, 16, &be(data_offset, 8));
        put(&mut out, 28, b"win ");
        put(&mut out, 36, b"Wi2k");
        put(&mut out, 40, &be(self.size_bytes, 8));
        put(&mut out, 48, &be(self.size_bytes, 8));
        // 30 cylinders, 4 heads, 17 sectors: near enough, and read by nobody here.
        put(&mut out, 56, &[0, 30, 4, 17]);
        let kind = match self.kind {
            VhdKind::Fixed => 2,
            VhdKind::Dynamic => 3,
            VhdKind::Differencing => 4,
        };
        put(&mut out, 60, &be(kind, 4));
        put(&mut out, 68, &self.id);
        vhd_checksum(&mut out, 64);
        out
    }
}

/// Sets the checksum at `at` of a footer or sparse header.
pub fn vhd_checksum(structure: &mut [u8], at: usize) {
    put(structure, at, &[0; 4]);
    let sum = structure.iter().fold(0_u32, |n, byte| n.wrapping_add(u32::from(*byte)));
    put(structure, at, &be(u64::from(!sum), 4));
}

/// A VHDX to be written.
#[derive(Clone, Debug, Default)]
pub struct Vhdx {
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// DataWriteGuid.
    pub id: [u8; 16],
    /// LogGuid: zeros for an empty log.
    pub log_id: [u8; 16],
    /// Pairs of the parent locator; none: no parent.
    pub parent: Vec<(String, String)>,
}

/// Where the metadata of a VHDX made here begin.
pub const VHDX_METADATA_AT: usize = 2 << 20;
/// Where the items of the metadata begin, after the table.
pub const VHDX_ITEMS_AT: usize = VHDX_METADATA_AT + (64 << 10);

impl Vhdx {
    /// A disk without a parent.
    pub fn new(id: u8) -> Self {
        Self { size_bytes: 64 << 20, id: [id; 16], ..Self::default() }
    }

    /// A child of `parent` in a file of this name beside it.
    pub fn child(id: u8, parent: &Vhdx, name: &str) -> Self {
        let pair = |key: &str, value: String| (key.to_owned(), value);
        let zero = "{00000000-0000-0000-0000-000000000000}".to_owned();
        let volume = "\\\\?\\Volume{1b3a7d3c-0000-0000-0000-100000000000}\\vdisks";
        Self {
            parent: vec![
                pair("parent_linkage", guid_text(&parent.id)),
                pair("parent_linkage2", zero),
                pair("relative_path", format!(".\\{name}")),
                pair("volume_path", format!("{volume}\\{name}")),
                pair("absolute_win32_path", format!("D:\\vdisks\\{name}")),
            ],
            size_bytes: parent.size_bytes,
            ..Self::new(id)
        }
    }

    /// Its bytes: 4 MiB, nearly all zeros.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 4 << 20];
        put(&mut out, 0, b"vhdxfile");
        put(&mut out, 8, &utf16("blockferry's tests"));
        for (at, number) in [(64 << 10, 1), (128 << 10, 2)] {
            let header = &mut out[at..at + 4096];
            put(header, 0, b"head");
            put(header, 8, &u64::to_le_bytes(number));
            put(header, 16, &[7; 16]);
            put(header, 32, &self.id);
            put(header, 48, &self.log_id);
            put(header, 66, &1_u16.to_le_bytes());
            put(header, 68, &(1_u32 << 20).to_le_bytes());
            put(header, 72, &(1_u64 << 20).to_le_bytes());
            vhdx_checksum(header);
        }
        for at in [192 << 10, 256 << 10] {
            let table = &mut out[at..at + (64 << 10)];
            put(table, 0, b"regi");
            put(table, 8, &2_u32.to_le_bytes());
            let bat = "2DC27766-F623-4200-9D64-115E9BFD4A08";
            let metadata = "8B7CA206-4790-4B9A-B8FE-575F050F886E";
            let regions = [(bat, 3_u64 << 20), (metadata, VHDX_METADATA_AT as u64)];
            for (entry, (id, place)) in (16..).step_by(32).zip(regions) {
                put(table, entry, &guid(id));
                put(table, entry + 16, &place.to_le_bytes());
                put(table, entry + 24, &(1_u32 << 20).to_le_bytes());
                put(table, entry + 28, &1_u32.to_le_bytes());
            }
            vhdx_checksum(table);
        }
        self.put_metadata(&mut out[VHDX_METADATA_AT..]);
        out
    }

    fn put_metadata(&self, region: &mut [u8]) {
        let has_parent = if self.parent.is_empty() { 0 } else { 2 };
        let parameters = [u32::to_le_bytes(1 << 20), u32::to_le_bytes(has_parent)].concat();
        let mut items = vec![
            // (id, flags: 2 of the virtual disk, 4 required; content)
            ("CAA16737-FA36-4D43-B3B6-33F0AA44E76B", 4_u32, parameters),
            ("2FA54224-CD1B-4876-B211-5DBED83BF4B8", 6, self.size_bytes.to_le_bytes().to_vec()),
            ("BECA12AB-B2E6-4523-93EF-C309E000C746", 6, vec![9; 16]),
            ("8141BF1D-A96F-4709-BA47-F233A8FAAB5F", 6, 512_u32.to_le_bytes().to_vec()),
            ("CDA348C7-445D-4471-9CC9-E9885251C556", 6, 4096_u32.to_le_bytes().to_vec()),
        ];
        if !self.parent.is_empty() {
            items.push(("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C", 4, self.locator()));
        }
        put(region, 0, b"metadata");
        put(region, 10, &(items.len() as u16).to_le_bytes());
        let mut at = VHDX_ITEMS_AT - VHDX_METADATA_AT;
        for (entry, (id, flags, content)) in (32..).step_by(32).zip(items) {
            put(region, entry, &guid(id));
            put(region, entry + 16, &(at as u32).to_le_bytes());
            put(region, entry + 20, &(content.len() as u32).to_le_bytes());
            put(region, entry + 24, &flags.to_le_bytes());
            put(region, at, &content);
            at += content.len();
        }
    }

    fn locator(&self) -> Vec<u8> {
        let mut out = guid("B04AEFB7-D19E-4A81-B789-25B8E9445913").to_vec();
        out.extend([0, 0]);
        out.extend((self.parent.len() as u16).to_le_bytes());
        let (mut at, mut texts) = (out.len() + 12 * self.parent.len(), Vec::new());
        for (key, value) in &self.parent {
            let (key, value) = (utf16(key), utf16(value));
            out.extend((at as u32).to_le_bytes());
            out.extend(((at + key.len()) as u32).to_le_bytes());
            out.extend((key.len() as u16).to_le_bytes());
            out.extend((value.len() as u16).to_le_bytes());
            at += key.len() + value.len();
            texts.extend([key, value].concat());
        }
        out.extend(texts);
        out
    }
}

/// Sets the CRC-32C of a header or region table.
pub fn vhdx_checksum(structure: &mut [u8]) {
    put(structure, 4, &[0; 4]);
    let mut state = !0_u32;
    for byte in &*structure {
        state ^= u32::from(*byte);
        for _ in 0..8 {
            state = if state & 1 == 1 { state >> 1 ^ 0x82F6_3B78 } else { state >> 1 };
        }
    }
    put(structure, 4, &(!state).to_le_bytes());
}

/// A qcow2 to be written.
#[derive(Clone, Debug, Default)]
pub struct Qcow2 {
    /// Version 3 instead of 2.
    pub version_3: bool,
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Incompatible features: 1 dirty, 2 corrupt, 4 data file.
    pub features: u64,
    /// Backing file and its format.
    pub backing: Option<(String, String)>,
    /// Name of the file with the data.
    pub data_file: Option<String>,
}

impl Qcow2 {
    /// Its bytes: one cluster of 64 KiB of headers, without tables.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 64 << 10];
        put(&mut out, 0, b"QFI\xfb");
        put(&mut out, 4, &be(if self.version_3 { 3 } else { 2 }, 4));
        put(&mut out, 20, &be(16, 4));
        put(&mut out, 24, &be(self.size_bytes, 8));
        let mut at = 72;
        if self.version_3 {
            put(&mut out, 72, &be(self.features, 8));
            put(&mut out, 96, &be(4, 4));
            put(&mut out, 100, &be(104, 4));
            at = 104;
        }
        let format = self.backing.as_ref().map(|(_, format)| (0xE279_2ACA_u64, format));
        let data = self.data_file.as_ref().map(|name| (0x4441_5441_u64, name));
        for (kind, text) in format.into_iter().chain(data) {
            put(&mut out, at, &be(kind, 4));
            put(&mut out, at + 4, &be(text.len() as u64, 4));
            put(&mut out, at + 8, text.as_bytes());
            at += 8 + text.len().div_ceil(8) * 8;
        }
        if let Some((name, _)) = &self.backing {
            at += 8;
            put(&mut out, 8, &be(at as u64, 8));
            put(&mut out, 16, &be(name.len() as u64, 4));
            put(&mut out, at, name.as_bytes());
        }
        out
    }
}

/// A GUID as a parent locator writes it.
pub fn guid_text(id: &[u8; 16]) -> String {
    let hex = |bytes: &mut dyn Iterator<Item = &u8>| -> String {
        bytes.map(|byte| format!("{byte:02X}")).collect()
    };
    let (a, b) = (hex(&mut id[..4].iter().rev()), hex(&mut id[4..6].iter().rev()));
    let (c, d) = (hex(&mut id[6..8].iter().rev()), hex(&mut id[8..10].iter()));
    format!("{{{a}-{b}-{c}-{d}-{}}}", hex(&mut id[10..].iter()))
}

/// A GUID from its text, as it lies in a file.
fn guid(text: &str) -> [u8; 16] {
    let digits: Vec<u8> = text.bytes().filter(|byte| byte.is_ascii_hexdigit()).collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
        u8::from_str_radix(pair, 16).expect("hexadecimal digits")
    };
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    order.map(|at: usize| bytes[at])
}

/// The lower `bytes` bytes of a number, the highest first.
fn be(number: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).rev().map(|place| (number >> (8 * place)) as u8).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}
