//! All limits of a node, with the arithmetic that ties them together.
//!
//! Each queue, buffer and count that something from outside can grow has its limit here. The sums
//! are asserted at compile time: who changes one figure learns at once which promise it breaks.

use std::time::Duration;

use blockferry_delta::{BLOCK_BYTES, PART_BLOCKS_MAX, WALK_BLOCKS_NODES_MAX, WALK_PAGES_NODES_MAX};

const MIB: u64 = 1 << 20;

/// Contents of one image that are kept because they diverged from the current one.
pub const CONFLICTS_MAX: usize = 16;
/// A mirror undoes a local change when it has been quiet so long, whatever `settle` says...
pub const MIRROR_QUIET_MAX: Duration = Duration::from_secs(20);
/// ...and after this time, quiet or not.
pub const MIRROR_WAIT_MAX: Duration = Duration::from_secs(40);
/// How often a store's policy ends conflicts of one image by itself within an hour. Two nodes whose
/// policies contradict each other would go on for ever.
pub const PREFERENCES_MAX: u32 = 3;

/// A rotten image whose only holder is gone is waited for so long...
pub const MEND_PEER_WAIT: Duration = Duration::from_secs(5);
/// ...and a holder that doesn't begin to send (a pause, a calendar) this long.
pub const MEND_WAIT_MAX: Duration = Duration::from_secs(600);

// ---- memory ----

/// What one node may keep resident unless `limits.memory` says more, in bytes: the promise that the
/// sum below keeps, and the least that can be asked for.
pub const RESIDENT_BYTES_MAX: u64 = 300 * MIB;
/// Cache of one store's catalog, in bytes, where there are few.
pub const STORE_CACHE_BYTES: u64 = 24 * MIB;
/// Caches of all stores' catalogs together, in bytes, where there are many...
pub const STORE_CACHES_BYTES: u64 = 64 * MIB;
/// ... and the least that each has nevertheless.
pub const STORE_CACHE_BYTES_MIN: u64 = 256 << 10;
/// Memory of one store's chunk index, in bytes, with 2 million chunks (64 GiB of data). Each further
/// million takes 2.7 MiB, up to 64 MiB.
pub const STORE_INDEX_BYTES: u64 = 8 * MIB;
/// Cache of the node's own database (tickets, events), in bytes.
pub const LEDGER_CACHE_BYTES: u64 = 2 * MIB;
/// Raw bytes of a pack.
pub const PACK_BYTES_MAX: u64 = blockferry_wire::limits::PACK_RAW_BYTES_MAX as u64;
/// Packs that are read, hashed and compressed ahead of the link at the same time, per transfer.
pub const PACKS_AHEAD: usize = 2;
/// Messages received and not yet handled, per transfer. The rest waits in QUIC's window.
pub const FRAMES_QUEUED: usize = 1;
/// Bytes of all packs that are being made or wait to be written, of all transfers together: the bytes in
/// flight on this side of QUIC. What is being made counts twice, read and compressed.
pub const PACKS_BYTES: u64 = 40 * MIB;
/// Of these, what only the urgent lane may take.
pub const PACKS_RESERVE_BYTES: u64 = 2 * PACK_BYTES_MAX;
/// Transfers one node sends at the same time. It bounds threads and plans, not what travels: that is
/// [`PACKS_BYTES`], shared out by weight.
pub const SENDS_MAX: usize = 40;
/// Transfers to one peer at the same time; as many as fit the streams that it allows. How many there
/// really are follows from the bytes that are on their way to it.
pub const SENDS_PER_PEER: usize = 12;
/// A further transfer to a peer is begun while less than this time's worth of changed bytes is on its
/// way there, as far as its rate is known.
pub const AHEAD: Duration = Duration::from_secs(2);
/// The least and the most that this comes to, in bytes.
pub const AHEAD_BYTES_MIN: u64 = 4 * MIB;
/// See there.
pub const AHEAD_BYTES_MAX: u64 = 64 * MIB;
/// Large images that one node receives at the same time; small ones take less of the same room. The
/// place of a fourth is what dictionaries and walks have.
pub const RECEIVES_MAX: usize = 3;
/// Large images that one node receives from one peer at the same time. Its second one may not take the
/// node's last place: a slow peer holds back nobody.
pub const TRANSFERS_PER_PEER: usize = 2;
/// Bytes of a dictionary.
pub const DICTIONARY_BYTES_MAX: u64 = blockferry_wire::limits::DICTIONARY_BYTES_MAX as u64;
/// Dictionaries in memory at the same time, for all transfers together, both ways. Each serves one
/// pack for as long as it is packed or unpacked.
pub const DICTIONARIES_MAX: usize = 4;
/// Recipe parts and wants of one transfer that wait in memory, in bytes (8 MiB of changed blocks
/// are 128 rows of about 64 bytes; chunks 4,096 rows of 20 bytes).
pub const PLAN_BYTES: u64 = 2 * MIB;
/// What the sender of a walk remembers at most, in bytes: runs of 8 bytes of blocks that differ and
/// of those that are to be asked about, and the page fingerprints of one probe.
pub const WALK_BYTES: u64 = WALK_BLOCKS_NODES_MAX / 2 * 8 + WALK_PAGES_NODES_MAX * 56;
/// Work of the store for one transfer, in bytes: the blocks of one part at most (a block takes
/// memory when its first page has come), one segment being verified and its map rows.
pub const STAGE_BYTES: u64 = (PART_BLOCKS_MAX * BLOCK_BYTES) as u64 + 4 * MIB;
/// Threads of a scan at most; each holds one segment.
pub const SCAN_THREADS_MAX: usize = 4;
/// Buffers of all scans and scrubs, in bytes.
pub const SCAN_BYTES: u64 =
    (STORE_JOBS_MAX * blockferry_store::scan_buffers_bytes(SCAN_THREADS_MAX)) as u64;
