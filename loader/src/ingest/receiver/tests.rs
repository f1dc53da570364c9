//! Tests of a receiver on a loopback socket.

use std::net::SocketAddr;

use super::*;
use crate::header::LaminarHeader;
use crate::ingest::ownership::{PartitionState, Step};
use crate::sys::poll::Poller;

const PARTITION: Partition = Partition::new(0);
const OTHER_PARTITION: Partition = Partition::new(1);
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

/// A datagram of a partition, with a number as its payload.
fn bytes(partition: Partition, number: u32) -> Vec<u8> {
    let header = LaminarHeader::new(partition.get(), 4).to_bytes();
    [&header[..], &number.to_be_bytes()].concat()
}

/// The number in a datagram.
fn number(datagram: Datagram<'_>) -> u32 {
    u32::from_be_bytes(datagram.payload.try_into().unwrap())
}

fn sent_to(receiver: &Receiver, partition: Partition, numbers: std::ops::Range<u32>) {
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.socket.local_addr().unwrap();
    for number in numbers {
        sender.send_to(&bytes(partition, number), to).unwrap();
    }
}

fn is_readable(receiver: &Receiver) -> bool {
    let poller = Poller::new().unwrap();
    poller.add(receiver.as_fd()).unwrap();
    poller.wait(Duration::ZERO).unwrap()
}

fn mail(number: u32) -> OwnedDatagram {
    let sender = SocketAddr::from(([192, 0, 2, 2], 1));
    parse(sender, &bytes(PARTITION, number), 2).unwrap().into()
}

/// Calls `receive` until nothing is left, and returns the numbers of the datagrams.
fn received(receiver: &mut Receiver) -> Vec<u32> {
    let mut seen = Vec::new();
    let mut is_drained = false;
    while !is_drained {
        let take = |datagram: Datagram<'_>| seen.push(number(datagram));
        is_drained = receiver.receive(Duration::ZERO, take).unwrap().drained;
    }
    seen
}

/// Lets the receiver hold back datagrams of the moving partition.
fn hold(mailboxes: &Mailboxes, receiver: &mut Receiver, count: u32) {
    for number in 0..count {
        mailboxes.hand_on(OTHER, THIS, mail(number));
        if number % 1000 == 0 {
            assert!(received(receiver).is_empty());
        }
    }
    assert!(received(receiver).is_empty());
}

#[test]
fn held_datagrams_are_limited_and_dropped_ones_are_counted() {
    const EXTRA: u32 = 10;
    let (ownership, mailboxes, mut receiver) = receiver();
    let count = Receiver::MAX_HELD as u32 + EXTRA;
    hold(&mailboxes, &mut receiver, count);
    assert_eq!((mailboxes.dropped(), mailboxes.dropped_held()), (0, u64::from(EXTRA)));
    ownership.set(PARTITION, PartitionState::Owned(THIS));
    assert_eq!(received(&mut receiver), (0..count - EXTRA).collect::<Vec<_>>());
}

/// A partition that cannot complete its move must not delay the other partitions of the CPU.
#[test]
fn other_partitions_are_handled_although_one_is_held_back() {
    let (ownership, mailboxes, mut receiver) = receiver();
    hold(&mailboxes, &mut receiver, Receiver::MAX_HELD as u32);
    ownership.set(OTHER_PARTITION, PartitionState::Owned(THIS));
    sent_to(&receiver, OTHER_PARTITION, 7..8);
    assert_eq!(received(&mut receiver), [7]);
}

/// The order of one partition's datagrams: those that the former owner passes on, those that this
/// receiver held back, those in the mailbox from other receivers, and new ones.
#[test]
fn passed_on_datagrams_come_first() {
    for takes_new_receiver in [false, true] {
        let (ownership, mailboxes, mut receiver) = receiver();
        mailboxes.hand_on(OTHER, THIS, mail(3));
        sent_to(&receiver, PARTITION, 4..6);
        assert!(received(&mut receiver).is_empty());
        mailboxes.pass_on(THIS, mail(1)).unwrap();
        mailboxes.pass_on(THIS, mail(2)).unwrap();
        if takes_new_receiver {
            receiver = next_receiver(receiver);
        }
        ownership.set(PARTITION, PartitionState::Owned(THIS));
        sent_to(&receiver, PARTITION, 6..8);
        assert_eq!(received(&mut receiver), [1, 2, 3, 4, 5, 6, 7], "{takes_new_receiver}");
    }
}

/// The move completes while this receiver is between taking its mail and reading its socket. The
/// handler stands for that moment.
#[test]
fn passed_on_datagrams_come_first_if_the_move_completes_during_a_call() {
    let (ownership, mailboxes, mut receiver) = receiver();
    ownership.set(OTHER_PARTITION, PartitionState::Owned(THIS));
    sent_to(&receiver, OTHER_PARTITION, 0..1);
    sent_to(&receiver, PARTITION, 2..3);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let handle = |datagram: Datagram<'_>| {
            seen.push(number(datagram));
            if datagram.partition == 1 {
                mailboxes.pass_on(THIS, mail(1)).unwrap();
                ownership.set(PARTITION, PartitionState::Owned(THIS));
            }
        };
        receiver.receive(Duration::from_secs(5), handle).unwrap();
    }
    assert_eq!(seen, [0, 1, 2]);
}

