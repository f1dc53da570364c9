//! A program that does not use laminar-xdp. The benchmark subtracts its size from the size of
//! `size-with`.

fn main() {
    println!("{:?}", std::env::args());
}