/// Statements kept in memory, of all nodes about all stores, in bytes: some 10,400 with one writer in the
/// lineage, 7,000 with five. Docs/decisions/0031 has the sizes.
pub const STATEMENTS_BYTES: u64 = 6 * MIB;
/// The buffers of what is read back after a commit, in bytes: of a whole image and of an update.
pub const READ_BACK_BYTES: u64 = 2 * MIB;
/// Encoded packs kept because several peers want them, in bytes.
pub const ENCODED_BYTES: usize = 8 << 20;
/// The compressor for high levels, in bytes: level 8 on packs of 2 MiB. What an operator fixes above
/// that comes on top (19: 40 MiB more).
pub const HEAVY_PACKER_BYTES: u64 = 8 * MIB;
/// Program, runtime, maps, allocator slack, in bytes.
pub const BASE_BYTES: u64 = 40 * MIB;

/// One outgoing transfer without its packs, in bytes: what it has asked and been asked for (four parts of
/// at most 90 KiB and their wants), and the buffer of its stream.
pub const SEND_BYTES: u64 = 512 * 1024 + READ_BYTES_MAX as u64;
/// Walks that are counted on at the same time: each is the beginning of one transfer.
pub const WALKS_COUNTED: u64 = 3;
/// One incoming transfer: queued messages, one still arriving, one being unpacked (raw and
/// compressed), and the store's work.
pub const RECEIVE_BYTES: u64 =
    (FRAMES_QUEUED as u64 + 3) * PACK_BYTES_MAX + STAGE_BYTES + PLAN_BYTES;

/// What the smallest incoming transfer takes, in bytes: buffers of its stream, a plan of a few rows.
pub const RECEIVE_BYTES_MIN: u64 = 512 * 1024;
/// What incoming transfers take is counted in units of so many bytes.
pub const RECEIVE_UNIT_BYTES: u64 = 256 * 1024;
/// What one large one takes, in these units.
pub const RECEIVE_UNITS_EACH: usize = RECEIVE_BYTES.div_ceil(RECEIVE_UNIT_BYTES) as usize;
/// Incoming transfers at the same time, if all are small and there is plenty of memory.
pub const RECEIVERS_MAX: usize =
    RECEIVES_LIMIT * RECEIVE_UNITS_EACH / RECEIVE_BYTES_MIN.div_ceil(RECEIVE_UNIT_BYTES) as usize;
/// The same for those of one peer.
pub const RECEIVE_UNITS_PER_PEER: usize = TRANSFERS_PER_PEER * RECEIVE_UNITS_EACH;

