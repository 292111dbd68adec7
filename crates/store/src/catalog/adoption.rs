//! What an adoption needs of the catalog: the names of the images that the old tool had when the store
//! became active, and a way to forget all that is known of an image.

use blockferry_delta::ImageName;
use redb::{ReadableTable, TableDefinition};

use super::{
    CUTS, CatalogRead, CatalogWrite, GENERATIONS, HELD, IMAGES, MAP, MAP_OLD, PLACES_OLD, RECEIPTS,
    SPARES,
};
use crate::error::Result;

/// Names of images.
pub(super) const INVENTORY: TableDefinition<'_, &str, ()> = TableDefinition::new("inventory.v1");

impl CatalogRead {
    /// Did the old tool have an image of this name?
    pub(crate) fn is_in_inventory(&self, name: &ImageName) -> Result<bool> {
        Ok(self.transaction.open_table(INVENTORY)?.get(name.as_str())?.is_some())
    }
}

impl CatalogWrite {
    /// Replaces the inventory.
    pub(crate) fn put_inventory(&self, names: &[ImageName]) -> Result<()> {
        let mut table = self.transaction.open_table(INVENTORY)?;
        table.retain(|_, ()| false)?;
        for name in names {
            table.insert(name.as_str(), ())?;
        }
        Ok(())
    }

    /// Removes an image's record. Its number isn't given again.
    pub(crate) fn remove_image(&self, name: &ImageName) -> Result<()> {
        self.transaction.open_table(IMAGES)?.remove(name.as_str())?;
        Ok(())
    }

    /// Forgets generations, block maps, chunks, held clones and receipts of an image. A staging that
    /// can be resumed, and what is kept, stays.
    pub(crate) fn forget_image(&self, image: u32) -> Result<()> {
        let mut segments = Vec::new();
        for row in self.transaction.open_table(CUTS)?.range((image, 0)..=(image, u32::MAX))? {
            segments.push(row?.0.value().1);
        }
        let nothing = segments.into_iter().map(|segment| Ok((segment, Vec::new())));
        self.put_cuts(image, nothing, &mut Vec::new())?;
        let mut generations = self.transaction.open_table(GENERATIONS)?;
        generations.retain_in((image, 0)..=(image, u64::MAX), |_, _| false)?;
        let mut map = self.transaction.open_table(MAP)?;
        map.retain_in((image, 0)..=(image, u32::MAX), |_, _| false)?;
        let mut old = self.transaction.open_table(MAP_OLD)?;
        old.retain_in((image, 0, 0)..=(image, u64::MAX, u32::MAX), |_, _| false)?;
        let mut places = self.transaction.open_table(PLACES_OLD)?;
        places.retain_in((image, 0)..=(image, u32::MAX), |_, _| false)?;
        let mut receipts = self.transaction.open_table(RECEIPTS)?;
        receipts.retain_in((image, [0; 32])..=(image, [0xFF; 32]), |_, _| false)?;
        self.transaction.open_table(HELD)?.remove(image)?;
        self.transaction.open_table(SPARES)?.remove(image)?;
        Ok(())
    }
}
