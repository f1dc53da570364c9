//! Decides when a receiver has taken all datagrams that waited in its socket at the time of a
//! request.

/// One datagram takes at least this many bytes of a socket's buffer. The kernel's bookkeeping for
/// the datagram alone takes more.
const MIN_FOOTPRINT: usize = 512;

/// How far a receiver has come with the latest request to drain its socket.
pub struct DrainProgress {
    request: u64,
    /// Datagrams read since the request.
    read: usize,
    found_empty: bool,
    is_met: bool,
    /// The most datagrams that can wait in the socket at once.
    limit: usize,
}

impl DrainProgress {
    /// `receive_buffer` is the buffer's size in bytes as requested with `SO_RCVBUF`.
    pub fn new(receive_buffer: usize) -> DrainProgress {
        // The kernel grants twice the requested size, and since Linux 6.18 a little more for each
        // NUMA node. The factor of 4 leaves room for both.
        let limit = (receive_buffer / MIN_FOOTPRINT).saturating_mul(4).saturating_add(4);
        DrainProgress { request: 0, read: 0, found_empty: false, is_met: true, limit }
    }

    /// Records a read after a request. Returns whether all datagrams that waited at the time of
    /// the request are read: a read found the socket empty, or more datagrams were read than the
    /// socket can hold.
    pub fn record(&mut self, request: u64, read: usize, is_empty: bool) -> bool {
        self.start(request);
        self.read += read;
        self.found_empty |= is_empty;
        self.is_drained(request)
    }

    /// Whether all datagrams that waited at the time of the request are read.
    pub fn is_drained(&self, request: u64) -> bool {
        self.request == request && (self.found_empty || self.read > self.limit)
    }

    /// Marks the latest request as met.
    pub fn meet(&mut self) {
        self.is_met = true;
    }

    pub fn is_met(&self, request: u64) -> bool {
        self.is_met && self.request == request
    }

    fn start(&mut self, request: u64) {
        if self.request != request {
            let (read, found_empty, is_met) = (0, false, false);
            *self = DrainProgress { request, read, found_empty, is_met, limit: self.limit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_socket_is_drained() {
        let mut progress = DrainProgress::new(4096);
        assert!(progress.is_met(0));
        assert!(!progress.record(1, 10, false));
        assert!(progress.record(1, 0, true));
        assert!(!progress.is_met(1), "the receiver has not passed its datagrams on");
        progress.meet();
        assert!(progress.is_met(1));
        assert!(!progress.is_met(2) && !progress.is_drained(2));
    }

    #[test]
    fn a_socket_is_drained_after_more_datagrams_than_it_can_hold() {
        let mut progress = DrainProgress::new(4096);
        assert!(!progress.record(1, 36, false));
        assert!(progress.record(1, 1, false));
    }
}
