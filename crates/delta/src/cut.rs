//! Hard cuts: where files end inside a file-system image. A page whose last bytes are zero ends a
//! piece, and zero pages belong to no piece. Hard cuts depend on content alone, so the same files
//! in another layout are cut at the same places, and segments can be cut in parallel.

use crate::page::is_zero;
use crate::units::PAGE_BYTES;

/// Bytes after the end of a segment in which a piece may still find its hard cut. Where there is
/// none in that many bytes, the piece ends at the segment's border.
pub const LOOKAHEAD_BYTES: usize = 256 << 10;

/// Does a piece end after this page? True when its last `tail_bytes` bytes are zero.
pub fn is_tail_cut(page: &[u8], tail_bytes: usize) -> bool {
    page.len() < tail_bytes || is_zero(&page[page.len() - tail_bytes..])
}

/// The pieces between hard cuts that *begin* in `data[start..end]`, as ranges of `data`.
///
/// `data[..start]` holds at least the page before the segment (nothing at the start of an image),
/// `data[end..]` up to [`LOOKAHEAD_BYTES`] of what follows. `start` and `end` are page-aligned
/// relative to each other. The rule at a border looks at the same bytes from both sides: a piece
/// that crosses it belongs to the segment where it begins if a hard cut follows within the
/// look-ahead, and is cut at the border otherwise.
pub fn hard_cuts(data: &[u8], start: usize, end: usize, tail_bytes: usize) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    let mut at = start + overhang(data, start, tail_bytes);
    let mut piece_start = at;
    while at < end {
        let page = &data[at..data.len().min(at + PAGE_BYTES)];
        let next = at + page.len();
        if is_zero(page) {
            push(&mut pieces, piece_start, at);
            piece_start = next;
        } else if is_tail_cut(page, tail_bytes) {
            push(&mut pieces, piece_start, next);
            piece_start = next;
        }
        at = next;
    }
    if piece_start < at.min(end) {
        push(&mut pieces, piece_start, end + overhang(data, end, tail_bytes));
    }
    pieces
}

/// The pieces of a window of an image, as ranges of `data`, whose first byte lies at `offset` of
/// the image. The window's ends cut.
pub(crate) fn pieces_within(data: &[u8], offset: u64, tail_bytes: usize) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    let (mut piece_start, mut at) = (0, 0);
    while at < data.len() {
        let in_page = ((offset + at as u64) % PAGE_BYTES as u64) as usize;
        let next = data.len().min(at + PAGE_BYTES - in_page);
        let page = &data[at..next];
        if is_zero(page) {
            push(&mut pieces, piece_start, at);
            piece_start = next;
        } else if next - at >= tail_bytes && is_tail_cut(page, tail_bytes) {
            push(&mut pieces, piece_start, next);
            piece_start = next;
        }
        at = next;
    }
    push(&mut pieces, piece_start, data.len());
    pieces
}

/// How far past the border `at` a piece that began before it reaches: 0 when the border itself is
/// a hard cut, when no hard cut follows within the look-ahead, or at the ends of the image.
fn overhang(data: &[u8], at: usize, tail_bytes: usize) -> usize {
    if at < PAGE_BYTES || at >= data.len() {
        return 0;
    }
    let before = &data[at - PAGE_BYTES..at];
    if is_tail_cut(before, tail_bytes) {
        return 0;
    }
    let mut reach = 0;
    for page in data[at..].chunks(PAGE_BYTES).take(LOOKAHEAD_BYTES / PAGE_BYTES) {
        if is_zero(page) {
            return reach;
        }
        reach += page.len();
        if is_tail_cut(page, tail_bytes) {
            return reach;
        }
    }
    0
}

fn push(pieces: &mut Vec<(usize, usize)>, start: usize, end: usize) {
    if start < end {
        pieces.push((start, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte per page: `z` zero page, `t` page with a zero tail, `x` full page.
    fn image(spec: &str) -> Vec<u8> {
        spec.bytes()
            .flat_map(|kind| {
                let mut page = vec![if kind == b'z' { 0 } else { 9u8 }; PAGE_BYTES];
                if kind == b't' {
                    page[PAGE_BYTES - 64..].fill(0);
                }
                page
            })
            .collect()
    }

    fn pieces(spec: &str, start: usize, end: usize) -> Vec<(usize, usize)> {
        hard_cuts(&image(spec), start * PAGE_BYTES, end * PAGE_BYTES, 64)
            .into_iter()
            .map(|(a, b)| (a / PAGE_BYTES, b / PAGE_BYTES))
            .collect()
    }

    #[test]
    fn files_end_pieces_and_zero_pages_belong_to_none() {
        assert_eq!(pieces("xxtxzzxt", 0, 8), [(0, 3), (3, 4), (6, 8)]);
        assert_eq!(pieces("zzzz", 0, 4), []);
        assert_eq!(pieces("t", 0, 1), [(0, 1)]);
    }

    #[test]
    fn a_piece_over_a_border_belongs_to_where_it_begins() {
        let spec = "xtxxxxtxzx";
        let whole = pieces(spec, 0, 10);
        for border in 1..10 {
            let mut split = pieces(spec, 0, border);
            split.extend(pieces(spec, border, 10));
            assert_eq!(split, whole, "border at page {border}");
        }
    }

    #[test]
    fn a_window_is_cut_where_the_whole_is() {
        let spec = "xxtxzzxtxxxt";
        let data = image(spec);
        let whole = hard_cuts(&data, 0, data.len(), 64);
        assert_eq!(pieces_within(&data, 40 * PAGE_BYTES as u64, 64), whole);
        // From the middle of a page to the middle of another.
        let (from, to) = (PAGE_BYTES / 2, 9 * PAGE_BYTES + 100);
        let inside: Vec<_> = pieces_within(&data[from..to], from as u64, 64)
            .into_iter()
            .map(|(a, b)| (a + from, b + from))
            .collect();
        let want: Vec<_> = whole
            .iter()
            .map(|(a, b)| (*a.max(&from), *b.min(&to)))
            .filter(|(a, b)| a < b)
            .collect();
        assert_eq!(inside, want);
    }

    #[test]
    fn without_a_hard_cut_ahead_the_border_cuts() {
        let spec = "x".repeat(10) + &"x".repeat(LOOKAHEAD_BYTES / PAGE_BYTES) + "xt";
        let all = spec.len();
        assert_eq!(pieces(&spec, 0, 10), [(0, 10)]);
        assert_eq!(pieces(&spec, 10, all), [(10, all)]);
    }
}
