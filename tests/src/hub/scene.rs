//! Who and what there is around a simulated hub, and what each says of it: names, keys,
//! generations, inventories, statements. All follow from numbers, so that nothing of it need be
//! kept for a branch.

use blockferry_delta::{ImageName, Lineage, NodeId, Root, StoreId, StoreName};
use blockferry_node::membership::identity::PublicKey;
use blockferry_node::promotion::statements::Signed;
use blockferry_node::transfer::judge::Version;
use blockferry_wire::{Holding, Inventory, InventoryEntry, Member, Proof, Roster, Said, What};

use crate::side::image_name;

/// Size of every image.
const IMAGE_BYTES: u64 = 4 << 30;

/// A node: the bytes of its key, and who that is. Nobody has the secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) key: [u8; 32],
    pub(super) id: NodeId,
}

impl Who {
    fn new(number: usize) -> Who {
        let key = *blake3::hash(&number.to_le_bytes()).as_bytes();
        Who { key, id: PublicKey::from_bytes(key).node_id() }
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) hub: Who,
    pub(super) branches: Vec<Who>,
    pub(super) stores: Vec<(StoreId, StoreName)>,
    /// Each store has these.
    pub(super) images: Vec<ImageName>,
    /// Members as the hub names them.
    members: Vec<Member>,
    /// Generation of each store's images.
    pub(super) numbers: Vec<u64>,
}

impl Scene {
    pub(super) fn new(stores: usize, peers: usize, images: usize) -> Scene {
        let store = |n: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(n as u64).to_le_bytes());
            let name = StoreName::new(&format!("store-{n:03}")).expect("a valid name");
            (StoreId::from_bytes(id), name)
        };
        let branches: Vec<Who> = (1..=peers).map(Who::new).collect();
        let named = branches.iter().enumerate().map(|(n, who)| Member {
            node: who.id,
            name: format!("branch-{n:02}"),
            writer: true,
        });
        let mut members: Vec<Member> = named.collect();
        members.sort_by_key(|member| member.node);
        Scene {
            hub: Who::new(0),
            branches,
            stores: (0..stores).map(store).collect(),
            images: (0..images).map(|n| image_name(&format!("server-{n:02}.vhdx"))).collect(),
            members,
            numbers: vec![1; stores],
        }
    }

    /// The current generation of an image, everywhere.
    pub(super) fn version(&self, store: usize, image: usize) -> Version {
        let number = self.numbers[store];
        let root = blake3::hash(format!("{store} {image} {number}").as_bytes());
        let lineage = Lineage::from_entries([(self.hub.id, number)]).expect("one entry");
        Version { number, root: Root::from_bytes(*root.as_bytes()), lineage }
    }

    /// The same as it is told to peers.
    pub(super) fn entry(&self, store: usize, image: usize) -> InventoryEntry {
        let Version { number, root, lineage } = self.version(store, image);
        let (image, size_bytes) = (self.images[image].clone(), IMAGE_BYTES);
        InventoryEntry { image, number, root, lineage, size_bytes }
    }

    /// What everybody holds of a store.
    pub(super) fn inventories(&self, store: usize) -> Vec<Inventory> {
        let (id, name) = &self.stores[store];
        Inventory::split(*id, name, (0..self.images.len()).map(|image| self.entry(store, image)))
    }

    /// A node says what it holds.
    pub(super) fn holding(&self, who: Who, store: usize, image: usize) -> Signed {
        let Version { number, root, lineage } = self.version(store, image);
        let (image, proof, rivals) = (self.images[image].clone(), Proof::ReadBack, Vec::new());
        let holding = Holding { image, number, root, lineage, proof, rivals };
        self.said(who, store, What::Holding(holding))
    }

    /// A node says with whom it shares a store: the hub with all, the others with the hub.
    pub(super) fn roster(&self, who: Who, store: usize) -> Signed {
        let (node_name, members) = if who.id == self.hub.id {
            ("hub".to_owned(), self.members.clone())
        } else {
            let hub = Member { node: self.hub.id, name: "hub".into(), writer: true };
            ("branch".to_owned(), vec![hub])
        };
        self.said(who, store, What::Roster(Roster { node_name, members }))
    }

    /// Signatures are looked at by who hears a statement, not by the book.
    fn said(&self, who: Who, store: usize, what: What) -> Signed {
        let sequence = 1_800_000_000_000 + self.numbers[store];
        let store = self.stores[store].0;
        let said = Said { key: who.key, store, sequence, unix_ms: 1_800_000_000_000, what };
        let body = said.encode().expect("keeps the rules");
        Signed { said, body, signature: [0; 64] }
    }

    /// All that a node has to say of itself about a store.
    pub(super) fn statements(&self, who: Who, store: usize) -> Vec<Signed> {
        let holdings = (0..self.images.len()).map(|image| self.holding(who, store, image));
        [self.roster(who, store)].into_iter().chain(holdings).collect()
    }
}