/// The sum for a node with one store and every transfer slot in use. QUIC's windows have one pool
/// each way, for all connections that carry transfers.
pub const RESIDENT_BYTES_SUM: u64 = BASE_BYTES
    + STORE_CACHE_BYTES
    + STORE_INDEX_BYTES
    + LEDGER_CACHE_BYTES
    + SCAN_BYTES
    + STATEMENTS_BYTES
    + READ_BACK_BYTES
    + ENCODED_BYTES as u64
    + HEAVY_PACKER_BYTES
    + PACKS_BYTES
    + SENDS_MAX as u64 * SEND_BYTES
    + WALKS_COUNTED * WALK_BYTES
    + RECEIVES_MAX as u64 * RECEIVE_BYTES
    + DICTIONARIES_MAX as u64 * DICTIONARY_BYTES_MAX
    + 2 * WINDOW_POOL_BYTES;

const _: () = assert!(RESIDENT_BYTES_SUM < RESIDENT_BYTES_MAX);
const _: () = assert!(PACKS_AHEAD <= blockferry_wire::limits::PACKS_IN_FLIGHT);
const _: () = assert!(FRAMES_QUEUED <= blockferry_wire::limits::PACKS_UNFILLED_MAX);
const _: () = assert!(TRANSFERS_PER_PEER < RECEIVES_MAX && SENDS_PER_PEER < SENDS_MAX);
const _: () = assert!(PACKS_RESERVE_BYTES * 4 <= PACKS_BYTES);

/// How the memory of a node is shared out: what grows with `limits.memory`. All else is as above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Large images received at the same time.
    pub receives: usize,
    /// Encoded packs kept because several peers want them, in bytes.
    pub encoded_bytes: usize,
    /// Cache of one store's catalog where there are few, in bytes.
    cache_bytes: u64,
    /// Caches of all stores' catalogs together, where there are many, in bytes.
    caches_bytes: u64,
}

/// Large images that one node receives at the same time, however much memory it has: as many small
/// ones as then fit have their least share of the windows.
pub const RECEIVES_LIMIT: usize = 5;

/// What `limits.memory` comes to. A quarter of what is beyond [`RESIDENT_BYTES_MAX`] goes to further
/// large images that are received, as far as it is whole ones and [`RECEIVES_LIMIT`] allows; an eighth to
/// encoded packs; the rest to the caches of the catalogs.
pub const fn memory(bytes: u64) -> Memory {
    let more = bytes.saturating_sub(RESIDENT_BYTES_MAX);
    let (fit, most) = (more / 4 / RECEIVE_BYTES, (RECEIVES_LIMIT - RECEIVES_MAX) as u64);
    let receives = if fit < most { fit } else { most };
    let encoded = more / 8;
    let caches = more - receives * RECEIVE_BYTES - encoded;
    Memory {
        receives: RECEIVES_MAX + receives as usize,
        encoded_bytes: ENCODED_BYTES + encoded as usize,
        cache_bytes: STORE_CACHE_BYTES + caches,
        caches_bytes: STORE_CACHES_BYTES + caches,
    }
}

impl Memory {
    /// What all incoming transfers take together, in units of [`RECEIVE_UNIT_BYTES`].
    pub const fn receive_units(&self) -> usize {
        self.receives * RECEIVE_UNITS_EACH
    }

    /// Cache of each store's catalog where there are so many stores, in bytes.
    pub const fn store_cache_bytes(&self, stores: usize) -> u64 {
        let each = self.caches_bytes / if stores == 0 { 1 } else { stores as u64 };
        if each > self.cache_bytes {
            self.cache_bytes
        } else if each < STORE_CACHE_BYTES_MIN {
            STORE_CACHE_BYTES_MIN
        } else {
            each
        }
    }

    /// The sum of [`RESIDENT_BYTES_SUM`] with these shares.
    pub const fn sum_bytes(&self) -> u64 {
        let receives = (self.receives - RECEIVES_MAX) as u64 * RECEIVE_BYTES;
        let encoded = (self.encoded_bytes - ENCODED_BYTES) as u64;
        RESIDENT_BYTES_SUM + receives + encoded + self.cache_bytes - STORE_CACHE_BYTES
    }
}

const LEAST: Memory = memory(RESIDENT_BYTES_MAX);
const _: () = assert!(LEAST.sum_bytes() == RESIDENT_BYTES_SUM);
const _: () = assert!(LEAST.store_cache_bytes(1) == STORE_CACHE_BYTES);
const _: () = assert!(500 * LEAST.store_cache_bytes(500) <= 128 * MIB);

// ---- transport ----

