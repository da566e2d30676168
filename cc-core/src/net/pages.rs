//! Memory for large values that arrive: pages of their own, and the last ones used again.
//!
//! Touching fresh pages for the first time takes as long as the copy from the network (and
//! several times that in a virtual machine whose host has to find them). So one
//! released mapping is kept for the next value. Its pages are marked as free to take: the
//! system has them back whenever it is short of memory.

use std::io;
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, MmapMut, MmapOptions, RemapOptions, UncheckedAdvice};

/// Values from this size on have pages of their own.
pub const PAGES_MIN: usize = 1 << 20;

/// The most that is kept: what a process may hold beside its values is 64 MiB in all.
const KEPT_MAX: usize = 40 << 20;

/// What is kept for the next value: at most one mapping.
static KEPT: Mutex<Option<MmapMut>> = Mutex::new(None);

/// Memory for one value.
#[derive(Debug)]
pub struct Pages {
    /// Present until it is dropped.
    mapping: Option<MmapMut>,
    length: usize,
}

impl Pages {
    /// Memory for `length` bytes of unspecified content.
    ///
    /// # Errors
    /// Fails when the system refuses.
    pub fn take(length: usize) -> io::Result<Self> {
        // A small value must not hold the memory of a large one.
        let kept = KEPT
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|kept| kept.len() / 2 <= length);
        let mapping = match kept {
            Some(mapping) if mapping.len() >= length => mapping,
            Some(mut mapping) => {
                // SAFETY: nobody else refers to the mapping, which may therefore move.
                unsafe { mapping.remap(length, RemapOptions::new().may_move(true)) }?;
                mapping
            }
            None => MmapOptions::new().len(length.max(1)).map_anon()?,
        };
        // A kernel without huge pages gives ordinary ones.
        let _ = mapping.advise(Advice::HugePage);
        Ok(Self {
            mapping: Some(mapping),
            length,
        })
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        self.mapping
            .as_deref()
            .and_then(|m| m.get(..self.length))
            .unwrap_or_default()
    }
}

impl AsMut<[u8]> for Pages {
    fn as_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        self.mapping
            .as_deref_mut()
            .and_then(|m| m.get_mut(..length))
            .unwrap_or_default()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let Some(mut mapping) = self.mapping.take() else {
            return;
        };
        // SAFETY: nobody else refers to the mapping. It shrinks in place.
        if mapping.len() > KEPT_MAX
            && unsafe { mapping.remap(KEPT_MAX, RemapOptions::new()) }.is_err()
        {
            return;
        }
        // SAFETY: nobody else refers to the mapping, and whoever takes it next is promised no
        // content. A kernel that cannot mark the pages keeps them.
        let _ = unsafe { mapping.unchecked_advise(UncheckedAdvice::Free) };
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        // The smaller one goes, after the lock.
        let _spare = match &mut *kept {
            Some(kept) if kept.len() >= mapping.len() => Some(mapping),
            slot => slot.replace(mapping),
        };
        drop(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_as_long_as_asked_and_used_again() {
        let mut pages = Pages::take(3 << 20).unwrap();
        pages.as_mut().fill(7);
        assert_eq!(pages.as_ref().len(), 3 << 20);
        drop(pages);
        let smaller = Pages::take(2 << 20).unwrap();
        assert_eq!(smaller.as_ref().len(), 2 << 20);
        let fresh = Pages::take(1 << 20).unwrap();
        assert!(fresh.as_ref().iter().all(|b| *b == 0));
        drop(smaller);
        let mut larger = Pages::take(100 << 20).unwrap();
        larger.as_mut().fill(9);
        drop(larger);
        let kept = KEPT.lock().unwrap().as_ref().map(|k| k.len());
        assert_eq!(kept, Some(KEPT_MAX));
        assert_eq!(Pages::take(0).unwrap().as_ref().len(), 0);
    }
}
