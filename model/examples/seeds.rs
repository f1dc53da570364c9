//! Writes generated packets into a folder, in the fuzzer's input format. The corpus in
//! `model/corpus` was started from such packets.

use verdict_model::Packets;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("the first argument is the output folder");
    let mut packets = Packets::new(1, 9999);
    for number in 0..2000u16 {
        let (split, features) = (number as u8, number as u8 % 16);
        let input = [&[split, features], packets.next_frame()].concat();
        std::fs::write(format!("{folder}/{number}"), input)?;
    }
    Ok(())
}