/// Largest UDP payload, in bytes, that path MTU discovery tries: an ordinary Ethernet packet.
/// Discovery starts at 1200. Larger bounds were tried: on a link of 9000 bytes discovery fell back to
/// 1200 under load, which costs more headers (6.4 %) than never trying (5.8 %).
pub const DATAGRAM_BYTES_MAX: u16 = 1452;
/// A full packet as it appears on the wire, in bytes: with the headers of UDP (8) and IP (20).
pub const PACKET_WIRE_BYTES: u64 = DATAGRAM_BYTES_MAX as u64 + 28;
/// Sent to a peer before its first acknowledgement, in bytes: 64 ordinary packets. It must exceed a
/// few of the largest datagrams: a closed connection whose window is full can't say why it closed.
pub const INITIAL_WINDOW_BYTES: u64 = 64 * 1452;
/// What all connections that carry transfers may have in flight together, each way, in bytes: one
/// alone 1 Gbit/s over 134 ms. Each has the same share of it at most.
pub const WINDOW_POOL_BYTES: u64 = 16 * MIB;
/// What one may have in flight before anything is known of its link, in bytes: 1 Gbit/s over 67 ms.
pub const WINDOW_BYTES: u64 = 8 * MIB;
/// The least share of it, in bytes.
pub const SHARE_BYTES_MIN: u64 = 64 << 10;
/// What a connection without a transfer may have in flight towards us, in bytes.
pub const IDLE_WINDOW_BYTES: u64 = MIB;
/// The receive window follows rate and delay this often while a transfer comes.
pub const RECEIVE_WINDOW_EVERY: Duration = Duration::from_millis(100);
/// The smallest send window, in bytes. What lies in it is sent whatever is ordered meanwhile: half a
/// second of 1 Mbit/s.
pub const SEND_WINDOW_BYTES_MIN: u64 = 64 << 10;
/// The send window in congestion windows: what is in flight, and twice that behind it.
pub const SEND_WINDOW_FLIGHTS: u64 = 3;
/// The send window follows the congestion window this often.
pub const SEND_WINDOW_EVERY: Duration = Duration::from_millis(20);
/// A transfer that may not send any more is held this long with its slot and its memory; then it ends
/// and is begun anew when it may. What had come by then is kept.
pub const HOLD_MAX: Duration = Duration::from_secs(30);
/// A transfer whose stream has no room for a slice for so long is given up: a peer that doesn't take
/// anything holds a slot and its memory no longer.
pub const STALL_MAX: Duration = Duration::from_secs(300);
/// After each such time without room for a slice it is looked whether others wait for the room of its
/// packs: then it is given up at once.
pub const STALL_LOOK: Duration = Duration::from_secs(30);
/// The largest weight of a peer.
pub const WEIGHT_MAX: u32 = 100;
/// Wall clocks jump: what is in force is decided anew at least this often while time decides it.
pub const CLOCK_LOOK: Duration = Duration::from_secs(2);
/// Orders (pause, resume, boost, limit) that are kept.
pub const OVERRIDES_MAX: usize = 1024;
/// Calendars of a node.
pub const CALENDARS_MAX: usize = 256;
/// Asked of the kernel for each UDP socket and direction, in bytes.
pub const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Streams a peer may have open: its transfers, one control, and room for one being closed each.
pub const BIDI_STREAMS_MAX: u32 = 16;
/// One-way streams a peer may have open: the protocol has none.
pub const UNI_STREAMS_MAX: u32 = 0;
/// Connections that have not proved a key yet.
pub const INCOMING_MAX: usize = 256;
/// From this many unfinished handshakes on, an address must prove itself by a Retry first.
pub const INCOMING_RETRY_FROM: usize = 32;
/// Early bytes kept for one unfinished handshake.
pub const INCOMING_BUFFER_BYTES: u64 = 64 << 10;
/// Early bytes kept for all unfinished handshakes.
pub const INCOMING_BUFFER_BYTES_TOTAL: u64 = 8 * MIB;
/// Connections one key may hold.
pub const CONNECTIONS_PER_KEY: usize = 4;
/// Read from a stream at once, in bytes; one buffer per open stream.
pub const READ_BYTES_MAX: usize = 128 << 10;
/// A slice written to a stream, and taken from the token bucket, at once, in bytes.
pub const PACE_BYTES_MAX: usize = 64 << 10;
/// Everything before a key is proved, together.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// No packet for this long: the connection is gone.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Keeps NAT bindings and finds dead peers.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A pairing dialogue, together.
pub const PAIRING_DEADLINE: Duration = Duration::from_secs(15);
/// A transfer in which the other side says nothing while we wait for it.
/// Long, for a peer that syncs a large image to a slow disk says nothing meanwhile; a dead peer is
/// found by [`IDLE_TIMEOUT`].
pub const SILENCE_MAX: Duration = Duration::from_secs(900);

