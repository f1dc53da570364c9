//! Decides when a receiver has met a request to drain its socket.

/// One datagram takes at least this many bytes of a socket's buffer. The kernel's bookkeeping for
/// the datagram alone takes more.
const MIN_FOOTPRINT: usize = 512;

/// Decides when the latest request to drain a socket is met.
pub struct DrainProgress {
    request: u64,
    /// Datagrams read since the request.
    read: usize,
    is_met: bool,
    /// The most datagrams that can wait in the socket at once, plus one batch: the first
    /// batch that is recorded after a request may have been read before the request.
    limit: usize,
}

impl DrainProgress {
    /// `receive_buffer` is the buffer's size in bytes as requested with `SO_RCVBUF`; `batch` is
    /// the most datagrams that one read takes.
    pub fn new(receive_buffer: usize, batch: usize) -> DrainProgress {
        // The kernel grants twice the requested size, and since Linux 6.18 a little more for each
        // NUMA node. The factor of 4 leaves room for both.
        let capacity = (receive_buffer / MIN_FOOTPRINT).saturating_mul(4).saturating_add(4);
        DrainProgress { request: 0, read: 0, is_met: true, limit: capacity.saturating_add(batch) }
    }

    /// Records a read after a request. Returns true for the first read that meets the request. A
    /// read meets the request if it found the socket empty, or if more datagrams were read since
    /// the request than the socket can hold. In both cases all datagrams that waited at the time
    /// of the request are handled.
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
        assert!(!progress.meets(1, 0, true), "reported already");
        assert!(progress.meets(2, 0, true));
    }

    #[test]
    fn a_request_is_met_by_more_than_the_socket_can_hold() {
        let mut progress = DrainProgress::new(4096, 10);
        assert!(!progress.meets(1, 46, false));
        assert!(progress.meets(1, 1, false));
    }
}
