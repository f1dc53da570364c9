//! Writes packets into a folder, in the fuzzer's format. `model/corpus` started with these.

use verdict_model::Packets;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("name a folder");
    let mut packets = Packets::new(1, 9999);
    for number in 0..2000u16 {
        let (split, features) = (number as u8, number as u8 % 16);
        let input = [&[split, features], packets.next_frame()].concat();
        std::fs::write(format!("{folder}/{number}"), input)?;
    }
    Ok(())
}