const _: () = assert!(INITIAL_WINDOW_BYTES >= 8 * DATAGRAM_BYTES_MAX as u64);
const _: () = assert!(WINDOW_BYTES <= WINDOW_POOL_BYTES);
const _: () = assert!(RECEIVERS_MAX as u64 * SHARE_BYTES_MIN <= WINDOW_POOL_BYTES);
const _: () = assert!(SENDS_MAX as u64 * SHARE_BYTES_MIN <= WINDOW_POOL_BYTES);
const _: () = assert!(SEND_WINDOW_BYTES_MIN <= SHARE_BYTES_MIN);
const _: () = assert!(SENDS_PER_PEER + 4 <= BIDI_STREAMS_MAX as usize);
const _: () = assert!(PACE_BYTES_MAX as u64 <= SEND_WINDOW_BYTES_MIN);
const _: () = assert!(HOLD_MAX.as_secs() < SILENCE_MAX.as_secs());
const _: () = assert!(STALL_MAX.as_secs() < SILENCE_MAX.as_secs());
const _: () = assert!(STALL_LOOK.as_secs() < STALL_MAX.as_secs());
const _: () = assert!(KEEP_ALIVE.as_secs() * 2 < IDLE_TIMEOUT.as_secs());
const _: () = assert!(INCOMING_RETRY_FROM < INCOMING_MAX);

// ---- work ----

/// Images of one store that a report of the backlog asks the kernel about: who has them open.
pub const DEFERRED_SHOWN_MAX: usize = 64;

/// Threads that read and compress packs, for all transfers together.
pub const WORKERS_MAX: usize = 8;
/// Niceness of these threads: the one that serves connections and answers goes first.
pub const WORKER_NICE: i32 = 5;
/// Blocking jobs of stores at the same time (scan, verify); transfers have their own slots.
pub const STORE_JOBS_MAX: usize = 1;
/// Stores of a node.
pub const STORES_MAX: usize = 1024;
/// Stores that are opened beside each other at the start.
pub const STORES_OPENING_MAX: usize = 16;
/// Stores that are looked at beside each other: each look takes a thread.
pub const STORES_LOOKING_MAX: usize = 16;
/// A store waits this long for its turn to be looked at; then it is looked at all the same, so that
/// disks that don't answer hold back no others.
pub const LOOK_TURN_MAX: Duration = Duration::from_secs(5);
/// Peers of a node.
pub const PEERS_MAX: usize = 1024;
/// Addresses of a peer.
pub const ADDRESSES_MAX: usize = 16;
/// Offers of which sizes and times are remembered while a store is being adopted: peers times images.
pub const ADOPT_OFFERS_MAX: usize = 1 << 16;
/// A move of an adoption waits so long for what is being received or recorded to end.
pub const ADOPT_BUSY_WAIT: Duration = Duration::from_secs(20);
/// Backlog entries: peers times images. Beyond it new ones wait for a rescan.
pub const BACKLOG_MAX: usize = 1 << 18;
/// Events kept in the node's database.
pub const EVENTS_KEPT: u64 = 10_000;
/// Events that wait to be written; beyond it they are counted and dropped.
pub const EVENTS_QUEUED: usize = 1024;
/// Images of a store that are sealed and wait for others of their sets: each keeps a file open.
pub const SETS_WAITING_MAX: usize = 512;
const _: () = assert!(
    blockferry_wire::limits::SET_MEMBERS_MAX <= blockferry_store::SET_COMMIT_MAX
        && blockferry_wire::limits::SET_MEMBERS_MAX < SETS_WAITING_MAX
);
/// Offers of an image wait for so long for others of its set that aren't quiet yet.
pub const SET_SETTLES_MAX: Duration = Duration::from_secs(600);

