//! An empty program. The benchmark compares its size with `size-with`.

fn main() {
    println!("{:?}", std::env::args());
}
