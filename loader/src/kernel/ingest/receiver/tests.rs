//! A receiver without a kernel behind it.

use super::*;

/// Partition 0 is on its way from receiver 0 to this one, which is the other.
fn receiver() -> (Arc<Turns>, Receiver) {
    let turns = Arc::new(Turns::new(2, &[0, 0]).unwrap());
    turns.set(0, 0, 1);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let receiver = Receiver::new(0, 1, Arc::new(socket), turns.clone()).unwrap();
    (turns, receiver)
}

fn datagram(number: u32) -> Vec<u8> {
    let header = LaminarHeader::new(0, 4).to_bytes();
    [&header[..], &number.to_be_bytes()].concat()
}

#[test]
fn what_is_held_has_a_limit() {
    const ROUND: u32 = 60_000;
    let (turns, mut receiver) = receiver();
    let sender = SocketAddr::from(([192, 0, 2, 2], 1));
    for number in 0..5 * ROUND {
        turns.hand_on(0, 0, 1, Kept { sender, bytes: datagram(number).into() });
        if number % ROUND == 0 {
            assert_eq!(receiver.receive(Duration::ZERO, |_| {}).unwrap(), 0);
        }
    }
    let held = receiver.held[0].1.len();
    assert!((Receiver::MOST_HELD..2 * Receiver::MOST_HELD).contains(&held), "{held}");
    assert!(turns.lost() > 0);
    turns.set(0, 1, 1);
    let mut handled = 0;
    for _ in 0..2 {
        handled += receiver.receive(Duration::ZERO, |_| {}).unwrap() as u64;
    }
    assert_eq!(handled + turns.lost(), u64::from(5 * ROUND));
}

#[test]
fn a_panic_that_is_caught_loses_one_datagram() {
    let (turns, mut receiver) = receiver();
    turns.set(0, 1, 1);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.socket.local_addr().unwrap();
    for number in 0..10 {
        sender.send_to(&datagram(number), to).unwrap();
    }
    let mut seen = Vec::new();
    let mut handle = |datagram: Datagram<'_>| match datagram.payload[3] {
        4 | 7 => std::panic::resume_unwind(Box::new("poisoned")),
        number => seen.push(number),
    };
    for _ in 0..2 {
        let receive = || receiver.receive(Duration::from_secs(5), &mut handle).unwrap();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(receive)).unwrap_err();
    }
    assert_eq!(receiver.handle_left(handle), 2, "in front of a hand-over");
    assert_eq!(seen, [0, 1, 2, 3, 5, 6, 8, 9]);
}