/// Promotions of one image by one node that are kept.
pub const PROMOTIONS_KEPT: usize = 16;
/// Statements that are said to a peer before what it says is looked at again.
pub const STATEMENTS_AT_ONCE: usize = 64;
/// `wait` gives what was published elsewhere this long to be heard of here.
pub const HEARSAY: Duration = Duration::from_secs(5);
/// What could not be read back is tried again after this time.
pub const READ_BACK_RETRY: Duration = Duration::from_secs(2);
/// Reading back what was recorded here waits at most this long for its sending to be over.
pub const READ_BACK_AFTER_SENDING_MAX: Duration = Duration::from_secs(120);
/// A hook that runs longer is ended.
pub const HOOK_DEADLINE: Duration = Duration::from_secs(900);
/// A promotion that was asked of a mirror longer ago runs no hook any more, in milliseconds.
pub const HOOK_LATE_MAX_MS: i64 = 24 * 3600 * 1000;
/// What a hook printed last and is told, in bytes.
pub const HOOK_OUTPUT_BYTES: usize = 2048;
/// Tickets kept, used and expired ones included.
pub const TICKETS_KEPT: usize = 4096;
/// Wrong tries with a ticket per minute and address.
pub const TICKET_TRIES_PER_MINUTE: u32 = 5;
/// Addresses whose wrong tries are remembered.
pub const TICKET_TRIERS_MAX: usize = 4096;
/// Longest life of a ticket.
pub const TICKET_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

// ---- admin socket ----

/// Clients at the same time.
pub const ADMIN_CLIENTS_MAX: usize = 64;
/// A client must send its request within this time.
pub const ADMIN_REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// Questions of one netcheck.
pub const NETCHECK_MAX: u32 = 10_000;
/// Progress lines are at least this far apart.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(200);

// ---- HTTP ----

/// Connections at the same time; one more is hung up on.
pub const HTTP_CONNECTIONS_MAX: usize = 128;
/// Of these, clients that follow events. The rest is for questions.
pub const HTTP_FOLLOWERS_MAX: usize = 64;
/// Looks at the stores' file systems at the same time that `/readyz` makes: a file system that doesn't
/// answer keeps as many threads.
pub const HTTP_LOOKS_MAX: usize = 4;
/// Tokens of a node.
pub const HTTP_TOKENS_MAX: usize = 64;
/// The head of a request, in bytes; it is what one connection may make us hold.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;
/// Header lines of a request.
pub const HTTP_HEADERS_MAX: usize = 64;
/// The head of a request must be there within this time, also the first byte of a next one.
pub const HTTP_HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// The body of a request, in bytes: as much as a request line of the admin socket.
pub const HTTP_BODY_BYTES_MAX: usize = crate::api::REQUEST_BYTES_MAX;
/// The body of a request must be there within this time.
pub const HTTP_BODY_DEADLINE: Duration = Duration::from_secs(15);
/// A client must take something of an answer within this time.
pub const HTTP_WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// What only looks is answered within this time.
pub const HTTP_ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// How long a request waits for receipts, unless it says how long.
pub const HTTP_WAIT: Duration = Duration::from_secs(10);
/// The longest that it may say.
pub const HTTP_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Whether the node is ready is answered within this time.
pub const HTTP_READY_DEADLINE: Duration = Duration::from_secs(5);
/// Answers under way when the node stops are waited for this long.
pub const HTTP_STOP_WAIT: Duration = Duration::from_secs(2);
/// Rows that one answer gathers: images of a verification.
pub const HTTP_ITEMS_MAX: usize = 1000;
/// Events that wait for one client.
pub const HTTP_EVENTS_QUEUED: usize = 16;
/// A client that follows events hears a sign of life this often.
pub const HTTP_EVENTS_SIGN_EVERY: Duration = Duration::from_secs(15);
/// Browsers that are logged in; one more ends the oldest session.
pub const PAGE_SESSIONS_MAX: usize = 256;
/// A session of the page ends after this time.
pub const PAGE_SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Images on one screen of the page; for more there is a next one.
pub const PAGE_ROWS_MAX: usize = 50;
/// Events on one screen of the page.
pub const PAGE_EVENTS_MAX: usize = 40;
/// Pairs of image and peer that the metrics show.
pub const METRICS_PAIRS_MAX: usize = 5000;
/// Series of the metrics for a pair, for a peer, for a store.
pub const METRICS_SERIES_EACH: [usize; 3] = [2, 13, 5];
/// Series of the metrics besides these: by reason, way of finding a change, code.
pub const METRICS_SERIES_FIXED: usize = 512;