/// The former owner must not wait for its handler: it passes on what waits in its socket.
#[test]
fn a_former_owner_passes_on_what_it_has() {
    let (ownership, mailboxes, mut receiver) = receiver();
    ownership.set(PARTITION, PartitionState::Owned(THIS));
    ownership.set(OTHER_PARTITION, PartitionState::Owned(THIS));
    sent_to(&receiver, PARTITION, 0..100);
    sent_to(&receiver, OTHER_PARTITION, 500..501);
    let step = Step::SocketMoved;
    ownership.set(PARTITION, PartitionState::Moving { from: THIS, to: OTHER, step });
    let request = mailboxes.of(THIS).request_drain();
    assert!(!mailboxes.of(THIS).wait_drained(request, Duration::ZERO));
    assert_eq!(received(&mut receiver), [500]);
    assert!(mailboxes.of(THIS).wait_drained(request, Duration::ZERO));
    let passed = mailboxes.of(OTHER).take();
    assert!(passed.iter().all(|mail| mail.is_older));
    let numbers = passed.iter().map(|mail| number(mail.datagram.as_datagram()));
    assert_eq!(numbers.collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
}

/// The move to this receiver completes and the next move starts, while this receiver is between
/// taking its mail and accepting it.
#[test]
fn a_former_owner_passes_older_mail_on_first() {
    let (ownership, mailboxes, mut receiver) = receiver();
    mailboxes.pass_on(THIS, mail(1)).unwrap();
    let step = Step::SocketMoved;
    ownership.set(PARTITION, PartitionState::Moving { from: THIS, to: OTHER, step });
    receiver.accept(mail(2));
    assert!(received(&mut receiver).is_empty());
    let passed = mailboxes.of(OTHER).take().into_iter();
    let numbers = passed.map(|mail| number(mail.datagram.as_datagram()));
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2]);
}

/// With classic BPF, the former owner's socket may still get datagrams after its drain. If the
/// partition then moves back, these datagrams are newer than the mail from the other receiver. The
/// handler of another partition stands for the time of both moves.
#[test]
fn a_former_owner_keeps_nothing_that_it_would_handle_after_a_move_back() {
    let (ownership, mailboxes, mut receiver) = receiver();
    ownership.set(OTHER_PARTITION, PartitionState::Owned(THIS));
    let step = Step::SocketMoved;
    ownership.set(PARTITION, PartitionState::Moving { from: THIS, to: OTHER, step });
    sent_to(&receiver, PARTITION, 2..3);
    sent_to(&receiver, OTHER_PARTITION, 0..1);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let handle = |datagram: Datagram<'_>| {
            seen.push(number(datagram));
            let step = Step::Announced;
            ownership.set(PARTITION, PartitionState::Moving { from: OTHER, to: THIS, step });
        };
        receiver.receive(Duration::ZERO, handle).unwrap();
    }
    assert_eq!(seen, [0]);
    assert_eq!(mailboxes.of(OTHER).take().len(), 1);
}

/// If the next owner's mailbox is full, nothing is lost and the move waits.
#[test]
fn a_full_mailbox_delays_the_drain() {
    let (ownership, mailboxes, mut receiver) = receiver();
    (0..MAX_MAIL as u32).for_each(|number| mailboxes.hand_on(THIS, OTHER, mail(number)));
    let step = Step::SocketMoved;
    ownership.set(PARTITION, PartitionState::Moving { from: THIS, to: OTHER, step });
    sent_to(&receiver, PARTITION, 0..10);
    let request = mailboxes.of(THIS).request_drain();
    for _ in 0..3 {
        assert_eq!(receiver.receive(Duration::ZERO, |_| {}).unwrap().handled, 0);
    }
    assert!(!mailboxes.of(THIS).wait_drained(request, Duration::ZERO));
    assert_eq!(mailboxes.of(OTHER).take().len(), MAX_MAIL);
    receiver.receive(Duration::ZERO, |_| {}).unwrap();
    assert!(mailboxes.of(THIS).wait_drained(request, Duration::ZERO));
    assert_eq!(mailboxes.of(OTHER).take().len(), 10);
    assert_eq!(mailboxes.dropped(), 0);
}

#[test]
fn a_caught_panic_loses_one_datagram() {
    let (ownership, _, mut receiver) = receiver();
    ownership.set(PARTITION, PartitionState::Owned(THIS));
    sent_to(&receiver, PARTITION, 0..10);
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
    sent_to(&receiver, PARTITION, 0..count);
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
    mailboxes.hand_on(OTHER, THIS, mail(1));
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
    sent_to(&receiver, PARTITION, 0..2);
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
    let request = mailboxes.of(THIS).request_drain();
    assert!(!mailboxes.of(THIS).wait_drained(request, Duration::ZERO), "nothing answers yet");
    // The earlier receiver cleared the wake-up, but did not meet the request.
    mailboxes.of(THIS).clear_wake();
    let mut receiver = next_receiver(receiver);
    assert!(is_readable(&receiver));
    assert!(receiver.receive(Duration::ZERO, |_| {}).unwrap().drained);
    let receiver = next_receiver(receiver);
    assert!(!is_readable(&receiver), "the request is met");
}
