//! Tests of the subtree walk: exact, bounded in bytes and rounds, and safe against any answer.

use super::*;
use crate::ids::BlockHash;

/// A row of bytes that nobody has; the row of a block of zeros for content 0.
fn row(block: u64, content: u64) -> Option<BlockRow> {
    let mut prints = [0; PAGES_PER_BLOCK];
    if content > 0 {
        prints =
            std::array::from_fn(|p| (block as u32 ^ 0x5bd1_e995).wrapping_mul(p as u32 + 7) | 1);
        prints[3] ^= (content as u32) << 8;
    }
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&block.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    hash[8..16].copy_from_slice(&content.to_le_bytes());
    Some(BlockRow { hash: BlockHash::from_bytes(hash), prints })
}

fn answer(piece: &Probe, blocks: u64, content: &dyn Fn(u64) -> u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut hasher = NodeHasher::new(&WalkSalt([7; 32]));
    for node in piece.nodes.iter().flat_map(|run| run.first..run.end()) {
        if piece.level == WalkLevel::Pages {
            let prints = short_prints(row(node, content(node)).as_ref());
            prints.iter().for_each(|print| out.extend_from_slice(&print.to_le_bytes()));
            continue;
        }
        let first = node * piece.level.blocks();
        for block in first..(first + piece.level.blocks()).min(blocks) {
            hasher.block(row(block, content(block)).as_ref());
        }
        out.extend_from_slice(&hasher.value());
    }
    out
}

struct Found {
    blocks: Vec<u64>,
    rounds: u32,
    answer_bytes: usize,
    probe_runs: usize,
}

fn walk(blocks: u64, mine: &dyn Fn(u64) -> u64, theirs: &dyn Fn(u64) -> u64) -> Found {
    let mut walk = Walk::new(blocks);
    let mut found = Found { blocks: Vec::new(), rounds: 1, answer_bytes: 0, probe_runs: 0 };
    let mut next = [0; 4];
    let mut known = 0;
    loop {
        while let Some(piece) = walk.next_piece() {
            assert_eq!(piece.check(blocks), Ok(()));
            let answered = answer(&piece, blocks, theirs);
            assert_eq!(answered.len() as u64, piece.count() * piece.level.answer_bytes() as u64);
            found.answer_bytes += answered.len();
            if piece.level == WalkLevel::Pages {
                found.blocks.extend(piece.nodes.iter().flat_map(|run| run.first..run.end()));
            }
            walk.handle_piece(&piece, &answered, &answer(&piece, blocks, mine));
        }
        assert!(walk.known_until() >= known, "what is known is never unknown again");
        known = walk.known_until();
        let Some(probe) = walk.next_probe() else { break };
        assert!(probe.nodes[0].first >= next[probe.level.number() as usize], "levels ascend");
        next[probe.level.number() as usize] = probe.nodes.last().expect("not empty").end();
        found.rounds += 1;
        found.probe_runs += probe.nodes.len();
    }
    assert_eq!(known, blocks);
    found
}

#[test]
fn it_finds_exactly_the_blocks_that_differ() {
    for blocks in [0, 1, 2, 15, 16, 17, 255, 256, 257, 5000, 8192, 8193, 140_000] {
        let at = [0, 7, 16, 255, 256, 4999, 8191, 8192, 139_999];
        let changed: Vec<u64> = at.into_iter().filter(|b| *b < blocks).collect();
        let found = walk(blocks, &|b| 1 + u64::from(changed.contains(&b)), &|_| 1);
        assert_eq!(found.blocks, changed, "{blocks} blocks");
        let equal = walk(blocks, &|b| b % 3, &|b| b % 3);
        assert_eq!((equal.blocks.len(), equal.rounds), (0, 1), "{blocks} blocks");
        assert!(equal.answer_bytes <= WALK_FIRST_NODES_MAX as usize * WALK_VALUE_BYTES);
        let all = walk(blocks, &|_| 0, &|_| 2);
        assert_eq!(all.blocks.len() as u64, blocks);
    }
}

#[test]
fn what_is_remembered_is_bounded_by_the_probes() {
    // Every other block differs: as many runs as can be.
    let blocks = (1 << 20) + 77;
    let found = walk(blocks, &|b| 1 + b % 2, &|_| 1);
    assert!(found.blocks.iter().copied().eq((0..blocks).filter(|b| b % 2 == 1)));
    // 1, 1, then for each half a probe for blocks and eight for pages, and the rest.
    assert!(found.rounds <= 2 + 3 + 17, "{} rounds", found.rounds);
}

#[test]
fn windows_follow_one_another() {
    let blocks = 2 * WALK_WINDOW_BLOCKS + 70_000;
    let changed = [3, WALK_WINDOW_BLOCKS - 1, WALK_WINDOW_BLOCKS, blocks - 1];
    let found = walk(blocks, &|b| 1 + u64::from(changed.contains(&b)), &|_| 1);
    assert_eq!(found.blocks, changed);
    assert!(found.rounds <= 3 * 4, "{}", found.rounds);
}

/// The row of the issue: 100 GiB, 26,214 pages changed at places chosen by chance.
#[test]
fn a_thousandth_of_100_gib_costs_4_rounds_and_less_than_4_mib() {
    let blocks = (100u64 << 30) / BLOCK_BYTES as u64;
    let mut changed = std::collections::BTreeSet::new();
    let mut state = 1u64;
    for _ in 0..26_214 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        changed.insert((state >> 20) % blocks);
    }
    let found = walk(blocks, &|b| 1 + u64::from(changed.contains(&b)), &|_| 1);
    assert!(found.blocks.iter().eq(changed.iter()));
    assert!(found.rounds <= 4, "{} rounds", found.rounds);
    // A run of a probe is two small numbers: at most 5 bytes each at these gaps.
    let bytes = found.answer_bytes + found.probe_runs * 10;
    assert!(bytes <= 4 << 20, "{bytes} bytes");
}

#[test]
fn probes_that_break_the_rules_are_named() {
    let probe = |level, nodes: &[(u64, u64)]| Probe {
        level,
        nodes: nodes
            .iter()
            .map(|(first, count)| NodeRun { first: *first, count: *count })
            .collect(),
    };
    let blocks = 100_000;
    assert_eq!(probe(WalkLevel::Blocks, &[(0, 5), (5, 99_995)]).check(blocks), Ok(()));
    let bad = [
        probe(WalkLevel::Blocks, &[]),
        probe(WalkLevel::Blocks, &[(0, 0)]),
        probe(WalkLevel::Blocks, &[(5, 2), (6, 1)]),
        probe(WalkLevel::Blocks, &[(99_999, 2)]),
        probe(WalkLevel::Groups, &[(6250, 1)]),
        probe(WalkLevel::Pages, &[(0, WALK_PAGES_NODES_MAX + 1)]),
        probe(WalkLevel::Blocks, &[(u64::MAX, u64::MAX)]),
    ];
    for probe in bad {
        assert!(probe.check(blocks).is_err(), "{probe:?}");
    }
}

#[test]
fn any_answer_at_all_only_costs_bytes() {
    let mut walk = Walk::new(5000);
    let mut asked = 0;
    loop {
        while let Some(piece) = walk.next_piece() {
            asked += piece.count();
            walk.handle_piece(&piece, &[0xff; 7], &[]);
        }
        if walk.next_probe().is_none() {
            break;
        }
    }
    assert!(asked <= 3 * 5000);
    assert_eq!(comparable_blocks(70_000, 70_000), 2);
    assert_eq!(comparable_blocks(70_000, 65_537), 1);
    assert_eq!(comparable_blocks(70_000, 65_536), 0);
}