/// Series of the metrics at most, of a node with so many stores and peers.
pub const fn metrics_series_max(stores: usize, peers: usize) -> usize {
    let [pair, peer, store] = METRICS_SERIES_EACH;
    METRICS_SERIES_FIXED + pair * METRICS_PAIRS_MAX + peer * peers + store * stores
}

const _: () = assert!(HTTP_FOLLOWERS_MAX < HTTP_CONNECTIONS_MAX);
const _: () = assert!(HTTP_EVENTS_SIGN_EVERY.as_secs() < HTTP_WRITE_DEADLINE.as_secs());
// What all connections together may make us hold counts among the program's own memory.
const _: () = assert!(
    ((HTTP_HEAD_BYTES_MAX + HTTP_BODY_BYTES_MAX) * HTTP_CONNECTIONS_MAX) as u64 <= BASE_BYTES / 2
);

// ---- trends ----

/// Generations of which it is kept where their bytes came from.
pub const CAME_MAX: usize = 4096;

/// Rates and backlog are noted this often.
pub const TRENDS_EVERY: Duration = Duration::from_secs(60);
/// Rates that are kept of each peer and of all together: a day.
pub const TRENDS_RATES: usize = 24 * 60;
/// At most so many means of them are told.
pub const TRENDS_POINTS: usize = 288;
/// Peers whose rates are kept.
pub const TRENDS_PEERS_MAX: usize = 128;
/// The backlog is noted at every so many looks.
pub const TRENDS_BACKLOG_EVERY: usize = 10;
/// Of that so many are kept: a week.
pub const TRENDS_BACKLOG: usize = 7 * 24 * 6 + 1;

// A point has 24 bytes.
const _: () = assert!((24 * TRENDS_RATES * (TRENDS_PEERS_MAX + 1)) as u64 <= BASE_BYTES / 2);

// ---- time ----

/// What waits is forecast at most this often without being asked.
pub const FORECAST_EVERY: Duration = Duration::from_secs(5);
/// And at least this often.
pub const FORECAST_LONGEST: Duration = Duration::from_secs(60);

/// First wait before a refused or failed transfer is tried again.
pub const RETRY_FIRST: Duration = Duration::from_secs(10);
/// Longest wait before it is tried again.
pub const RETRY_LONGEST: Duration = Duration::from_secs(300);
/// First wait before a lost or refused connection is dialled again.
pub const DIAL_FIRST: Duration = Duration::from_millis(500);
/// Longest wait before it is dialled again.
pub const DIAL_LONGEST: Duration = Duration::from_secs(60);
/// Changes a watch reports are collected this long before the store is looked at.
pub const WATCH_QUIET: Duration = Duration::from_millis(500);

const _: () = assert!(RETRY_FIRST.as_secs() < RETRY_LONGEST.as_secs());
const _: () = assert!(DIAL_FIRST.as_millis() < DIAL_LONGEST.as_millis());
/// Generations whose changes a backlog entry adds up.
pub const HISTORY_IN_HEAD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_memory_the_shares_stay_within_it_and_grow_with_it() {
        let mut before = memory(0);
        assert_eq!(before, memory(RESIDENT_BYTES_MAX));
        assert_eq!((before.receives, before.encoded_bytes), (RECEIVES_MAX, ENCODED_BYTES));
        for mib in [300, 301, 350, 400, 512, 700, 1024, 2048, 65_536, 1 << 30] {
            let now = memory(mib * MIB);
            assert!(now.sum_bytes() <= mib * MIB, "{mib} MiB: {now:?}");
            assert!(now.receives >= before.receives && now.receives <= RECEIVES_LIMIT, "{now:?}");
            assert!(now.encoded_bytes >= before.encoded_bytes, "{mib} MiB: {now:?}");
            assert!(now.store_cache_bytes(1) >= before.store_cache_bytes(1), "{mib} MiB: {now:?}");
            for stores in [1, 2, 10, 100, 1024] {
                let each = now.store_cache_bytes(stores);
                assert!(each >= STORE_CACHE_BYTES_MIN && each <= now.store_cache_bytes(1));
            }
            before = now;
        }
        let plenty = memory(1 << 30);
        assert_eq!(plenty.receives, RECEIVES_LIMIT);
        assert!(plenty.store_cache_bytes(1) > 500 * MIB, "{plenty:?}");
        assert_eq!(plenty.receive_units() % RECEIVE_UNITS_EACH, 0);
    }
}
