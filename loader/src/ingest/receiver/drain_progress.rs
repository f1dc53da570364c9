//! Meeting requests to drain a socket.

/// A datagram takes at least this much of a socket's buffer, in bytes: the kernel's
/// bookkeeping alone is more.
const MIN_FOOTPRINT: usize = 512;

/// How far the latest request to drain a socket is met.
pub struct DrainProgress {
    request: u64,
    /// Datagrams read since the request.
    read: usize,
    is_met: bool,
    /// The most datagrams that can have waited in the socket at once, and one batch more:
    /// the first one after a request may have been read before it.
    limit: usize,
}

impl DrainProgress {
    /// For a socket with a receive buffer of this many bytes, as they are asked for, that is
    /// read in batches of this many datagrams.
    pub fn new(receive_buffer: usize, batch: usize) -> DrainProgress {
        // The kernel grants twice the size asked for, and from Linux 6.18 on a little more
        // for each NUMA node.
        let capacity = (receive_buffer / MIN_FOOTPRINT).saturating_mul(4).saturating_add(4);
        DrainProgress { request: 0, read: 0, is_met: true, limit: capacity.saturating_add(batch) }
    }

    /// Records a read after a request. Returns whether it meets the request: everything
    /// that waited then is handled, because the socket was found empty, or because more
    /// was read than it can have held.
    pub fn meets(&mut self, request: u64, read: usize, is_empty: bool) -> bool {
        if self.request != request {
            *self = DrainProgress { request, read: 0, is_met: false, limit: self.limit };
        }
        self.read += read;
        if self.is_met || !(is_empty || self.read > self.limit) {
            return false;
        }
        self.is_met = true;
        true
    }

    pub fn is_met(&self, request: u64) -> bool {
        self.is_met && self.request == request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_met_once_by_an_empty_socket() {
        let mut progress = DrainProgress::new(4096, 10);
        assert!(progress.is_met(0) && !progress.is_met(1));
        assert!(!progress.meets(1, 10, false));
        assert!(progress.meets(1, 0, true));
        assert!(progress.is_met(1));
        assert!(!progress.meets(1, 0, true), "told already");
        assert!(progress.meets(2, 0, true));
    }

    #[test]
    fn a_request_is_met_by_more_than_the_socket_can_hold() {
        let mut progress = DrainProgress::new(4096, 10);
        assert!(!progress.meets(1, 46, false));
        assert!(progress.meets(1, 1, false));
    }
}
