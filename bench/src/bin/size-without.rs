//! An empty program. The benchmark subtracts its size from the size of `size-with`.

fn main() {
    println!("{:?}", std::env::args());
}
