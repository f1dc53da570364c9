//! The least that a program can be: what `size-with` is compared with.

fn main() {
    println!("{:?}", std::env::args());
}
