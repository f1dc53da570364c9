//! A program that does not use laminar-xdp. The benchmark reports by how many bytes `size-with` is
//! larger than this program.

fn main() {
    println!("{:?}", std::env::args());
}
