//! Tests of a receiver on a loopback socket.

use std::net::SocketAddr;

use super::*;
use crate::header::LaminarHeader;
use crate::ingest::ownership::{PartitionState, Step};
use crate::sys::poll::Poller;

const PARTITION: Partition = Partition::new(0);
const OTHER: CpuIndex = CpuIndex::new(0);
const THIS: CpuIndex = CpuIndex::new(1);

/// Drops `receiver` and takes the next receiver of the same CPU.
fn next_receiver(receiver: Receiver) -> Receiver {
    let (ownership, mailboxes) = (receiver.ownership.clone(), receiver.mailboxes.clone());
    let (cpu, socket) = (receiver.cpu, receiver.socket.clone());
    drop(receiver);
    Receiver::new(cpu, THIS, socket, ownership, mailboxes).unwrap()
}

/// Makes a receiver to which partition 0 is moving from the other receiver.
fn receiver() -> (Arc<Ownership>, Arc<Mailboxes>, Receiver) {
    let ownership = Arc::new(Ownership::new([OTHER, OTHER]));
    let moving = PartitionState::Moving { from: OTHER, to: THIS, step: Step::Announced };
    ownership.set(PARTITION, moving);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let (socket, other) = (Arc::new(socket), UdpSocket::bind("127.0.0.1:0").unwrap());
    let mailboxes = Arc::new(Mailboxes::new(&[Arc::new(other), socket.clone()]).unwrap());
    let (shared, mail) = (ownership.clone(), mailboxes.clone());
    let receiver = Receiver::new(CpuId::new(0), THIS, socket, shared, mail).unwrap();
    (ownership, mailboxes, receiver)
}

fn bytes(number: u32) -> Vec<u8> {
    let header = LaminarHeader::new(0, 4).to_bytes();
    [&header[..], &number.to_be_bytes()].concat()
}

fn sent_to(receiver: &Receiver, numbers: std::ops::Range<u32>) {
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.socket.local_addr().unwrap();
    for number in numbers {
        sender.send_to(&bytes(number), to).unwrap();
    }
}

fn is_readable(receiver: &Receiver) -> bool {
    let poller = Poller::new().unwrap();
    poller.add(receiver.as_fd()).unwrap();
    poller.wait(Duration::ZERO).unwrap()
}

#[test]
fn held_datagrams_are_limited_and_dropped_ones_are_counted() {
    const ROUND: u32 = 60_000;
    let (ownership, mailboxes, mut receiver) = receiver();
    let sender = SocketAddr::from(([192, 0, 2, 2], 1));
    for number in 0..5 * ROUND {
        let bytes = bytes(number);
        let datagram = OwnedDatagram::from(parse(sender, &bytes, 2).unwrap());
        mailboxes.hand_on(OTHER, THIS, datagram);
        if number % ROUND == 0 {
            let received = receiver.receive(Duration::ZERO, |_| {}).unwrap();
            assert_eq!(received.handled, 0);
        }
    }
    let held = receiver.held.len();
    assert!((Receiver::MAX_HELD..2 * Receiver::MAX_HELD).contains(&held), "{held}");
    assert!(mailboxes.dropped() > 0);

    // The receiver is paused and does not read its socket, so a datagram in the socket must not
    // make the descriptor readable.
    sent_to(&receiver, 0..1);
    assert!(receiver.receive(Duration::ZERO, |_| {}).unwrap().drained);
    assert!(!is_readable(&receiver));

    ownership.set(PARTITION, PartitionState::Owned(THIS));
    let mut handled = 0;
    for _ in 0..3 {
        handled += receiver.receive(Duration::ZERO, |_| {}).unwrap().handled as u64;
    }
    assert_eq!(handled + mailboxes.dropped(), u64::from(5 * ROUND) + 1);
    sent_to(&receiver, 0..1);
    assert!(is_readable(&receiver));
}

#[test]
fn a_caught_panic_loses_one_datagram() {
    let (ownership, _, mut receiver) = receiver();
    ownership.set(PARTITION, PartitionState::Owned(THIS));
    sent_to(&receiver, 0..10);
    let mut seen = Vec::new();
    let mut handle = |datagram: Datagram<'_>| match datagram.payload[3] {
        4 | 7 => std::panic::resume_unwind(Box::new("poisoned")),
        number => seen.push(number),
    };
    for _ in 0..2 {
        let receive = || receiver.receive(Duration::from_secs(5), &mut handle).unwrap();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(receive)).unwrap_err();
    }
    assert_eq!(receiver.drain(handle), 2, "the rest of the batch");
    assert_eq!(seen, [0, 1, 2, 3, 5, 6, 8, 9]);
}

#[test]
fn drained_means_that_the_socket_is_empty() {
    let (ownership, _, mut receiver) = receiver();
    ownership.set(PARTITION, PartitionState::Owned(THIS));
    let count = 2 * Receiver::BATCH as u32 + 1;
    sent_to(&receiver, 0..count);
    assert!(is_readable(&receiver));
    let mut handled = 0;
    loop {
        let received = receiver.receive(Duration::ZERO, |_| {}).unwrap();
        handled += received.handled;
        if received.drained {
            break;
        }
    }
    assert_eq!(handled, count as usize);
    assert!(!is_readable(&receiver));
}

#[test]
fn mail_makes_the_descriptor_readable() {
    let (ownership, mailboxes, mut receiver) = receiver();
    ownership.set(PARTITION, PartitionState::Owned(THIS));
    assert!(!is_readable(&receiver));
    let sender = SocketAddr::from(([192, 0, 2, 2], 1));
    let bytes = bytes(1);
    let datagram = OwnedDatagram::from(parse(sender, &bytes, 2).unwrap());
    mailboxes.hand_on(OTHER, THIS, datagram);
    assert!(is_readable(&receiver));
    let received = receiver.receive(Duration::ZERO, |_| {}).unwrap();
    assert_eq!(received.handled, 1);
    while !receiver.receive(Duration::ZERO, |_| {}).unwrap().drained {}
    assert!(!is_readable(&receiver));
}

#[test]
fn datagrams_that_an_earlier_receiver_left_make_the_descriptor_readable() {
    let (ownership, _, mut receiver) = receiver();
    ownership.set(PARTITION, PartitionState::Owned(THIS));
    sent_to(&receiver, 0..2);
    let panics = |_: Datagram<'_>| std::panic::resume_unwind(Box::new("poisoned"));
    let receive = || receiver.receive(Duration::from_secs(5), panics);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(receive)).unwrap_err();
    // One datagram is left in the batch, and the socket is empty.
    let mut receiver = next_receiver(receiver);
    assert!(is_readable(&receiver));
    assert_eq!(receiver.receive(Duration::ZERO, |_| {}).unwrap().handled, 1);

    let receiver = next_receiver(receiver);
    assert!(!is_readable(&receiver), "nothing is left");
}

#[test]
fn a_drain_request_that_an_earlier_receiver_left_makes_the_descriptor_readable() {
    let (_, mailboxes, receiver) = receiver();
    assert!(!mailboxes.of(THIS).drain(Duration::ZERO), "nothing answers yet");
    // The earlier receiver cleared the wake-up, but did not meet the request.
    mailboxes.of(THIS).clear_wake();
    let mut receiver = next_receiver(receiver);
    assert!(is_readable(&receiver));
    assert!(receiver.receive(Duration::ZERO, |_| {}).unwrap().drained);
    let receiver = next_receiver(receiver);
    assert!(!is_readable(&receiver), "the request is met");
}
